"""A router's whole decision by the native kernel: which specs it covers, and its result as a `Routing`."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from headgate.flow import DispatchPlan, Routing, TokenChoice
from headgate.kernels.layer import RouterTensors
from headgate.kernels.route import route
from headgate.kernels.route_call import RouterFormula
from headgate.spec import RouterSpec


def is_covered(spec: RouterSpec) -> bool:
    """Whether the native kernel computes what the spec says outside training: each token takes its K best, dropless."""
    return spec.selection == "top_k" and spec.capacity is None and spec.score != "ones"


def make_formula(spec: RouterSpec) -> RouterFormula:
    """The spec as the kernel reads it."""
    limit = spec.group_limit
    counted = 0
    if limit is not None:
        share = max(1, spec.top_k // limit.num_kept)
        counted = {"max": 1, "top2_sum": 2, "top_share_sum": share}[limit.group_score]
    return RouterFormula(
        top_k=spec.top_k,
        score=spec.score,
        linear_dtype=spec.linear_dtype,
        score_dtype=spec.score_dtype,
        select_on=spec.select_on,
        num_groups=0 if limit is None else limit.num_groups,
        num_kept=0 if limit is None else limit.num_kept,
        group_counted=counted,
        mask_value="-inf" if limit is None else limit.mask_value,
        normalise=spec.normalise,
        norm_order=spec.norm_order,
        epsilon=spec.epsilon,
        epsilon_rule=spec.epsilon_rule,
        scale=spec.scale,
    )


def cast_router(router: RouterTensors, spec: RouterSpec, dtype: torch.dtype) -> RouterTensors:
    """The router's tensors in the dtypes that the kernel reads for tokens of `dtype`."""
    weight, bias, selection_bias = router
    linear = dtype if spec.linear_dtype == "model" else weight.dtype
    bias = None if bias is None else bias.to(linear)
    return weight.to(linear), bias, None if selection_bias is None else selection_bias.float()


def route_natively(
    spec: RouterSpec,
    x: Float[Tensor, "T D"],
    weight: Float[Tensor, "E D"],
    bias: Float[Tensor, " E"] | None,
    selection_bias: Float[Tensor, " E"] | None,
) -> Routing:
    """Route T tokens in one pass, without a graph: the same `Routing` as operation by operation, to rounding.

    Args:
        spec: one that `is_covered`.
        x: [T, D] on the CPU, of a dtype that the kernel knows.
        weight: [E, D].
        bias: [E] or None.
        selection_bias: [E] or None.
    """
    routed = route(x, *cast_router((weight, bias, selection_bias), spec, x.dtype), make_formula(spec))
    plan = DispatchPlan(
        slot_of_row=routed.slot_of_row,
        token_of_row=routed.token_of_row,
        expert_offsets=routed.expert_offsets,
        row_order=routed.row_order,
        token_offsets=routed.token_offsets,
        drop_reason=routed.drop_reason,
        max_rows_per_token=spec.top_k,
    )
    choice = TokenChoice(expert_ids=routed.expert_ids, combine_weights=routed.combine_weights)
    return Routing(logits=routed.logits, scores=routed.scores, choice=choice, plan=plan, is_padding=None, losses={})
