"""Sort slots by expert on a GPU: a stable counting sort, without atomics and without waiting for the device.

Neighbouring slots are a run. The first launch counts each run's slots per bucket; a router that decides for several
blocks of tokens has counted by then (`route.py`). In the second, each program adds up the counts of all runs and of
those before its own, and puts every slot of its runs at place + rank, its rank among them being a sum over the earlier
ones. Every number is a sum of integers in a fixed order, so the result is the same on every run. Few slots are sorted
by one program in one launch.

Bytes: 8 per slot read twice and 8 to 24 written; each of up to `MOST_PROGRAMS` programs reads all counts, from the L2
cache, which for 256 experts takes a few microseconds, as long as a launch between the two would.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

ALONE_STEPS = 4
"""Steps in which one program sorts sooner than two launches do."""

MOST_PROGRAMS = 256
"""Two for each of a GPU's multiprocessors."""

_TABLE = 8192  # entries of a step's table of slots and buckets: 32 registers for each of 256 threads
_WARPS = 8


class Places(NamedTuple):
    """Memory for the result; a sort alone has no plan."""

    order: Tensor
    offsets: Tensor
    token_of_row: Tensor | None = None
    row_order: Tensor | None = None
    token_offsets: Tensor | None = None


def sort_slots_triton(bucket_ids: Tensor, num_buckets: int) -> tuple[Tensor, Tensor]:
    """Compute `sort_slots` on a GPU.

    Args:
        bucket_ids: [N] int64, N < 2^31.
        num_buckets: from 1 to `MOST_BUCKETS` of `kernels/backends.py`.

    Returns:
        As `sort_slots`: the order [N], the offsets [num_buckets + 1].
    """
    ids = bucket_ids.contiguous()
    places = Places(torch.empty_like(ids), ids.new_empty(num_buckets + 1))
    _sort(ids, places, top_k=0)
    return places.order, places.offsets


def plan_choice_triton(expert_ids: Tensor, num_experts: int) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Compute `plan_choice` on a GPU.

    Args:
        expert_ids: [T, K] int64 or int32, T * K < 2^31.
        num_experts: from 1 to `MOST_BUCKETS`.

    Returns:
        slot_of_row, token_of_row, expert_offsets, row_order, token_offsets; all int64.
    """
    ids = expert_ids.contiguous()
    num_tokens, top_k = ids.shape
    slot_of_row, token_of_row, row_order = (ids.new_empty(ids.numel(), dtype=torch.int64) for _ in range(3))
    expert_offsets, token_offsets = (ids.new_empty(n + 1, dtype=torch.int64) for n in (num_experts, num_tokens))
    _sort(ids, Places(slot_of_row, expert_offsets, token_of_row, row_order, token_offsets), top_k=top_k)
    return slot_of_row, token_of_row, expert_offsets, row_order, token_offsets


def _sort(ids: Tensor, places: Places, *, top_k: int) -> None:
    num_slots, sizes = ids.numel(), _sizes(places)
    step = sizes["STEP"]
    with torch.cuda.device_of(ids):
        if num_slots <= ALONE_STEPS * step:
            place_slots(ids, None, max(num_slots, 1), places, top_k=top_k)
            return
        run = step * triton.cdiv(num_slots, step * MOST_PROGRAMS)
        counts = ids.new_empty((triton.cdiv(num_slots, run), sizes["NUM_BUCKETS"]), dtype=torch.int32)
        _count_runs[(counts.shape[0],)](ids, counts, num_slots, run, **sizes, num_warps=_WARPS)
        place_slots(ids, counts, run, places, top_k=top_k)


def _sizes(places: Places) -> dict[str, int]:
    num_buckets = places.offsets.shape[0] - 1
    columns = triton.next_power_of_2(num_buckets)
    return {"NUM_BUCKETS": num_buckets, "COLUMNS": columns, "STEP": max(8, min(128, _TABLE // columns))}


def place_slots(ids: Tensor, counts: Tensor | None, run: int, places: Places, *, top_k: int) -> None:
    """Put every slot of runs that have been counted in its place.

    Args:
        ids: of the slots in order, contiguous.
        counts: [runs, buckets], any integers; None = there is one run, not counted yet.
        run: slots in each.
        places: where to.
        top_k: slots of a token where there is a plan to write; 0 for a sort alone.
    """
    num_counts = 0 if counts is None else counts.shape[0]
    merged = max(1, triton.cdiv(num_counts, MOST_PROGRAMS))  # runs of a program
    num_programs = max(1, triton.cdiv(num_counts, merged))
    numbers = (ids.numel(), run * merged, num_counts, merged)
    _place_slots[(num_programs,)](ids, counts, *places, *numbers, TOP_K=top_k, **_sizes(places), num_warps=_WARPS)


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


@triton.jit
def _add_counts(counts_at, num_counts, first_own, NUM_BUCKETS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr):
    """Each bucket's slots in all runs, and in those before the program's own."""
    columns = tl.arange(0, COLUMNS)
    totals, earlier = tl.zeros([COLUMNS], tl.int32), tl.zeros([COLUMNS], tl.int32)
    for first in range(0, num_counts, STEP):
        runs = (first + tl.arange(0, STEP))[:, None]
        mask = (runs < num_counts) & (columns < NUM_BUCKETS)[None, :]
        counts = tl.load(counts_at + runs * NUM_BUCKETS + columns[None, :], mask=mask, other=0).to(tl.int32)
        totals += tl.sum(counts, axis=0)
        earlier += tl.sum(tl.where(runs < first_own, counts, 0), axis=0)
    return totals, earlier


@triton.jit
def _rank_slots(table, next_row):
    """Each slot's row, and whether it has one, from a table of ones where a slot [STEP] is in a bucket [COLUMNS]."""
    rows = tl.where(table == 1, next_row[None, :] + tl.cumsum(table, axis=0) - 1, 0)
    return tl.sum(rows, axis=1), tl.sum(table, axis=1)


