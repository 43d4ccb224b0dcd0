"""Gradients of the fused kernel against float64 autograd, on every instruction set that this processor has."""

import dataclasses
import itertools

import pytest
import torch
from torch import Tensor

from compare import assert_close
from expert_problems import SHAPES, SPECS, Problem, arguments_of, available_isas, make_problem
from headgate.dispatch import find_drops, plan_token_choice
from headgate.experts import ExpertWeights, activate, run_experts
from headgate.flow import DispatchPlan
from headgate.kernels import native
from headgate.kernels.experts import experts_for_training, experts_gradients
from headgate.kernels.experts_call import DTYPES

pytestmark = pytest.mark.skipif(native.library() is None, reason=f"no native library: {native.why_missing()}")

NAMES = ("x", "row_weights", "up", "down", "up_bias", "down_bias")
PLACES = (0, 5, 6, 7, 8, 9)  # of these among the operation's arguments


def gradients(problem: Problem, dy: Tensor, *, isa: str = "best") -> dict[str, Tensor]:
    arguments = list(arguments_of(problem, isa=isa))
    leaves = {}
    for name, place in zip(NAMES, PLACES, strict=True):
        tensor = arguments[place]
        if isinstance(tensor, Tensor):
            leaves[name] = arguments[place] = tensor.detach().requires_grad_()
    y, _ = experts_for_training(*arguments)
    y.backward(dy)
    return {name: leaf.grad for name, leaf in leaves.items() if leaf.grad is not None}


def expected(problem: Problem, dy: Tensor, *, isa: str = "best") -> dict[str, Tensor]:
    """By autograd in float64, at the point that was reached: what the first projection gave, rounded to the dtype.

    Where the function has a kink, a rounded value may lie on its other side.
    """
    arguments = arguments_of(problem, isa=isa)
    reached = experts_for_training(*arguments)[1].double()
    leaves = {}
    for name, place in zip(NAMES, PLACES, strict=True):
        tensor = arguments[place]
        if isinstance(tensor, Tensor):
            leaves[name] = tensor.detach().double().requires_grad_()
    plan = problem.plan
    y = torch.zeros(problem.x.shape, dtype=torch.float64)
    for expert, (begin, end) in enumerate(itertools.pairwise(plan.expert_offsets.tolist())):
        tokens = plan.token_of_row[begin:end]
        up = leaves["x"][tokens] @ leaves["up"][expert].t()
        if "up_bias" in leaves:
            up = up + leaves["up_bias"][expert]
        up = up + (reached[begin:end] - up).detach()
        out = activate(up, problem.spec.function) @ leaves["down"][expert].t()
        if "down_bias" in leaves:
            out = out + leaves["down_bias"][expert]
        y = y.index_add(0, tokens, out * leaves["row_weights"][begin:end, None])
    y.backward(dy.double())
    return {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}


def assert_right(problem: Problem, *, isa: str = "best") -> None:
    generator = torch.Generator().manual_seed(7)
    dy = torch.randn(problem.x.shape, generator=generator).to(problem.x.dtype)
    wanted = expected(problem, dy, isa=isa)
    dtype, (d_model, d_ff) = problem.x.dtype, problem.down.shape[1:]
    # Sums are float32 whatever the dtype is: only their operands are rounded to it.
    terms = max(d_model, 2 * d_ff, problem.x.shape[0]) if dtype == torch.float32 else 4
    for name, gradient in gradients(problem, dy, isa=isa).items():
        assert gradient.dtype == (torch.float32 if name == "row_weights" else dtype)
        if gradient.numel():
            scale = wanted[name].square().mean().sqrt().item()
            assert_close(name, gradient, wanted[name], dtype=dtype, terms=terms, scale=scale)


@pytest.mark.parametrize("isa", available_isas())
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", SPECS)
@pytest.mark.parametrize("shape", [*SHAPES, (1700, 20, 12, 2, 1)])
def test_equals_float64(shape: tuple[int, int, int, int, int], name: str, dtype: torch.dtype, isa: str) -> None:
    assert_right(make_problem(shape, SPECS[name], dtype), isa=isa)


@pytest.mark.parametrize("isa", available_isas())
def test_every_number_of_rows(isa: str) -> None:
    for num_tokens in range(0, 101, 3):
        assert_right(make_problem((num_tokens, 9, 11, 1, 1), SPECS["geglu"], torch.bfloat16), isa=isa)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["gpt_oss", "gelu"])
def test_transposed_weights(name: str, dtype: torch.dtype) -> None:
    problem = make_problem((20, 70, 45, 3, 2), SPECS[name], dtype)
    transposed = {key: getattr(problem, key).transpose(1, 2).contiguous().transpose(1, 2) for key in ("up", "down")}
    assert_right(dataclasses.replace(problem, **transposed))


