"""The experts forward: three launches, two for a single token, one more where its sums are in parts.

The host reads no tensor.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from triton import cdiv, next_power_of_2

from headgate.kernels.triton.combine import combine_kernel
from headgate.kernels.triton.contest import grouped_mm, takes_grouped_mm
from headgate.kernels.triton.finish import finish_kernel
from headgate.kernels.triton.one_token import one_token_kernel
from headgate.kernels.triton.ops import Problem
from headgate.kernels.triton.product import product_kernel
from headgate.kernels.triton.schedule import (
    PRODUCT,
    UP,
    bucket_of,
    count_splits,
    launch,
    precision_of,
    processors_of,
)
from headgate.kernels.triton.tiles import most_tiles
from headgate.kernels.triton.up import up_kernel

_COMBINED_COLUMNS = 512  # 4 warps, 4 columns of each thread: 16 bytes of float32 in a load
_FINISHED = {"BLOCK_M": 16, "BLOCK_N": 128}

Grid = Callable[[Mapping[str, int]], tuple[int, ...]]


def run(problem: Problem, up_rows: Tensor | None = None) -> Tensor:
    """Compute y [T, D], and in `up_rows`, where given, what the first projection gave."""
    problem = with_unit_stride(problem)
    with torch.cuda.device_of(problem.x):
        hidden = problem.x.new_empty((problem.num_rows, problem.down.shape[2]))
        project_up(problem, hidden=hidden, up_rows=up_rows)
        if problem.x.shape[0] == 1 and problem.num_rows > 0:
            return _finish_token(problem, hidden)
        rows = multiply_rows(problem, hidden, problem.down, problem.down_bias)
        is_weighted = not problem.weighs_input
        return combine(problem, rows, source=problem.x, is_weighted=is_weighted)


def with_unit_stride(problem: Problem) -> Problem:
    """The problem with tokens and vectors whose last dimension is packed; the weights stay as they lie."""
    return problem._replace(
        x=unit_stride(problem.x),
        combine_weights=problem.combine_weights.contiguous(),
        up_bias=None if problem.up_bias is None else problem.up_bias.contiguous(),
        down_bias=None if problem.down_bias is None else problem.down_bias.contiguous(),
    )


def unit_stride(x: Tensor) -> Tensor:
    """`x`, or a copy of it, in which a token's numbers follow each other."""
    return x if x.stride(1) == 1 else x.contiguous()


def routing_arguments(problem: Problem) -> dict[str, Any]:
    """What every kernel over rows takes."""
    return {
        "expert_offsets": problem.expert_offsets,
        "row_weights": problem.combine_weights,
        "slot_of_row": problem.slot_of_row,
    }


def function_arguments(problem: Problem) -> dict[str, Any]:
    """What a kernel that activates takes."""
    activation, gated, interleaved, clamp, sigmoid_slope, up_offset = problem.function
    return {
        "clamp": clamp,
        "slope": sigmoid_slope,
        "up_offset": up_offset,
        "F": problem.down.shape[2],
        "GATED": gated,
        "INTERLEAVED": interleaved,
        "ACTIVATION": activation,
        "WEIGHS_INPUT": problem.weighs_input,
    }


def strides(matrix: Tensor, letters: str) -> dict[str, Any]:
    """A matrix's strides: of e experts, n columns of the product, k summed."""
    return {f"stride_{letter}": stride for letter, stride in zip(letters, matrix.stride(), strict=True)}


def row_arguments(problem: Problem) -> dict[str, Any]:
    """What a kernel with tiles of rows takes."""
    num_experts = problem.up.shape[0]
    return {"num_experts": num_experts, "num_rows": problem.num_rows, "EXPERTS": next_power_of_2(num_experts)}


def product_arguments(problem: Problem) -> dict[str, Any]:
    """What a tuned product takes."""
    bucket = bucket_of(problem.num_rows, problem.up.shape[0])
    return {"PRECISION": precision_of(problem.x.dtype), "BUCKET": bucket}


