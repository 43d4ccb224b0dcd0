"""Routers, tokens and rows of logits to route, and what makes a decision right; for every backend of the router."""

from __future__ import annotations

import dataclasses
import math

import torch

from compare import MARGIN, assert_close, assert_integers_equal
from headgate import GroupLimit, RouterSpec, preset, preset_names
from headgate.dispatch import find_drops, plan_token_choice
from headgate.flow import DispatchPlan
from headgate.kernels import route
from headgate.nn.native_route import is_covered
from headgate.nn.routing import Batch, RouterState
from headgate.nn.routing import route as route_by_operations
from headgate.scores import compute_logits, compute_scores
from headgate.spec import family

DTYPES = [torch.float32, torch.float16, torch.bfloat16]
ZERO = {"group_limit": GroupLimit(num_groups=4, num_kept=2, group_score="max", mask_value="zero")}
SHARE = {"group_limit": GroupLimit(num_groups=4, num_kept=2, group_score="top_share_sum")}
PLAIN = [name for name in preset_names() if family(name).router.get("selection", "top_k") == "top_k"]
PRESETS = {name: preset(name, num_experts=16, top_k=4) for name in PLAIN if name != "nllb_moe"}
SPECS = {name: spec for name, spec in PRESETS.items() if is_covered(spec)} | {
    "zero": RouterSpec(num_experts=24, top_k=5, selection_bias=True, **ZERO),
    "share": RouterSpec(num_experts=24, top_k=4, score="sigmoid", **SHARE),
    "linear": RouterSpec(num_experts=7, top_k=3, score="linear", normalise="none", scale=0.5),
    "norm 2": RouterSpec(num_experts=5, top_k=3, norm_order=2.0, epsilon=0.25, epsilon_rule="clamp"),
    "norm inf": RouterSpec(num_experts=5, top_k=3, norm_order=math.inf, score_dtype="rounded"),
    "one expert": RouterSpec(num_experts=1, top_k=1),
    "all experts": RouterSpec(num_experts=70, top_k=70, linear_bias=True),
}


def draw(spec: RouterSpec, num_tokens: int, d_model: int, dtype: torch.dtype, seed: int = 0) -> list:
    """x, weight, bias and selection bias."""
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(num_tokens, d_model, generator=generator).to(dtype)
    weight = (2.0 * torch.randn(spec.num_choices, d_model, generator=generator) / math.sqrt(d_model)).to(dtype)
    bias = torch.randn(spec.num_choices, generator=generator).to(dtype) if spec.linear_bias else None
    selection_bias = torch.randn(spec.num_choices, generator=generator) / 4 if spec.selection_bias else None
    return [x, weight, bias, selection_bias]


def route_as_routing(spec, x, weight, bias, selection_bias):
    logits = compute_logits(x, weight, bias, linear_dtype=spec.linear_dtype)
    scores = compute_scores(logits, score=spec.score, score_dtype=spec.score_dtype, model_dtype=x.dtype)
    batch = Batch(sequence_length=x.shape[0], training=False)
    state = RouterState(selection_bias=selection_bias)
    return logits.float(), scores, *route_by_operations(spec, logits.float(), scores, batch, state)


def assert_is_plan_of(routed: route.Routed, num_experts: int) -> None:
    ids = routed.expert_ids
    plan = plan_token_choice(ids, find_drops(ids, None), num_experts=num_experts, is_dropless=True)
    for field in dataclasses.fields(DispatchPlan):
        if field.name != "max_rows_per_token":
            assert_integers_equal(field.name, getattr(routed, field.name), getattr(plan, field.name))
            assert getattr(routed, field.name).dtype == getattr(plan, field.name).dtype


def assert_agrees(routed: route.Routed, spec: RouterSpec, inputs: list) -> None:
    """Equal ids where nothing hangs on rounding, close floats, and the plan that follows from the ids."""
    logits, scores, choice, _ = route_as_routing(spec, *inputs)
    x, _, _, selection_bias = inputs
    wide = torch.float32
    logits_dtype = x.dtype if spec.linear_dtype == "model" else wide
    dtype = logits_dtype if spec.score_dtype == "float32" else x.dtype
    terms = x.shape[1] + spec.num_choices
    assert_close("logits", routed.logits, logits, dtype=logits_dtype, terms=terms, scale=2.0)
    assert_close("scores", routed.scores, scores, dtype=dtype, terms=terms)
    assert (routed.expert_ids.sort(dim=1).values.diff(dim=1) > 0).all()
    ranked = logits if spec.select_on == "logits" else scores
    ranked = ranked if selection_bias is None else ranked + selection_bias
    same = (routed.expert_ids == choice.expert_ids).all(dim=1)
    gap = (ranked.gather(1, routed.expert_ids) - ranked.gather(1, choice.expert_ids)).abs()
    bound = MARGIN * torch.finfo(dtype).eps * math.sqrt(terms) * max(float(ranked.abs().max()), 1.0) if len(x) else 0.0
    assert (gap <= bound).all(), (gap.max(), bound)
    assert same.float().mean() > 0.9 or len(x) < 10
    args = {"dtype": dtype, "terms": terms}
    assert_close("weights", routed.combine_weights[same], choice.combine_weights[same], **args)
    assert_is_plan_of(routed, spec.num_choices)


def logits_as_tokens(rows: list[list[float]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Tokens and a weight whose product is `rows`, also where those are not finite: D = 1 for each token alone."""
    return torch.ones(1, 1), torch.tensor(rows).t().contiguous()


NAN, INF = math.nan, math.inf
ODD_ROWS = {
    "all nan": [NAN] * 9,
    "one nan": [0.5, NAN, 2.0, 1.0, -1.0, 0.0, 3.0, -3.0, 0.25],
    "all inf": [INF] * 9,
    "all -inf": [-INF] * 9,
    "one inf": [0.0, 1.0, INF, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0],
    "one -inf": [0.0, 1.0, -INF, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0],
    "mixed": [NAN, INF, -INF, 0.0, -0.0, NAN, -INF, INF, 1.0],
    "zeros": [0.0, -0.0, 0.0, -0.0, 0.0, 0.0, -0.0, 0.0, 0.0],
    "underflow": [0.0, -88.0, -95.0, -103.0, -104.0, -200.0, -1e30, 1e-30, -87.0],
    "large": [3e38, -3e38, 1e30, 89.0, 88.0, 1e4, -1e4, 90.0, 20.5],
}
