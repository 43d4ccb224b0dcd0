"""The experts' function in one C++ call: gather, gate and up, activation, down, and the weighted combine.

Weights are read where they lie. A token's output has the same bits alone and in any batch, with any number of threads.
`experts` computes no gradients; `experts_for_training` keeps what the first projection gave, and has them.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeAlias

import torch
from torch import Tensor

from headgate.errors import BackendError
from headgate.kernels import native
from headgate.kernels.backends import choose_backend, has_amx
from headgate.kernels.threads import Threads, current_threads

ACTIVATIONS = ("silu", "gelu", "gelu_tanh", "relu")
DTYPES = (torch.float32, torch.float16, torch.bfloat16)
ISAS = {"best": -1, "generic": 0, "avx2": 1, "avx512": 2, "avx512_bf16": 3}

_POINTER, _SIZE = ctypes.c_void_p, ctypes.c_int64


class _Function(ctypes.Structure):
    _fields_ = (
        ("activation", ctypes.c_int),
        ("is_gated", ctypes.c_int),
        ("is_interleaved", ctypes.c_int),
        ("clamp", ctypes.c_float),
        ("sigmoid_slope", ctypes.c_float),
        ("up_offset", ctypes.c_float),
    )


class _Matrices(ctypes.Structure):
    _fields_ = (
        ("data", _POINTER),
        ("expert_stride", _SIZE),
        ("row_stride", _SIZE),
        ("column_stride", _SIZE),
        ("bias", _POINTER),
    )


class _Experts(ctypes.Structure):
    _fields_ = (
        ("isa", ctypes.c_int),
        ("dtype", ctypes.c_int),
        ("threads", Threads),
        ("function", _Function),
        ("num_tokens", _SIZE),
        ("d_model", _SIZE),
        ("d_ff", _SIZE),
        ("num_experts", _SIZE),
        ("num_rows", _SIZE),
        ("x", _POINTER),
        ("x_stride", _SIZE),
        ("token_of_row", _POINTER),
        ("expert_offsets", _POINTER),
        ("row_order", _POINTER),
        ("token_offsets", _POINTER),
        ("row_weights", _POINTER),
        ("up", _Matrices),
        ("down", _Matrices),
    )


class _Gradients(ctypes.Structure):
    _fields_ = (
        ("dy", _POINTER),
        ("dy_stride", _SIZE),
        ("up_rows", _POINTER),
        ("dx", _POINTER),
        ("row_weights", _POINTER),
        ("up", _POINTER),
        ("up_bias", _POINTER),
        ("down", _POINTER),
        ("down_bias", _POINTER),
    )


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


@torch.library.custom_op("headgate::experts", mutates_args=(), device_types="cpu")
def experts(
    x: Tensor,
    token_of_row: Tensor,
    expert_offsets: Tensor,
    row_order: Tensor,
    token_offsets: Tensor,
    row_weights: Tensor,
    up: Tensor,
    down: Tensor,
    up_bias: Tensor | None,
    down_bias: Tensor | None,
    activation: str,
    gated: bool,
    interleaved: bool,
    clamp: float | None,
    sigmoid_slope: float,
    up_offset: float,
    isa: str,
) -> Tensor:
    """Run each expert on its rows and add up each token's weighted outputs, on the CPU and without a gradient.

    Args:
        x: [T, D] float32, float16 or bfloat16.
        token_of_row, expert_offsets, row_order, token_offsets: int64, of a `DispatchPlan`; rows from
            `expert_offsets[E]` on return their input.
        row_weights: [R], each row's combine weight.
        up: [E, 2F, D] or [E, F, D], dtype of `x`; may be a transposed view.
        down: [E, D, F], likewise.
        up_bias, down_bias: [E, 2F] or [E, F], and [E, D], dtype of `x`, or None.
        activation, gated, interleaved, clamp, sigmoid_slope, up_offset: see `ExpertSpec`.
        isa: a key of `ISAS`.

    Returns:
        [T, D] in the dtype of `x`.

    Raises:
        BackendError: the library is missing, or this processor lacks the instruction set.
        MemoryError: no room for the rows' intermediate results.
    """
    plan = (token_of_row, expert_offsets, row_order, token_offsets)
    function = (activation, gated, interleaved, clamp, sigmoid_slope, up_offset)
    return run_forward(x, plan, row_weights, (up, down, up_bias, down_bias), function, isa)


@experts.register_fake
def _(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape)


@torch.library.custom_op("headgate::experts_for_training", mutates_args=(), device_types="cpu")
def experts_for_training(
    x: Tensor,
    token_of_row: Tensor,
    expert_offsets: Tensor,
    row_order: Tensor,
    token_offsets: Tensor,
    row_weights: Tensor,
    up: Tensor,
    down: Tensor,
    up_bias: Tensor | None,
    down_bias: Tensor | None,
    activation: str,
    gated: bool,
    interleaved: bool,
    clamp: float | None,
    sigmoid_slope: float,
    up_offset: float,
    isa: str,
) -> tuple[Tensor, Tensor]:
    """As `experts`, with gradients for `x`, `row_weights`, the weights and the biases.

    Returns:
        What `experts` returns, and what the first projection gave: [R, U] in the dtype of `x`, kept for the gradients.
    """
    plan = (token_of_row, expert_offsets, row_order, token_offsets)
    function = (activation, gated, interleaved, clamp, sigmoid_slope, up_offset)
    call = _Call.of(x, plan, row_weights, (up, down, up_bias, down_bias), function, isa)
    y, up_rows = x.new_empty(x.shape), x.new_empty((token_of_row.shape[0], up.shape[1]))
    call.run("headgate_experts_forward", y.data_ptr(), up_rows.data_ptr())
    return y, up_rows


@experts_for_training.register_fake
def _(x: Tensor, token_of_row: Tensor, *rest: object) -> tuple[Tensor, Tensor]:
    up = rest[4]
    assert isinstance(up, Tensor)
    return x.new_empty(x.shape), x.new_empty((token_of_row.shape[0], up.shape[1]))


@torch.library.custom_op("headgate::experts_gradients", mutates_args=(), device_types="cpu")
def experts_gradients(
    dy: Tensor,
    up_rows: Tensor,
    x: Tensor,
    token_of_row: Tensor,
    expert_offsets: Tensor,
    row_order: Tensor,
    token_offsets: Tensor,
    row_weights: Tensor,
    up: Tensor,
    down: Tensor,
    up_bias: Tensor | None,
    down_bias: Tensor | None,
    activation: str,
    gated: bool,
    interleaved: bool,
    clamp: float | None,
    sigmoid_slope: float,
    up_offset: float,
    isa: str,
    wanted: Sequence[bool],
) -> list[Tensor]:
    """The gradients of `experts_for_training`.

    Args:
        dy: [T, D], the gradient of its first result.
        up_rows: its second result.
        wanted: whether each of `x`, `row_weights`, `up`, `down`, `up_bias`, `down_bias` needs one.

    Returns:
        Six tensors in that order, shaped like what they are gradients of, empty where none is wanted. They are in the
        dtype of `x`, for `row_weights` in float32.
    """
    plan = (token_of_row, expert_offsets, row_order, token_offsets)
    function = (activation, gated, interleaved, clamp, sigmoid_slope, up_offset)
    call = _Call.of(x, plan, row_weights, (up, down, up_bias, down_bias), function, isa)
    dy = dy if dy.stride(1) == 1 else dy.contiguous()
    outputs = _empty_gradients((x, row_weights, up, down, up_bias, down_bias), wanted)
    dx, d_row_weights, d_up, d_down, d_up_bias, d_down_bias = (
        output.data_ptr() if is_wanted else None for output, is_wanted in zip(outputs, wanted, strict=True)
    )
    gradients = _Gradients(
        dy=dy.data_ptr(),
        dy_stride=dy.stride(0),
        up_rows=up_rows.data_ptr(),
        dx=dx,
        row_weights=d_row_weights,
        up=d_up,
        up_bias=d_up_bias,
        down=d_down,
        down_bias=d_down_bias,
    )
    call.run("headgate_experts_backward", ctypes.byref(gradients))
    return outputs


def _empty_gradients(inputs: Sequence[Tensor | None], wanted: Sequence[bool]) -> list[Tensor]:
    x = inputs[0]
    assert x is not None
    dtypes = [x.dtype, torch.float32, *[x.dtype] * 4]
    shapes = [(0,) if tensor is None or not need else tensor.shape for tensor, need in zip(inputs, wanted, strict=True)]
    return [x.new_empty(shape, dtype=dtype) for shape, dtype in zip(shapes, dtypes, strict=True)]


@experts_gradients.register_fake
def _(dy: Tensor, up_rows: Tensor, x: Tensor, *rest: object) -> list[Tensor]:
    wanted = rest[-1]
    assert isinstance(wanted, Sequence)
    return _empty_gradients((x, *rest[4:9]), wanted)  # type: ignore[arg-type]


def _setup(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[object, ...], output: tuple[Tensor, Tensor]) -> None:
    tensors, options = inputs[:10], inputs[10:]
    ctx.save_for_backward(output[1], *tensors)  # type: ignore[arg-type]
    ctx.options = options  # type: ignore[attr-defined]
    ctx.mark_non_differentiable(output[1])


def _backward(ctx: torch.autograd.function.FunctionCtx, dy: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
    up_rows, *tensors = ctx.saved_tensors  # type: ignore[attr-defined]
    needs = ctx.needs_input_grad  # type: ignore[attr-defined]
    wanted = [needs[0], *needs[5:10]]
    outputs = experts_gradients(dy, up_rows, *tensors, *ctx.options, wanted)  # type: ignore[attr-defined]
    dx, *others = (output if need else None for output, need in zip(outputs, wanted, strict=True))
    if others[0] is not None:
        others[0] = others[0].to(tensors[5].dtype)
    return (dx, None, None, None, None, *others, *[None] * 7)


experts_for_training.register_autograd(_backward, setup_context=_setup)


Weights: TypeAlias = tuple[Tensor, Tensor, Tensor | None, Tensor | None]
"""up, down, up_bias, down_bias"""
Function: TypeAlias = tuple[str, bool, bool, float | None, float, float]
"""activation, gated, interleaved, clamp, sigmoid_slope, up_offset"""


def run_forward(
    x: Tensor, plan: tuple[Tensor, ...], row_weights: Tensor, weights: Weights, function: Function, isa: str = "best"
) -> Tensor:
    """Compute `experts` now, past PyTorch's dispatcher, for plain tensors that nothing wants to see."""
    call = _Call.of(x, plan, row_weights, weights, function, isa)
    y = x.new_empty(x.shape)
    call.run("headgate_experts_forward", y.data_ptr(), None)
    return y


