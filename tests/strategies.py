"""Hypothesis strategies: layers and batches that are valid, small, and mean."""

from __future__ import annotations

import math
from typing import Any

from hypothesis import strategies as st

import adversarial
from agreement import DENSE, Case
from headgate import Capacity, ExpertSpec, GroupLimit, RouterSpec, SharedSpec

RANKED = ("top_k", "top_p", "threshold")
NUM_EXPERTS = (1, 2, 3, 8, 17)
LEADING = ((0,), (1,), (2,), (3,), (5,), (13,), (1, 1), (2, 3), (3, 2), (2, 0), (0, 3), (2, 1, 3))


@st.composite
def capacities(draw: st.DrawFn) -> Capacity:
    """Any capacity, small enough to drop."""
    size: dict[str, Any] = {"factor": draw(st.sampled_from([0.25, 0.5, 1.0, 1.25]))}
    if draw(st.booleans()):
        size = {"absolute": draw(st.integers(0, 3))}
    return Capacity(
        **size,
        eval_factor=draw(st.sampled_from([None, 0.5, 2.0])),
        per=draw(st.sampled_from(["batch", "sequence"])),
        drop_rule=draw(st.sampled_from(["position", "choice_position", "score", "batch_prioritised"])),
        normalise=draw(st.sampled_from(["before_drop", "after_drop"])),
    )


@st.composite
def group_limits(draw: st.DrawFn, num_choices: int) -> GroupLimit | None:
    """Groups that divide the experts; perhaps none."""
    sizes = [size for size in (1, 2, 4) if num_choices % size == 0]
    size = draw(st.sampled_from(sizes))
    num_groups = num_choices // size
    scores = ["max", "top_share_sum"] if size == 1 else ["max", "top2_sum", "top_share_sum"]
    return GroupLimit(
        num_groups=num_groups,
        num_kept=draw(st.integers(1, num_groups)),
        group_score=draw(st.sampled_from(scores)),
        mask_value=draw(st.sampled_from(["-inf", "zero"])),
    )


@st.composite
def router_specs(draw: st.DrawFn) -> RouterSpec:
    """Any router whose decisions are not drawn at random; see `is_deterministic` for its modes."""
    selections = [*RANKED, "top_k", "expert_choice", "sinkhorn", "hash", "sparsemixer"]
    selection = draw(st.sampled_from(selections))
    values: dict[str, Any] = {"selection": selection, "num_experts": draw(st.sampled_from(NUM_EXPERTS))}
    if selection != "expert_choice":
        values["num_zero_experts"] = draw(st.sampled_from([0, 0, 0, 1, 3]))
    num_choices = values["num_experts"] + values.get("num_zero_experts", 0)
    values |= draw(_scores(selection))
    values |= draw(_choices(selection, num_choices))
    values |= draw(_weights(selection, values["score"]))
    needs_capacity = selection == "expert_choice"
    values["capacity"] = draw(capacities()) if needs_capacity or draw(st.booleans()) else None
    return RouterSpec(**values)


@st.composite
def _scores(draw: st.DrawFn, selection: str) -> dict[str, Any]:
    """How scores are made."""
    known = ["softmax", "sigmoid", "sqrt_softplus", "linear"]
    by_selection = {"top_p": ["softmax"], "hash": [*known, "ones"]}
    score = draw(st.sampled_from(by_selection.get(selection, known)))
    return {
        "score": score,
        "score_dtype": draw(st.sampled_from(["float32", "model", "rounded"])),
        "linear_dtype": draw(st.sampled_from(["float32", "model"])),
        "linear_bias": draw(st.booleans()),
    }


