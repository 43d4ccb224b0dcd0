"""`headgate.MoE` against the oracle: ids, drops, scores, weights, output and every gradient, float64 and float32."""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings

import adversarial
import strategies
from agreement import (
    DENSE,
    Case,
    build_layer,
    check_case,
    check_routing,
    draw_inputs,
    draw_parameters,
    run_oracle,
    settle,
)
from compare import assert_close
from headgate import (
    Capacity,
    ExpertSpec,
    GroupLimit,
    MoE,
    Router,
    RouterSpec,
    SharedSpec,
    family,
    preset,
    preset_names,
    tap,
)

DTYPES = (torch.float64, torch.float32)


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Thousands of tiny products, for which threads would only wait for each other."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(num_threads)


def family_case(name: str, training: bool) -> Case:
    """A family's layer, with what it draws at random in training switched off."""
    known = family(name)
    fields: dict[str, Any] = {"vocab_size": 11} if known.router.get("selection") == "hash" else {}
    if training:
        fields |= {"jitter": 0.0, "noise": "none"}
    grouped = "group_limit" in known.router
    router = preset(name, num_experts=16 if grouped else 8, top_k=min(known.router["top_k"], 4), **fields)
    shared = None if known.shared == "none" else SharedSpec(d_ff=5, gated_output=known.shared == "gated")
    return Case(router=router, experts=known.experts, shared=shared, training=training)


# PhiMoE samples in training.
FAMILY_MODES = [(n, training) for n in preset_names() for training in (False, True) if not (training and n == "phimoe")]


@pytest.mark.parametrize(("name", "training"), FAMILY_MODES)
def test_every_preset_agrees_with_the_oracle(name: str, training: bool) -> None:
    case = family_case(name, training)
    patterns = strategies.patterns_for(case.router, training)
    for seed, pattern in enumerate(patterns[:4] if training else patterns):
        check_case(replace(case, pattern=pattern, seed=seed, padding=seed % 2 == 1), *DTYPES)
    check_case(replace(case, pattern=DENSE, leading=(13,)), *DTYPES)


@pytest.mark.parametrize("name", preset_names())
def test_from_family_builds_the_layer_that_was_compared(name: str) -> None:
    case = family_case(name, training=False)
    fields = {"vocab_size": 11} if case.router.vocab_size else {}
    sizes = {"num_experts": case.router.num_experts, "top_k": case.router.top_k, "shared_d_ff": 5}
    layer = MoE.from_family(name, 20, 6, **sizes, **fields)
    assert layer.router.spec == case.router
    assert layer.experts.spec == case.experts
    assert (layer.shared_expert and layer.shared_expert.shared) == case.shared
    assert {k: v.shape for k, v in layer.state_dict().items()} == {
        k: v.shape for k, v in build_layer(case, torch.float32).state_dict().items()
    }


RULES = ("position", "choice_position", "score", "batch_prioritised")
CAPACITIES = [
    {"drop_rule": rule, "per": per, "normalise": normalise}
    for rule, per, normalise in itertools.product(RULES, ("batch", "sequence"), ("before_drop", "after_drop"))
]
DROPPED_ROUTERS = {
    "top_2_of_softmax": {"num_experts": 4, "top_k": 2},
    "top_3_of_sigmoid": {"num_experts": 5, "top_k": 3, "score": "sigmoid", "selection_bias": True, "scale": 2.5},
    "all_of_softmax": {"num_experts": 3, "top_k": 3, "select_on": "logits", "normalise": "softmax"},
    "above_threshold": {"num_experts": 5, "top_k": 4, "score": "sigmoid", "selection": "threshold", "threshold": 0.5},
    "above_biased_threshold": {
        "num_experts": 5,
        "top_k": 4,
        "score": "sigmoid",
        "selection": "threshold",
        "threshold": 0.75,
        "selection_bias": True,
    },
    "with_zero_compute": {"num_experts": 3, "num_zero_experts": 2, "top_k": 3, "normalise": "none"},
}


@pytest.mark.parametrize("options", CAPACITIES, ids=lambda options: "-".join(options.values()))
@pytest.mark.parametrize("router", DROPPED_ROUTERS)
def test_every_way_to_drop_agrees_with_the_oracle(router: str, options: dict[str, Any]) -> None:
    sizes = [{"absolute": 0}, {"absolute": 1}, {"absolute": 2}, {"factor": 0.5}]
    patterns = ("all_equal", "mixed", "one_hot_expert", "same_token")
    for size, pattern in zip(sizes, patterns, strict=True):
        spec = RouterSpec(**DROPPED_ROUTERS[router], capacity=Capacity(**size, **options))
        padding = pattern in ("mixed", "same_token")
        check_case(Case(router=spec, pattern=pattern, leading=(3, 4), seed=7, padding=padding), *DTYPES)


