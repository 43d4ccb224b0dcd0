"""One linear map per expert over rows that are sorted by expert: cost follows the rows, not the experts.

On a GPU by Triton, and the host reads no tensor; elsewhere one product of PyTorch's per expert that has rows.
"""

from __future__ import annotations

from itertools import pairwise

import torch
from torch import Tensor

from headgate.kernels.triton.ops import runs_in_triton


@torch.library.custom_op("headgate::grouped_linear", mutates_args=())
def grouped_linear(rows: Tensor, weight: Tensor, bias: Tensor | None, expert_offsets: Tensor) -> Tensor:
    """Multiply each expert's rows with that expert's weight: out[r] = weight[e] @ rows[r] + bias[e].

    An expert without rows is never touched, neither here nor, beyond a zero gradient, in the backward.

    Args:
        rows: [R, I], sorted by expert.
        weight: [E, O, I], same dtype.
        bias: [E, O], same dtype, or None.
        expert_offsets: [E + 1] int64; expert e has the rows from entry e to entry e + 1, and the last entry is R.

    Returns:
        [R, O], same dtype.
    """
    if runs_in_triton(rows.device.type, rows.dtype):
        from headgate.kernels.triton.linear import linear  # imports Triton

        return linear(rows, weight, bias, expert_offsets)
    out = rows.new_empty((rows.shape[0], weight.shape[1]))
    for expert, begin, end in _spans(expert_offsets):
        if bias is None:
            torch.mm(rows[begin:end], weight[expert].t(), out=out[begin:end])
        else:
            torch.addmm(bias[expert], rows[begin:end], weight[expert].t(), out=out[begin:end])
    return out


@grouped_linear.register_fake
def _(rows: Tensor, weight: Tensor, bias: Tensor | None, expert_offsets: Tensor) -> Tensor:
    return rows.new_empty((rows.shape[0], weight.shape[1]))


@torch.library.custom_op("headgate::grouped_linear_input_gradient", mutates_args=())
def grouped_linear_input_gradient(grad: Tensor, weight: Tensor, expert_offsets: Tensor) -> Tensor:
    """The gradient of `grouped_linear` for its rows: [R, I]."""
    if runs_in_triton(grad.device.type, grad.dtype):
        from headgate.kernels.triton.linear import linear

        return linear(grad, weight.transpose(1, 2), None, expert_offsets)
    out = grad.new_empty((grad.shape[0], weight.shape[2]))
    for expert, begin, end in _spans(expert_offsets):
        torch.mm(grad[begin:end], weight[expert], out=out[begin:end])
    return out


@grouped_linear_input_gradient.register_fake
def _(grad: Tensor, weight: Tensor, expert_offsets: Tensor) -> Tensor:
    return grad.new_empty((grad.shape[0], weight.shape[2]))


@torch.library.custom_op("headgate::grouped_linear_weight_gradient", mutates_args=())
def grouped_linear_weight_gradient(grad: Tensor, rows: Tensor, expert_offsets: Tensor) -> Tensor:
    """The gradient of `grouped_linear` for its weight: [E, O, I], zero for an expert without rows."""
    if runs_in_triton(grad.device.type, grad.dtype):
        from headgate.kernels.triton.linear import linear_weight_gradient

        return linear_weight_gradient(grad, rows, expert_offsets)
    num_experts = expert_offsets.shape[0] - 1
    out = grad.new_empty((num_experts, grad.shape[1], rows.shape[1]))
    busy = set()
    for expert, begin, end in _spans(expert_offsets):
        busy.add(expert)
        torch.mm(grad[begin:end].t(), rows[begin:end], out=out[expert])
    for expert in set(range(num_experts)) - busy:
        out[expert].zero_()
    return out


@grouped_linear_weight_gradient.register_fake
def _(grad: Tensor, rows: Tensor, expert_offsets: Tensor) -> Tensor:
    return grad.new_empty((expert_offsets.shape[0] - 1, grad.shape[1], rows.shape[1]))


@torch.library.custom_op("headgate::grouped_sum", mutates_args=())
def grouped_sum(grad: Tensor, expert_offsets: Tensor) -> Tensor:
    """Each expert's sum over its rows: [E, O], zero for an expert without rows."""
    if runs_in_triton(grad.device.type, grad.dtype):
        from headgate.kernels.triton.linear import linear_bias_gradient

        return linear_bias_gradient(grad, expert_offsets)
    out = grad.new_zeros((expert_offsets.shape[0] - 1, grad.shape[1]))
    for expert, begin, end in _spans(expert_offsets):
        torch.sum(grad[begin:end], dim=0, out=out[expert])
    return out


@grouped_sum.register_fake
def _(grad: Tensor, expert_offsets: Tensor) -> Tensor:
    return grad.new_empty((expert_offsets.shape[0] - 1, grad.shape[1]))


def _spans(expert_offsets: Tensor) -> list[tuple[int, int, int]]:
    """(expert, first row, end) of each expert that has rows."""
    offsets = expert_offsets.tolist()
    return [(expert, begin, end) for expert, (begin, end) in enumerate(pairwise(offsets)) if end > begin]


def _setup(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Tensor, ...], output: Tensor) -> None:
    rows, weight, _, expert_offsets = inputs
    ctx.save_for_backward(rows, weight, expert_offsets)


def _backward(ctx: torch.autograd.function.FunctionCtx, grad: Tensor) -> tuple[Tensor | None, ...]:
    rows, weight, expert_offsets = ctx.saved_tensors  # type: ignore[attr-defined]
    needs_rows, needs_weight, needs_bias, _ = ctx.needs_input_grad  # type: ignore[attr-defined]
    grad = grad.contiguous()
    d_rows = grouped_linear_input_gradient(grad, weight, expert_offsets) if needs_rows else None
    d_weight = grouped_linear_weight_gradient(grad, rows, expert_offsets) if needs_weight else None
    d_bias = grouped_sum(grad, expert_offsets) if needs_bias else None
    return d_rows, d_weight, d_bias, None


grouped_linear.register_autograd(_backward, setup_context=_setup)
