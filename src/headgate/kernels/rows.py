"""Rows out of tokens and back: `gather_rows` and its partner `combine_rows`, each the other's gradient.

The sum over a token's rows runs in float32 (float64 for float64 rows) and in the plan's order, so its bits do not
depend on the thread count, on the run, or on which expert held which row.
"""

from __future__ import annotations

import torch
from torch import Tensor


def accumulation_dtype(dtype: torch.dtype) -> torch.dtype:
    """float64 for float64, float32 for everything narrower."""
    return torch.float64 if dtype == torch.float64 else torch.float32


@torch.library.custom_op("headgate::combine_rows", mutates_args=())
def combine_rows(
    rows: Tensor,
    row_weights: Tensor,
    token_of_row: Tensor,
    row_order: Tensor,
    token_offsets: Tensor,
    max_rows_per_token: int,
) -> Tensor:
    """Add up each token's weighted rows: y[t] = sum over its rows r, in plan order, of row_weights[r] * rows[r].

    Args:
        rows: [R, D], any floating dtype.
        row_weights: [R], any floating dtype.
        token_of_row: [R] int64 (for the gradient).
        row_order: [R] int64, rows sorted by token, then by slot.
        token_offsets: [T + 1] int64, where each token's rows begin in `row_order`.
        max_rows_per_token: no token has more rows than this.

    Returns:
        [T, D] in the dtype of `rows`; zero for a token without rows.
    """
    num_tokens = token_offsets.shape[0] - 1
    wide = accumulation_dtype(rows.dtype)
    total = rows.new_zeros((num_tokens, rows.shape[1]), dtype=wide)
    weights = row_weights.to(wide).unsqueeze(1)
    if rows.shape[0] == num_tokens * max_rows_per_token:
        # By the pigeonhole principle every token then has exactly that many rows.
        by_rank = row_order.view(num_tokens, max_rows_per_token)
        for rank in range(max_rows_per_token):
            picked = by_rank[:, rank]
            total += weights[picked] * rows[picked].to(wide)
        return total.to(rows.dtype)
    counts = token_offsets.diff()
    for rank in range(max_rows_per_token):
        tokens = (counts > rank).nonzero().squeeze(1)
        picked = row_order[token_offsets[tokens] + rank]
        total[tokens] += weights[picked] * rows[picked].to(wide)
    return total.to(rows.dtype)


@combine_rows.register_fake
def _(
    rows: Tensor,
    row_weights: Tensor,
    token_of_row: Tensor,
    row_order: Tensor,
    token_offsets: Tensor,
    max_rows_per_token: int,
) -> Tensor:
    return rows.new_empty((token_offsets.shape[0] - 1, rows.shape[1]))


def _combine_setup(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    rows, row_weights, token_of_row, *_ = inputs
    ctx.save_for_backward(rows, row_weights, token_of_row)


def _combine_backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    rows, row_weights, token_of_row = ctx.saved_tensors  # type: ignore[attr-defined]
    wide = accumulation_dtype(rows.dtype)
    row_grads = grad.index_select(0, token_of_row).to(wide)
    d_rows = (row_weights.to(wide).unsqueeze(1) * row_grads).to(rows.dtype)
    d_weights = (rows.to(wide) * row_grads).sum(dim=1).to(row_weights.dtype)
    return d_rows, d_weights, None, None, None, None


combine_rows.register_autograd(_combine_backward, setup_context=_combine_setup)


@torch.library.custom_op("headgate::gather_rows", mutates_args=())
def gather_rows(
    x: Tensor, token_of_row: Tensor, row_order: Tensor, token_offsets: Tensor, max_rows_per_token: int
) -> Tensor:
    """Copy each row's token: rows[r] = x[token_of_row[r]].

    Args:
        x: [T, D].
        token_of_row: [R] int64.
        row_order, token_offsets, max_rows_per_token: as in `combine_rows`, for the gradient.

    Returns:
        [R, D] in the dtype of `x`.
    """
    return x.index_select(0, token_of_row)


@gather_rows.register_fake
def _(x: Tensor, token_of_row: Tensor, row_order: Tensor, token_offsets: Tensor, max_rows_per_token: int) -> Tensor:
    return x.new_empty((token_of_row.shape[0], x.shape[1]))


def _gather_setup(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    _, token_of_row, row_order, token_offsets, max_rows = inputs
    ctx.save_for_backward(token_of_row, row_order, token_offsets)
    ctx.max_rows = max_rows  # type: ignore[attr-defined]


def _gather_backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    token_of_row, row_order, token_offsets = ctx.saved_tensors  # type: ignore[attr-defined]
    ones = grad.new_ones(grad.shape[0])
    max_rows: int = ctx.max_rows  # type: ignore[attr-defined]
    return combine_rows(grad, ones, token_of_row, row_order, token_offsets, max_rows), None, None, None, None


gather_rows.register_autograd(_gather_backward, setup_context=_gather_setup)
