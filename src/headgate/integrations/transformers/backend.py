"""The backend "headgate" of the experts interface: hidden states, ids and weights in, the experts' sum out."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headgate.dispatch import find_drops, plan_token_choice
from headgate.errors import BackendError
from headgate.experts import ExpertWeights, is_one_call, run_choice, run_experts
from headgate.flow import NO_EXPERT, DispatchPlan
from headgate.integrations.transformers.gates import WEIGHT_NAMES, known_function, run_function
from headgate.kernels.function import ExpertFunction
from headgate.kernels.grouped import grouped_linear
from headgate.kernels.rows import combine_rows, gather_rows
from headgate.kernels.triton.ops import runs_in_triton

NAME = "headgate"
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True, kw_only=True)
class Routed:
    """Tokens and where they go.

    Attributes:
        x: [T, D].
        plan: the rows.
        combine_weights: [T, K], as the model's router gave them.
    """

    x: Float[Tensor, "T D"]
    plan: DispatchPlan
    combine_weights: Float[Tensor, "T K"]


def experts_forward(
    self: Any,
    hidden_states: Float[Tensor, "T D"],
    top_k_index: Int[Tensor, "T K"],
    top_k_weights: Float[Tensor, "T K"],
) -> Float[Tensor, "T D"]:
    """Run a module of the experts interface, with its weights where they lie.

    Args:
        self: the experts module, with the flags that `use_experts_implementation` gives it.
        hidden_states: [T, D].
        top_k_index: [T, K]; ids from `num_experts` on belong to other ranks where the module is expert parallel.
        top_k_weights: [T, K], any floating dtype.

    Returns:
        [T, D] in the dtype of `hidden_states`.

    Raises:
        BackendError: the weights are quantised.
    """
    weights = read_weights(self)
    x = hidden_states.to(weights.down.dtype)
    function = None if self.has_post_expert_norm else known_function(self)
    if function is not None and is_one_call(x, top_k_index, top_k_weights, weights):
        return run_choice(x, top_k_index, top_k_weights, weights, function).to(hidden_states.dtype)
    # Triton passes over rows of other ranks' experts, which this plan puts last: to cut them off, the host would wait.
    is_whole = function is not None and runs_in_triton(x.device.type, x.dtype)
    may_be_elsewhere = bool(self._is_expert_parallel) and not is_whole
    plan = _make_plan(top_k_index, int(self.num_experts), may_be_elsewhere=may_be_elsewhere)
    routed = Routed(x=x, plan=plan, combine_weights=top_k_weights)
    return run_planned(self, routed, weights).to(hidden_states.dtype)


def run_planned(experts: Any, routed: Routed, weights: ExpertWeights) -> Float[Tensor, "T D"]:
    """Run a module's experts, all or some of them, on the rows of a plan.

    Args:
        experts: the module, for what an expert computes.
        routed: with ids that count the experts of `weights`.
        weights: see `read_weights`.
    """
    function = None if experts.has_post_expert_norm else known_function(experts)
    if function is None:
        return _run_own_function(experts, routed, weights)
    return run_known_function(routed, weights, function)


def read_weights(experts: Any, tensors: Mapping[str, Tensor] | None = None) -> ExpertWeights:
    """View an experts module's parameters as [E, 2F, D] and [E, D, F]: strides change, nothing is copied.

    Args:
        experts: the module.
        tensors: in the place of its parameters, by name; None = the parameters.

    Raises:
        BackendError: the weights are quantised.
    """
    tensors = tensors or {name: weight for name in WEIGHT_NAMES if (weight := getattr(experts, name, None)) is not None}
    name = "gate_up_proj" if experts.has_gate else "up_proj"
    up, down = tensors[name], tensors["down_proj"]
    _require_plain(experts, name, up)
    _require_plain(experts, "down_proj", down)
    if experts.is_transposed:
        up, down = up.transpose(1, 2), down.transpose(1, 2)
    biases = (tensors[f"{name}_bias"], tensors["down_proj_bias"]) if experts.has_bias else (None, None)
    return ExpertWeights(up=up, down=down, up_bias=biases[0], down_bias=biases[1])


def is_quantised(weight: Tensor) -> bool:
    """Whether a weight is packed: by its dtype, or as a tensor made of others that passes for a floating one."""
    if weight.dtype not in FLOATS:
        return True
    if not hasattr(type(weight), "__tensor_flatten__"):
        return False
    from torch.distributed.tensor import DTensor  # a shard, which is made of another tensor, too

    return not isinstance(weight, DTensor)


def describe_dtype(weight: Tensor) -> str:
    """What a weight is stored as: its dtype, or the name of the class that packs it."""
    return str(weight.dtype) if weight.dtype not in FLOATS else type(weight).__name__


def _require_plain(experts: Any, name: str, weight: Tensor) -> None:
    if is_quantised(weight):
        raise BackendError(
            f"{type(experts).__name__}.{name} (={describe_dtype(weight)}) must be of a plain floating dtype for the "
            f"backend {NAME!r}; quantised experts keep the backend that they came with: load them without "
            "experts_implementation"
        )


def run_known_function(routed: Routed, weights: ExpertWeights, function: ExpertFunction) -> Float[Tensor, "T D"]:
    """Run experts whose function the kernel has, in one call."""
    return run_experts(routed.x, routed.plan, routed.combine_weights, weights, function)


def plan_all(expert_ids: Int[Tensor, "T K"], num_experts: int) -> DispatchPlan:
    """Make the plan of a choice in which every slot has an expert."""
    ids = expert_ids.long()
    drops = ids.new_zeros(ids.shape, dtype=torch.uint8)
    return plan_token_choice(ids, drops, num_experts=num_experts, is_dropless=True)


def scatter_rows(routed: Routed) -> Float[Tensor, "R D"]:
    """Copy each row's token."""
    plan = routed.plan
    rows: Tensor = gather_rows(routed.x, plan.token_of_row, plan.row_order, plan.token_offsets, plan.max_rows_per_token)
    return rows


def sum_rows(routed: Routed, rows: Float[Tensor, "R D"]) -> Float[Tensor, "T D"]:
    """Add up each token's rows, weighted, in slot order and float32."""
    plan = routed.plan
    row_weights = routed.combine_weights.flatten().index_select(0, plan.slot_of_row)
    order = (plan.token_of_row, plan.row_order, plan.token_offsets, plan.max_rows_per_token)
    y: Tensor = combine_rows(rows, row_weights, *order)
    return y


def _run_own_function(experts: Any, routed: Routed, weights: ExpertWeights) -> Float[Tensor, "T D"]:
    """Run the model's own gate and norm between and after two grouped products."""
    offsets = routed.plan.expert_offsets
    hidden = grouped_linear(scatter_rows(routed), weights.up, weights.up_bias, offsets)
    out = grouped_linear(run_function(experts, hidden), weights.down, weights.down_bias, offsets)
    return sum_rows(routed, experts.post_expert_norm(out) if experts.has_post_expert_norm else out)


def _make_plan(expert_ids: Int[Tensor, "T K"], num_experts: int, *, may_be_elsewhere: bool) -> DispatchPlan:
    if not may_be_elsewhere:
        return plan_all(expert_ids, num_experts)
    ids = expert_ids.long()
    ids = ids.where(ids < num_experts, NO_EXPERT)
    return plan_token_choice(ids, find_drops(ids, None), num_experts=num_experts, is_dropless=False)
