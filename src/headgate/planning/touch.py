"""How many experts, and how many ranks, the tokens of a step touch: by formula, or as a trace shows it."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from headgate.errors import InputError
from headgate.planning.parameters import RoutedLayer


def distinct_experts(*, num_experts: int, mean_choices: int | float, num_tokens: int) -> float:
    """Expect how many experts of a layer at least one of T tokens chooses: E (1 - (1 - k/E)^T).

    Exact in expectation where tokens choose independently and no expert is favoured, also where k differs from token
    to token: an expert is left alone by one token with probability 1 - E[k]/E. Never min(T k, E), which is too many.

    Args:
        num_experts: E.
        mean_choices: k, of a token, on average; between 0 and E.
        num_tokens: T.

    Returns:
        Experts, from k at T = 1 up to E.

    Raises:
        InputError: k is not between 0 and E, or T is negative.

    Example:
        >>> distinct_experts(num_experts=64, mean_choices=8, num_tokens=1)
        8.0
        >>> round(distinct_experts(num_experts=64, mean_choices=8, num_tokens=8), 2)
        42.01
    """
    if not 0 <= mean_choices <= num_experts:
        raise InputError(f"mean_choices (={mean_choices}) must be from 0 to num_experts (={num_experts}); choose fewer")
    if num_tokens < 0:
        raise InputError(f"num_tokens (={num_tokens}) must not be negative; pass a batch of 1 or more")
    return num_experts * (1 - (1 - mean_choices / num_experts) ** num_tokens)


def distinct_ranks(*, num_experts: int, top_k: int, num_ranks: int) -> float:
    """Expect on how many ranks a token's K distinct experts lie: sum over ranks of 1 - C(E - e, K) / C(E, K).

    e is the number of experts of a rank; experts are dealt out as evenly as they can be. A token travels once to each
    such rank, so this, and not K, is what expert parallelism sends.

    Args:
        num_experts: E.
        top_k: K.
        num_ranks: W.

    Returns:
        Ranks, at most min(K, W).

    Raises:
        InputError: more choices than experts, or no rank.

    Example:
        >>> distinct_ranks(num_experts=8, top_k=2, num_ranks=8)
        2.0
        >>> round(distinct_ranks(num_experts=256, top_k=8, num_ranks=8), 2)
        5.29
    """
    if num_ranks < 1:
        raise InputError(f"num_ranks (={num_ranks}) must be at least 1; pass how many devices share the experts")
    if not 0 <= top_k <= num_experts:
        raise InputError(f"top_k (={top_k}) must be from 0 to num_experts (={num_experts}); choose fewer")
    sizes = deal_out(num_experts, num_ranks)
    every = math.comb(num_experts, top_k)
    return float(sum(1 - math.comb(num_experts - size, top_k) / every for size in sizes))


def deal_out(count: int, num_ranks: int) -> list[int]:
    """Share a count out as evenly as it goes, the larger parts first; they sum to it.

    Example:
        >>> deal_out(7, 3)
        [3, 2, 2]
    """
    return [count // num_ranks + (rank < count % num_ranks) for rank in range(num_ranks)]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTouch:
    """What the tokens of one layer touch.

    Attributes:
        num_experts: E.
        mean_choices: of a token, those that have weights.
        hit_fraction: for each expert, the fraction of draws that touch it; a draw is the tokens of one sequence in a
            step. None for uniform, independent choices.
        span: tokens of one sequence in a step: 1, or 1 + drafts when speculating.
        is_all: every expert is touched, as when experts choose.
    """

    num_experts: int
    mean_choices: int | float
    hit_fraction: tuple[float, ...] | None = None
    span: int = 1
    is_all: bool = False

    def distinct(self, batch: int) -> float:
        """Expect how many experts a step over `batch` sequences touches.

        Sequences are independent; the tokens of one need not be, where they were measured together.
        """
        if self.is_all and batch:
            return float(self.num_experts)
        if self.hit_fraction is None:
            return distinct_experts(
                num_experts=self.num_experts, mean_choices=self.mean_choices, num_tokens=batch * self.span
            )
        return float(sum(1 - (1 - part) ** batch for part in self.hit_fraction))


def uniform_touch(layer: RoutedLayer, *, span: int = 1) -> LayerTouch:
    """What uniform, independent routing touches.

    Args:
        layer: the layer.
        span: tokens of a sequence in a step.
    """
    return LayerTouch(
        num_experts=layer.num_experts,
        mean_choices=layer.mean_choices,
        span=span,
        is_all=layer.selection == "expert_choice",
    )


def measured_touch(
    expert_ids: Int[Tensor, "T K"], sequences: Sequence[tuple[int, int]], *, num_experts: int, span: int = 1
) -> LayerTouch:
    """What recorded tokens touch, as the union over `span` consecutive tokens of a sequence.

    Args:
        expert_ids: [T, K], -1 for no expert.
        sequences: half-open ranges over T.
        num_experts: E.
        span: tokens of a sequence in a step.

    Returns:
        The layer. With span 1 and K choices in every token it touches exactly K at batch 1.

    Raises:
        InputError: no sequence has `span` tokens.

    Example:
        >>> ids = torch.tensor([[0], [0], [1]])
        >>> measured_touch(ids, [(0, 3)], num_experts=4, span=2).distinct(1)
        1.5
    """
    hits = torch.zeros(num_experts, dtype=torch.float64)
    num_draws = num_choices = num_tokens = 0
    for begin, end in sequences:
        touched = _touched(expert_ids[begin:end].long(), num_experts)
        num_tokens += len(touched)
        num_choices += int(touched.sum())
        if len(touched) < span:
            continue
        sums = torch.cat([torch.zeros(1, num_experts), touched.double().cumsum(0)])
        hits += ((sums[span:] - sums[:-span]) > 0).sum(0).double()
        num_draws += len(touched) - span + 1
    if not num_draws:
        raise InputError(f"span (={span}) is longer than every sequence of the trace; record longer ones")
    return LayerTouch(
        num_experts=num_experts,
        mean_choices=num_choices / num_tokens,
        hit_fraction=tuple((hits / num_draws).tolist()),
        span=span,
    )


def measured_ranks(expert_ids: Int[Tensor, "T K"], *, num_experts: int, num_ranks: int) -> float:
    """Count on how many ranks a recorded token's experts lie, on average, with experts dealt out in id order.

    Args:
        expert_ids: [T, K], -1 for no expert.
        num_experts: E.
        num_ranks: W.

    Example:
        >>> measured_ranks(torch.tensor([[0, 1], [0, 3]]), num_experts=4, num_ranks=2)
        1.5
    """
    sizes = torch.tensor(deal_out(num_experts, num_ranks))
    rank_of_expert = torch.repeat_interleave(torch.arange(num_ranks), sizes)
    ids = expert_ids.long()
    ranks = torch.where(ids < 0, -1, rank_of_expert[ids.clamp(min=0)])
    return _touched(ranks, num_ranks).sum().item() / max(len(ids), 1)


def _touched(ids: Int[Tensor, "T K"], num_experts: int) -> Bool[Tensor, "T E"]:
    """Whether each token chose each expert."""
    table = torch.zeros(len(ids), num_experts + 1, dtype=torch.bool)
    table.scatter_(1, torch.where(ids < 0, num_experts, ids), True)
    return table[:, :num_experts]
