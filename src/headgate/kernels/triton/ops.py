"""The experts on a GPU as operations of PyTorch: fakes for compilers, and gradients. Triton is imported late."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from headgate.kernels.backends import choose_backend
from headgate.kernels.experts_call import Weights
from headgate.kernels.function import ExpertFunction


class Problem(NamedTuple):
    """What the operations compute on.

    Attributes:
        x: [T, D] float32, float16 or bfloat16.
        token_of_row, slot_of_row: [R] int64, of a `DispatchPlan`.
        expert_offsets: [E + 1] int64 or longer. Rows from entry E to the last entry return their input; rows from
            the last entry on are nobody's and add nothing, so that drops need not change R.
        row_order, token_offsets: int64, of the plan.
        combine_weights: [N] any floating dtype, by slot.
        up: [E, 2F, D] or [E, F, D], dtype of `x`; may be a transposed view.
        down: [E, D, F], likewise.
        up_bias, down_bias: [E, 2F] or [E, F], and [E, D], dtype of `x`, or None.
        function: between the projections.
        weighs_input: a combine weight multiplies the expert's input instead of its output.
        recomputes: gradients compute the first projection again instead of keeping it.
    """

    x: Tensor
    token_of_row: Tensor
    slot_of_row: Tensor
    expert_offsets: Tensor
    row_order: Tensor
    token_offsets: Tensor
    combine_weights: Tensor
    up: Tensor
    down: Tensor
    up_bias: Tensor | None
    down_bias: Tensor | None
    function: ExpertFunction
    weighs_input: bool = False
    recomputes: bool = False

    def flatten(self) -> tuple[Any, ...]:
        """The arguments of an operation."""
        return (*self[:_NUM_TENSORS], *self.function, self.weighs_input, self.recomputes)

    @property
    def num_rows(self) -> int:
        """R."""
        return self.token_of_row.shape[0]

    def new_up_rows(self) -> Tensor:
        """Memory for what the first projection gave: [R, 2F] or [R, F]."""
        return self.x.new_empty((self.num_rows, self.up.shape[1]))

    def new_y(self) -> Tensor:
        """Memory for the output, or for the gradient of `x`: [T, D]."""
        return torch.empty_like(self.x, memory_format=torch.contiguous_format)


def runs_in_triton(device_type: str, dtype: torch.dtype) -> bool:
    """Whether these operations are the backend for such tokens here."""
    return choose_backend("experts", device_type=device_type, dtype=dtype).backend == "triton"


# Compiled code takes the answer as it is: what is installed is nothing to trace.
runs_in_triton._dynamo_marked_constant = True  # type: ignore[attr-defined]


def run_now(problem: Problem) -> Tensor:
    """Compute `triton_experts` past PyTorch's dispatcher, for plain tensors that nothing wants to see."""
    from headgate.kernels.triton import experts

    return experts.run(problem)


def run_chosen_now(
    x: Tensor, expert_ids: Tensor, combine_weights: Tensor, weights: Weights, function: ExpertFunction
) -> Tensor:
    """Compute what `run_now` does from a choice, whose plan is made on the way and not kept.

    Args:
        x: [T, D].
        expert_ids: [T, K] int64 or int32; an id outside [0, E) has no expert here.
        combine_weights: [T, K], any floating dtype.
        weights: of the dtype of `x`.
        function: between the projections.
    """
    from headgate.kernels.triton.plan import plan_choice_triton

    plan = plan_choice_triton(expert_ids, weights[0].shape[0])
    slot_of_row, token_of_row, expert_offsets, row_order, token_offsets = plan
    rows = (token_of_row, slot_of_row, expert_offsets, row_order, token_offsets)
    return run_now(Problem(x, *rows, combine_weights.flatten(), *weights, function))


_NUM_TENSORS = 11
_NUM_FLAT = _NUM_TENSORS + len(ExpertFunction._fields) + 2
_FLAT = (
    "Tensor x, Tensor token_of_row, Tensor slot_of_row, Tensor expert_offsets, Tensor row_order, Tensor token_offsets, "
    "Tensor combine_weights, Tensor up, Tensor down, Tensor? up_bias, Tensor? down_bias, "
    "str activation, bool gated, bool interleaved, float? clamp, float sigmoid_slope, float up_offset, "
    "bool weighs_input, bool recomputes"
)
_WANTED = (0, *range(6, _NUM_TENSORS))
"""x, combine_weights, up, down, up_bias, down_bias among the arguments: what can have gradients."""