@dataclass(frozen=True, slots=True)
class _Call:
    """The arguments of a call in the library's terms, and the tensors that they point into."""

    library: ctypes.CDLL
    problem: _Experts
    keep: tuple[Tensor | None, ...]
    isa: str

    @classmethod
    def of(
        cls,
        x: Tensor,
        plan: tuple[Tensor, ...],
        row_weights: Tensor,
        weights: Weights,
        function: Function,
        isa: str,
    ) -> _Call:
        library = native.library()
        if library is None:
            raise BackendError(f"the native experts are not available: {native.why_missing()}; {native.HOW_TO_GET}")
        activation, gated, interleaved, clamp, sigmoid_slope, up_offset = function
        x = x if x.stride(1) == 1 else x.contiguous()
        up, down = _addressable(weights[0]), _addressable(weights[1])
        up_bias, down_bias = (None if bias is None else bias.contiguous() for bias in weights[2:])
        token_of_row, expert_offsets, row_order, token_offsets = (index.contiguous() for index in plan)
        weights_of_rows = row_weights.to(torch.float32).contiguous()
        problem = _Experts(
            isa=ISAS[isa],
            dtype=DTYPES.index(x.dtype),
            threads=current_threads(),
            function=_Function(
                activation=ACTIVATIONS.index(activation),
                is_gated=gated,
                is_interleaved=interleaved,
                clamp=math.inf if clamp is None else clamp,
                sigmoid_slope=sigmoid_slope,
                up_offset=up_offset,
            ),
            num_tokens=x.shape[0],
            d_model=x.shape[1],
            d_ff=down.shape[2],
            num_experts=up.shape[0],
            num_rows=token_of_row.shape[0],
            x=x.data_ptr(),
            x_stride=x.stride(0),
            token_of_row=token_of_row.data_ptr(),
            expert_offsets=expert_offsets.data_ptr(),
            row_order=row_order.data_ptr(),
            token_offsets=token_offsets.data_ptr(),
            row_weights=weights_of_rows.data_ptr(),
            up=_matrices(up, up_bias),
            down=_matrices(down, down_bias),
        )
        indices = (token_of_row, expert_offsets, row_order, token_offsets)
        return cls(library, problem, (x, *indices, weights_of_rows, up, down, up_bias, down_bias), isa)

    def run(self, function: str, *outputs: object) -> None:
        status = getattr(self.library, function)(ctypes.byref(self.problem), *outputs)
        if status == native.OUT_OF_MEMORY:
            num_rows = self.problem.num_rows
            raise MemoryError(f"no memory for the intermediate results of {num_rows} rows; pass fewer tokens")
        if status:
            raise BackendError(f"isa (={self.isa!r}) can't run on this processor, or sizes don't match; use isa='best'")


def _addressable(weight: Tensor) -> Tensor:
    # Not `contiguous()`, which leaves the strides of a [1, 1, 1] tensor as they are.
    return weight if 1 in weight.stride()[1:] else weight.clone(memory_format=torch.contiguous_format)


def _matrices(weight: Tensor, bias: Tensor | None) -> _Matrices:
    expert, row, column = weight.stride()
    return _Matrices(weight.data_ptr(), expert, row, column, None if bias is None else bias.data_ptr())
