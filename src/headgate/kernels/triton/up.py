"""The first projection, from tokens to hidden rows, in one kernel: gather, gate and up, bias, activation.

Why so: a token's row is read where it lies, by the tile that needs it, so no [R, D] copy is written and read again;
gate and up of the same hidden columns are summed in one program, so [R, 2F] never leaves the registers in inference,
and the tokens' tile serves two products. Per tile of BLOCK_M rows and BLOCK_N hidden columns, a step of BLOCK_K reads
(BLOCK_M + 2 BLOCK_N) BLOCK_K numbers and does 4 BLOCK_M BLOCK_N BLOCK_K operations.

- Few rows per expert: the time is the weights' bytes over the bandwidth. BLOCK_M is 16, the least that the tensor
  cores take; each weight is read once, by programs of a few columns each, four or more steps in flight. Where there
  are fewer programs than processors, the sum over D is split as well: SPLITS partial sums go to memory in float32, and
  `finish` adds them in order.
- Many rows: the time is the operations over the peak. 128 rows by twice 128 columns give 85 operations per byte
  from the L2 cache, and neighbouring programs share it (`order_tiles`).

Not persistent: programs that find no tile cost about a microsecond on one of several slots of a processor, and there
are less than E times the column tiles of them.
"""

from __future__ import annotations

import triton
import triton.language as tl

from headgate.kernels.triton.activation import activate, gate_and_up_columns
from headgate.kernels.triton.schedule import UP
from headgate.kernels.triton.tiles import load_row_weights, load_tile, multiply, take_tile
from headgate.kernels.triton.tuning import tuned


@triton.jit
def finish_tile(
    gate, rise, first, rows, columns, is_row, is_column, expert,
    row_weights, slot_of_row, up_bias, hidden, up_rows, clamp, slope, up_offset,
    F: tl.constexpr, GATED: tl.constexpr, INTERLEAVED: tl.constexpr, ACTIVATION: tl.constexpr,
    WEIGHS_INPUT: tl.constexpr,
):  # fmt: skip
    """From the sums over D to hidden values: the input's weight, the bias, the activation. `up_rows` keep its input."""
    gate_columns, up_columns = gate_and_up_columns(columns, F, GATED, INTERLEAVED)
    width: tl.constexpr = 2 * F if GATED else F
    mask = is_row[:, None] & is_column[None, :]
    if WEIGHS_INPUT:
        # W (w x) = w (W x): the weight multiplies a float32 sum instead of a rounded copy of the token.
        weight = load_row_weights(row_weights, slot_of_row, rows, is_row)[:, None]
        gate, rise = gate * weight, rise * weight
    if up_bias is not None:
        bias = up_bias + expert.to(tl.int64) * width
        gate += tl.load(bias + gate_columns, mask=is_column, other=0.0).to(tl.float32)[None, :]
        if GATED:
            rise += tl.load(bias + up_columns, mask=is_column, other=0.0).to(tl.float32)[None, :]
    if up_rows is not None:
        # Entries are counted from the tile's first row in 32 bits, which take half the registers.
        at, places = up_rows + first.to(tl.int64) * width, (rows - first)[:, None] * width
        tl.store(at + (places + gate_columns[None, :]), gate.to(up_rows.dtype.element_ty), mask=mask)
        if GATED:
            tl.store(at + (places + up_columns[None, :]), rise.to(up_rows.dtype.element_ty), mask=mask)
    if hidden is not None:
        values = activate(gate, rise, clamp, slope, up_offset, GATED, ACTIVATION)
        at = hidden + first.to(tl.int64) * F + ((rows - first)[:, None] * F + columns[None, :])
        tl.store(at, values.to(hidden.dtype.element_ty), mask=mask)


@triton.jit
def _store_part(
    partial, gate, rise, rows, columns, mask, F: tl.constexpr, GATED: tl.constexpr, INTERLEAVED: tl.constexpr
):
    """Sums over a part of D: [BLOCK_M, BLOCK_N] float32 of gate and up, at these rows of [SPLITS * R, 2F or F]."""
    gate_columns, up_columns = gate_and_up_columns(columns, F, GATED, INTERLEAVED)
    at = partial + rows[:, None] * (2 * F if GATED else F)
    tl.store(at + gate_columns[None, :], gate, mask=mask)
    if GATED:
        tl.store(at + up_columns[None, :], rise, mask=mask)