def _unflatten(flat: Sequence[Any]) -> Problem:
    *function, weighs_input, recomputes = flat[_NUM_TENSORS:_NUM_FLAT]
    return Problem._make((*flat[:_NUM_TENSORS], ExpertFunction(*function), weighs_input, recomputes))


@torch.library.custom_op("headgate::triton_experts", mutates_args=(), schema=f"({_FLAT}) -> Tensor")
def triton_experts(*flat: Any) -> Tensor:
    """Run each expert on its rows and add up each token's weighted outputs, without a gradient.

    Args:
        flat: `Problem.flatten()`.

    Returns:
        [T, D] in the dtype of `x`.
    """
    return run_now(_unflatten(flat))


@triton_experts.register_fake
def _(*flat: Any) -> Tensor:
    return _unflatten(flat).new_y()


@torch.library.custom_op(
    "headgate::triton_experts_for_training", mutates_args=(), schema=f"({_FLAT}) -> (Tensor, Tensor)"
)
def triton_experts_for_training(*flat: Any) -> tuple[Tensor, Tensor]:
    """As `triton_experts`, with gradients for `x`, `combine_weights`, the weights and the biases.

    Returns:
        What `triton_experts` returns, and what the first projection gave: [R, 2F] or [R, F], no rows where the
        gradients compute it again.
    """
    from headgate.kernels.triton import experts

    problem = _unflatten(flat)
    up_rows = _kept(problem)
    return experts.run(problem, None if problem.recomputes else up_rows), up_rows


def _kept(problem: Problem) -> Tensor:
    return problem.x.new_empty((0, problem.up.shape[1])) if problem.recomputes else problem.new_up_rows()


@triton_experts_for_training.register_fake
def _(*flat: Any) -> tuple[Tensor, Tensor]:
    problem = _unflatten(flat)
    return problem.new_y(), _kept(problem)


@torch.library.custom_op(
    "headgate::triton_experts_gradients",
    mutates_args=(),
    schema=f"(Tensor dy, Tensor up_rows, {_FLAT}, bool[] wanted) -> Tensor[]",
)
def triton_experts_gradients(dy: Tensor, up_rows: Tensor, *flat: Any) -> list[Tensor]:
    """The gradients of `triton_experts_for_training`.

    Args:
        dy: [T, D], the gradient of its first result.
        up_rows: its second result.
        flat: its arguments, then which of `x`, `combine_weights`, `up`, `down`, `up_bias`, `down_bias` need one.

    Returns:
        Six tensors in that order, shaped and typed like what they are gradients of, empty where none is wanted.
    """
    from headgate.kernels.triton import gradients

    problem, wanted = _unflatten(flat), flat[_NUM_FLAT]
    outputs = _empty_gradients(problem, wanted)
    kept = None if problem.recomputes else up_rows
    gradients.run(problem, dy, kept, gradients.Outputs(*_wanted_only(outputs, wanted)))
    return outputs


def _empty_gradients(problem: Problem, wanted: Sequence[bool]) -> list[Tensor]:
    inputs = (problem.x, problem.combine_weights, problem.up, problem.down, problem.up_bias, problem.down_bias)
    empty = problem.x.new_empty
    return [
        empty(tensor.shape, dtype=tensor.dtype) if need and tensor is not None else empty(0)
        for tensor, need in zip(inputs, wanted, strict=True)
    ]


def _wanted_only(outputs: Sequence[Tensor], wanted: Sequence[bool]) -> list[Tensor | None]:
    return [output if need else None for output, need in zip(outputs, wanted, strict=True)]


@triton_experts_gradients.register_fake
def _(_dy: Tensor, _up_rows: Tensor, *flat: Any) -> list[Tensor]:
    return _empty_gradients(_unflatten(flat), flat[_NUM_FLAT])


def _setup(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    ctx.save_for_backward(output[1], *inputs[:_NUM_TENSORS])
    ctx.options = inputs[_NUM_TENSORS:]  # type: ignore[attr-defined]
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: torch.autograd.function.FunctionCtx, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    up_rows, *tensors = ctx.saved_tensors  # type: ignore[attr-defined]
    wanted = [ctx.needs_input_grad[place] for place in _WANTED]  # type: ignore[attr-defined]
    found = triton_experts_gradients(dy, up_rows, *tensors, *ctx.options, wanted)  # type: ignore[attr-defined]
    gradients = dict(zip(_WANTED, _wanted_only(found, wanted), strict=True))
    return tuple(gradients.get(place) for place in range(_NUM_FLAT))


triton_experts_for_training.register_autograd(_backward, setup_context=_setup)
