"""Measure how far two routings of the same tokens agree: pure functions of ids and weights.

Empty slots (-1) are no choices. Letters: T tokens, K and J choices, E experts; `*L` stands for any leading axes.

References:
    Fagin et al., "Comparing Top k Lists", 2003, https://doi.org/10.1137/S0895480102412856, section 3.1.
"""

from __future__ import annotations

import math

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headgate.flow import NO_EXPERT


def overlap_at_k(first: Int[Tensor, "*L K"], second: Int[Tensor, "*L J"]) -> Float[Tensor, "*L"]:
    """Compute the part of the choices that both made: |A and B| / max(|A|, |B|).

    Args:
        first: [..., K] expert ids, distinct; for overlap@k cut both to their first k.
        second: [..., J] expert ids, distinct.

    Returns:
        [...] float64 in [0, 1], 1 where both chose the same, or nothing.

    Example:
        >>> overlap_at_k(torch.tensor([[3, 1], [0, 2]]), torch.tensor([[1, 3], [0, 5]])).tolist()
        [1.0, 0.5]
    """
    common, size_a, size_b = _set_sizes(first, second)
    return _ratio(common, torch.maximum(size_a, size_b))


def jaccard(first: Int[Tensor, "*L K"], second: Int[Tensor, "*L J"]) -> Float[Tensor, "*L"]:
    """Compute the Jaccard index of the chosen sets: |A and B| / |A or B|.

    Returns:
        [...] float64 in [0, 1], 1 where both chose the same, or nothing.

    Example:
        >>> jaccard(torch.tensor([[0, 2]]), torch.tensor([[0, 5]])).item()
        0.3333333333333333
    """
    common, size_a, size_b = _set_sizes(first, second)
    return _ratio(common, size_a + size_b - common)


def rank_correlation(first: Int[Tensor, "*L K"], second: Int[Tensor, "*L J"]) -> Float[Tensor, "*L"]:
    """Compute Kendall's tau of two top lists, in which what is not listed ranks below all that is.

    (concordant - discordant) / (concordant + discordant) over the pairs of experts of either list. A pair that one
    list leaves out altogether says nothing (Fagin's optimistic variant).

    Args:
        first: [..., K] expert ids, best first, distinct.
        second: [..., J] expert ids, best first, distinct.

    Returns:
        [...] float64 in [-1, 1]: 1 = the same list, -1 = reversed or without a common expert; NaN where no pair can be
        compared, as where both hold the same single expert.

    Example:
        >>> a = torch.tensor([[0, 1, 2]])
        >>> [rank_correlation(a, torch.tensor([b])).item() for b in ([0, 1, 2], [2, 1, 0], [3, 4, 5])]
        [1.0, -1.0, -1.0]
    """
    experts = torch.cat([first, second], dim=-1)
    is_repeated = (second[..., :, None] == first[..., None, :]).any(-1)
    is_known = torch.cat([first != NO_EXPERT, (second != NO_EXPERT) & ~is_repeated], dim=-1)
    rank_a, rank_b = (_ranks(experts, listed) for listed in (first, second))
    order = (rank_a[..., :, None] - rank_a[..., None, :]).sign() * (rank_b[..., :, None] - rank_b[..., None, :]).sign()
    order = order * (is_known[..., :, None] & is_known[..., None, :])
    # Each pair is there twice, which cancels.
    return order.sum((-2, -1)).double() / order.abs().sum((-2, -1)).double()


def weight_moved(
    first: Int[Tensor, "*L K"],
    first_weights: Float[Tensor, "*L K"],
    second: Int[Tensor, "*L J"],
    second_weights: Float[Tensor, "*L J"],
) -> Float[Tensor, "*L"]:
    """Compute the part of the combine weight that lies elsewhere: sum_e |w_a - w_b| / sum_e (|w_a| + |w_b|).

    Returns:
        [...] float64 in [0, 1]: 0 = the same weights on the same experts, 1 = no expert in common; 0 where there is no
        weight; NaN where a weight is.

    Example:
        >>> ids, weights = torch.tensor([[0, 1]]), torch.tensor([[0.75, 0.25]])
        >>> weight_moved(ids, weights, ids.flip(1), weights).item()
        0.5
    """
    a, b = (
        weights.double().masked_fill(ids == NO_EXPERT, 0)
        for ids, weights in ((first, first_weights), (second, second_weights))
    )
    same = (first[..., :, None] == second[..., None, :]) & (first != NO_EXPERT)[..., :, None]
    theirs = (same * b[..., None, :]).sum(-1)
    unmatched = b.abs().masked_fill(same.any(-2), 0).sum(-1)
    total = a.abs().sum(-1) + b.abs().sum(-1)
    moved = (a - theirs).abs().sum(-1) + unmatched
    return torch.where(total == 0, 0.0, moved / total)


def load_distance(first: Int[Tensor, "*L E"], second: Int[Tensor, "*L E"]) -> Float[Tensor, "*L"]:
    """Compute the Jensen-Shannon distance of two loads: sqrt(JSD), with logarithms to base 2.

    Args:
        first: [..., E] rows per expert.
        second: [..., E] rows per expert.

    Returns:
        [...] float64 in [0, 1]: 0 = the same shares, 1 = no expert in common; NaN without rows.

    Example:
        >>> load_distance(torch.tensor([1, 1, 0]), torch.tensor([0, 0, 9])).item()
        1.0
    """
    a, b = (counts.double() / counts.double().sum(-1, keepdim=True) for counts in (first, second))
    middle = (a + b) / 2
    gain: Tensor = torch.special.entr(middle) - (torch.special.entr(a) + torch.special.entr(b)) / 2
    # Rounding may leave a sum of zeros just below zero.
    return (gain.sum(-1) / math.log(2)).clamp(min=0).sqrt()


def _set_sizes(first: Int[Tensor, "*L K"], second: Int[Tensor, "*L J"]) -> tuple[Tensor, Tensor, Tensor]:
    same = (first[..., :, None] == second[..., None, :]) & (first != NO_EXPERT)[..., :, None]
    return same.sum((-2, -1)), (first != NO_EXPERT).sum(-1), (second != NO_EXPERT).sum(-1)


def _ratio(part: Int[Tensor, "*L"], whole: Int[Tensor, "*L"]) -> Float[Tensor, "*L"]:
    return torch.where(whole == 0, 1.0, part.double() / whole.double())


def _ranks(experts: Int[Tensor, "*L N"], listed: Int[Tensor, "*L K"]) -> Int[Tensor, "*L N"]:
    """Each expert's place in a list, from 0; its length for those that are not in it."""
    is_at: Bool[Tensor, "*L N K"] = experts[..., :, None] == listed[..., None, :]
    places = torch.arange(listed.shape[-1], device=listed.device)
    return torch.where(is_at.any(-1), (is_at * places).sum(-1), listed.shape[-1])
