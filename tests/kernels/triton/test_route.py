"""The router for GPUs against the same decision made operation by operation."""

import dataclasses

import pytest
import torch

from compare import assert_close, assert_integers_equal
from headgate import GroupLimit, RouterSpec
from headgate.errors import InputError
from headgate.kernels import route
from headgate.nn.native_route import make_formula
from route_problems import (
    DTYPES,
    INF,
    ODD_ROWS,
    SPECS,
    ZERO,
    assert_agrees,
    assert_is_plan_of,
    draw,
    logits_as_tokens,
    route_as_routing,
)

kernels = pytest.importorskip("headgate.kernels.triton.route", reason="Triton is not installed")

FITTING = {name: spec for name, spec in SPECS.items() if spec.top_k <= route.MOST_CHOICES_ON_GPU}


@pytest.fixture
def decide(device):
    """Route on the device; the result on the CPU. Memory is dirty before: what isn't written is seen."""

    def run(x, weight, bias, selection_bias, spec: RouterSpec) -> route.Routed:
        tensors = [None if tensor is None else tensor.to(device) for tensor in (x, weight, bias, selection_bias)]
        routed = route.route_on_gpu(*tensors, make_formula(spec))
        return route.Routed(*[tensor.cpu() for tensor in routed])

    return run


@pytest.fixture(autouse=True)
def _dirty_memory(monkeypatch):
    allocate = route._allocate

    def allocate_dirty(*arguments):
        return route.Routed(*[tensor.fill_(77) for tensor in allocate(*arguments)])

    monkeypatch.setattr(route, "_allocate", allocate_dirty)


@pytest.mark.parametrize("name", FITTING)
def test_agrees_with_the_operations(name, decide):
    spec = FITTING[name]
    for num_tokens, dtype in ((0, torch.float32), (1, torch.float16), (17, torch.bfloat16)):
        inputs = draw(spec, num_tokens, 37, dtype)
        assert_agrees(decide(*inputs, spec), spec, inputs)


@pytest.mark.parametrize("x_dtype", DTYPES)
@pytest.mark.parametrize("weight_dtype", DTYPES)
def test_tokens_and_weights_may_differ_in_dtype(x_dtype, weight_dtype, decide):
    spec = RouterSpec(num_experts=13, top_k=3, linear_bias=True)
    inputs = [draw(spec, 9, 33, x_dtype)[0], *draw(spec, 9, 33, weight_dtype)[1:]]
    assert_agrees(decide(*inputs, spec), spec, inputs)


@pytest.mark.parametrize(("few", "programs"), [(256, 128), (256, 1), (0, 128)])
@pytest.mark.parametrize("num_tokens", [1, 70])
def test_every_schedule_is_right(num_tokens, few, programs, decide, monkeypatch):
    """Small and large tiles, one part and several, one block of tokens and several."""
    monkeypatch.setattr(kernels, "FEW_TOKENS", few)
    monkeypatch.setattr(kernels, "_PROGRAMS", programs)
    spec = RouterSpec(num_experts=140, top_k=3, selection_bias=True)
    inputs = draw(spec, num_tokens, 300, torch.bfloat16)
    assert_agrees(decide(*inputs, spec), spec, inputs)


