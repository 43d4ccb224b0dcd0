"""A token's rows, weighted and added up: the last step forward, and, for the tokens' gradient, backward.

Bound by bytes: each row is read once, by the program that owns the token and some columns, so nothing is added by
atomics. Rows are added in float32 in the plan's order, which is slot order: the same bits on every run. Loads of later
rows are in flight while earlier ones are added.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit(do_not_specialize=["num_rows"])
def combine_kernel(
    rows, source, row_order, token_offsets, expert_offsets, row_weights, slot_of_row, y,
    num_experts, num_buckets, num_rows, source_stride,
    D: tl.constexpr, WEIGHTED: tl.constexpr, SPLITS: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """y[t] = sum over rows r of token t, in order, of w[r] * sum over parts of `rows` [SPLITS, R, D].

    Zero-compute experts' rows add w[r] * source[t]; rows that no expert has, at the end, add nothing. Without WEIGHTED
    the experts' rows count as they are.
    """
    token = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK_D + tl.arange(0, BLOCK_D)
    is_column = columns < D
    computed_end = tl.load(expert_offsets + num_experts)
    live_end = tl.load(expert_offsets + num_buckets)
    own = tl.load(source + token * source_stride + columns, mask=is_column, other=0.0).to(tl.float32)
    total = tl.zeros((BLOCK_D,), tl.float32)
    for place in tl.range(tl.load(token_offsets + token), tl.load(token_offsets + token + 1), num_stages=3):
        row = tl.load(row_order + place)
        is_computed = row < computed_end
        value = tl.zeros((BLOCK_D,), tl.float32)
        for split in tl.static_range(SPLITS):
            at = rows + (row.to(tl.int64) + split * num_rows) * D + columns
            value += tl.load(at, mask=is_column & is_computed, other=0.0).to(tl.float32)
        weight = tl.load(row_weights + tl.load(slot_of_row + row)).to(tl.float32)
        if WEIGHTED:
            value *= weight
        value = tl.where(is_computed, value, weight * own)
        total += tl.where(row < live_end, value, 0.0)
    tl.store(y + token * D + columns, total.to(y.dtype.element_ty), mask=is_column)
