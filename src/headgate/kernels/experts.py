"""The experts' function in one C++ call: gather, gate and up, activation, down, and the weighted combine.

Weights are read where they lie. A token's output has the same bits alone and in any batch, with any number of threads.
"""

from __future__ import annotations

import ctypes
import math

import torch
from torch import Tensor

from headgate.errors import BackendError
from headgate.kernels import native
from headgate.kernels.backends import choose_backend
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


def runs_natively(device_type: str, dtype: torch.dtype) -> bool:
    """Whether `experts` is the backend for such tokens here."""
    return choose_backend("experts", device_type=device_type, dtype=dtype).backend == "native"


# Compiled code takes the answer as it is: to look for a library is nothing to trace (see `route.py`).
runs_natively._dynamo_marked_constant = True  # type: ignore[attr-defined]


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
    library = native.library()
    if library is None:
        raise BackendError(f"the native experts are not available: {native.why_missing()}; {native.HOW_TO_GET}")
    x = x if x.stride(1) == 1 else x.contiguous()
    up, down = _addressable(up), _addressable(down)
    y = x.new_empty(x.shape)
    weights_of_rows = row_weights.to(torch.float32).contiguous()
    keep = [None if bias is None else bias.contiguous() for bias in (up_bias, down_bias)]
    indices = [index.contiguous() for index in (token_of_row, expert_offsets, row_order, token_offsets)]
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
        token_of_row=indices[0].data_ptr(),
        expert_offsets=indices[1].data_ptr(),
        row_order=indices[2].data_ptr(),
        token_offsets=indices[3].data_ptr(),
        row_weights=weights_of_rows.data_ptr(),
        up=_matrices(up, keep[0]),
        down=_matrices(down, keep[1]),
    )
    status = library.headgate_experts_forward(ctypes.byref(problem), y.data_ptr(), None)
    if status == native.OUT_OF_MEMORY:
        raise MemoryError(f"no memory for the intermediate results of {token_of_row.shape[0]} rows; pass fewer tokens")
    if status:
        raise BackendError(f"isa (={isa!r}) can't run on this processor, or sizes don't match; use isa='best'")
    return y


@experts.register_fake
def _(x: Tensor, *_: object) -> Tensor:
    return x.new_empty(x.shape)


def _addressable(weight: Tensor) -> Tensor:
    return weight if 1 in weight.stride()[1:] else weight.contiguous()


def _matrices(weight: Tensor, bias: Tensor | None) -> _Matrices:
    expert, row, column = weight.stride()
    return _Matrices(weight.data_ptr(), expert, row, column, None if bias is None else bias.data_ptr())
