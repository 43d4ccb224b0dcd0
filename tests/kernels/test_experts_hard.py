"""The fused kernel where kernels go wrong: odd sizes, lopsided plans, numbers that are not finite, odd memory."""

import dataclasses

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from compare import assert_close
from expert_problems import SPECS, Problem, arguments_of, available_isas, make_problem
from headgate.dispatch import find_drops, plan_token_choice
from headgate.experts import activate
from headgate.flow import DispatchPlan
from headgate.kernels import native
from headgate.kernels.experts import experts, experts_for_training
from headgate.kernels.experts_call import DTYPES
from headgate.spec import ExpertSpec

pytestmark = pytest.mark.skipif(native.library() is None, reason=f"no native library: {native.why_missing()}")

NAN, INF = float("nan"), float("inf")
ACTIVATIONS = {
    **SPECS,
    "relu": ExpertSpec(activation="relu", gated=False),
    "silu": ExpertSpec(gated=False, sigmoid_slope=1.702),
    "gelu_tanh": ExpertSpec(activation="gelu_tanh", gated=False),
    "gated gelu": ExpertSpec(activation="gelu"),
}
MOST_ROWS_PER_PIECE = 768  # csrc/experts/job.h


@dataclasses.dataclass(frozen=True)
class Zeros(Problem):
    """A problem whose last `num_zero` expert ids are zero-compute experts."""

    num_zero: int = 0

    @property
    def plan(self) -> DispatchPlan:
        num_experts = self.up.shape[0] + self.num_zero
        return plan_token_choice(self.ids, find_drops(self.ids, None), num_experts=num_experts, is_dropless=False)


def run(problem: Problem, *, isa: str = "best") -> Tensor:
    return experts(*arguments_of(problem, isa=isa))


def by_operations(problem: Problem, dtype: torch.dtype) -> Tensor:
    """Plain PyTorch, one operation after the other, in a dtype; the combine in float32 or wider, in slot order."""
    up, down, x = problem.up.to(dtype), problem.down.to(dtype), problem.x.to(dtype)
    biases = [None if bias is None else bias.to(dtype) for bias in (problem.up_bias, problem.down_bias)]
    wide = torch.promote_types(dtype, torch.float32)
    y = torch.zeros(x.shape, dtype=wide)
    for slot in range(problem.ids.shape[1]):
        for expert in range(up.shape[0]):
            tokens = (problem.ids[:, slot] == expert).nonzero()[:, 0]
            up_bias, down_bias = (None if bias is None else bias[expert] for bias in biases)
            hidden = activate(F.linear(x[tokens], up[expert], up_bias), problem.spec.function)
            out = F.linear(hidden, down[expert], down_bias)
            y[tokens] += out.to(wide) * problem.combine_weights[tokens, slot, None].to(wide)
        tokens = (problem.ids[:, slot] >= up.shape[0]).nonzero()[:, 0]
        y[tokens] += x[tokens].to(wide) * problem.combine_weights[tokens, slot, None].to(wide)
    return y.to(dtype)


def size_of_terms(problem: Problem) -> float:
    """The root mean square of y if no two terms of a sum had anything to do with each other: what rounding acts on."""
    square = {key: getattr(problem, key).double().square() for key in ("x", "up", "down", "combine_weights")}
    biases = [None if b is None else b.double().square() for b in (problem.up_bias, problem.down_bias)]
    spec, total = problem.spec, torch.zeros_like(square["x"])
    for slot in range(problem.ids.shape[1]):
        for expert in range(problem.up.shape[0]):
            tokens = (problem.ids[:, slot] == expert).nonzero()[:, 0]
            up_bias, down_bias = (None if bias is None else bias[expert] for bias in biases)
            hidden = F.linear(square["x"][tokens], square["up"][expert], up_bias)
            if spec.gated:
                gate, up = (hidden[:, ::2], hidden[:, 1::2]) if spec.interleaved else hidden.chunk(2, dim=1)
                hidden = gate * (up + spec.up_offset**2)
            out = F.linear(hidden, square["down"][expert], down_bias)
            total[tokens] += out * square["combine_weights"][tokens, slot, None]
    return total.mean().sqrt().item() if total.numel() else 0.0


def assert_right(problem: Problem, y: Tensor) -> None:
    # Sums are float32 whatever the dtype is: only what goes into them is rounded to it.
    dtype = problem.x.dtype
    terms = sum(problem.down.shape[1:]) if dtype == torch.float32 else 4
    wanted = by_operations(problem, torch.float64)
    assert_close("y", y, wanted, dtype=dtype, terms=terms, scale=size_of_terms(problem))


