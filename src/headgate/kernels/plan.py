"""Sort slots by the expert they go to: the operation that every dispatch plan is made of."""

from __future__ import annotations

import functools
import warnings
from typing import Any, NamedTuple

import torch
from torch import Tensor

from headgate.errors import BackendError, InputError, NativeMissingWarning
from headgate.kernels import native
from headgate.kernels.backends import choose_backend

# Radix sorts take one pass per byte or so: a narrow key is several times faster than an int64 one.
_MAX_INT16 = torch.iinfo(torch.int16).max


def sort_slots(bucket_ids: Tensor, num_buckets: int) -> tuple[Tensor, Tensor]:
    """Sort slots by bucket, stably; slots without a bucket go last.

    Args:
        bucket_ids: [N] int64, any strides. An id outside [0, num_buckets) means that the slot has no bucket.
        num_buckets: at least 0.

    Returns:
        order: [N] int64. Slot indices: bucket 0 first, then 1, and so on, then the slots without a
            bucket; in each of these groups in ascending slot order.
        offsets: [num_buckets + 1] int64. Bucket b is `order[offsets[b] : offsets[b + 1]]`; the last
            offset is the number of slots that have a bucket.

    Raises:
        InputError: `bucket_ids` is not a 1-D int64 tensor, or `num_buckets` is negative.

    Example:
        >>> import torch
        >>> order, offsets = sort_slots(torch.tensor([1, 0, -1, 1]), 2)
        >>> order.tolist(), offsets.tolist()
        ([1, 0, 3, 2], [0, 1, 3])
    """
    result: tuple[Tensor, Tensor] = _sort_slots_op(bucket_ids, num_buckets)
    return result


@torch.library.custom_op("headgate::sort_slots", mutates_args=())
def _sort_slots_op(bucket_ids: Tensor, num_buckets: int) -> tuple[Tensor, Tensor]:
    backend = _choose(bucket_ids, num_buckets)
    if backend == "native":
        return sort_slots_native(bucket_ids, num_buckets)
    if backend == "triton":
        _require_ids(bucket_ids, num_buckets)
        # Here, since triton takes long to import and is not there on every machine.
        from headgate.kernels.triton.plan import sort_slots_triton

        return sort_slots_triton(bucket_ids, num_buckets)
    if bucket_ids.is_cpu:
        _warn_native_missing()
    return sort_slots_torch(bucket_ids, num_buckets)


def _choose(ids: Tensor, num_buckets: int) -> str:
    sizes: dict[str, Any] = {"device_type": ids.device.type, "dtype": ids.dtype, "num_experts": num_buckets}
    return choose_backend("plan", **sizes).backend


@_sort_slots_op.register_fake
def _(bucket_ids: Tensor, num_buckets: int) -> tuple[Tensor, Tensor]:
    _require_ids(bucket_ids, num_buckets)
    order = torch.empty_like(bucket_ids, memory_format=torch.contiguous_format)
    return order, bucket_ids.new_empty(num_buckets + 1)


class ChoicePlan(NamedTuple):
    """What `plan_choice` returns, all int64; see `DispatchPlan`."""

    slot_of_row: Tensor
    """[T * K]."""
    token_of_row: Tensor
    """[T * K]."""
    expert_offsets: Tensor
    """[E + 1]."""
    row_order: Tensor
    """[T * K]."""
    token_offsets: Tensor
    """[T + 1]."""


def plan_choice(expert_ids: Tensor, num_experts: int) -> ChoicePlan:
    """Plan a choice in which every slot has an expert: no shape depends on the data, and nothing waits for a device.

    Args:
        expert_ids: [T, K] int64, any strides. Slots whose id is not in [0, num_experts) get the rows behind the last
            expert's, from `expert_offsets[E]` on, where nobody works.
        num_experts: E.

    Returns:
        The rows, sorted by expert, and the way back.

    Raises:
        InputError: `expert_ids` is not int64, or `num_experts` is negative.

    Example:
        >>> import torch
        >>> plan = plan_choice(torch.tensor([[1, 0], [1, 2]]), 3)
        >>> plan.token_of_row.tolist(), plan.row_order.tolist()
        ([0, 0, 1, 1], [1, 0, 2, 3])
    """
    return ChoicePlan(*_plan_choice_op(expert_ids, num_experts))


