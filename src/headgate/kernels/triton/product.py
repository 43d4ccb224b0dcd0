"""Rows times their expert's matrix: the second projection, and the gradient of the first one's input.

A product that is added to a token's sum later can be in parts for nothing: with few rows per expert, SPLITS partial
sums in float32 keep every processor busy, and `combine` adds them as it adds a token's rows, in order and in the same
pass. With many rows there is one part, in the rows' dtype, which halves what is written and read again. Fusing the
weighted sum here would take either atomics, whose order differs from run to run, or all experts of a token in one
program, which reads every weight once per tile of tokens.
"""

from __future__ import annotations

import triton
import triton.language as tl

from headgate.kernels.triton.schedule import PRODUCT
from headgate.kernels.triton.tiles import load_row_weights, sum_products, take_tile
from headgate.kernels.triton.tuning import tuned


@triton.jit
def _store_weight_parts(gradient, x, x_stride, token_of_row, rows, columns, parts_at, is_row, mask):
    """What these columns add to the gradient of each row's weight: x . gradient, of the row's token."""
    tokens = tl.load(token_of_row + rows, mask=is_row, other=0).to(tl.int64)
    inputs = tl.load(x + tokens[:, None] * x_stride + columns[None, :], mask=mask, other=0.0).to(tl.float32)
    tl.store(parts_at, tl.sum(inputs * gradient, 1), mask=is_row)


@tuned(PRODUCT, key=["SUMMED", "COLUMNS", "BUCKET", "PRECISION"])
@triton.jit(do_not_specialize=["num_rows"])
def product_kernel(
    rows_in, expert_offsets, weight, bias, out, x, token_of_row, row_weights, slot_of_row, weight_parts,
    num_experts, num_rows, x_stride, stride_e, stride_n, stride_k,
    SUMMED: tl.constexpr, COLUMNS: tl.constexpr, SPLITS: tl.constexpr, EXPERTS: tl.constexpr, PRECISION: tl.constexpr,
    BUCKET: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """`out` [SPLITS, R, O] = rows_in [R, I] @ weight[e] [O, I]^T + bias[e], the bias in the first part.

    With `x`, the product is the gradient for a row's weighted input: the part of x . gradient that this tile sees goes
    to `weight_parts` [R, n_tiles], and `out` is multiplied by the row's weight.
    """
    n_tiles: tl.constexpr = (COLUMNS + BLOCK_N - 1) // BLOCK_N
    n, expert, first, end = take_tile(expert_offsets, num_rows, num_experts, n_tiles, BLOCK_M, EXPERTS, GROUP)
    if first >= end:
        return
    rows = first + tl.arange(0, BLOCK_M)
    is_row = rows < end
    columns = n * BLOCK_N + tl.arange(0, BLOCK_N)
    is_column = columns < COLUMNS

    steps: tl.constexpr = (SUMMED + BLOCK_K * SPLITS - 1) // (BLOCK_K * SPLITS)
    is_even: tl.constexpr = SUMMED % (BLOCK_K * SPLITS) == 0
    split = tl.program_id(1)
    k = split * (steps * BLOCK_K) + tl.arange(0, BLOCK_K)
    row_at = rows_in + rows.to(tl.int64)[:, None] * SUMMED + k[None, :]
    weight_at = weight + expert.to(tl.int64) * stride_e + k.to(tl.int64)[:, None] * stride_k
    weight_at += columns.to(tl.int64)[None, :] * stride_n
    total = sum_products(
        row_at, weight_at, is_row, is_column, k, stride_k,
        SUMMED, steps, is_even, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip

    mask = is_row[:, None] & is_column[None, :]
    if bias is not None:
        values = tl.load(bias + expert.to(tl.int64) * COLUMNS + columns, mask=is_column & (split == 0), other=0.0)
        total += values.to(tl.float32)[None, :]
    if x is not None:
        parts_at = weight_parts + rows.to(tl.int64) * n_tiles + n
        _store_weight_parts(total, x, x_stride, token_of_row, rows, columns, parts_at, is_row, mask)
        total *= load_row_weights(row_weights, slot_of_row, rows, is_row)[:, None]
    at = out + (split.to(tl.int64) * num_rows + rows)[:, None] * COLUMNS + columns[None, :]
    tl.store(at, total.to(out.dtype.element_ty), mask=mask)