@pytest.mark.parametrize("dtype", DTYPES)
def test_same_bits_with_any_number_of_threads(dtype: torch.dtype) -> None:
    problem = make_problem((300, 200, 136, 4, 2), SPECS["gpt_oss"], dtype)
    dy = torch.randn(problem.x.shape, generator=torch.Generator().manual_seed(0)).to(dtype)
    before = torch.get_num_threads()
    outcomes = []
    try:
        for num_threads in (1, 2, 3, 8):
            torch.set_num_threads(num_threads)
            outcomes.append(gradients(problem, dy))
    finally:
        torch.set_num_threads(before)
    for name, first in outcomes[0].items():
        assert all(torch.equal(first, outcome[name]) for outcome in outcomes[1:]), name


def test_experts_without_rows_get_zeros() -> None:
    problem = make_problem((6, 20, 12, 5, 1), SPECS["gpt_oss"], torch.bfloat16)
    problem = dataclasses.replace(problem, ids=torch.full((6, 1), 3))
    found = gradients(problem, torch.ones_like(problem.x))
    for name in ("up", "down", "up_bias", "down_bias"):
        idle = [expert for expert in range(5) if expert != 3]
        assert found[name][idle].abs().max() == 0
        assert found[name][3].abs().max() > 0


@pytest.mark.parametrize("missing", NAMES)
def test_computes_only_what_is_wanted(missing: str) -> None:
    problem = make_problem((20, 24, 16, 3, 2), SPECS["gpt_oss"], torch.float32)
    dy = torch.randn(problem.x.shape, generator=torch.Generator().manual_seed(0))
    everything = gradients(problem, dy)
    arguments = arguments_of(problem)
    up_rows = experts_for_training(*arguments)[1]
    outputs = experts_gradients(dy, up_rows, *arguments, [name != missing for name in NAMES])
    for name, output in zip(NAMES, outputs, strict=True):
        assert torch.equal(output, torch.empty(0) if name == missing else everything[name]), name


def zero_compute_plan(num_tokens: int) -> tuple[Tensor, DispatchPlan]:
    """Experts 0 and 1 compute, expert 2 returns its input."""
    ids = torch.stack([torch.arange(num_tokens) % 2, torch.full((num_tokens,), 2)], dim=1)
    return ids, plan_token_choice(ids, find_drops(ids, None), num_experts=3, is_dropless=True)


@pytest.mark.parametrize("apply_to", ["output", "input"])
def test_zero_compute_experts(apply_to: str) -> None:
    _, plan = zero_compute_plan(9)
    generator = torch.Generator().manual_seed(0)
    x, dy = torch.randn(9, 20, generator=generator), torch.randn(9, 20, generator=generator)
    combine_weights = torch.rand(9, 2, generator=generator)
    up, down = torch.randn(2, 24, 20, generator=generator), torch.randn(2, 20, 12, generator=generator)
    outcomes = []
    for dtype in (torch.float32, torch.float64):  # float64 runs step by step
        leaves = [tensor.to(dtype, copy=True).requires_grad_() for tensor in (x, combine_weights, up, down)]
        y = run_experts(
            leaves[0],
            plan,
            leaves[1],
            ExpertWeights(up=leaves[2], down=leaves[3]),
            SPECS["swiglu"].function,
            apply_to=apply_to,  # type: ignore[arg-type]
        )
        y.backward(dy.to(dtype))
        outcomes.append([y.detach(), *(leaf.grad for leaf in leaves)])
    for name, fused, in_steps in zip(("y", "x", "combine_weights", "up", "down"), *outcomes, strict=True):
        assert fused is not None
        assert in_steps is not None
        assert_close(name, fused, in_steps, dtype=torch.float32, terms=24)


def test_strided_gradient_of_the_output() -> None:
    problem = make_problem((20, 24, 16, 3, 2), SPECS["swiglu"], torch.bfloat16)
    dy = torch.randn(20, 24, generator=torch.Generator().manual_seed(0)).bfloat16()
    plain = gradients(problem, dy)
    wide = torch.zeros(20, 31, dtype=torch.bfloat16)
    wide[:, 3:27] = dy
    for strided in (wide[:, 3:27], dy.t().contiguous().t()):
        for name, gradient in gradients(problem, strided).items():
            assert torch.equal(gradient, plain[name]), name
    one = torch.ones((), dtype=torch.bfloat16)
    expanded, full = gradients(problem, one.expand(20, 24)), gradients(problem, torch.ones(20, 24).bfloat16())
    assert all(torch.equal(expanded[name], full[name]) for name in full)


def test_opcheck() -> None:
    problem = make_problem((7, 12, 8, 3, 2), SPECS["gpt_oss"], torch.float32)
    arguments = list(arguments_of(problem))
    for place in PLACES:
        tensor = arguments[place]
        assert isinstance(tensor, Tensor)
        arguments[place] = tensor.requires_grad_()
    torch.library.opcheck(experts_for_training, tuple(arguments))


def test_second_derivatives_are_refused() -> None:
    problem = make_problem((7, 12, 8, 3, 2), SPECS["swiglu"], torch.float32)
    arguments = list(arguments_of(problem))
    x = problem.x.requires_grad_()
    y, _ = experts_for_training(*arguments)
    (dx,) = torch.autograd.grad(y.sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="experts"):
        dx.sum().backward()
