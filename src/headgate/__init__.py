"""Headgate: Mixture-of-Experts routing for PyTorch.

Every public name is loaded when it is first used, so that `import headgate` imports no torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from headgate.balance import (
        Balance,
        add_loss_gradient,
        count_choices,
        importance_loss,
        quantile_loss,
        reduce_counts,
        sequence_loss,
        step_selection_bias,
        switch_loss,
        z_loss,
    )
    from headgate.dispatch import (
        drop_over_capacity,
        find_drops,
        plan_expert_choice,
        plan_token_choice,
    )
    from headgate.errors import (
        ArtifactError,
        BackendError,
        HeadgateError,
        InputError,
        NativeMissingWarning,
        RankError,
        SpecError,
    )
    from headgate.experts import (
        ExpertWeights,
        activate,
        run_experts,
    )
    from headgate.flow import (
        DispatchPlan,
        DropReason,
        ExpertChoice,
        Routing,
        TokenChoice,
    )
    from headgate.integrations.any_model import (
        Tape,
        measure_norms,
        replay,
        tap,
        trace_of,
    )
    from headgate.layout import (
        ExpertLayout,
        choose_replicas,
    )
    from headgate.nn import (
        BalanceHandle,
        Batch,
        Experts,
        MixtureOfDepths,
        MoE,
        RecordedChoice,
        Router,
        RouterState,
        SharedExpert,
        attach_balance,
        route,
        set_balance_scale,
    )
    from headgate.observe.reader import (
        TraceFile,
        load_trace,
        open_trace,
    )
    from headgate.observe.trace import (
        Phase,
        RoutingTrace,
    )
    from headgate.observe.writer import (
        TraceWriter,
        save_trace,
    )
    from headgate.planning.placement import (
        place_experts,
    )
    from headgate.scores import (
        add_learned_noise,
        compute_logits,
        compute_scores,
        jitter_tokens,
    )
    from headgate.selection import (
        allowed_by_groups,
        draw_second_expert,
        make_expert_table,
        select_hash,
        select_sinkhorn,
        select_threshold,
        select_tokens,
        select_top_k,
        select_top_p,
        weigh_choices,
    )
    from headgate.sparsemixer import (
        choose_sparsemixer,
    )
    from headgate.spec import (
        Capacity,
        ExpertSpec,
        Family,
        GroupLimit,
        RouterSpec,
        SharedSpec,
        family,
        preset,
        preset_names,
    )

__version__ = "0.1.0"

__all__ = [
    "ArtifactError",
    "BackendError",
    "Balance",
    "BalanceHandle",
    "Batch",
    "Capacity",
    "DispatchPlan",
    "DropReason",
    "ExpertChoice",
    "ExpertLayout",
    "ExpertSpec",
    "ExpertWeights",
    "Experts",
    "Family",
    "GroupLimit",
    "HeadgateError",
    "InputError",
    "MixtureOfDepths",
    "MoE",
    "NativeMissingWarning",
    "Phase",
    "RankError",
    "RecordedChoice",
    "Router",
    "RouterSpec",
    "RouterState",
    "Routing",
    "RoutingTrace",
    "SharedExpert",
    "SharedSpec",
    "SpecError",
    "Tape",
    "TokenChoice",
    "TraceFile",
    "TraceWriter",
    "__version__",
    "activate",
    "add_learned_noise",
    "add_loss_gradient",
    "allowed_by_groups",
    "attach_balance",
    "choose_replicas",
    "choose_sparsemixer",
    "compute_logits",
    "compute_scores",
    "count_choices",
    "draw_second_expert",
    "drop_over_capacity",
    "family",
    "find_drops",
    "importance_loss",
    "jitter_tokens",
    "load_trace",
    "make_expert_table",
    "measure_norms",
    "open_trace",
    "place_experts",
    "plan_expert_choice",
    "plan_token_choice",
    "preset",
    "preset_names",
    "quantile_loss",
    "reduce_counts",
    "replay",
    "route",
    "run_experts",
    "save_trace",
    "select_hash",
    "select_sinkhorn",
    "select_threshold",
    "select_tokens",
    "select_top_k",
    "select_top_p",
    "sequence_loss",
    "set_balance_scale",
    "step_selection_bias",
    "switch_loss",
    "tap",
    "trace_of",
    "weigh_choices",
    "z_loss",
]

_NAMES_OF_MODULE = {
    "headgate.balance": (
        "Balance",
        "add_loss_gradient",
        "count_choices",
        "importance_loss",
        "quantile_loss",
        "reduce_counts",
        "sequence_loss",
        "step_selection_bias",
        "switch_loss",
        "z_loss",
    ),
    "headgate.dispatch": (
        "drop_over_capacity",
        "find_drops",
        "plan_expert_choice",
        "plan_token_choice",
    ),
    "headgate.errors": (
        "ArtifactError",
        "BackendError",
        "HeadgateError",
        "InputError",
        "NativeMissingWarning",
        "RankError",
        "SpecError",
    ),
    "headgate.experts": (
        "ExpertWeights",
        "activate",
        "run_experts",
    ),
    "headgate.flow": (
        "DispatchPlan",
        "DropReason",
        "ExpertChoice",
        "Routing",
        "TokenChoice",
    ),
    "headgate.integrations.any_model": ("Tape", "measure_norms", "replay", "tap", "trace_of"),
    "headgate.layout": ("ExpertLayout", "choose_replicas"),
    "headgate.nn": (
        "BalanceHandle",
        "Batch",
        "Experts",
        "MixtureOfDepths",
        "MoE",
        "RecordedChoice",
        "Router",
        "RouterState",
        "SharedExpert",
        "attach_balance",
        "route",
        "set_balance_scale",
    ),
    "headgate.observe.reader": ("TraceFile", "load_trace", "open_trace"),
    "headgate.observe.trace": ("Phase", "RoutingTrace"),
    "headgate.observe.writer": ("TraceWriter", "save_trace"),
    "headgate.planning.placement": ("place_experts",),
    "headgate.scores": (
        "add_learned_noise",
        "compute_logits",
        "compute_scores",
        "jitter_tokens",
    ),
    "headgate.selection": (
        "allowed_by_groups",
        "draw_second_expert",
        "make_expert_table",
        "select_hash",
        "select_sinkhorn",
        "select_threshold",
        "select_tokens",
        "select_top_k",
        "select_top_p",
        "weigh_choices",
    ),
    "headgate.sparsemixer": ("choose_sparsemixer",),
    "headgate.spec": (
        "Capacity",
        "ExpertSpec",
        "Family",
        "GroupLimit",
        "RouterSpec",
        "SharedSpec",
        "family",
        "preset",
        "preset_names",
    ),
}
_MODULE_OF_NAME = {name: module for module, names in _NAMES_OF_MODULE.items() for name in names}


def __getattr__(name: str) -> Any:
    """Load a public name on first use and keep it (PEP 562)."""
    if name not in _MODULE_OF_NAME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(importlib.import_module(_MODULE_OF_NAME[name]), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted(__all__)
