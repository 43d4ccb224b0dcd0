"""From sums of the first projection to hidden rows: for sums in parts, and for those that a library's product gave.

Bound by bytes: each sum is read once. Parts are added in order, so the bits are the same each run.
"""

from __future__ import annotations

import triton
import triton.language as tl

from headgate.kernels.triton.activation import gate_and_up_columns
from headgate.kernels.triton.tiles import find_tile
from headgate.kernels.triton.up import finish_tile


@triton.jit
def _add_parts(partial, rows, columns, num_rows, mask, WIDTH: tl.constexpr, SPLITS: tl.constexpr):
    total = tl.load(partial + rows[:, None] * WIDTH + columns[None, :], mask=mask, other=0.0).to(tl.float32)
    for _ in tl.static_range(1, SPLITS):
        rows += num_rows
        total += tl.load(partial + rows[:, None] * WIDTH + columns[None, :], mask=mask, other=0.0).to(tl.float32)
    return total


@triton.jit(do_not_specialize=["num_rows"])
def finish_kernel(
    partial, expert_offsets, up_bias, row_weights, slot_of_row, hidden, up_rows, num_experts, num_rows,
    clamp, slope, up_offset,
    F: tl.constexpr, GATED: tl.constexpr, INTERLEAVED: tl.constexpr, ACTIVATION: tl.constexpr,
    WEIGHS_INPUT: tl.constexpr, SPLITS: tl.constexpr, EXPERTS: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """`partial` [SPLITS, R, 2F or F] to `hidden` [R, F] and, where wanted, `up_rows` [R, 2F or F]."""
    expert, first, end = find_tile(expert_offsets, tl.program_id(0), num_experts, BLOCK_M, EXPERTS)
    if first >= end:
        return
    rows = first + tl.arange(0, BLOCK_M)
    is_row = rows < end
    columns = tl.program_id(1) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_column = columns < F
    gate_columns, up_columns = gate_and_up_columns(columns, F, GATED, INTERLEAVED)
    mask = is_row[:, None] & is_column[None, :]
    width: tl.constexpr = 2 * F if GATED else F
    gate = _add_parts(partial, rows.to(tl.int64), gate_columns, num_rows, mask, width, SPLITS)
    rise = gate
    if GATED:
        rise = _add_parts(partial, rows.to(tl.int64), up_columns, num_rows, mask, width, SPLITS)
    finish_tile(
        gate, rise, first, rows, columns, is_row, is_column, expert,
        row_weights, slot_of_row, up_bias, hidden, up_rows, clamp, slope, up_offset,
        F, GATED, INTERLEAVED, ACTIVATION, WEIGHS_INPUT,
    )  # fmt: skip