def test_an_expert_that_a_token_did_not_choose_has_no_part_in_its_priority() -> None:
    # Token 0 scores best with expert 0, which the bias keeps from being chosen: it queues by the score of its choice.
    capacity = Capacity(absolute=1, drop_rule="batch_prioritised")
    chosen = {"selection": "threshold", "threshold": 0.6, "selection_bias": True}
    router = Router(2, RouterSpec(num_experts=2, top_k=2, score="sigmoid", capacity=capacity, **chosen))
    router.load_state_dict({"weight": torch.eye(2), "selection_bias": torch.tensor([-1.0, 0.0])})
    routing = router(torch.tensor([[4.0, 1.0], [0.0, 2.0]]))
    assert routing.choice.expert_ids.tolist() == [[1, -1], [1, -1]]
    assert routing.plan.drop_reason.tolist() == [[2, 1], [0, 1]]


@pytest.mark.parametrize("training", [False, True])
def test_capacity_in_inference_replaces_that_in_training(training: bool) -> None:
    capacity = Capacity(absolute=1, eval_factor=3.0)
    case = Case(
        router=RouterSpec(num_experts=3, top_k=1, capacity=capacity), pattern="one_hot_expert", training=training
    )
    check_case(case, *DTYPES)
    outcome, _ = run_oracle(case)
    kept = sum(reason == 0 for row in outcome.choice.drop_reason for reason in row)
    assert kept == (1 if training else case.num_tokens)


@pytest.mark.parametrize("num_experts", strategies.NUM_EXPERTS)
@pytest.mark.parametrize("num_tokens", [0, 1, 2, 3, 5, 13])
def test_every_size_agrees_with_the_oracle(num_experts: int, num_tokens: int) -> None:
    patterns = itertools.cycle(adversarial.PATTERNS)
    for top_k, pattern in zip(range(1, num_experts + 1), patterns, strict=False):
        router = RouterSpec(num_experts=num_experts, top_k=top_k)
        check_case(Case(router=router, leading=(num_tokens,), pattern=pattern, seed=top_k), *DTYPES)


@pytest.mark.parametrize("sizes", [(1, 1), (4, 1), (1, 4), (6, 6), (7, 13)], ids=str)
def test_every_width_agrees_with_the_oracle(sizes: tuple[int, int]) -> None:
    router = RouterSpec(num_experts=3, top_k=2)
    check_case(Case(router=router, d_model=sizes[0], d_ff=sizes[1], leading=(13,), pattern=DENSE), *DTYPES)


GROUP_SCORES = ("max", "top2_sum", "top_share_sum")
GROUPS = list(itertools.product(GROUP_SCORES, ("-inf", "zero"), ("sigmoid", "softmax", "linear")))


@pytest.mark.parametrize(("group_score", "mask_value", "score"), GROUPS)
def test_every_group_limit_agrees_with_the_oracle(group_score: str, mask_value: str, score: str) -> None:
    rule = "none" if score == "linear" else "sum"
    for num_groups, num_kept, top_k in [(2, 1, 3), (4, 2, 4), (4, 3, 5), (1, 1, 2)]:
        limit = GroupLimit(num_groups=num_groups, num_kept=num_kept, group_score=group_score, mask_value=mask_value)
        router = RouterSpec(num_experts=8, top_k=top_k, score=score, group_limit=limit, normalise=rule)
        for pattern in ("mixed", "tied", "all_negative"):
            biased = replace(router, selection_bias=pattern == "all_negative")
            check_case(Case(router=biased, pattern=pattern, leading=(5,)), *DTYPES)


FUNCTIONS = [
    *[
        ExpertSpec(activation=a, gated=g, bias=b)
        for a in ("silu", "gelu", "gelu_tanh", "relu")
        for g in (True, False)
        for b in (True, False)
    ],
    ExpertSpec(interleaved=True),
    ExpertSpec(clamp=0.25),
    ExpertSpec(clamp=0.25, interleaved=True, bias=True, sigmoid_slope=1.702, up_offset=1.0),
    ExpertSpec(activation="relu", clamp=0.5, up_offset=-0.5),
    ExpertSpec(gated=False, sigmoid_slope=1.702),
]
SHARED = (None, SharedSpec(d_ff=3), SharedSpec(d_ff=6, gated_output=True, bias=True))


def describe(spec: ExpertSpec) -> str:
    return "-".join(f"{name}={value}" for name, value in dataclasses.asdict(spec).items() if value)