def grid_over_rows(problem: Problem, num_columns: int, splits: int = 1) -> Grid:
    """As many programs as tiles could be needed, from shapes alone."""
    num_rows, num_experts = problem.num_rows, problem.up.shape[0]

    def grid(blocks: Mapping[str, int]) -> tuple[int, ...]:
        tiles = most_tiles(num_rows, num_experts, blocks["BLOCK_M"])
        return tiles * cdiv(num_columns, blocks["BLOCK_N"]), splits

    return grid


def splits_of(problem: Problem, blocks: Mapping[str, int], num_summed: int, num_columns: int) -> int:
    """In how many parts the sums are taken: one, unless the rows are too few for the card."""
    if bucket_of(problem.num_rows, problem.up.shape[0]) == "many":
        return 1
    num_programs = grid_over_rows(problem, num_columns)(blocks)[0]
    return count_splits(num_programs, num_summed, blocks["BLOCK_K"], processors_of(problem.x.device))


def project_up(problem: Problem, *, hidden: Tensor | None, up_rows: Tensor | None) -> None:
    """Write what the first projection gives to `up_rows` [R, 2F or F], and its activation to `hidden` [R, F]."""
    if problem.num_rows == 0:
        return
    by_library = functools.partial(_project_by_library, problem, hidden, up_rows)
    by_tiles = functools.partial(_project_by_tiles, problem, hidden, up_rows)
    is_library = takes_grouped_mm(problem, problem.up, {"grouped_mm": by_library, "tiles": by_tiles})
    (by_library if is_library else by_tiles)()


def _project_by_library(problem: Problem, hidden: Tensor | None, up_rows: Tensor | None) -> None:
    sums = grouped_mm(problem, problem.x.index_select(0, problem.token_of_row), problem.up)
    _finish(problem, sums[None], hidden, up_rows)


def _project_by_tiles(problem: Problem, hidden: Tensor | None, up_rows: Tensor | None) -> None:
    x, up, num_rows = problem.x, problem.up, problem.num_rows
    product, d_model, d_ff = product_arguments(problem), x.shape[1], problem.down.shape[2]
    blocks = UP.first(product["BUCKET"], product["PRECISION"])
    splits = splits_of(problem, blocks, d_model, d_ff)
    partial = x.new_empty((splits, num_rows, up.shape[1]), dtype=torch.float32) if splits > 1 else None
    launch(
        up_kernel,
        grid_over_rows(problem, d_ff, splits),
        **strides(up, "enk"),
        **routing_arguments(problem),
        **function_arguments(problem),
        **row_arguments(problem),
        **product,
        x=x,
        token_of_row=problem.token_of_row,
        up=up,
        up_bias=problem.up_bias,
        hidden=hidden,
        up_rows=up_rows,
        partial=partial,
        x_stride=x.stride(0),
        D=d_model,
        SPLITS=splits,
    )
    if partial is not None:
        _finish(problem, partial, hidden, up_rows)


def _finish(problem: Problem, partial: Tensor, hidden: Tensor | None, up_rows: Tensor | None) -> None:
    finish_kernel[grid_over_rows_2d(problem, problem.down.shape[2])](
        **routing_arguments(problem),
        **function_arguments(problem),
        **row_arguments(problem),
        **_FINISHED,
        partial=partial,
        up_bias=problem.up_bias,
        hidden=hidden,
        up_rows=up_rows,
        SPLITS=partial.shape[0],
    )


def grid_over_rows_2d(problem: Problem, num_columns: int) -> tuple[int, int]:
    """The grid of `finish_kernel`."""
    tiles = most_tiles(problem.num_rows, problem.up.shape[0], _FINISHED["BLOCK_M"])
    return tiles, cdiv(num_columns, _FINISHED["BLOCK_N"])


