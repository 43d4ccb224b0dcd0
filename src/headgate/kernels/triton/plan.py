"""Sort slots by expert on a GPU: a stable counting sort, without atomics and without waiting for the device.

Each program owns a run of neighbouring slots. The first launch counts the run's slots per bucket, the second turns
these counts into the places of each run (an exclusive sum over the runs before it), the third puts every slot at
place + rank, its rank among the run's slots of that bucket being a sum over the earlier ones. Every number is a sum of
integers in a fixed order, so the result is the same on every run. Up to `ALONE_SLOTS` slots, one program does it all.

Bytes: 8 per slot read twice and 8 to 24 written. Work: a [STEP, buckets] table of ones and zeros for each STEP slots,
in registers; for 512 buckets that is about as long as the write takes.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

ALONE_SLOTS = 1024
"""What one program sorts faster than three launches take."""

MOST_PROGRAMS = 1024
"""Several for each of a GPU's multiprocessors; the second launch reads so many counts of each bucket."""

_TABLE = 4096  # entries of a step's table: 32 registers for each of 128 threads
_SCAN_ROWS, _SCAN_COLUMNS = 64, 32


def sort_slots_triton(bucket_ids: Tensor, num_buckets: int) -> tuple[Tensor, Tensor]:
    """Compute `sort_slots` on a GPU.

    Args:
        bucket_ids: [N] int64, N < 2^31.
        num_buckets: from 1 to `MOST_BUCKETS` of `kernels/backends.py`.

    Returns:
        As `sort_slots`: the order [N], the offsets [num_buckets + 1].
    """
    ids = bucket_ids.contiguous()
    order, offsets = torch.empty_like(ids), ids.new_empty(num_buckets + 1)
    _sort(ids, num_buckets, order, None, None, offsets, top_k=0)
    return order, offsets