@pytest.mark.parametrize("function", FUNCTIONS, ids=describe)
def test_every_expert_function_agrees_with_the_oracle(function: ExpertSpec) -> None:
    router = RouterSpec(num_experts=4, num_zero_experts=1, top_k=3)
    for shared, apply_to in itertools.product(SHARED, ("output", "input")):
        spec = replace(router, apply_to=apply_to)
        case = Case(router=spec, experts=function, shared=shared, d_model=6, d_ff=6, leading=(2, 3), padding=True)
        check_case(case, *DTYPES)


@pytest.mark.parametrize("score", ["softmax", "sigmoid", "sqrt_softplus"])
def test_equal_logits_are_a_tie_wherever_they_lie_in_the_batch(score: str) -> None:
    # 39 logits don't fill whole vectors: an elementwise function must not round the last ones in another way.
    router = Router(1, RouterSpec(num_experts=39, top_k=3, score=score))
    torch.nn.init.ones_(router.weight)
    for value in adversarial.draw_grid((200,), limit=12.0, generator=torch.Generator().manual_seed(0)).tolist():
        routing = router(torch.full((1, 1), value))
        assert routing.choice.expert_ids.tolist() == [[0, 1, 2]], value


@pytest.mark.parametrize("seed", range(5))
def test_padding_has_no_part_in_sinkhorn(seed: int) -> None:
    fields = {"selection": "sinkhorn", "score": "sigmoid", "causal_inference": False, "sinkhorn_iterations": 1}
    router = RouterSpec(num_experts=5, top_k=2, **fields)
    check_case(Case(router=router, leading=(13,), padding=True, seed=seed), *DTYPES)


NAN_ROUTERS = {
    "top_k": {"normalise": "none"},
    "sum": {},
    "biased_groups": {
        "score": "sigmoid",
        "selection_bias": True,
        "group_limit": GroupLimit(num_groups=3, num_kept=2),
    },
    "logits": {"select_on": "logits", "normalise": "softmax"},
    "top_p": {"selection": "top_p", "top_p": 0.6},
    "threshold": {"selection": "threshold", "threshold": 0.1},
    "capacity": {"capacity": Capacity(absolute=2, drop_rule="score")},
    "sparsemixer": {"selection": "sparsemixer", "normalise": "none"},
    "sinkhorn": {"selection": "sinkhorn", "causal_inference": False},
    "expert_choice": {
        "selection": "expert_choice",
        "normalise": "none",
        "capacity": Capacity(absolute=3),
        "causal_inference": False,
    },
    "causal_expert_choice": {"selection": "expert_choice", "normalise": "none", "capacity": Capacity(factor=1.0)},
}


@pytest.mark.parametrize("name", NAN_ROUTERS)
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_token_of_nan_gets_the_oracles_ids_and_spoils_no_other(name: str, dtype: torch.dtype) -> None:
    case = settle(Case(router=RouterSpec(num_experts=6, top_k=2, **NAN_ROUTERS[name]), leading=(7,)))
    inputs = draw_inputs(case)
    inputs.x[0, 2] = float("nan")
    outcome, expected = run_oracle(case, inputs=inputs)
    layer = build_layer(case, dtype)
    with tap(layer) as tape:
        y = layer(inputs.x[0].to(dtype))
    check_routing(case, tape[""][0], outcome, dtype)
    assert_close("y", y, expected.y, dtype=dtype, terms=100)
    is_other = torch.arange(7) != 2
    assert y[is_other].isfinite().all()


@pytest.mark.parametrize("score", ["sigmoid", "sqrt_softplus", "linear"])
@pytest.mark.parametrize("limit", [None, GroupLimit(num_groups=2, num_kept=1), GroupLimit(num_groups=2, num_kept=2)])
def test_an_expert_whose_logits_are_nan_is_chosen_last(score: str, limit: GroupLimit | None) -> None:
    router = RouterSpec(num_experts=6, top_k=2, score=score, group_limit=limit, normalise="none")
    case = settle(Case(router=router, leading=(7,)))
    parameters = draw_parameters(case)
    parameters["router.weight"][1] = float("nan")
    outcome, expected = run_oracle(case, parameters=parameters)
    layer = build_layer(case, torch.float64, parameters)
    with tap(layer) as tape:
        y = layer(draw_inputs(case).x[0])
    check_routing(case, tape[""][0], outcome, torch.float64)
    assert_close("y", y, expected.y, dtype=torch.float64, terms=100)
    assert not (tape[""][0].choice.expert_ids == 1).any()


@settings(
    max_examples=250, deadline=None, derandomize=True, database=None, suppress_health_check=[HealthCheck.too_slow]
)
@given(strategies.cases())
def test_random_layers_agree_with_the_oracle(case: Case) -> None:
    check_case(case, *DTYPES)
