"""The small sums of the backward pass: biases by expert, and each row's combine weight. Bound by bytes."""

from __future__ import annotations

import triton
import triton.language as tl

from headgate.kernels.triton.tiles import load_row_weights


@triton.jit
def bias_gradient_kernel(
    values, token_of_row, expert_offsets, row_weights, slot_of_row, out, stride,
    C: tl.constexpr, GATHERS: tl.constexpr, WEIGHTED: tl.constexpr,
    BLOCK_R: tl.constexpr, BLOCK_C: tl.constexpr,
):  # fmt: skip
    """`out` [E, C]: the sum over an expert's rows, in order. GATHERS: a row's token; WEIGHTED: times its weight."""
    expert = tl.program_id(0).to(tl.int64)
    columns = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    end = tl.load(expert_offsets + expert + 1)
    total = tl.zeros((BLOCK_R, BLOCK_C), tl.float32)
    for start in range(tl.load(expert_offsets + expert), end, BLOCK_R):
        rows = start + tl.arange(0, BLOCK_R)
        is_row = rows < end
        places = rows.to(tl.int64)
        if GATHERS:
            places = tl.load(token_of_row + rows, mask=is_row, other=0).to(tl.int64)
        mask = is_row[:, None] & (columns < C)[None, :]
        tile = tl.load(values + places[:, None] * stride + columns[None, :], mask=mask, other=0.0).to(tl.float32)
        if WEIGHTED:
            tile *= load_row_weights(row_weights, slot_of_row, rows, is_row)[:, None]
        total += tile
    tl.store(out + expert * C + columns, tl.sum(total, 0).to(out.dtype.element_ty), mask=columns < C)


@triton.jit
def row_weight_gradient_kernel(
    parts, dy, x, down_bias, token_of_row, slot_of_row, expert_offsets, out, num_experts, num_buckets,
    dy_stride, x_stride,
    D: tl.constexpr, PARTS: tl.constexpr, HAS_IDENTITY: tl.constexpr, EXPERTS: tl.constexpr,
    BLOCK_P: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """`out` [N], at the row's slot: the sum of its `parts` [R, PARTS], plus dy . bias; dy . x without an expert."""
    row = tl.program_id(0).to(tl.int64)
    if row >= tl.load(expert_offsets + num_buckets):
        return
    experts = tl.arange(0, EXPERTS)
    ends = tl.load(expert_offsets + experts + 1, mask=experts < num_experts, other=0)
    expert = tl.sum(((ends <= row) & (experts < num_experts)).to(tl.int64), 0)
    is_computed = expert < num_experts
    part = tl.arange(0, BLOCK_P)
    total = tl.sum(tl.load(parts + row * PARTS + part, mask=(part < PARTS) & is_computed, other=0.0), 0)
    if HAS_IDENTITY or down_bias is not None:
        token = tl.load(token_of_row + row).to(tl.int64)
        for start in range(0, D, BLOCK_D):
            columns = start + tl.arange(0, BLOCK_D)
            is_column = columns < D
            other = tl.zeros((BLOCK_D,), tl.float32)
            if HAS_IDENTITY:
                at = x + token * x_stride + columns
                other += tl.load(at, mask=is_column & (expert == num_experts), other=0.0).to(tl.float32)
            if down_bias is not None:
                at = down_bias + expert * D + columns
                other += tl.load(at, mask=is_column & is_computed, other=0.0).to(tl.float32)
            gradient = tl.load(dy + token * dy_stride + columns, mask=is_column, other=0.0).to(tl.float32)
            total += tl.sum(gradient * other, 0)
    tl.store(out + tl.load(slot_of_row + row), total)
