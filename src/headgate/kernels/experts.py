"""The experts' function in one C++ call: gather, gate and up, activation, down, and the weighted combine.

Weights are read where they lie. A token's output has the same bits alone and in any batch, with any number of threads.
`experts` computes no gradients; `experts_for_training` keeps what the first projection gave, and has them.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from headgate.kernels.backends import choose_backend, has_amx
from headgate.kernels.experts_call import Call, Rows, Weights
from headgate.kernels.function import ExpertFunction

_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_int64


class _Gradients(ctypes.Structure):
    """`headgate_gradients` of `csrc/headgate.h`."""

    _fields_ = (
        ("dy", _POINTER),
        ("dy_stride", _SIZE),
        ("up_rows", _POINTER),
        *((name, _POINTER) for name in ("dx", "row_weights", "up", "up_bias", "down", "down_bias")),
    )


class Problem(NamedTuple):
    """What the operations compute on.

    Attributes:
        x: [T, D] float32, float16 or bfloat16, on the CPU.
        token_of_row, expert_offsets, row_order, token_offsets: int64, of a `DispatchPlan`; rows from
            `expert_offsets[E]` on return their input.
        row_weights: [R], each row's combine weight.
        up: [E, 2F, D] or [E, F, D], dtype of `x`; may be a transposed view.
        down: [E, D, F], likewise.
        up_bias, down_bias: [E, 2F] or [E, F], and [E, D], dtype of `x`, or None.
        function: between the projections.
        isa: a key of `ISAS`.
    """

    x: Tensor
    token_of_row: Tensor
    expert_offsets: Tensor
    row_order: Tensor
    token_offsets: Tensor
    row_weights: Tensor
    up: Tensor
    down: Tensor
    up_bias: Tensor | None
    down_bias: Tensor | None
    function: ExpertFunction
    isa: str = "best"

    def flatten(self) -> tuple[Any, ...]:
        """The arguments of an operation."""
        return (*self[:_NUM_TENSORS], *self.function, self.isa)

    def call(self) -> Call:
        """The problem in the library's terms."""
        order = (self.token_of_row, self.expert_offsets, self.row_order, self.token_offsets)
        rows = Rows(*order, self.row_weights.to(torch.float32))
        weights = (self.up, self.down, self.up_bias, self.down_bias)
        return Call(self.x, rows, weights, self.function, self.isa)

    def new_up_rows(self) -> Tensor:
        """Memory for what the first projection gives: [R, 2F] or [R, F]."""
        return self.x.new_empty((self.token_of_row.shape[0], self.up.shape[1]))


_NUM_TENSORS = 10
_NUM_FLAT = _NUM_TENSORS + len(ExpertFunction._fields) + 1
_FLAT = (
    "Tensor x, Tensor token_of_row, Tensor expert_offsets, Tensor row_order, Tensor token_offsets, Tensor row_weights, "
    "Tensor up, Tensor down, Tensor? up_bias, Tensor? down_bias, "
    "str activation, bool gated, bool interleaved, float? clamp, float sigmoid_slope, float up_offset, str isa"
)


def _unflatten(flat: Sequence[Any]) -> Problem:
    *options, isa = flat[_NUM_TENSORS:_NUM_FLAT]
    return Problem._make((*flat[:_NUM_TENSORS], ExpertFunction(*options), isa))


def runs_natively(device_type: str, dtype: torch.dtype) -> bool:
    """Whether `experts` is the backend for such tokens here, if they are few."""
    return choose_backend("experts", device_type=device_type, dtype=dtype).backend == "native"


# Compiled code takes the answer as it is: to look for a library is nothing to trace (see `route.py`).
runs_natively._dynamo_marked_constant = True  # type: ignore[attr-defined]


def is_backend(x: Tensor, num_rows: int, num_experts: int) -> bool:
    """Whether `experts` is the backend for so many rows."""
    if not has_amx():  # Then the sizes don't matter, and compiled code needn't depend on them.
        return runs_natively(x.device.type, x.dtype)
    sizes = {"num_rows": num_rows, "num_experts": num_experts}
    return choose_backend("experts", device_type=x.device.type, dtype=x.dtype, **sizes).backend == "native"


@torch.library.custom_op("headgate::experts", mutates_args=(), device_types="cpu", schema=f"({_FLAT}) -> Tensor")
def experts(*flat: Any) -> Tensor:
    """Run each expert on its rows and add up each token's weighted outputs, on the CPU and without a gradient.

    Args:
        flat: `Problem.flatten()`.

    Returns:
        [T, D] in the dtype of `x`.

    Raises:
        BackendError: the library is missing, or this processor lacks the instruction set.
        MemoryError: no room for the rows' intermediate results.
    """
    problem = _unflatten(flat)
    return problem.call().forward(problem.x.new_empty(problem.x.shape))


