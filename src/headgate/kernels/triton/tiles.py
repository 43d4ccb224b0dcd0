"""Which tile of rows a program works on: found in the expert offsets on the device, so that the host waits for nothing.

An expert's rows are cut into tiles of BLOCK_M, the last one partly empty; no tile holds rows of two experts. The host
knows only shapes, and starts as many programs as there could be tiles: those beyond the last one return at once. A
program reads all offsets (4 KiB for 512 experts, from the L2 cache) and adds them up itself, which takes about a
microsecond while other programs of the processor compute; a kernel that made a list first would cost a launch.
"""

from __future__ import annotations

import triton
import triton.language as tl


def most_tiles(num_rows: int, num_experts: int, block_m: int) -> int:
    """The most tiles that so many rows can fill, wherever they go: sum of ceil(c / B) <= (R + n(B - 1)) / B.

    Here n, the experts that have rows, is at most E and at most R.

    Example:
        >>> most_tiles(8, 64, 16), most_tiles(4096, 8, 128)
        (8, 39)
    """
    return (num_rows + min(num_experts, num_rows) * (block_m - 1)) // block_m


@triton.jit
def count_tiles(num_rows, num_experts, BLOCK_M: tl.constexpr):
    """`most_tiles` on the device."""
    return (num_rows + tl.minimum(num_rows, num_experts) * (BLOCK_M - 1)) // BLOCK_M


@triton.jit
def find_tile(expert_offsets, tile, num_experts, BLOCK_M: tl.constexpr, EXPERTS: tl.constexpr):
    """The expert of a tile, its first row, and the end of the expert's rows; there is no such tile if first >= end.

    EXPERTS is the power of 2 from `num_experts` up.
    """
    experts = tl.arange(0, EXPERTS)
    is_expert = experts < num_experts
    begin = tl.load(expert_offsets + experts, mask=is_expert, other=0).to(tl.int32)
    end = tl.load(expert_offsets + experts + 1, mask=is_expert, other=0).to(tl.int32)
    tiles = (end - begin + BLOCK_M - 1) // BLOCK_M
    expert = tl.sum((tl.cumsum(tiles, 0) <= tile).to(tl.int32), 0)
    tiles_before = tl.sum(tl.where(experts < expert, tiles, 0), 0)
    first = tl.sum(tl.where(experts == expert, begin, 0), 0) + (tile - tiles_before) * BLOCK_M
    return expert, first, tl.sum(tl.where(experts == expert, end, 0), 0)


@triton.jit
def order_tiles(program, m_tiles, n_tiles, GROUP: tl.constexpr):
    """The (m, n) tile of a program: GROUP tiles of rows go through all columns together.

    Programs that run at the same time then share both operands in the L2 cache: of P programs, about sqrt(P) tiles
    of each are read from memory, where plain order would read P of one.
    """
    per_group = GROUP * n_tiles
    first = program // per_group * GROUP
    size = tl.minimum(m_tiles - first, GROUP)
    within = program % per_group
    return first + within % size, within // size


@triton.jit
def take_tile(
    expert_offsets, num_rows, num_experts, n_tiles,
    BLOCK_M: tl.constexpr, EXPERTS: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    """This program's tile of columns, and of rows as `find_tile`."""
    m, n = order_tiles(tl.program_id(0), count_tiles(num_rows, num_experts, BLOCK_M), n_tiles, GROUP)
    expert, first, end = find_tile(expert_offsets, m, num_experts, BLOCK_M, EXPERTS)
    return n, expert, first, end


@triton.jit
def load_tile(pointers, is_outer, is_inner, IS_EVEN: tl.constexpr):
    """A tile, zero outside; IS_EVEN says that nothing is outside along the summed dimension."""
    if IS_EVEN:
        return tl.load(pointers, mask=is_outer, other=0.0)
    else:
        return tl.load(pointers, mask=is_outer & is_inner, other=0.0)


@triton.jit
def multiply(a, b, total, PRECISION: tl.constexpr):
    """Add a @ b in float32. PRECISION: "half" for 16-bit operands, "ieee" or "tf32" for float32, or "widen".

    The interpreter multiplies the bits of bfloat16 as integers. Widened to float32 its products are exact, as those of
    the tensor cores are.
    """
    if PRECISION == "widen":
        return tl.dot(a.to(tl.float32), b.to(tl.float32), total, input_precision="ieee")
    elif PRECISION == "half":
        return tl.dot(a, b, total)
    else:
        return tl.dot(a, b, total, input_precision=PRECISION)


@triton.jit
def sum_products(
    left_at, right_at, is_left, is_right, k, right_stride,
    SUMMED: tl.constexpr, STEPS: tl.constexpr, IS_EVEN: tl.constexpr, PRECISION: tl.constexpr,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The product [BLOCK_M, BLOCK_N] in float32: STEPS blocks of the sum, from the places `k` on and before SUMMED."""
    total = tl.zeros((BLOCK_M, BLOCK_N), tl.float32)
    for step in range(0, STEPS * BLOCK_K, BLOCK_K):
        is_k = k + step < SUMMED
        left = load_tile(left_at, is_left[:, None], is_k[None, :], IS_EVEN)
        right = load_tile(right_at, is_right[None, :], is_k[:, None], IS_EVEN)
        total = multiply(left, right, total, PRECISION)
        left_at += BLOCK_K
        right_at += BLOCK_K * right_stride
    return total


@triton.jit
def load_row_weights(row_weights, slot_of_row, rows, is_row):
    """Each row's combine weight in float32: weights lie by slot."""
    slots = tl.load(slot_of_row + rows, mask=is_row, other=0)
    return tl.load(row_weights + slots, mask=is_row, other=0.0).to(tl.float32)
