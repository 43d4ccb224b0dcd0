"""The native router against the same decision made operation by operation, on every instruction set of this machine."""

import dataclasses

import pytest
import torch

from compare import assert_close, assert_integers_equal
from headgate import GroupLimit, RouterSpec
from headgate.errors import BackendError, InputError
from headgate.kernels import native, route
from headgate.kernels.native import NativeLibrary
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

needs_library = pytest.mark.skipif(native.library() is None, reason=f"native library: {native.why_missing()}")
pytestmark = needs_library

NUM_ISAS = 0 if native.library() is None else native.library().headgate_best_isa() + 1


def assert_same_bits(a: route.Routed, b: route.Routed) -> None:
    for name, ours, theirs in zip(route.Routed._fields, a, b, strict=True):
        assert torch.equal(ours, theirs), name


@pytest.mark.parametrize("isa", range(NUM_ISAS))
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SPECS)
def test_agrees_with_the_operations(name, dtype, isa):
    spec = SPECS[name]
    for num_tokens in (0, 1, 2, 3, 17, 64, 257):
        inputs = draw(spec, num_tokens, 37, dtype)
        assert_agrees(route.route_native(*inputs, make_formula(spec), isa=isa), spec, inputs)


@pytest.mark.parametrize("isa", range(NUM_ISAS))
@pytest.mark.parametrize("dtype", DTYPES)
def test_agrees_for_every_width(dtype, isa):
    spec = RouterSpec(num_experts=13, top_k=3)
    for d_model in (*range(1, 71), 127, 1009, 2048):
        inputs = draw(spec, 5, d_model, dtype)
        assert_agrees(route.route_native(*inputs, make_formula(spec), isa=isa), spec, inputs)


@pytest.mark.parametrize("isa", range(NUM_ISAS))
@pytest.mark.parametrize("x_dtype", DTYPES)
@pytest.mark.parametrize("weight_dtype", DTYPES)
def test_tokens_and_weights_may_differ_in_dtype(x_dtype, weight_dtype, isa):
    spec = RouterSpec(num_experts=13, top_k=3, linear_bias=True)
    x = draw(spec, 9, 33, x_dtype)[0]
    inputs = [x, *draw(spec, 9, 33, weight_dtype)[1:]]
    assert_agrees(route.route_native(*inputs, make_formula(spec), isa=isa), spec, inputs)


@pytest.mark.parametrize("isa", range(NUM_ISAS))
def test_tokens_with_strides_are_read_in_place(isa):
    spec = RouterSpec(num_experts=13, top_k=3)
    x, *rest = draw(spec, 40, 30, torch.float32)
    whole = route.route_native(x[:, 3:20].contiguous(), rest[0][:, 3:20].contiguous(), *rest[1:], make_formula(spec))
    views = [x[:, 3:20], x.t().contiguous().t()[:, 3:20]]
    for view in views:
        assert not view.is_contiguous()
        assert_same_bits(route.route_native(view, rest[0][:, 3:20], *rest[1:], make_formula(spec)), whole)
    row = x[:1].expand(6, 30)
    routed = route.route_native(row, *rest, make_formula(spec), isa=isa)
    assert (routed.logits == routed.logits[:1]).all()


@pytest.mark.parametrize("isa", range(NUM_ISAS))
@pytest.mark.parametrize("score", ["softmax", "sigmoid", "sqrt_softplus", "linear"])
@pytest.mark.parametrize("num_experts", [1, 5, 16, 33])
def test_ties_go_to_the_lowest_id(score, num_experts, isa):
    normalise = "none" if score == "linear" else "sum"
    spec = RouterSpec(num_experts=num_experts, top_k=num_experts, score=score, normalise=normalise)
    x = torch.randn(7, 29, generator=torch.Generator().manual_seed(0))
    weight = torch.randn(1, 29, generator=torch.Generator().manual_seed(1)).repeat(num_experts, 1)
    routed = route.route_native(x, weight, None, None, make_formula(spec), isa=isa)
    assert (routed.logits == routed.logits[:, :1]).all()
    assert (routed.scores == routed.scores[:, :1]).all()
    assert routed.expert_ids.tolist() == [list(range(num_experts))] * 7


