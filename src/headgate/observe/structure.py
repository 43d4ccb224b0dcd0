"""Measure what routing has learned: which experts go together, how choices follow each other, what they depend on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headgate.errors import InputError
from headgate.flow import NO_EXPERT
from headgate.observe.agreement import overlap_at_k


def coactivation(topk_ids: Int[Tensor, "T K"], *, num_experts: int) -> Int[Tensor, "E E"]:
    """Count how many tokens chose both of two experts.

    Returns:
        [E, E] int64, symmetric; the diagonal holds the tokens of each expert.

    Example:
        >>> coactivation(torch.tensor([[0, 1], [1, -1]]), num_experts=2).tolist()
        [[1, 1], [1, 2]]
    """
    chosen = torch.zeros(len(topk_ids), num_experts + 1)
    chosen.scatter_(1, topk_ids.where(topk_ids != NO_EXPERT, num_experts), 1.0)
    chosen = chosen[:, :num_experts]
    # Sums of at most 2^24 ones are exact in float32.
    blocks: Sequence[Tensor] = torch.split(chosen, 2**24)
    return torch.stack([(block.t() @ block).long() for block in blocks]).sum(0)


def token_persistence(topk_ids: Int[Tensor, "*L T K"], seq_offsets: Int[Tensor, " S_plus_1"]) -> Float[Tensor, "*L"]:
    """Compute how much of its choice a token shares with the token before it in its sequence (overlap@K).

    Returns:
        [...] float64 in [0, 1]; about K / E where choices are independent and even. NaN without neighbours.

    Example:
        >>> token_persistence(torch.tensor([[0], [0], [1]]), torch.tensor([0, 3])).item()
        0.5
    """
    is_first = torch.zeros(topk_ids.shape[-2] + 1, dtype=torch.bool)
    is_first[seq_offsets] = True
    overlap = overlap_at_k(topk_ids[..., 1:, :], topk_ids[..., :-1, :])
    return overlap[..., ~is_first[1:-1]].mean(-1)


def layer_persistence(topk_ids: Int[Tensor, "L T K"]) -> Float[Tensor, " L_minus_1"]:
    """Compute how much of the ids chosen in a layer are chosen in the next one too (overlap@K).

    Experts of different layers have nothing to do with each other, so about K / E is what to expect; more shows that
    layers share a router, or that ids were mixed up.

    Returns:
        [L - 1] float64 in [0, 1].

    Example:
        >>> layer_persistence(torch.tensor([[[0]], [[0]], [[1]]])).tolist()
        [1.0, 0.0]
    """
    return overlap_at_k(topk_ids[1:], topk_ids[:-1]).mean(-1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Specialisation:
    """How much a token's id says about its experts.

    Attributes:
        information: mutual information of token id and expert, nats, as estimated; biased upwards in small samples.
        baseline: mean of the same estimate with the tokens shuffled, which shows that bias.
        excess: information - baseline.
        p_value: how likely shuffling gives as much: (1 + shuffles that do) / (1 + shuffles).
    """

    information: float
    baseline: float
    excess: float
    p_value: float


def specialisation(
    topk_ids: Int[Tensor, "T K"],
    token_ids: Int[Tensor, " T"],
    *,
    num_experts: int,
    num_permutations: int = 20,
    seed: int = 0,
) -> Specialisation:
    """Compute the mutual information of a row's token id and its expert, against shuffled tokens.

    sum p(t, e) ln(p(t, e) / (p(t) p(e))) over the rows.

    Args:
        topk_ids: [T, K] of one layer.
        token_ids: [T].
        num_experts: E.
        num_permutations: shuffles of the tokens.
        seed: of the shuffles.

    Raises:
        InputError: there are no rows.

    Example:
        >>> ids = torch.tensor([[0], [1]]).repeat(50, 1)
        >>> found = specialisation(ids, ids[:, 0], num_experts=2)
        >>> round(found.information, 3), round(found.baseline, 1), found.p_value < 0.05
        (0.693, 0.0, True)
    """
    tokens, slots = (topk_ids != NO_EXPERT).nonzero(as_tuple=True)
    if len(tokens) == 0:
        raise InputError("topk_ids holds no choice, so there is nothing that tokens could say about it")
    experts = topk_ids[tokens, slots]
    kinds = torch.unique(token_ids, return_inverse=True)[1]
    generator = torch.Generator().manual_seed(seed)
    found = _mutual_information(kinds[tokens], experts, num_experts)
    shuffled = [
        _mutual_information(kinds[torch.randperm(len(kinds), generator=generator)][tokens], experts, num_experts)
        for _ in range(num_permutations)
    ]
    baseline = sum(shuffled) / num_permutations
    return Specialisation(
        information=found,
        baseline=baseline,
        excess=found - baseline,
        p_value=(1 + sum(value >= found for value in shuffled)) / (1 + num_permutations),
    )


def _mutual_information(kinds: Int[Tensor, " R"], experts: Int[Tensor, " R"], num_experts: int) -> float:
    pairs = torch.unique(kinds * num_experts + experts, return_counts=True)[1].double() / len(kinds)
    of_kind = torch.bincount(kinds).double() / len(kinds)
    of_expert = torch.bincount(experts).double() / len(kinds)
    entropies: list[float] = [torch.special.entr(shares).sum().item() for shares in (of_kind, of_expert, pairs)]
    return max(0.0, entropies[0] + entropies[1] - entropies[2])