@torch.library.custom_op("headgate::plan_choice", mutates_args=())
def _plan_choice_op(expert_ids: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    if _choose(expert_ids, num_experts) == "triton":
        _require_ids(expert_ids.flatten(), num_experts)
        from headgate.kernels.triton.plan import plan_choice_triton

        return plan_choice_triton(expert_ids, num_experts)
    num_tokens, top_k = expert_ids.shape
    slot_of_row, expert_offsets = sort_slots(expert_ids.flatten(), num_experts)
    # The inverse of a permutation: slots are already in the order (token, choice).
    rows = torch.arange(num_tokens * top_k, device=expert_ids.device)
    row_order = torch.empty_like(slot_of_row).scatter(0, slot_of_row, rows)
    token_of_row = slot_of_row.div(top_k, rounding_mode="floor")
    token_offsets = torch.arange(num_tokens + 1, device=expert_ids.device) * top_k
    return slot_of_row, token_of_row, expert_offsets, row_order, token_offsets


@_plan_choice_op.register_fake
def _(expert_ids: Tensor, num_experts: int) -> tuple[Tensor, ...]:
    num_tokens, top_k = expert_ids.shape
    num_rows = num_tokens * top_k
    return tuple(expert_ids.new_empty(size) for size in (num_rows, num_rows, num_experts + 1, num_rows, num_tokens + 1))


def sort_slots_torch(bucket_ids: Tensor, num_buckets: int) -> tuple[Tensor, Tensor]:
    """Compute `sort_slots` with PyTorch operations, on any device, without a host synchronisation.

    Args:
        bucket_ids: as in `sort_slots`.
        num_buckets: as in `sort_slots`.

    Returns:
        As `sort_slots`.

    Raises:
        InputError: as in `sort_slots`.
    """
    _require_ids(bucket_ids, num_buckets)
    key_dtype = torch.int16 if num_buckets <= _MAX_INT16 else torch.int64
    has_bucket = (bucket_ids >= 0) & (bucket_ids < num_buckets)
    keys = bucket_ids.where(has_bucket, num_buckets).to(key_dtype)
    sorted_keys, order = torch.sort(keys, stable=True)
    buckets = torch.arange(num_buckets + 1, device=bucket_ids.device, dtype=key_dtype)
    return order, torch.searchsorted(sorted_keys, buckets)


def sort_slots_native(bucket_ids: Tensor, num_buckets: int) -> tuple[Tensor, Tensor]:
    """Compute `sort_slots` with the C++ library, on the CPU.

    Args:
        bucket_ids: as in `sort_slots`, on the CPU.
        num_buckets: as in `sort_slots`.

    Returns:
        As `sort_slots`.

    Raises:
        InputError: as in `sort_slots`, or `bucket_ids` is not on the CPU.
        BackendError: the library is missing.
        MemoryError: no room for one integer per bucket.
    """
    _require_ids(bucket_ids, num_buckets)
    if bucket_ids.device.type != "cpu":
        raise InputError(
            f"bucket_ids.device (={bucket_ids.device}) must be the CPU for the native plan; "
            "call `sort_slots`, which chooses by device"
        )
    library = native.library()
    if library is None:
        raise BackendError(f"the native plan is not available: {native.why_missing()}; to get it, {native.HOW_TO_GET}")
    ids = bucket_ids.contiguous()
    order, offsets = torch.empty_like(ids), ids.new_empty(num_buckets + 1)
    status = library.headgate_sort_slots(ids.data_ptr(), ids.numel(), num_buckets, order.data_ptr(), offsets.data_ptr())
    if status != 0:
        raise MemoryError(f"no memory to count the slots of {num_buckets} buckets (status {status})")
    return order, offsets


def _require_ids(bucket_ids: Tensor, num_buckets: int) -> None:
    if bucket_ids.dim() != 1 or bucket_ids.dtype != torch.int64:
        shape = list(bucket_ids.shape)
        raise InputError(
            f"bucket_ids (={bucket_ids.dtype} of shape {shape}) must be one-dimensional int64; "
            "pass `expert_ids.flatten().long()`"
        )
    if num_buckets < 0:
        raise InputError(f"num_buckets (={num_buckets}) must not be negative; pass the number of experts")


@functools.cache
def _warn_native_missing() -> None:
    warnings.warn(
        f"{native.why_missing()}. The plan is sorted with PyTorch operations instead: same result, slower. "
        f"To get the library, {native.HOW_TO_GET}.",
        NativeMissingWarning,
        stacklevel=2,
    )