def plan_choice_triton(expert_ids: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute `plan_choice` on a GPU.

    Args:
        expert_ids: [T, K] int64, T * K < 2^31.
        num_experts: from 1 to `MOST_BUCKETS`.

    Returns:
        slot_of_row, token_of_row, expert_offsets, row_order, token_offsets.
    """
    ids = expert_ids.contiguous()
    top_k = ids.shape[1]
    slot_of_row, token_of_row, row_order = (ids.new_empty(ids.numel()) for _ in range(3))
    expert_offsets = ids.new_empty(num_experts + 1)
    fill_plan(ids, slot_of_row, token_of_row, row_order, expert_offsets)
    token_offsets = torch.arange(0, ids.numel() + 1, top_k, device=ids.device)
    return slot_of_row, token_of_row, expert_offsets, row_order, token_offsets


def fill_plan(
    expert_ids: Tensor, slot_of_row: Tensor, token_of_row: Tensor, row_order: Tensor, expert_offsets: Tensor
) -> None:
    """Write a plan to memory that is there; `expert_ids` [T, K] contiguous."""
    num_experts = expert_offsets.shape[0] - 1
    _sort(expert_ids, num_experts, slot_of_row, token_of_row, row_order, expert_offsets, top_k=expert_ids.shape[1])


def _sort(
    ids: Tensor,
    num_buckets: int,
    order: Tensor,
    token_of_row: Tensor | None,
    row_order: Tensor | None,
    offsets: Tensor,
    *,
    top_k: int,
) -> None:
    num_slots = ids.numel()
    columns = triton.next_power_of_2(num_buckets)
    step = max(8, min(128, _TABLE // columns))
    is_alone = num_slots <= ALONE_SLOTS
    run = step if is_alone else step * triton.cdiv(num_slots, step * MOST_PROGRAMS)
    num_runs = 1 if is_alone else triton.cdiv(num_slots, run)
    run = max(run, num_slots) if is_alone else run
    sizes = {"NUM_BUCKETS": num_buckets, "COLUMNS": columns, "STEP": step}
    counts = totals = None
    with torch.cuda.device_of(ids):
        if not is_alone:
            counts = ids.new_empty((num_runs, num_buckets), dtype=torch.int32)
            totals = ids.new_empty(num_buckets, dtype=torch.int32)
            _count_runs[(num_runs,)](ids, counts, num_slots, run, **sizes)
            scan_grid = (triton.cdiv(num_buckets, _SCAN_COLUMNS),)
            scanned = {"NUM_BUCKETS": num_buckets, "ROWS": _SCAN_ROWS, "COLUMNS": _SCAN_COLUMNS}
            _scan_runs[scan_grid](counts, totals, num_runs, **scanned)
        outputs = (order, token_of_row, row_order, offsets)
        _place_slots[(num_runs,)](ids, counts, totals, *outputs, num_slots, run, TOP_K=top_k, **sizes)


@triton.jit
def _count_run(ids_at, begin, end, NUM_BUCKETS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr):
    """How many of the slots from `begin` to `end` are in each bucket: [COLUMNS] int32, 0 beyond the buckets."""
    columns = tl.arange(0, COLUMNS)
    counts = tl.zeros([COLUMNS], tl.int32)
    for first in range(begin, end, STEP):
        slots = first + tl.arange(0, STEP)
        ids = tl.load(ids_at + slots, mask=slots < end, other=-1)
        counts += tl.sum((ids[:, None] == columns[None, :]).to(tl.int32), axis=0)
    return tl.where(columns < NUM_BUCKETS, counts, 0)


# Not specialised for the number of slots, which would compile a kernel again and again for nothing.
@triton.jit(do_not_specialize=["num_slots", "run"])
def _count_runs(
    ids_at, counts_at, num_slots, run, NUM_BUCKETS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr
):
    begin = tl.program_id(0) * run
    counts = _count_run(ids_at, begin, tl.minimum(begin + run, num_slots), NUM_BUCKETS, COLUMNS, STEP)
    columns = tl.arange(0, COLUMNS)
    tl.store(counts_at + tl.program_id(0) * NUM_BUCKETS + columns, counts, mask=columns < NUM_BUCKETS)


@triton.jit(do_not_specialize=["num_runs"])
def _scan_runs(counts_at, totals_at, num_runs, NUM_BUCKETS: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    """Replace each run's counts by their sums over the runs before it, bucket by bucket, and keep the totals."""
    columns = tl.program_id(0) * COLUMNS + tl.arange(0, COLUMNS)
    before = tl.zeros([COLUMNS], tl.int32)
    for first in range(0, num_runs, ROWS):
        rows = first + tl.arange(0, ROWS)
        at = counts_at + rows[:, None] * NUM_BUCKETS + columns[None, :]
        mask = (rows[:, None] < num_runs) & (columns[None, :] < NUM_BUCKETS)
        counts = tl.load(at, mask=mask, other=0)
        tl.store(at, before[None, :] + tl.cumsum(counts, axis=0) - counts, mask=mask)
        before += tl.sum(counts, axis=0)
    tl.store(totals_at + columns, before, mask=columns < NUM_BUCKETS)


@triton.jit
def _read_counts(
    ids_at, counts_at, totals_at, begin, end, NUM_BUCKETS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr
):
    """Each bucket's slots in all, and in the runs before this one; a program that is alone counts by itself."""
    columns = tl.arange(0, COLUMNS)
    is_bucket = columns < NUM_BUCKETS
    if counts_at is None:
        return _count_run(ids_at, begin, end, NUM_BUCKETS, COLUMNS, STEP), tl.zeros([COLUMNS], tl.int32)
    else:
        totals = tl.load(totals_at + columns, mask=is_bucket, other=0)
        return totals, tl.load(counts_at + tl.program_id(0) * NUM_BUCKETS + columns, mask=is_bucket, other=0)


@triton.jit(do_not_specialize=["num_slots", "run"])
def _place_slots(
    ids_at, counts_at, totals_at, order_at, token_of_row_at, row_order_at, offsets_at, num_slots, run,
    NUM_BUCKETS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, TOP_K: tl.constexpr,
):  # fmt: skip
    """Write each slot of a run to its row; slots without a bucket go behind all others. TOP_K > 0: a whole plan."""
    begin = tl.program_id(0) * run
    end = tl.minimum(begin + run, num_slots)
    columns = tl.arange(0, COLUMNS)
    is_bucket = columns < NUM_BUCKETS
    totals, in_earlier_runs = _read_counts(ids_at, counts_at, totals_at, begin, end, NUM_BUCKETS, COLUMNS, STEP)
    ends = tl.cumsum(totals, axis=0)
    if tl.program_id(0) == 0:
        tl.store(offsets_at, 0)
        tl.store(offsets_at + 1 + columns, ends, mask=is_bucket)
    next_row = ends - totals + in_earlier_runs
    num_rows, num_placed = tl.sum(totals, axis=0), tl.sum(in_earlier_runs, axis=0)
    for first in range(begin, end, STEP):
        slots = first + tl.arange(0, STEP)
        is_slot = slots < end
        ids = tl.load(ids_at + slots, mask=is_slot, other=-1)
        is_here = (ids[:, None] == columns[None, :]) & is_bucket[None, :]
        table = is_here.to(tl.int32)
        rows = tl.sum(tl.where(is_here, next_row[None, :] + tl.cumsum(table, axis=0) - 1, 0), axis=1)
        has_row = tl.sum(table, axis=1)
        num_strays = slots - num_placed - (tl.cumsum(has_row, axis=0) - has_row)
        rows = tl.where(has_row == 1, rows, num_rows + num_strays)
        tl.store(order_at + rows, slots, mask=is_slot)
        if TOP_K > 0:
            tl.store(token_of_row_at + rows, slots // TOP_K, mask=is_slot)
            tl.store(row_order_at + slots, rows, mask=is_slot)
        next_row += tl.sum(table, axis=0)
        num_placed += tl.sum(has_row, axis=0)
