"""Which backend runs: one function of the device, the dtype and what is installed."""

from __future__ import annotations

import functools
import importlib.util
from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch

from headgate.kernels import native

Op: TypeAlias = Literal["route", "plan", "experts", "combine"]
Backend: TypeAlias = Literal["native", "triton", "torch"]

OPS: tuple[Op, ...] = ("route", "plan", "experts", "combine")

_NATIVE_DTYPES = (torch.float32, torch.float16, torch.bfloat16)


@dataclass(frozen=True, slots=True, kw_only=True)
class BackendChoice:
    """The backend that runs an operation, and the reason in words."""

    op: Op
    backend: Backend
    reason: str


def choose_backend(
    op: Op, *, device_type: str, dtype: torch.dtype, num_rows: int = 0, num_experts: int = 1
) -> BackendChoice:
    """Choose the backend of an operation. The operations ask this function, and so does `headgate doctor`.

    Args:
        op: `route` decides, from tokens to plan, on a CPU where no gradients are needed; `plan` sorts slots by expert,
            `experts` runs the expert MLPs, `combine` adds up a token's rows.
        device_type: as in `torch.device.type`, such as `cpu` or `cuda`.
        dtype: of the activations; `plan` reads int64 ids whatever it is.
        num_rows, num_experts: R and E, for `experts`; for `plan` E is the number of buckets.

    Returns:
        The choice, which depends on nothing but the arguments and what is installed.
    """
    if op == "route":
        return _choose_route(device_type, dtype)
    if op == "plan":
        return _choose_plan(device_type, num_experts)
    if op == "experts":
        return _choose_experts(device_type, dtype, num_rows, num_experts)
    return BackendChoice(op=op, backend="torch", reason="float32 sums in slot order")


_BY_OPERATIONS = "operation by operation, as in training"
_ROUTE_NATIVE = BackendChoice(
    op="route", backend="native", reason="one pass in C++ for top-k routers without gradients"
)


_ROUTE_TRITON = BackendChoice(
    op="route", backend="triton", reason="top-k routers, gradients included: decode in 2 launches"
)

MOST_BUCKETS = 1024
"""Of the counting sort on a GPU: its table of more would be wider than it is worth, and a radix sort is better."""


@functools.cache
def has_triton() -> bool:
    """Whether Triton is installed; it is not imported."""
    return importlib.util.find_spec("triton") is not None


def _choose_route(device_type: str, dtype: torch.dtype) -> BackendChoice:
    if device_type == "cuda" and dtype in _NATIVE_DTYPES and has_triton():
        return _ROUTE_TRITON
    if device_type != "cpu" or dtype not in _NATIVE_DTYPES:
        return BackendChoice(op="route", backend="torch", reason=_BY_OPERATIONS)
    if native.library() is None:
        return BackendChoice(op="route", backend="torch", reason=f"{_BY_OPERATIONS}: no native library")
    return _ROUTE_NATIVE


_BY_EXPERT = "a loop over the experts that have rows"
_EXPERTS_NATIVE = BackendChoice(op="experts", backend="native", reason="one fused pass in C++, and one for gradients")
_EXPERTS_TRITON = BackendChoice(op="experts", backend="triton", reason="fused products, no host synchronisation")


ROWS_FOR_AMX = 64
"""Rows per expert from which PyTorch's products are taken on a processor with AMX.

AMX multiplies 16 times as many bfloat16 pairs per cycle as AVX-512 does (Intel, "64 and IA-32 Architectures
Optimization Reference Manual", 2023, section 20.1), and our kernels don't use it; but oneDNN rearranges all of an
expert's weights at each call, which takes about as long as our arithmetic for some ten rows. Not measured: no such
machine at hand.
"""
_BY_AMX = BackendChoice(op="experts", backend="torch", reason="a loop over the experts that have rows, by oneDNN's AMX")


def has_amx() -> bool:
    """Whether this processor multiplies bfloat16 matrices by AMX; a PyTorch that can't tell counts as one without."""
    return _read_amx()


@functools.cache
def _read_amx() -> bool:
    get_capabilities = getattr(torch.cpu, "get_capabilities", None)
    return get_capabilities is not None and bool(get_capabilities().get("amx_bf16", False))


# Compiled code takes the answer as it is: a processor is nothing to trace.
has_amx._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _choose_experts(device_type: str, dtype: torch.dtype, num_rows: int, num_experts: int) -> BackendChoice:
    if device_type == "cuda" and dtype in _NATIVE_DTYPES:
        if has_triton():
            return _EXPERTS_TRITON
        reason = f"{_BY_EXPERT}: no Triton, see `pip install 'headgate[gpu]'`"
        return BackendChoice(op="experts", backend="torch", reason=reason)
    if device_type != "cpu" or dtype not in _NATIVE_DTYPES:
        return BackendChoice(op="experts", backend="torch", reason=_BY_EXPERT)
    if native.library() is None:
        return BackendChoice(op="experts", backend="torch", reason=f"{_BY_EXPERT}: no native library")
    if has_amx() and dtype == torch.bfloat16 and num_rows >= ROWS_FOR_AMX * num_experts:
        return _BY_AMX
    return _EXPERTS_NATIVE


def _choose_plan(device_type: str, num_buckets: int) -> BackendChoice:
    fallback = "a stable sort in PyTorch"
    if device_type == "cuda" and has_triton() and 1 <= num_buckets <= MOST_BUCKETS:
        return BackendChoice(op="plan", backend="triton", reason="a counting sort in 1 or 2 launches")
    if device_type != "cpu":
        return BackendChoice(op="plan", backend="torch", reason=f"{fallback}, no host synchronisation")
    if native.library() is None:
        return BackendChoice(op="plan", backend="torch", reason=f"{fallback}: no native library")
    return BackendChoice(op="plan", backend="native", reason="a counting sort in C++")
