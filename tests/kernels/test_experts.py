"""The fused kernel against plain float64 loops, on every instruction set that this processor has."""

import dataclasses

import pytest
import torch
from torch import Tensor

from expert_problems import SHAPES, SPECS, Problem, arguments_of, available_isas, make_problem
from headgate.errors import BackendError
from headgate.experts import activate
from headgate.kernels import native
from headgate.kernels.experts import experts
from headgate.kernels.experts_call import DTYPES

pytestmark = pytest.mark.skipif(native.library() is None, reason=f"no native library: {native.why_missing()}")


def run(problem: Problem, *, isa: str = "best") -> Tensor:
    return experts(*arguments_of(problem, isa=isa))


def expected(problem: Problem) -> Tensor:
    x, y = problem.x.double(), torch.zeros(problem.x.shape, dtype=torch.float64)
    for token, chosen in enumerate(problem.ids.tolist()):
        for slot, expert in enumerate(chosen):
            hidden = problem.up[expert].double() @ x[token]
            if problem.up_bias is not None:
                hidden = hidden + problem.up_bias[expert].double()
            out = problem.down[expert].double() @ activate(hidden[None], problem.spec.function)[0]
            if problem.down_bias is not None:
                out = out + problem.down_bias[expert].double()
            y[token] += problem.combine_weights[token, slot].double() * out
    return y


def assert_close(problem: Problem, y: Tensor) -> None:
    # The hidden values and the output are each rounded once to the dtype (relative error eps / 2, uniform), half
    # precision's projections as well; float32 adds the rounding of sums that are spread over at least 4 accumulators.
    d_model, d_ff = problem.down.shape[1:]
    eps = torch.finfo(problem.x.dtype).eps
    terms = max(d_model, d_ff) / 4 if problem.x.dtype == torch.float32 else 4
    wanted = expected(problem)
    error = (y.double() - wanted).square().sum().sqrt()
    assert error <= eps * max(terms, 4) ** 0.5 * wanted.square().sum().sqrt()


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("shape", SHAPES)
def test_equals_float64(shape: tuple[int, int, int, int, int], name: str, dtype: torch.dtype, isa: str) -> None:
    problem = make_problem(shape, SPECS[name], dtype)
    y = run(problem, isa=isa)
    assert y.dtype == dtype
    assert_close(problem, y)


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["swiglu", "gpt_oss", "gelu"])
def test_transposed_weights(name: str, dtype: torch.dtype, isa: str) -> None:
    problem = make_problem((20, 70, 45, 3, 2), SPECS[name], dtype)
    transposed = {key: getattr(problem, key).transpose(1, 2).contiguous().transpose(1, 2) for key in ("up", "down")}
    assert_close(problem, run(dataclasses.replace(problem, **transposed), isa=isa))


@pytest.mark.parametrize("isa", available_isas())
def test_every_number_of_rows(isa: str) -> None:
    for num_tokens in range(101):
        problem = make_problem((num_tokens, 9, 11, 1, 1), SPECS["swiglu"], torch.bfloat16)
        assert_close(problem, run(problem, isa=isa))


@pytest.mark.parametrize("dtype", DTYPES)
def test_a_token_alone_has_the_same_bits_as_in_a_batch(dtype: torch.dtype) -> None:
    problem = make_problem((150, 40, 24, 4, 2), SPECS["swiglu"], dtype)
    together = run(problem)
    for token in range(0, 150, 7):
        pick = slice(token, token + 1)
        fields = {key: getattr(problem, key)[pick] for key in ("x", "ids", "combine_weights")}
        assert torch.equal(run(dataclasses.replace(problem, **fields))[0], together[token])


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_with_any_number_of_threads(dtype: torch.dtype) -> None:
    problem = make_problem((200, 200, 136, 4, 2), SPECS["gpt_oss"], dtype)
    before = torch.get_num_threads()
    outputs = []
    try:
        for num_threads in (1, 2, 3, 8):
            torch.set_num_threads(num_threads)
            outputs.append(run(problem))
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(outputs[0], output) for output in outputs[1:])


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
@pytest.mark.parametrize("isa", available_isas())
def test_a_bad_token_harms_only_itself(value: float, isa: str) -> None:
    problem = make_problem((30, 16, 16, 2, 1), SPECS["swiglu"], torch.bfloat16)
    clean = run(problem, isa=isa)
    x = problem.x.clone()
    x[11, 3] = value
    y = run(dataclasses.replace(problem, x=x), isa=isa)
    others = torch.arange(30) != 11
    assert torch.equal(y[others], clean[others])
    assert not y[11].isfinite().all()


def test_strided_tokens_and_unaligned_weights() -> None:
    problem = make_problem((20, 24, 16, 3, 2), SPECS["swiglu"], torch.bfloat16)
    y = run(problem)
    wide = torch.zeros(20, 31, dtype=torch.bfloat16)
    wide[:, 3:27] = problem.x
    memory = torch.zeros(problem.up.numel() + 1, dtype=torch.bfloat16)
    memory[1:] = problem.up.flatten()
    moved = dataclasses.replace(problem, x=wide[:, 3:27], up=memory[1:].view_as(problem.up))
    assert torch.equal(run(moved), y)
    assert torch.equal(run(dataclasses.replace(problem, x=problem.x.t().contiguous().t())), y)


def test_empty_slots_give_zero() -> None:
    problem = make_problem((6, 8, 8, 4, 2), SPECS["swiglu"], torch.float32)
    ids = problem.ids.clone()
    ids[2], ids[4, 1] = -1, -1
    y = run(dataclasses.replace(problem, ids=ids))
    assert y[2].abs().max() == 0
    assert torch.equal(y[[0, 1, 3, 5]], run(problem)[[0, 1, 3, 5]])


def test_opcheck() -> None:
    problem = make_problem((7, 12, 8, 3, 2), SPECS["gpt_oss"], torch.float32)
    torch.library.opcheck(experts, arguments_of(problem))


def test_missing_library_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    missing = native.NativeLibrary(why_missing="it was not built")
    monkeypatch.setattr(native, "native_library", lambda: missing)
    with pytest.raises(BackendError, match="native experts are not available: it was not built; install a C"):
        run(make_problem((1, 8, 8, 1, 1), SPECS["swiglu"], torch.float32))