@st.composite
def _choices(draw: st.DrawFn, selection: str, num_choices: int) -> dict[str, Any]:
    """Who is chosen."""
    most = min(2, num_choices) if selection == "sparsemixer" else num_choices
    values: dict[str, Any] = {"top_k": draw(st.integers(1, most))}
    if selection in RANKED:
        values["select_on"] = draw(st.sampled_from(["scores", "logits"]))
        values["selection_bias"] = draw(st.booleans())
        limit = draw(st.one_of(st.none(), group_limits(num_choices)))
        values["group_limit"] = limit
        if limit is not None:
            values["top_k"] = min(values["top_k"], limit.num_kept * num_choices // limit.num_groups)
    if selection == "top_p":
        values["top_p"] = draw(st.sampled_from([0.3, 0.5, 0.7, 0.95, 1.0]))
    if selection == "threshold":
        values["threshold"] = draw(st.sampled_from([-1.0, 0.0, 0.1, 0.5, 0.9]))
    if selection == "hash":
        values["vocab_size"] = draw(st.sampled_from([1, 7]))
    if selection in ("expert_choice", "sinkhorn"):
        values["causal_inference"] = draw(st.booleans())
    values["sinkhorn_iterations"] = draw(st.sampled_from([1, 3, 8]))
    values["sparsemixer_jitter"] = draw(st.sampled_from([0.01, 0.1]))
    return values


@st.composite
def _weights(draw: st.DrawFn, selection: str, score: str) -> dict[str, Any]:
    """What their weights are."""
    rules = ["none", "sum", "softmax"]
    if score == "linear":
        rules = ["none", "softmax"]
    if score == "ones":
        rules = ["none", "sum"]
    if selection in ("expert_choice", "sparsemixer"):
        rules = ["none"]
    return {
        "normalise": draw(st.sampled_from(rules)),
        "norm_order": draw(st.sampled_from([1.0, 2.0])),
        "epsilon": draw(st.sampled_from([0.0, 1e-20, 0.25])),
        "epsilon_rule": draw(st.sampled_from(["add", "clamp"])),
        "scale": draw(st.sampled_from([1.0, 2.5])),
        "apply_to": draw(st.sampled_from(["output", "input"])),
    }


@st.composite
def expert_specs(draw: st.DrawFn) -> ExpertSpec:
    """Any expert."""
    activation = draw(st.sampled_from(["silu", "gelu", "gelu_tanh", "relu"]))
    gated = draw(st.booleans())
    values: dict[str, Any] = {"activation": activation, "gated": gated, "bias": draw(st.booleans())}
    if activation == "silu":
        values["sigmoid_slope"] = draw(st.sampled_from([1.0, 1.702]))
    if gated:
        values["interleaved"] = draw(st.booleans())
        values["clamp"] = draw(st.sampled_from([None, 0.25, 7.0]))
        values["up_offset"] = draw(st.sampled_from([0.0, 1.0]))
    return ExpertSpec(**values)


@st.composite
def shared_specs(draw: st.DrawFn) -> SharedSpec | None:
    """Any shared expert; perhaps none."""
    if draw(st.booleans()):
        return None
    return SharedSpec(d_ff=draw(st.integers(3, 5)), gated_output=draw(st.booleans()), bias=draw(st.booleans()))


@st.composite
def cases(draw: st.DrawFn) -> Case:
    """Any layer and any batch, at which float32 decides as float64 does."""
    router = draw(router_specs())
    d_model = draw(st.sampled_from([4, 8, 20]))
    training = draw(st.booleans()) and router.selection != "sparsemixer"
    patterns = patterns_for(router, training) if d_model >= router.num_choices else []
    return Case(
        router=router,
        experts=draw(expert_specs()),
        shared=draw(shared_specs()),
        d_model=d_model,
        d_ff=draw(st.sampled_from([3, 5, d_model])),
        leading=draw(st.sampled_from([shape for shape in LEADING if fits_sinkhorn(router, training, shape)])),
        pattern=draw(st.sampled_from([DENSE, *patterns])),
        seed=draw(st.integers(0, 99)),
        training=training,
        padding=draw(st.booleans()),
    )


def patterns_for(router: RouterSpec, training: bool) -> list[str]:
    """The patterns of logits on which float32 can decide as float64 does."""
    excluded = set() if fits_huge(router) else {"huge"}
    if compares_softmaxes(router):
        # Softmaxes of the same logits in another order differ by rounding alone.
        excluded |= {"spread", "tied", "huge"}
    # Tokens that are all alike end Sinkhorn iterations with equal shares of every expert: rounding alone would decide.
    known = ["spread", "mixed"] if balances(router, training) else list(adversarial.PATTERNS)
    return [pattern for pattern in known if pattern not in excluded]


def balances(router: RouterSpec, training: bool) -> bool:
    """Whether Sinkhorn iterations decide."""
    return router.selection == "sinkhorn" and (training or not router.causal_inference)


def fits_sinkhorn(router: RouterSpec, training: bool, leading: tuple[int, ...]) -> bool:
    """Whether there are enough tokens for Sinkhorn iterations to tell experts apart, or none, or no iterations."""
    return math.prod(leading) not in (1, 2) or not balances(router, training)


def compares_softmaxes(router: RouterSpec) -> bool:
    """Whether a decision compares the softmax scores of different tokens."""
    by_score = router.capacity is not None and router.capacity.drop_rule in ("score", "batch_prioritised")
    return router.score == "softmax" and (by_score or router.selection == "expert_choice")


def fits_huge(router: RouterSpec) -> bool:
    """Whether logits of +-80 leave float32 enough to decide by, and to compute weights from.

    A softmax gives exp(-160) = 0 to all but the best. Dividing by the sum of such scores alone, or by their 2-norm
    (exp(-80) squared is 0), loses everything; and they can't be told from 0, nor their sum from 1. A sigmoid is 1 at
    80 and at 80.5.
    """
    is_softmax = router.score == "softmax"
    if is_softmax and router.group_limit is not None and router.group_limit.mask_value == "zero":
        return False
    if router.selection == "top_p" or (router.score == "sigmoid" and router.linear_bias):
        return False
    if router.normalise != "sum":
        return True
    keeps_best = router.selection in RANKED and not router.selection_bias and router.capacity is None
    return router.norm_order == 1.0 and (not is_softmax or keeps_best)
