"""The gradients of an expert's replicas, added up, so that all of its replicas take the same step."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor

from headgate.kernels.rows import accumulation_dtype
from headgate.parallel.routes import Placement


class GradientRule(NamedTuple):
    """What becomes of the gradient of a rank's experts.

    Attributes:
        placement: of the layer; its experts with several replicas have their gradients added.
        group: W ranks.
        rank: this one.
        factor: multiplies every gradient: 1 / W where the gradients of all else are averaged.
    """

    placement: Placement
    group: dist.ProcessGroup
    rank: int
    factor: float

    def bind(self, weights: list[Tensor]) -> list[Tensor]:
        """The same weights; their gradients follow the rule, once in each backward pass."""
        bound: tuple[Tensor, ...] = _Bind.apply(self, *weights)  # type: ignore[no-untyped-call]
        return list(bound)


class _Bind(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rule: GradientRule, *weights: Tensor) -> tuple[Tensor, ...]:
        ctx.rule = rule
        return tuple(weight.view_as(weight) for weight in weights)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        rule: GradientRule = ctx.rule
        summed = _add_replicas(list(grads), rule) if rule.placement.has_replicas else list(grads)
        return None, *(grad * rule.factor for grad in summed)


def _add_replicas(grads: list[Float[Tensor, "N ..."]], rule: GradientRule) -> list[Float[Tensor, "N ..."]]:
    """Exchange the gradients of replicated experts among the ranks that hold them, and add in rank order.

    The sum runs in float32 (float64 for float64), in the same order on every rank: replicas stay equal to the bit.
    """
    held = [_common_experts(rule.placement, rule.rank, other) for other in range(len(rule.placement.rank_experts))]
    counts = [len(numbers) for numbers in held]
    number = torch.tensor([n for numbers in held for n in numbers], dtype=torch.int64, device=grads[0].device)
    return [_add_one(grad, number, counts, rule.group) for grad in grads]


def _add_one(
    grad: Float[Tensor, "N ..."], number: Tensor, counts: list[int], group: dist.ProcessGroup
) -> Float[Tensor, "N ..."]:
    leaving = grad.index_select(0, number)
    arriving = torch.empty_like(leaving)
    dist.all_to_all_single(arriving, leaving, counts, counts, group=group)
    total = torch.zeros_like(grad, dtype=accumulation_dtype(grad.dtype))
    for numbers, part in zip(torch.split(number, counts), torch.split(arriving, counts), strict=True):
        total[numbers] += part
    shared = torch.unique(number)
    return grad.index_copy(0, shared, total[shared].to(grad.dtype))


def _common_experts(placement: Placement, rank: int, other: int) -> list[int]:
    """Numbers on `rank` of the replicated experts that `other` holds too, in the order of expert ids.

    With itself, a rank has all that any other rank holds as well.
    """
    mine = placement.rank_experts[rank]
    elsewhere = {expert for r, held in enumerate(placement.rank_experts) if r != rank for expert in held}
    theirs = elsewhere if other == rank else set(placement.rank_experts[other])
    return [mine.index(expert) for expert in sorted(theirs & set(mine))]
