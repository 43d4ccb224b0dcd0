"""The native router against the same decision made operation by operation, on every instruction set of this machine."""

import dataclasses
import math

import pytest
import torch

from compare import MARGIN, assert_close, assert_integers_equal
from headgate import GroupLimit, RouterSpec, preset, preset_names
from headgate.dispatch import find_drops, plan_token_choice
from headgate.errors import BackendError, InputError
from headgate.flow import DispatchPlan
from headgate.kernels import native, route
from headgate.kernels.native import NativeLibrary
from headgate.nn.native_route import is_covered, make_formula
from headgate.nn.routing import Batch, RouterState
from headgate.nn.routing import route as route_by_operations
from headgate.scores import compute_logits, compute_scores
from headgate.spec import family

needs_library = pytest.mark.skipif(native.library() is None, reason=f"native library: {native.why_missing()}")
pytestmark = needs_library

NUM_ISAS = 0 if native.library() is None else native.library().headgate_best_isa() + 1
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
    "x (meta) and weight (cpu) must be on the CPU for the native router": {"x": torch.zeros(2, 3, device="meta")},
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
