"""The second projection of a single token with the weighted combine fused behind it: a decode step's last launch.

A token's experts differ, so a program that owns some columns of y goes through all of them and reads each weight once;
with more tokens it would read shared experts' weights once for each, and `product` and `combine` are two launches.

Bound by the weights' bytes: products are float32 in registers, without tensor cores, whose sixteen rows would be one
row and fifteen empty ones. The loads of later steps are in flight while earlier ones are summed.
"""

from __future__ import annotations

import triton
import triton.language as tl

from headgate.kernels.triton.schedule import ONE_TOKEN
from headgate.kernels.triton.tuning import tuned


@triton.jit
def _multiply_row(
    row_at, weight_at, is_column, stride_k,
    F: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """The product [BLOCK_N] of a hidden row and these columns' weights, in float32."""
    k = tl.arange(0, BLOCK_K)
    sums = tl.zeros((BLOCK_N, BLOCK_K), tl.float32)
    for step in tl.range(0, F, BLOCK_K, num_stages=STAGES):
        is_k = step + k < F
        values = tl.load(row_at + step + k, mask=is_k, other=0.0).to(tl.float32)
        at = weight_at[:, None] + (step + k).to(tl.int64)[None, :] * stride_k
        weights = tl.load(at, mask=is_column[:, None] & is_k[None, :], other=0.0).to(tl.float32)
        sums += weights * values[None, :]
    return tl.sum(sums, 1)


@tuned(ONE_TOKEN, key=["D", "F", "ROWS", "BUCKET", "PRECISION"])
@triton.jit
def one_token_kernel(
    hidden, source, weight, bias, row_order, expert_offsets, row_weights, slot_of_row, y,
    num_experts, num_buckets, stride_e, stride_n, stride_k,
    D: tl.constexpr, F: tl.constexpr, ROWS: tl.constexpr, WEIGHTED: tl.constexpr, EXPERTS: tl.constexpr,
    PRECISION: tl.constexpr, BUCKET: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """`y` [D] = sum over rows r, in slot order, of w[r] * (hidden[r] [F] @ weight[e] [D, F]^T + bias[e]).

    Rows without an expert are treated as by `combine_kernel`.
    """
    columns = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    is_column = columns < D
    experts = tl.arange(0, EXPERTS)
    is_expert = experts < num_experts
    ends = tl.load(expert_offsets + 1 + experts, mask=is_expert, other=0)
    live_end = tl.load(expert_offsets + num_buckets)
    total = tl.zeros((BLOCK_N,), tl.float32)
    for place in range(ROWS):
        row = tl.load(row_order + place)
        expert = tl.sum((is_expert & (ends <= row)).to(tl.int64), 0)
        row_weight = tl.load(row_weights + tl.load(slot_of_row + row)).to(tl.float32)
        if expert < num_experts:
            at = weight + expert * stride_e + columns.to(tl.int64) * stride_n
            value = _multiply_row(hidden + row * F, at, is_column, stride_k, F, BLOCK_N, BLOCK_K, STAGES)
            if bias is not None:
                value += tl.load(bias + expert * D + columns, mask=is_column, other=0.0).to(tl.float32)
            total += value * row_weight if WEIGHTED else value
        elif row < live_end:
            total += row_weight * tl.load(source + columns, mask=is_column, other=0.0).to(tl.float32)
    tl.store(y + columns, total.to(y.dtype.element_ty), mask=is_column)