@pytest.mark.parametrize("isa", range(NUM_ISAS))
@pytest.mark.parametrize("row", ODD_ROWS)
@pytest.mark.parametrize("normalise", ["none", "sum", "softmax"])
@pytest.mark.parametrize("score", ["softmax", "sigmoid", "sqrt_softplus"])
@pytest.mark.parametrize("limit", [None, GroupLimit(num_groups=3, num_kept=2), ZERO["group_limit"]])
def test_what_is_not_finite_is_treated_as_by_the_operations(score, normalise, row, limit, isa):
    limit = limit if limit is None else dataclasses.replace(limit, num_groups=3)
    fields = {"score": score, "normalise": normalise, "select_on": "logits", "group_limit": limit}
    x, weight = logits_as_tokens([ODD_ROWS[row]])
    for select_on in ("logits", "scores"):
        spec = RouterSpec(num_experts=9, top_k=5, **fields | {"select_on": select_on})
        routed = route.route_native(x, weight, None, None, make_formula(spec), isa=isa)
        logits, scores, choice, _ = route_as_routing(spec, x, weight, None, None)
        assert torch.equal(routed.logits.nan_to_num(7.0), logits.nan_to_num(7.0))
        assert_close("scores", routed.scores, scores, dtype=torch.float32, terms=9)
        assert_integers_equal("ids", routed.expert_ids, choice.expert_ids)
        assert_close("weights", routed.combine_weights, choice.combine_weights, dtype=torch.float32, terms=9)
        assert_is_plan_of(routed, 9)


@pytest.mark.parametrize("isa", range(NUM_ISAS))
def test_a_selection_bias_of_minus_infinity_shuts_an_expert_out(isa):
    spec = RouterSpec(num_experts=4, top_k=2, selection_bias=True)
    x, weight = logits_as_tokens([[5.0, 1.0, 2.0, 0.0]])
    bias = torch.tensor([-INF, 0.0, 0.0, 0.0])
    routed = route.route_native(x, weight, None, bias, make_formula(spec), isa=isa)
    assert routed.expert_ids.tolist() == [[2, 1]]
    routed = route.route_native(x, weight, None, torch.full((4,), -INF), make_formula(spec), isa=isa)
    assert routed.expert_ids.tolist() == [[0, 1]]


@pytest.mark.parametrize("isa", range(NUM_ISAS))
@pytest.mark.parametrize("score", ["softmax", "sigmoid", "sqrt_softplus"])
def test_score_functions_are_right_to_a_few_ulps(score, isa):
    # Below -87 exp(z), which the others are made of, is no normal float32.
    z = torch.linspace(-87.0, 30.0, 4001)
    spec = RouterSpec(num_experts=4001, top_k=1, score=score)
    routed = route.route_native(torch.ones(1, 1), z[:, None], None, None, make_formula(spec), isa=isa)
    wide = z.double()
    functions = {"softmax": wide.softmax(0), "sigmoid": wide.sigmoid(), "sqrt_softplus": wide.exp().log1p().sqrt()}
    exact = functions[score]
    # Relative to each score. exp(x) in float32 is right to an ulp; the argument of softmax's is a difference, itself
    # rounded: |x| eps / 2, up to 117 / 2 eps.
    ulps = 70 if score == "softmax" else 8
    normal = exact > 1.2e-38
    error = ((routed.scores[0].double() - exact) / exact)[normal].abs().max()
    assert error <= ulps * torch.finfo(torch.float32).eps
    assert (routed.scores[0].double() - exact)[~normal].abs().sum() <= 2.0**-148 * 4001


@pytest.mark.parametrize("isa", range(NUM_ISAS))
@pytest.mark.parametrize("name", ["deepseek_v3", "gpt_oss"])
def test_a_token_alone_gets_what_it_gets_in_company(name, isa):
    spec = SPECS[name]
    x, *rest = draw(spec, 61, 45, torch.bfloat16)
    whole = route.route_native(x, *rest, make_formula(spec), isa=isa)
    for begin, end in [(0, 1), (17, 18), (3, 5), (10, 13), (1, 8), (40, 61)]:
        part = route.route_native(x[begin:end], *rest, make_formula(spec), isa=isa)
        for field in ("logits", "scores", "expert_ids", "combine_weights"):
            assert torch.equal(getattr(part, field), getattr(whole, field)[begin:end])


@pytest.mark.parametrize("num_tokens", [0, 1, 7, 64, 257, 1000])
def test_the_bits_do_not_depend_on_the_number_of_threads(num_tokens):
    spec = RouterSpec(num_experts=64, top_k=8)
    inputs = draw(spec, num_tokens, 512, torch.float32)
    before = torch.get_num_threads()
    try:
        results = []
        for num_threads in (1, 2, 3, 8):
            torch.set_num_threads(num_threads)
            results.append(route.route_native(*inputs, make_formula(spec)))
    finally:
        torch.set_num_threads(before)
    for result in results[1:]:
        assert_same_bits(result, results[0])


def test_the_inputs_are_not_touched():
    spec = SPECS["deepseek_v3"]
    inputs, copies = draw(spec, 9, 20, torch.float32), draw(spec, 9, 20, torch.float32)
    route.route(*inputs, make_formula(spec))
    for ours, theirs in zip(inputs, copies, strict=True):
        assert ours is theirs or torch.equal(ours, theirs)


