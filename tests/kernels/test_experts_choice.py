"""The experts on a choice, whose plan is made in the same call, and on a plan with weights by slot."""

import dataclasses

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode

from expert_problems import SHAPES, SPECS, Problem, arguments_of, available_isas, make_problem
from headgate.dispatch import find_drops, plan_token_choice
from headgate.errors import BackendError
from headgate.experts import ExpertWeights, is_one_call, run_choice, run_experts
from headgate.kernels import native
from headgate.kernels.experts import experts, run_chosen, run_rows
from headgate.kernels.experts_call import DTYPES, Call, Rows, Weights

pytestmark = pytest.mark.skipif(native.library() is None, reason=f"no native library: {native.why_missing()}")


class Watcher(TorchDispatchMode):
    def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        return func(*args, **(kwargs or {}))


def matrices_of(problem: Problem) -> Weights:
    return problem.up, problem.down, problem.up_bias, problem.down_bias


def run(problem: Problem, ids: Tensor, combine_weights: Tensor) -> Tensor:
    return run_chosen(problem.x, ids, combine_weights, matrices_of(problem), problem.spec.function)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("name", ["swiglu", "gpt_oss"])
@pytest.mark.parametrize("shape", SHAPES)
def test_same_bits_as_on_the_plan(shape: tuple[int, int, int, int, int], name: str, dtype: torch.dtype) -> None:
    problem = make_problem(shape, SPECS[name], dtype)
    expected = experts(*arguments_of(problem))
    assert torch.equal(run(problem, problem.ids, problem.combine_weights), expected)
    assert torch.equal(run(problem, problem.ids.int(), problem.combine_weights), expected)


@pytest.mark.parametrize("weights_dtype", DTYPES)
def test_narrow_weights_are_widened(weights_dtype: torch.dtype) -> None:
    problem = make_problem((17, 33, 7, 4, 4), SPECS["swiglu"], torch.float32)
    narrow = problem.combine_weights.to(weights_dtype)
    wide = dataclasses.replace(problem, combine_weights=narrow.float())
    assert torch.equal(run(problem, problem.ids, narrow), experts(*arguments_of(wide)))


def test_views_are_read_as_they_are() -> None:
    problem = make_problem((17, 33, 7, 4, 4), SPECS["swiglu"], torch.float32)
    ids, combine_weights = problem.ids.t().contiguous().t(), problem.combine_weights.t().contiguous().t()
    assert torch.equal(run(problem, ids, combine_weights), experts(*arguments_of(problem)))


@pytest.mark.parametrize("elsewhere", [-1, 4, 99, -(2**62)])
def test_an_id_that_is_not_here_has_no_row(elsewhere: int) -> None:
    problem = make_problem((40, 24, 16, 4, 3), SPECS["gpt_oss"], torch.bfloat16)
    ids = problem.ids.masked_fill(torch.rand(40, 3, generator=torch.Generator().manual_seed(0)) < 0.4, elsewhere)
    ids[7] = elsewhere
    local = ids.where((ids >= 0) & (ids < 4), -1)
    plan = plan_token_choice(local, find_drops(local, None), num_experts=4, is_dropless=False)
    order = (plan.token_of_row, plan.expert_offsets, plan.row_order, plan.token_offsets)
    rows = Rows(*order, problem.combine_weights.flatten()[plan.slot_of_row])
    found = run(problem, ids, problem.combine_weights)
    assert torch.equal(found, run_rows(problem.x, rows, matrices_of(problem), problem.spec.function))
    assert found[7].abs().max() == 0


def test_weights_by_slot_are_those_by_row() -> None:
    problem = make_problem((40, 24, 16, 4, 3), SPECS["gpt_oss"], torch.bfloat16)
    plan = problem.plan
    order = (plan.token_of_row, plan.expert_offsets, plan.row_order, plan.token_offsets)
    rows = Rows(*order, problem.combine_weights.flatten(), plan.slot_of_row)
    found = run_rows(problem.x, rows, matrices_of(problem), problem.spec.function)
    assert torch.equal(found, experts(*arguments_of(problem)))


@pytest.mark.parametrize("isa", available_isas())
def test_every_instruction_set(isa: str) -> None:
    problem = make_problem((17, 33, 7, 4, 4), SPECS["swiglu"], torch.bfloat16)
    call = Call(problem.x, None, matrices_of(problem), problem.spec.function, isa)
    found = call.forward_choice(problem.ids, problem.combine_weights, torch.empty_like(problem.x))
    assert torch.equal(found, experts(*arguments_of(problem, isa=isa)))


def test_a_choice_is_one_call_only_where_nothing_else_has_to_see_it() -> None:
    problem = make_problem((17, 33, 7, 4, 4), SPECS["swiglu"], torch.float32)
    weights = ExpertWeights(up=problem.up, down=problem.down)
    inputs = (problem.x, problem.ids, problem.combine_weights)
    assert is_one_call(*inputs, weights)
    expected = run_experts(problem.x, problem.plan, problem.combine_weights, weights, problem.spec.function)
    assert torch.equal(run_choice(*inputs, weights, problem.spec.function), expected)
    assert not is_one_call(problem.x.requires_grad_(), *inputs[1:], weights)
    with torch.no_grad():
        assert is_one_call(*inputs, weights)
        assert not is_one_call(problem.x, problem.ids, problem.combine_weights.double(), weights)
        assert not is_one_call(problem.x.double(), *inputs[1:], weights)
        with Watcher():
            assert not is_one_call(*inputs, weights)


def test_an_unknown_status_says_what_to_do() -> None:
    problem = make_problem((2, 8, 8, 2, 1), SPECS["swiglu"], torch.float32)
    call = Call(problem.x, None, matrices_of(problem), problem.spec.function)
    with pytest.raises(BackendError, match="can't run on this processor, or sizes don't match; use isa='best'"):
        call.check(2)
    with pytest.raises(MemoryError, match="no memory for the intermediate results of 0 rows; pass fewer tokens"):
        call.check(native.OUT_OF_MEMORY)