def test_the_comparison_fails_when_it_should() -> None:
    problem = make_problem((9, 30, 20, 3, 2), SPECS["gpt_oss"], torch.float32)
    y = run(problem)
    y[4, 7] += 0.001
    with pytest.raises(AssertionError, match="y: RMS error"):
        assert_right(problem, y)


SIZES = st.one_of(st.integers(1, 70), st.sampled_from([71, 73, 97, 101, 113, 127]))


@settings(deadline=None, max_examples=120)
@given(
    shape=st.tuples(st.integers(0, 40), SIZES, SIZES, st.integers(1, 5)),
    top_k=st.integers(1, 5),
    name=st.sampled_from(sorted(ACTIVATIONS)),
    dtype=st.sampled_from(DTYPES),
    isa=st.sampled_from(available_isas()),
    transposed=st.booleans(),
)
def test_any_size(
    shape: tuple[int, int, int, int], top_k: int, name: str, dtype: torch.dtype, isa: str, transposed: bool
) -> None:
    problem = make_problem((*shape, min(top_k, shape[3])), ACTIVATIONS[name], dtype)
    if transposed:
        turned = {key: getattr(problem, key).transpose(1, 2).contiguous().transpose(1, 2) for key in ("up", "down")}
        problem = dataclasses.replace(problem, **turned)
    assert_right(problem, run(problem, isa=isa))


@pytest.mark.parametrize("num_tokens", [MOST_ROWS_PER_PIECE, MOST_ROWS_PER_PIECE + 1, 997, 2 * MOST_ROWS_PER_PIECE + 5])
@pytest.mark.parametrize("dtype", DTYPES)
def test_one_expert_gets_everything(dtype: torch.dtype, num_tokens: int) -> None:
    problem = make_problem((num_tokens, 37, 29, 3, 1), SPECS["swiglu"], dtype)
    problem = dataclasses.replace(problem, ids=torch.full((num_tokens, 1), 1))
    assert_right(problem, run(problem))


@pytest.mark.parametrize("isa", available_isas())
def test_loads_as_in_nature(isa: str) -> None:
    # Zipf: expert e is chosen in proportion to 1 / (e + 1), so that the rows per expert go from hundreds to a few.
    problem = make_problem((400, 33, 17, 40, 2), SPECS["swiglu"], torch.bfloat16)
    odds = (1.0 / torch.arange(1, 41)).expand(400, 40)
    ids = torch.multinomial(odds, 2, generator=torch.Generator().manual_seed(0))
    problem = dataclasses.replace(problem, ids=ids)
    counts = torch.bincount(ids.flatten(), minlength=40)
    assert counts.max() > 150
    assert counts.min() < 10
    assert_right(problem, run(problem, isa=isa))


