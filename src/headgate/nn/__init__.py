"""Modules: what owns weights, and what watches it from outside."""

from headgate.nn.balancing import BalanceHandle, attach_balance, set_balance_scale
from headgate.nn.depths import MixtureOfDepths
from headgate.nn.experts import Experts, SharedExpert
from headgate.nn.moe import MoE
from headgate.nn.norms import Norms, PassNorms, measure_norms
from headgate.nn.router import Router
from headgate.nn.routing import Batch, RecordedChoice, RouterState, route
from headgate.nn.tape import Tape, tap

__all__ = [
    "BalanceHandle",
    "Batch",
    "Experts",
    "MixtureOfDepths",
    "MoE",
    "Norms",
    "PassNorms",
    "RecordedChoice",
    "Router",
    "RouterState",
    "SharedExpert",
    "Tape",
    "attach_balance",
    "measure_norms",
    "route",
    "set_balance_scale",
    "tap",
]
