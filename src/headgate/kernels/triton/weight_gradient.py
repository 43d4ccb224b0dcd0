"""The gradient of an expert's matrix: left^T right over the expert's rows, each side gathered where it lies by token.

A program owns a tile of one expert's matrix and sums over all of that expert's rows, in order: no atomics, the same
bits each run, and zero where there are no rows. Every entry is written once. The work is bound by operations from
some hundred rows per expert on, and by writing E matrices below that.
"""

from __future__ import annotations

import triton
import triton.language as tl

from headgate.kernels.triton.schedule import WEIGHT_GRADIENT
from headgate.kernels.triton.tiles import load_row_weights, multiply, order_tiles
from headgate.kernels.triton.tuning import tuned


@tuned(WEIGHT_GRADIENT, key=["A", "B", "BUCKET", "PRECISION"])
@triton.jit
def weight_gradient_kernel(
    left, right, token_of_row, expert_offsets, row_weights, slot_of_row, out, left_stride, right_stride,
    A: tl.constexpr, B: tl.constexpr, GATHERS_LEFT: tl.constexpr, GATHERS_RIGHT: tl.constexpr,
    WEIGHTED: tl.constexpr, PRECISION: tl.constexpr, BUCKET: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """`out` [E, A, B]: a tile of BLOCK_M by BLOCK_N, BLOCK_K rows at a time. WEIGHTED: `left` times row weights."""
    a_tiles: tl.constexpr = (A + BLOCK_M - 1) // BLOCK_M
    b_tiles: tl.constexpr = (B + BLOCK_N - 1) // BLOCK_N
    expert = (tl.program_id(0) // (a_tiles * b_tiles)).to(tl.int64)
    a, b = order_tiles(tl.program_id(0) % (a_tiles * b_tiles), a_tiles, b_tiles, GROUP)
    a_columns = a * BLOCK_M + tl.arange(0, BLOCK_M)
    b_columns = b * BLOCK_N + tl.arange(0, BLOCK_N)
    is_a, is_b = a_columns < A, b_columns < B
    end = tl.load(expert_offsets + expert + 1)
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for start in range(tl.load(expert_offsets + expert), end, BLOCK_K):
        rows = start + tl.arange(0, BLOCK_K)
        is_row = rows < end
        left_rows, right_rows = rows.to(tl.int64), rows.to(tl.int64)
        if GATHERS_LEFT:
            left_rows = tl.load(token_of_row + rows, mask=is_row, other=0).to(tl.int64)
        if GATHERS_RIGHT:
            right_rows = tl.load(token_of_row + rows, mask=is_row, other=0).to(tl.int64)
        left_at = left + left_rows[None, :] * left_stride + a_columns[:, None]
        left_tile = tl.load(left_at, mask=is_a[:, None] & is_row[None, :], other=0.0)
        if WEIGHTED:
            weight = load_row_weights(row_weights, slot_of_row, rows, is_row)
            left_tile = (left_tile.to(tl.float32) * weight[None, :]).to(left_tile.dtype)
        right_at = right + right_rows[:, None] * right_stride + b_columns[None, :]
        right_tile = tl.load(right_at, mask=is_row[:, None] & is_b[None, :], other=0.0)
        total = multiply(left_tile, right_tile, total, PRECISION)
    at = out + (expert * A + a_columns)[:, None] * B + b_columns[None, :]
    tl.store(at, total.to(out.dtype.element_ty), mask=is_a[:, None] & is_b[None, :])