@experts.register_fake
def _(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op(
    "headgate::experts_for_training", mutates_args=(), device_types="cpu", schema=f"({_FLAT}) -> (Tensor, Tensor)"
)
def experts_for_training(*flat: Any) -> tuple[Tensor, Tensor]:
    """As `experts`, with gradients for `x`, `row_weights`, the weights and the biases.

    Returns:
        What `experts` returns, and what the first projection gave: [R, U] in the dtype of `x`, kept for the gradients.
    """
    problem = _unflatten(flat)
    up_rows = problem.new_up_rows()
    return problem.call().forward(problem.x.new_empty(problem.x.shape), up_rows), up_rows


@experts_for_training.register_fake
def _(*flat: Any) -> tuple[Tensor, Tensor]:
    problem = _unflatten(flat)
    return problem.x.new_empty(problem.x.shape), problem.new_up_rows()


@torch.library.custom_op(
    "headgate::experts_gradients",
    mutates_args=(),
    device_types="cpu",
    schema=f"(Tensor dy, Tensor up_rows, {_FLAT}, bool[] wanted) -> Tensor[]",
)
def experts_gradients(dy: Tensor, up_rows: Tensor, *flat: Any) -> list[Tensor]:
    """The gradients of `experts_for_training`.

    Args:
        dy: [T, D], the gradient of its first result.
        up_rows: its second result.
        flat: its arguments, then whether each of `x`, `row_weights`, `up`, `down`, `up_bias`, `down_bias` needs one.

    Returns:
        Six tensors in that order, shaped like what they are gradients of, empty where none is wanted. They are in the
        dtype of `x`, for `row_weights` in float32.
    """
    problem, wanted = _unflatten(flat), flat[_NUM_FLAT]
    call = problem.call()
    dy = dy if dy.stride(1) == 1 else dy.contiguous()
    outputs = _empty_gradients(problem, wanted)
    dx, d_row_weights, d_up, d_down, d_up_bias, d_down_bias = (
        output.data_ptr() if is_wanted else None for output, is_wanted in zip(outputs, wanted, strict=True)
    )
    addresses = (dx, d_row_weights, d_up, d_up_bias, d_down, d_down_bias)
    gradients = _Gradients(dy.data_ptr(), dy.stride(0), up_rows.data_ptr(), *addresses)
    call.check(call.library.headgate_experts_backward(call.problem, ctypes.byref(gradients)))
    return outputs


def _empty_gradients(problem: Problem, wanted: Sequence[bool]) -> list[Tensor]:
    inputs = (problem.x, problem.row_weights, problem.up, problem.down, problem.up_bias, problem.down_bias)
    dtypes = [problem.x.dtype, torch.float32, *[problem.x.dtype] * 4]
    shapes = [(0,) if tensor is None or not need else tensor.shape for tensor, need in zip(inputs, wanted, strict=True)]
    return [problem.x.new_empty(shape, dtype=dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]


@experts_gradients.register_fake
def _(_dy: Tensor, _up_rows: Tensor, *flat: Any) -> list[Tensor]:
    return _empty_gradients(_unflatten(flat), flat[_NUM_FLAT])


def _setup(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[object, ...], output: tuple[Tensor, Tensor]) -> None:
    tensors, options = inputs[:_NUM_TENSORS], inputs[_NUM_TENSORS:]
    ctx.save_for_backward(output[1], *tensors)  # type: ignore[arg-type]
    ctx.options = options  # type: ignore[attr-defined]
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: torch.autograd.function.FunctionCtx, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    up_rows, *tensors = ctx.saved_tensors  # type: ignore[attr-defined]
    needs = ctx.needs_input_grad  # type: ignore[attr-defined]
    wanted = [needs[0], *needs[5:_NUM_TENSORS]]
    outputs = experts_gradients(dy, up_rows, *tensors, *ctx.options, wanted)  # type: ignore[attr-defined]
    dx, *others = (output if need else None for output, need in zip(outputs, wanted, strict=True))
    if others[0] is not None:
        others[0] = others[0].to(tensors[5].dtype)
    return (dx, *[None] * 4, *others, *[None] * (_NUM_FLAT - _NUM_TENSORS))


experts_for_training.register_autograd(_backward, setup_context=_setup)


def run_rows(x: Tensor, rows: Rows, weights: Weights, function: ExpertFunction) -> Tensor:
    """Compute `experts` now, past PyTorch's dispatcher, for plain tensors that nothing wants to see.

    Args:
        x: [T, D].
        rows: of a plan; weights float32.
        weights: of the dtype of `x`.
        function: between the projections.

    Returns:
        [T, D].
    """
    return Call(x, rows, weights, function).forward(x.new_empty(x.shape))


def run_chosen(
    x: Tensor, expert_ids: Tensor, combine_weights: Tensor, weights: Weights, function: ExpertFunction
) -> Tensor:
    """Compute what `run_rows` does from a choice: the plan, too, is made in the same call, and is not kept.

    Args:
        x: [T, D].
        expert_ids: [T, K] int64 or int32; an id that is not in [0, E) has no row.
        combine_weights: [T, K] float32, float16 or bfloat16.
        weights: of the dtype of `x`.
        function: between the projections.

    Returns:
        [T, D].
    """
    call = Call(x, None, weights, function)
    return call.forward_choice(expert_ids, combine_weights, x.new_empty(x.shape))