@triton.jit
def _sum_gate_and_up(
    x_at, gate_at, up_at, is_row, is_column, k, stride_k,
    D: tl.constexpr, STEPS: tl.constexpr, IS_EVEN: tl.constexpr, GATED: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """As `sum_products`, for two matrices of which each step multiplies the same tile of tokens."""
    gate = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    rise = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(0, STEPS * BLOCK_K, BLOCK_K):
        is_k = k + step < D
        tile = load_tile(x_at, is_row[:, None], is_k[None, :], IS_EVEN)
        gate = multiply(tile, load_tile(gate_at, is_column[None, :], is_k[:, None], IS_EVEN), gate, PRECISION)
        gate_at += BLOCK_K * stride_k
        if GATED:
            rise = multiply(tile, load_tile(up_at, is_column[None, :], is_k[:, None], IS_EVEN), rise, PRECISION)
            up_at += BLOCK_K * stride_k
        x_at += BLOCK_K
    return gate, rise


@tuned(UP, key=["D", "F", "BUCKET", "PRECISION"])
@triton.jit(do_not_specialize=["num_rows"])
def up_kernel(
    x, token_of_row, expert_offsets, up, up_bias, row_weights, slot_of_row, hidden, up_rows, partial,
    num_experts, num_rows, x_stride, stride_e, stride_n, stride_k, clamp, slope, up_offset,
    D: tl.constexpr, F: tl.constexpr, GATED: tl.constexpr, INTERLEAVED: tl.constexpr, ACTIVATION: tl.constexpr,
    WEIGHS_INPUT: tl.constexpr, SPLITS: tl.constexpr, EXPERTS: tl.constexpr, PRECISION: tl.constexpr,
    BUCKET: tl.constexpr, BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """One tile of hidden rows, or with SPLITS > 1 one part of its sums: `partial` [SPLITS, R, 2F or F] float32."""
    n_tiles: tl.constexpr = (F + BLOCK_N - 1) // BLOCK_N
    n, expert, first, end = take_tile(expert_offsets, num_rows, num_experts, n_tiles, BLOCK_M, EXPERTS, GROUP)
    if first >= end:
        return
    rows = first + tl.arange(0, BLOCK_M)
    is_row = rows < end
    tokens = tl.load(token_of_row + rows, mask=is_row, other=0).to(tl.int64)
    columns = n * BLOCK_N + tl.arange(0, BLOCK_N)
    is_column = columns < F
    gate_columns, up_columns = gate_and_up_columns(columns, F, GATED, INTERLEAVED)

    steps: tl.constexpr = (D + BLOCK_K * SPLITS - 1) // (BLOCK_K * SPLITS)
    is_even: tl.constexpr = D % (BLOCK_K * SPLITS) == 0
    split = tl.program_id(1)
    k = split * (steps * BLOCK_K) + tl.arange(0, BLOCK_K)
    x_at = x + tokens[:, None] * x_stride + k[None, :]
    weight_at = up + expert.to(tl.int64) * stride_e + k.to(tl.int64)[:, None] * stride_k
    gate_at = weight_at + gate_columns.to(tl.int64)[None, :] * stride_n
    up_at = weight_at + up_columns.to(tl.int64)[None, :] * stride_n
    gate, rise = _sum_gate_and_up(
        x_at, gate_at, up_at, is_row, is_column, k, stride_k,
        D, steps, is_even, GATED, PRECISION, BLOCK_M, BLOCK_N, BLOCK_K,
    )  # fmt: skip

    if SPLITS > 1:
        rows_of_part = split.to(tl.int64) * num_rows + rows
        _store_part(
            partial, gate, rise, rows_of_part, columns, is_row[:, None] & is_column[None, :], F, GATED, INTERLEAVED
        )
    else:
        finish_tile(
            gate, rise, first, rows, columns, is_row, is_column, expert,
            row_weights, slot_of_row, up_bias, hidden, up_rows, clamp, slope, up_offset,
            F, GATED, INTERLEAVED, ACTIVATION, WEIGHS_INPUT,
        )  # fmt: skip
