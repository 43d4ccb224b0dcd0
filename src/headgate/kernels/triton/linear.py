"""One linear map per expert over rows that are sorted by expert, for experts whose function the fused kernels lack.

The products, with gathers and weights left out: no copy, no atomics, and the host reads no tensor.
"""

from __future__ import annotations

import torch
from torch import Tensor

from headgate.kernels.function import ExpertFunction
from headgate.kernels.triton.experts import multiply_rows
from headgate.kernels.triton.gradients import write_bias_gradient, write_weight_gradient
from headgate.kernels.triton.ops import Problem


def linear(rows: Tensor, weight: Tensor, bias: Tensor | None, expert_offsets: Tensor) -> Tensor:
    """Compute `grouped_linear` on a GPU.

    Args:
        rows: [R, I] float32, float16 or bfloat16.
        weight: [E, O, I] of the same dtype; may be a transposed view.
        bias: [E, O] of the same dtype, or None.
        expert_offsets: [E + 1] int64.

    Returns:
        [R, O]; rows from `expert_offsets[E]` on are not written.
    """
    bias = None if bias is None else bias.contiguous()
    with torch.cuda.device_of(rows):
        parts = multiply_rows(_describe(rows, weight, expert_offsets), rows.contiguous(), weight, bias)
        return parts[0] if parts.shape[0] == 1 else parts.sum(dim=0).to(rows.dtype)


def linear_weight_gradient(grad: Tensor, rows: Tensor, expert_offsets: Tensor) -> Tensor:
    """The gradient of `linear` for its weight: [E, O, I] from `grad` [R, O], zero for an expert without rows."""
    out = grad.new_empty((expert_offsets.shape[0] - 1, grad.shape[1], rows.shape[1]))
    with torch.cuda.device_of(rows):
        problem = _describe(rows, out, expert_offsets)
        write_weight_gradient(problem, out, grad.contiguous(), rows.contiguous(), gathers=None)
    return out


def linear_bias_gradient(grad: Tensor, expert_offsets: Tensor) -> Tensor:
    """Each expert's sum over its rows: [E, O] from `grad` [R, O]."""
    out = grad.new_empty((expert_offsets.shape[0] - 1, grad.shape[1]))
    with torch.cuda.device_of(grad):
        write_bias_gradient(_describe(grad, out, expert_offsets), out, grad.contiguous(), gathers=False)
    return out


def _describe(rows: Tensor, weight: Tensor, expert_offsets: Tensor) -> Problem:
    """The kernels' arguments: nobody reads tokens, slots or combine weights, but R is theirs to tell."""
    unread = expert_offsets.new_empty(rows.shape[0])
    order = (unread, unread, expert_offsets, unread, unread, unread)
    return Problem(rows, *order, weight, weight, None, None, ExpertFunction())