def multiply_rows(
    problem: Problem, rows: Tensor, matrix: Tensor, bias: Tensor | None, weight_parts: Tensor | None = None
) -> Tensor:
    """Multiply rows [R, I] with their expert's matrix [E, O, I].

    Args:
        problem: whose rows they are.
        rows: packed.
        matrix: may be a transposed view.
        bias: [E, O] or None.
        weight_parts: where the parts of the weights' gradients go, and then the result is weighted: see
            `product_kernel`.

    Returns:
        [1, R, O] in the rows' dtype, or [parts, R, O] float32, to be added up.
    """
    if problem.num_rows == 0:
        return rows.new_empty((1, 0, matrix.shape[1]))
    by_tiles = functools.partial(_multiply_by_tiles, problem, rows, matrix, bias, weight_parts)
    if bias is not None or weight_parts is not None:
        return by_tiles()
    by_library = functools.partial(grouped_mm, problem, rows, matrix)
    is_library = takes_grouped_mm(problem, matrix, {"grouped_mm": by_library, "tiles": by_tiles})
    return by_library()[None] if is_library else by_tiles()


def _multiply_by_tiles(
    problem: Problem, rows: Tensor, matrix: Tensor, bias: Tensor | None, weight_parts: Tensor | None
) -> Tensor:
    num_rows, num_columns, product = problem.num_rows, matrix.shape[1], product_arguments(problem)
    blocks = PRODUCT.first(product["BUCKET"], product["PRECISION"])
    splits = 1 if weight_parts is not None else splits_of(problem, blocks, matrix.shape[2], num_columns)
    dtype = rows.dtype if splits == 1 else torch.float32
    out = rows.new_empty((splits, num_rows, num_columns), dtype=dtype)
    launch(
        product_kernel,
        grid_over_rows(problem, num_columns, splits),
        is_fixed=weight_parts is not None,
        **strides(matrix, "enk"),
        **routing_arguments(problem),
        **row_arguments(problem),
        **product,
        rows_in=rows,
        weight=matrix,
        bias=bias,
        out=out,
        x=None if weight_parts is None else problem.x,
        token_of_row=problem.token_of_row,
        weight_parts=weight_parts,
        x_stride=problem.x.stride(0),
        SUMMED=matrix.shape[2],
        COLUMNS=num_columns,
        SPLITS=splits,
    )
    return out


def _finish_token(problem: Problem, hidden: Tensor) -> Tensor:
    """The second projection and the combine of a single token's rows: y [1, D]."""
    y = problem.new_y()
    num_experts, d_model, d_ff = problem.down.shape
    launch(
        one_token_kernel,
        lambda blocks: (cdiv(d_model, blocks["BLOCK_N"]),),
        **strides(problem.down, "enk"),
        **routing_arguments(problem),
        **product_arguments(problem),
        hidden=hidden,
        source=problem.x,
        weight=problem.down,
        bias=problem.down_bias,
        row_order=problem.row_order,
        y=y,
        num_experts=num_experts,
        num_buckets=problem.expert_offsets.shape[0] - 1,
        D=d_model,
        F=d_ff,
        ROWS=problem.num_rows,
        WEIGHTED=not problem.weighs_input,
        EXPERTS=next_power_of_2(num_experts),
    )
    return y


def combine(problem: Problem, rows: Tensor, *, source: Tensor, is_weighted: bool, out: Tensor | None = None) -> Tensor:
    """Add up each token's rows [parts, R, D]; zero-compute experts' rows are those of `source` [T, D]."""
    y = problem.new_y() if out is None else out
    num_tokens, d_model = y.shape
    if num_tokens == 0:
        return y
    combine_kernel[(num_tokens, cdiv(d_model, _COMBINED_COLUMNS))](
        **routing_arguments(problem),
        rows=rows,
        source=source,
        row_order=problem.row_order,
        token_offsets=problem.token_offsets,
        y=y,
        num_experts=problem.up.shape[0],
        num_buckets=problem.expert_offsets.shape[0] - 1,
        num_rows=problem.num_rows,
        source_stride=source.stride(0),
        D=d_model,
        WEIGHTED=is_weighted,
        SPLITS=rows.shape[0],
        BLOCK_D=_COMBINED_COLUMNS,
    )
    return y