@pytest.mark.parametrize("working", [(0, 1), (5, 6), (3, 4), (0, 6), (0, 3, 6), (6,), (1, 2, 4, 5)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_experts_without_rows(dtype: torch.dtype, working: tuple[int, ...]) -> None:
    problem = make_problem((60, 20, 24, 7, 1), SPECS["gpt_oss"], dtype)
    ids = torch.tensor(working)[torch.arange(60) % len(working)][:, None]
    problem = dataclasses.replace(problem, ids=ids)
    # Weights that nobody may read.
    for expert in set(range(7)) - set(working):
        for matrix in (problem.up, problem.down, problem.up_bias, problem.down_bias):
            assert matrix is not None
            matrix[expert] = NAN
    assert_right(problem, run(problem))


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("dtype", DTYPES)
def test_zero_compute_experts_give_back_their_input(dtype: torch.dtype, isa: str) -> None:
    plain = make_problem((50, 21, 18, 4, 3), SPECS["swiglu"], dtype)
    generator = torch.Generator().manual_seed(3)
    fields = {field.name: getattr(plain, field.name) for field in dataclasses.fields(plain)}
    fields["ids"] = torch.rand(50, 7, generator=generator).argsort(1)[:, :3]
    mixed = Zeros(**fields, num_zero=3)
    assert (mixed.ids >= 4).any()
    assert_right(mixed, run(mixed, isa=isa))
    # All of them, with weights that sum to 1: x itself, to the rounding of that sum.
    weights = torch.tensor([0.5, 0.25, 0.25]).expand(50, 3)
    fields |= {"ids": torch.tensor([[4, 5, 6]]).expand(50, 3), "combine_weights": weights}
    assert torch.equal(run(Zeros(**fields, num_zero=3), isa=isa), plain.x)


OVERFLOWS = {
    "first projection": {"x": 2.0**12, "up": 2.0**6},
    "hidden": {"x": 2.0**9},
    "second projection": {"down": 2.0**15},
    "combine": {"combine_weights": 2.0**17},
}


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("name", ["swiglu", "gelu", "geglu", "relu"])
@pytest.mark.parametrize("place", OVERFLOWS)
def test_half_precision_overflows_where_separate_operations_do(place: str, name: str, isa: str) -> None:
    spec = dataclasses.replace(ACTIVATIONS[name], clamp=None)
    problem = make_problem((24, 32, 40, 3, 2), spec, torch.float16)
    is_hit = torch.arange(24) % 3 == 0
    changed = {}
    for key, factor in OVERFLOWS[place].items():
        tensor = getattr(problem, key).clone()
        tensor[1 if key in ("up", "down") else is_hit] *= factor
        changed[key] = tensor
    problem = dataclasses.replace(problem, **changed)
    y, wanted = run(problem, isa=isa), by_operations(problem, torch.float16)
    if place == "hidden" and not spec.gated:  # only a product of two numbers is larger than both
        assert wanted.isfinite().all()
    else:
        assert not wanted.isfinite().all()
    assert torch.equal(y.isnan(), wanted.isnan())
    assert torch.equal(y.isposinf(), wanted.isposinf())
    assert torch.equal(y.isneginf(), wanted.isneginf())
    is_finite = wanted.isfinite()
    largest = wanted[is_finite].abs().max().item()
    assert_close("finite y", y[is_finite], wanted[is_finite], dtype=torch.float16, terms=32 + 40, scale=largest)


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("name", ACTIVATIONS)
@pytest.mark.parametrize("value", [NAN, INF, -INF])
def test_a_token_that_is_not_finite_harms_only_itself(value: float, name: str, isa: str) -> None:
    num_tokens, d_model = 29, 19
    for dtype in DTYPES:
        problem = make_problem((num_tokens, d_model, 13, 2, 1), ACTIVATIONS[name], dtype)
        clean = run(problem, isa=isa)
        # First, last, the last of a whole register, and the only token of a part of one.
        for token, place in [(0, 0), (num_tokens - 1, d_model - 1), (15, 7), (16, 16)]:
            x = problem.x.clone()
            x[token, place] = value
            bad = dataclasses.replace(problem, x=x)
            y, wanted = run(bad, isa=isa), by_operations(bad, dtype)
            others = torch.arange(num_tokens) != token
            assert torch.equal(y[others], clean[others])
            assert torch.equal(y[token].isnan(), wanted[token].isnan())
            assert torch.equal(y[token].isinf(), wanted[token].isinf())
            if value != value:
                assert y[token].isnan().all()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("key", ["up", "down", "combine_weights"])
def test_a_weight_that_is_not_finite_harms_only_its_tokens(key: str, dtype: torch.dtype) -> None:
    problem = make_problem((40, 20, 24, 3, 1), SPECS["swiglu"], dtype)
    clean = run(problem)
    tensor = getattr(problem, key).clone()
    tensor[1] = NAN
    y = run(dataclasses.replace(problem, **{key: tensor}))
    is_harmed = torch.arange(40) == 1 if key == "combine_weights" else problem.ids[:, 0] == 1
    assert is_harmed.any()
    assert torch.equal(y[~is_harmed], clean[~is_harmed])
    assert y[is_harmed].isnan().all()


def misaligned(tensor: Tensor) -> Tensor:
    """The same numbers, one element further on than any allocator would put them."""
    memory = torch.zeros(tensor.numel() + 1, dtype=tensor.dtype)
    memory[1:] = tensor.flatten()
    return memory[1:].view_as(tensor)


def with_gaps(tensor: Tensor) -> Tensor:
    """The same numbers, neither rows nor columns next to each other, with NaN in between."""
    memory = torch.full((*tensor.shape[:-1], 2 * tensor.shape[-1] + 1), NAN, dtype=tensor.dtype)
    memory[..., 1::2] = tensor
    return memory[..., 1::2]


EXPANDED_TOKENS = {
    "one token": lambda x: x[:1].expand_as(x),
    "one number per token": lambda x: x[:, :1].expand_as(x),
    "one number": lambda x: x[:1, :1].expand_as(x),
    "every other": lambda x: with_gaps(x),
    "transposed": lambda x: x.t().contiguous().t(),
    "misaligned": lambda x: misaligned(x),
    "misaligned slice": lambda x: torch.cat([x, x], dim=1)[:, 1 : x.shape[1] + 1],
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", EXPANDED_TOKENS)
def test_tokens_in_any_layout(layout: str, dtype: torch.dtype) -> None:
    problem = make_problem((23, 27, 18, 3, 2), SPECS["gpt_oss"], dtype)
    x = EXPANDED_TOKENS[layout](problem.x)
    assert layout == "misaligned" or not x.is_contiguous()
    wanted = run(dataclasses.replace(problem, x=x.clone(memory_format=torch.contiguous_format)))
    assert torch.equal(run(dataclasses.replace(problem, x=x)), wanted)


EXPANDED_WEIGHTS = {
    "one expert": lambda w: w[:1].expand_as(w),
    "one row": lambda w: w[:, :1].expand_as(w),
    "one column": lambda w: w[:, :, :1].expand_as(w),
    "one number": lambda w: w[:1, :1, :1].expand_as(w),
    "every other": lambda w: with_gaps(w),
    "every other, transposed": lambda w: with_gaps(w.transpose(1, 2)).transpose(1, 2),
    "rows of experts": lambda w: w.transpose(0, 1).contiguous().transpose(0, 1),
    "misaligned": lambda w: misaligned(w),
    "misaligned, transposed": lambda w: misaligned(w.transpose(1, 2)).transpose(1, 2),
    "slice": lambda w: torch.cat([w, w], dim=2)[:, :, 1 : w.shape[2] + 1],
    "slice, transposed": lambda w: torch.cat([w, w], dim=1).transpose(1, 2).contiguous().transpose(1, 2)[:, 1::2],
}


def plain_copy(weight: Tensor) -> Tensor:
    """The same numbers in memory of their own, as the kernel reads them: the usual way or transposed.

    The order of sums, and so their last bits, is that of the layout.
    """
    is_transposed = weight.stride(1) == 1 and weight.stride(2) != 1
    if is_transposed:
        return weight.transpose(1, 2).clone(memory_format=torch.contiguous_format).transpose(1, 2)
    return weight.clone(memory_format=torch.contiguous_format)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("layout", EXPANDED_WEIGHTS)
@pytest.mark.parametrize("size", [(23, 27, 18, 3, 2), (9, 64, 32, 3, 2), (5, 1, 1, 1, 1)])
def test_weights_in_any_layout(size: tuple[int, int, int, int, int], layout: str, dtype: torch.dtype) -> None:
    problem = make_problem(size, SPECS["gpt_oss"], dtype)
    make = EXPANDED_WEIGHTS[layout]
    weights = {key: make(getattr(problem, key)) for key in ("up", "down")}
    plain = {key: plain_copy(weight) for key, weight in weights.items()}
    odd, usual = (dataclasses.replace(problem, **fields) for fields in (weights, plain))
    y = run(odd)
    assert torch.equal(y, run(usual))
    assert_right(odd, y)


def test_biases_and_row_weights_in_any_layout() -> None:
    problem = make_problem((23, 27, 18, 3, 2), SPECS["gpt_oss"], torch.bfloat16)
    assert problem.up_bias is not None
    assert problem.down_bias is not None
    arguments = list(arguments_of(problem))
    wanted = experts(*arguments)
    row_weights = arguments[5]
    assert isinstance(row_weights, Tensor)
    arguments[5] = with_gaps(row_weights.double())
    arguments[8:10] = with_gaps(problem.up_bias), misaligned(problem.down_bias)
    assert torch.equal(experts(*arguments), wanted)


@pytest.mark.parametrize("layout", EXPANDED_WEIGHTS)
def test_gradients_through_any_layout(layout: str) -> None:
    problem = make_problem((13, 27, 18, 3, 2), SPECS["swiglu"], torch.float32)
    make, outcomes = EXPANDED_WEIGHTS[layout], []
    for is_plain in (True, False):
        leaves = {key: getattr(problem, key).clone().requires_grad_() for key in ("x", "up", "down")}
        weights = {key: make(leaves[key]) for key in ("up", "down")}
        if is_plain:
            weights = {key: plain_copy(weight) for key, weight in weights.items()}
        y, _ = experts_for_training(*arguments_of(dataclasses.replace(problem, x=leaves["x"], **weights)))
        y.sum().backward()  # its gradient is one number, expanded
        outcomes.append([leaf.grad for leaf in leaves.values()])
    for plain, odd in zip(*outcomes, strict=True):
        assert plain is not None
        assert torch.equal(plain, odd)