@triton.jit(do_not_specialize=["num_slots", "run", "num_counts", "merged"])
def _place_slots(
    ids_at, counts_at, order_at, offsets_at, token_of_row_at, row_order_at, token_offsets_at,
    num_slots, run, num_counts, merged,
    NUM_BUCKETS: tl.constexpr, COLUMNS: tl.constexpr, STEP: tl.constexpr, TOP_K: tl.constexpr,
):  # fmt: skip
    """Write each slot of a run to its row; slots without a bucket go behind all others. TOP_K > 0: a whole plan."""
    begin = tl.program_id(0) * run
    end = tl.minimum(begin + run, num_slots)
    columns = tl.arange(0, COLUMNS)
    is_bucket = columns < NUM_BUCKETS
    if counts_at is None:
        totals, earlier = _count_run(ids_at, begin, end, NUM_BUCKETS, COLUMNS, STEP), tl.zeros([COLUMNS], tl.int32)
    else:
        first_own = tl.program_id(0) * merged
        totals, earlier = _add_counts(counts_at, num_counts, first_own, NUM_BUCKETS, COLUMNS, STEP)
    ends = tl.cumsum(totals, axis=0)
    if tl.program_id(0) == 0:
        tl.store(offsets_at, 0)
        tl.store(offsets_at + 1 + columns, ends, mask=is_bucket)
        if TOP_K > 0:
            tl.store(token_offsets_at, 0)
    next_row = ends - totals + earlier
    num_rows, num_placed = tl.sum(totals, axis=0), tl.sum(earlier, axis=0)
    for first in range(begin, end, STEP):
        slots = first + tl.arange(0, STEP)
        is_slot = slots < end
        ids = tl.load(ids_at + slots, mask=is_slot, other=-1)
        table = ((ids[:, None] == columns[None, :]) & is_bucket[None, :]).to(tl.int32)
        rows, has_row = _rank_slots(table, next_row)
        num_strays = slots - num_placed - (tl.cumsum(has_row, axis=0) - has_row)
        rows = tl.where(has_row == 1, rows, num_rows + num_strays)
        tl.store(order_at + rows, slots, mask=is_slot)
        if TOP_K > 0:
            tl.store(token_of_row_at + rows, slots // TOP_K, mask=is_slot)
            tl.store(row_order_at + slots, rows, mask=is_slot)
            tl.store(token_offsets_at + 1 + slots // TOP_K, slots + TOP_K, mask=is_slot & (slots % TOP_K == 0))
        next_row += tl.sum(table, axis=0)
        num_placed += tl.sum(has_row, axis=0)