@pytest.mark.parametrize("num_tokens", [0, 1, 17])
@pytest.mark.parametrize("name", ["deepseek_v3", "gpt_oss", "olmoe"])
def test_opcheck(name, num_tokens):
    spec = SPECS[name]
    for dtype in (torch.float32, torch.bfloat16):
        torch.library.opcheck(torch.ops.headgate.route, (*draw(spec, num_tokens, 20, dtype), *make_formula(spec)))


def test_a_dispatch_mode_sees_the_operator():
    from torch.utils._python_dispatch import TorchDispatchMode

    seen = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            seen.append(str(func))
            return func(*args, **(kwargs or {}))

    spec = SPECS["olmoe"]
    inputs = draw(spec, 3, 20, torch.float32)
    with Watch():
        watched = route.route(*inputs, make_formula(spec))
    assert "headgate.route.default" in seen
    assert_same_bits(watched, route.route(*inputs, make_formula(spec)))


def test_where_python_watches_or_differentiates_it_is_not_chosen():
    from torch.autograd import forward_ad

    arguments = ("cpu", torch.float32, torch.float32)
    assert route.runs_natively(*arguments)
    assert not route.runs_natively("cpu", torch.float64, torch.float64)
    assert not route.runs_natively("cpu", torch.float32, torch.float64)
    with forward_ad.dual_level():
        assert not route.runs_natively(*arguments)
    chosen = []
    torch.vmap(lambda x: chosen.append(route.runs_natively(*arguments)) or x)(torch.ones(2))
    assert chosen == [False]


MISTAKES = {
    "x [2, 3] and weight [4, 5] must be [T, D] and [E, D] of the same D": {"weight": torch.zeros(4, 5)},
    "x (torch.float64) and weight (torch.float32) must be float32, float16 or bfloat16; cast them": {
        "x": torch.zeros(2, 3, dtype=torch.float64)
    },
    "bias [4] (torch.float16) must be [E] in the dtype of weight (torch.float32)": {
        "bias": torch.zeros(4, dtype=torch.float16)
    },
    "bias [3] (torch.float32) must be [E] in the dtype of weight (torch.float32)": {"bias": torch.zeros(3)},
    "selection_bias [5] (torch.float32) must be [E] float32": {"selection_bias": torch.zeros(5)},
    "x (meta) and weight (cpu) must be on the same device; move one of them": {"x": torch.zeros(2, 3, device="meta")},
    "x (meta) and weight (meta) must be on the CPU for the native router": {
        "x": torch.zeros(2, 3, device="meta"),
        "weight": torch.zeros(4, 3, device="meta"),
    },
    "top_k (=5) must be between 1 and the number of experts (=4)": {"top_k": 5},
}


@pytest.mark.parametrize("message", MISTAKES)
def test_each_mistake_is_told(message):
    values = {"x": torch.zeros(2, 3), "weight": torch.zeros(4, 3), "bias": None, "selection_bias": None, "top_k": 2}
    values |= MISTAKES[message]
    formula = make_formula(RouterSpec(num_experts=8, top_k=values.pop("top_k")))
    with pytest.raises(InputError) as caught:
        route.route_native(*values.values(), formula)
    assert str(caught.value) == message


def test_an_instruction_set_that_is_not_there_is_refused():
    spec = SPECS["olmoe"]
    with pytest.raises(InputError, match=r"^isa \(=9\) must be one that this processor has, and RouterFormula"):
        route.route_native(*draw(spec, 1, 8, torch.float32), make_formula(spec), isa=9)


def test_groups_that_do_not_divide_the_experts_are_refused():
    spec = SPECS["deepseek_v3"]
    x, weight, _, bias = draw(spec, 2, 8, torch.float32)
    with pytest.raises(InputError, match="in range"):
        route.route_native(x, weight[:15], None, bias[:15], make_formula(spec))


def test_without_the_library_asking_for_it_by_name_is_an_error(monkeypatch):
    monkeypatch.setattr(native, "native_library", lambda: NativeLibrary(why_missing="a test hides it"))
    spec = SPECS["olmoe"]
    with pytest.raises(BackendError) as caught:
        route.route_native(*draw(spec, 1, 8, torch.float32), make_formula(spec))
    assert str(caught.value) == f"the native router is not available: a test hides it; to get it, {native.HOW_TO_GET}"


def test_memory_that_runs_out_is_an_error(monkeypatch):
    class FullLibrary:
        @staticmethod
        def headgate_route(*_):
            return 1

    monkeypatch.setattr(native, "native_library", lambda: NativeLibrary(library=FullLibrary()))
    spec = SPECS["olmoe"]
    with pytest.raises(MemoryError, match=r"no memory to route tokens of width 8 \(status 1\)"):
        route.route_native(*draw(spec, 1, 8, torch.float32), make_formula(spec))