def test_more_tokens_than_one_program_takes_have_the_same_plan(decide, monkeypatch):
    spec = RouterSpec(num_experts=9, top_k=2)
    inputs = draw(spec, 21, 30, torch.float32)
    together = decide(*inputs, spec)
    monkeypatch.setattr(kernels, "_MOST_TOKENS_AT_ONCE", 4)
    apart = decide(*inputs, spec)
    for name, ours, theirs in zip(route.Routed._fields, apart, together, strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("num_experts", [256, 512])
def test_many_experts(num_experts, decide):
    limit = GroupLimit(num_groups=8, num_kept=4, group_score="top2_sum")
    spec = RouterSpec(num_experts=num_experts, top_k=16, score="sigmoid", selection_bias=True, group_limit=limit)
    inputs = draw(spec, 5, 24, torch.float32)
    assert_agrees(decide(*inputs, spec), spec, inputs)


@pytest.mark.parametrize("score", ["softmax", "sigmoid", "sqrt_softplus", "linear"])
@pytest.mark.parametrize("num_experts", [1, 5, 16])
def test_ties_go_to_the_lowest_id(score, num_experts, decide):
    normalise = "none" if score == "linear" else "sum"
    spec = RouterSpec(num_experts=num_experts, top_k=num_experts, score=score, normalise=normalise)
    x = torch.randn(7, 29, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(1, 29, generator=torch.Generator().manual_seed(1)).repeat(num_experts, 1)
    routed = decide(x, weight, None, None, spec)
    assert (routed.scores == routed.scores[:, :1]).all()
    assert routed.expert_ids.tolist() == [list(range(num_experts))] * 7


@pytest.mark.parametrize("row", ODD_ROWS)
@pytest.mark.parametrize("score", ["softmax", "sigmoid", "sqrt_softplus"])
def test_what_is_not_finite_is_treated_as_by_the_operations(score, row, decide):
    x, weight = logits_as_tokens([ODD_ROWS[row]])
    zero = dataclasses.replace(ZERO["group_limit"], num_groups=3)
    cases = [
        ("sum", "scores", None),
        ("softmax", "logits", GroupLimit(num_groups=3, num_kept=2)),
        ("none", "scores", zero),
    ]
    for normalise, select_on, limit in cases:
        spec = RouterSpec(
            num_experts=9, top_k=5, score=score, normalise=normalise, select_on=select_on, group_limit=limit
        )
        routed = decide(x, weight, None, None, spec)
        logits, scores, choice, _ = route_as_routing(spec, x, weight, None, None)
        assert torch.equal(routed.logits.nan_to_num(7.0), logits.nan_to_num(7.0))
        assert_close("scores", routed.scores, scores, dtype=torch.float32, terms=9)
        assert_integers_equal("ids", routed.expert_ids, choice.expert_ids)
        assert_close("weights", routed.combine_weights, choice.combine_weights, dtype=torch.float32, terms=9)
        assert_is_plan_of(routed, 9)


def test_a_selection_bias_of_minus_infinity_shuts_an_expert_out(decide):
    spec = RouterSpec(num_experts=4, top_k=2, selection_bias=True)
    x, weight = logits_as_tokens([[5.0, 1.0, 2.0, 0.0]])
    assert decide(x, weight, None, torch.tensor([-INF, 0.0, 0.0, 0.0]), spec).expert_ids.tolist() == [[2, 1]]
    assert decide(x, weight, None, torch.full((4,), -INF), spec).expert_ids.tolist() == [[0, 1]]


@pytest.mark.parametrize("score", ["softmax", "sigmoid", "sqrt_softplus"])
def test_score_functions_are_right_to_a_few_ulps(score, decide):
    z = torch.linspace(-87.0, 30.0, 512)
    spec = RouterSpec(num_experts=512, top_k=1, score=score)
    scores = decide(torch.ones(1, 1), z[:, None], None, None, spec).scores[0].double()
    wide = z.double()
    functions = {"softmax": wide.softmax(0), "sigmoid": wide.sigmoid(), "sqrt_softplus": wide.exp().log1p().sqrt()}
    exact = functions[score]
    # As for the C++ router: softmax's argument is a difference, rounded by up to 117 / 2 eps.
    ulps = 70 if score == "softmax" else 8
    normal = exact > 1.2e-38
    assert ((scores - exact) / exact)[normal].abs().max() <= ulps * torch.finfo(torch.float32).eps


def test_tokens_with_strides_are_read_in_place(decide):
    spec = RouterSpec(num_experts=13, top_k=3)
    x, *rest = draw(spec, 6, 30, torch.float32)
    views = [x[:, 3:20], x.t().contiguous().t()[:, 3:20], x[:1].expand(6, 30)[:, 3:20]]
    for view in views:
        inputs = [view, rest[0][:, 3:20], *rest[1:]]
        assert_agrees(decide(*inputs, spec), spec, inputs)


@pytest.mark.parametrize(("num_experts", "top_k"), [(513, 2), (40, 17)])
def test_more_than_it_takes_is_refused(num_experts, top_k, decide):
    spec = RouterSpec(num_experts=num_experts, top_k=top_k)
    with pytest.raises(InputError) as caught:
        decide(*draw(spec, 2, 8, torch.float32), spec)
    assert str(caught.value) == (
        f"{num_experts} experts and top_k (={top_k}) must be at most 512 and 16 for the router on a GPU; "
        "call headgate.Router, which then goes another way"
    )
