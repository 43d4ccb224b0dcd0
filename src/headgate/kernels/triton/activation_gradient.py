"""Back through the second projection and the activation: from the output's gradient to the first projection's.

One product, dy @ down[e], with the gather of dy in front and the derivative behind it. What it gives per row, g, is the
gradient for a hidden row before the combine weight w, so the weight's own gradient comes from registers, too:
dy . (down h + b) = g . h + dy . b. Each program leaves the part of g . h that it sees, to be added in order. The
activation is computed again from what the first projection gave; the hidden rows that the weights' gradient needs are
written on the way.
"""

from __future__ import annotations

import triton
import triton.language as tl

from headgate.kernels.triton.activation import activate, activate_backward, gate_and_up_columns
from headgate.kernels.triton.schedule import ACTIVATION_GRADIENT
from headgate.kernels.triton.tiles import load_row_weights, sum_products, take_tile
from headgate.kernels.triton.tuning import tuned


@triton.jit
def _write_columns(
    d, first, rows, columns, is_row, weight, up_rows, d_up_rows, hidden, clamp, slope, up_offset,
    F: tl.constexpr, GATED: tl.constexpr, INTERLEAVED: tl.constexpr, ACTIVATION: tl.constexpr,
):  # fmt: skip
    """From these columns of dy @ down[e] to all that the kernel writes of them; returns their part of g . h."""
    mask = is_row[:, None] & (columns < F)[None, :]
    gate_columns, up_columns = gate_and_up_columns(columns, F, GATED, INTERLEAVED)
    width: tl.constexpr = 2 * F if GATED else F
    # Entries are counted from the tile's first row in 32 bits, which take half the registers.
    start, places = first.to(tl.int64) * width, (rows - first)[:, None] * width
    gate_places, up_places = places + gate_columns[None, :], places + up_columns[None, :]
    gate = tl.load(up_rows + start + gate_places, mask=mask, other=0.0).to(tl.float32)
    rise = tl.load(up_rows + start + up_places, mask=mask, other=0.0).to(tl.float32) if GATED else gate
    values = activate(gate, rise, clamp, slope, up_offset, GATED, ACTIVATION)
    part = tl.sum(d * values, 1)
    if weight is not None:
        d, values = d * weight[:, None], values * weight[:, None]
    if hidden is not None:
        at = hidden + first.to(tl.int64) * F + ((rows - first)[:, None] * F + columns[None, :])
        tl.store(at, values.to(hidden.dtype.element_ty), mask=mask)
    d_gate, d_rise = activate_backward(d, gate, rise, clamp, slope, up_offset, GATED, ACTIVATION)
    tl.store(d_up_rows + start + gate_places, d_gate.to(d_up_rows.dtype.element_ty), mask=mask)
    if GATED:
        tl.store(d_up_rows + start + up_places, d_rise.to(d_up_rows.dtype.element_ty), mask=mask)
    return part


@triton.jit
def _write_gradients(
    d, first, rows, n, is_row, weight, up_rows, d_up_rows, hidden, clamp, slope, up_offset,
    F: tl.constexpr, GATED: tl.constexpr, INTERLEAVED: tl.constexpr, ACTIVATION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr,
):  # fmt: skip
    """`_write_columns`, for half of a wide tile after the other: registers hold the values of one half only."""
    if BLOCK_N <= 64:
        columns = n * BLOCK_N + tl.arange(0, BLOCK_N)
        return _write_columns(
            d, first, rows, columns, is_row, weight, up_rows, d_up_rows, hidden, clamp, slope, up_offset,
            F, GATED, INTERLEAVED, ACTIVATION,
        )  # fmt: skip
    else:
        d_halves = tl.split(tl.permute(tl.reshape(d, (BLOCK_M, 2, BLOCK_N // 2)), (0, 2, 1)))
        part = tl.zeros((BLOCK_M,), tl.float32)
        for half in tl.static_range(2):
            columns = (2 * n + half) * (BLOCK_N // 2) + tl.arange(0, BLOCK_N // 2)
            part += _write_columns(
                d_halves[half], first, rows, columns, is_row, weight, up_rows, d_up_rows, hidden,
                clamp, slope, up_offset, F, GATED, INTERLEAVED, ACTIVATION,
            )  # fmt: skip
        return part


@tuned(ACTIVATION_GRADIENT, key=["D", "F", "BUCKET", "PRECISION"])
@triton.jit(do_not_specialize=["num_rows"])
def activation_gradient_kernel(
    dy, token_of_row, expert_offsets, down, up_rows, row_weights, slot_of_row, d_up_rows, hidden, weight_parts,
    num_experts, num_rows, dy_stride, stride_e, stride_k, stride_n, clamp, slope, up_offset,
    D: tl.constexpr, F: tl.constexpr, GATED: tl.constexpr, INTERLEAVED: tl.constexpr, ACTIVATION: tl.constexpr,
    WEIGHS_INPUT: tl.constexpr, EXPERTS: tl.constexpr, PRECISION: tl.constexpr, BUCKET: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """`d_up_rows` [R, 2F or F]; `hidden` [R, F], times the output's weight; `weight_parts` [R, n_tiles]."""
    n_tiles: tl.constexpr = (F + BLOCK_N - 1) // BLOCK_N
    n, expert, first, end = take_tile(expert_offsets, num_rows, num_experts, n_tiles, BLOCK_M, EXPERTS, GROUP)
    if first >= end:
        return
    rows = first + tl.arange(0, BLOCK_M)
    is_row = rows < end
    tokens = tl.load(token_of_row + rows, mask=is_row, other=0).to(tl.int64)
    columns = n * BLOCK_N + tl.arange(0, BLOCK_N)
    is_column = columns < F

    steps: tl.constexpr = (D + BLOCK_K - 1) // BLOCK_K
    is_even: tl.constexpr = D % BLOCK_K == 0
    k = tl.arange(0, BLOCK_K)
    dy_at = dy + tokens[:, None] * dy_stride + k[None, :]
    weight_at = down + expert.to(tl.int64) * stride_e + k.to(tl.int64)[:, None] * stride_k
    weight_at += columns.to(tl.int64)[None, :] * stride_n
    d = sum_products(
        dy_at, weight_at, is_row, is_column, k, stride_k,
        D, steps, is_even, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip

    weight = None if WEIGHS_INPUT else load_row_weights(row_weights, slot_of_row, rows, is_row)
    part = _write_gradients(
        d, first, rows, n, is_row, weight, up_rows, d_up_rows, hidden, clamp, slope, up_offset,
        F, GATED, INTERLEAVED, ACTIVATION, BLOCK_M, BLOCK_N,
    )  # fmt: skip
    if weight_parts is not None and not WEIGHS_INPUT:
        tl.store(weight_parts + rows.to(tl.int64) * n_tiles + n, part, mask=is_row)
