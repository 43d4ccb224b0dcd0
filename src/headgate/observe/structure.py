"""Measure how choices go together: of one token, of neighbours, of neighbouring layers; and what chance gives."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headgate.flow import NO_EXPERT
from headgate.observe.agreement import overlap_at_k

_FITTING_STEPS = 200
"""Far more than loads need that are not all on one expert; a step is as cheap as a sum over the experts."""


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


def chance_coactivation(together: Int[Tensor, "E E"]) -> Float[Tensor, "E E"]:
    """Compute how many tokens would choose both of two experts if partners were picked by their frequency alone.

    m_ij = a_i a_j for i != j, such that each expert has as many partners as it really has (quasi-independence). Not
    n_i n_j / T: a token never chooses an expert twice, so even independent choices fall short of that.

    Args:
        together: of `coactivation`.

    Returns:
        [E, E] float64, symmetric, with zeros on the diagonal.

    References:
        Goodman, "The Analysis of Cross-Classified Data: Independence, Quasi-Independence, ...", 1968,
        https://doi.org/10.1080/01621459.1968.10480916.

    Example:
        >>> chance_coactivation(torch.tensor([[2, 2, 0], [2, 2, 0], [0, 0, 0]]))[0].round().tolist()
        [0.0, 2.0, 0.0]
    """
    partners = together.double().fill_diagonal_(0.0).sum(1)
    factors = (partners / partners.sum().clamp(min=1.0).sqrt()).clone()
    for _ in range(_FITTING_STEPS):
        others = factors.sum() - factors
        # The root of the plain step, which would swing to and fro.
        factors = (factors * partners / others).sqrt().where(partners * others > 0, 0.0)
    return torch.outer(factors, factors).fill_diagonal_(0.0)


def token_overlaps(
    topk_ids: Int[Tensor, "*L T K"], seq_offsets: Int[Tensor, " S_plus_1"]
) -> tuple[Float[Tensor, "*L N"], Int[Tensor, " N"]]:
    """Compute how much of its choice each token shares with the token before it in its sequence (overlap@K).

    Returns:
        The overlap of each of the N tokens that have one before them, and which tokens these are.

    Example:
        >>> overlaps, tokens = token_overlaps(torch.tensor([[0], [0], [1]]), torch.tensor([0, 3]))
        >>> overlaps.tolist(), tokens.tolist()
        ([1.0, 0.0], [1, 2])
    """
    is_first = torch.zeros(topk_ids.shape[-2] + 1, dtype=torch.bool)
    is_first[seq_offsets] = True
    tokens = (~is_first[:-1]).nonzero()[:, 0]
    return overlap_at_k(topk_ids[..., tokens, :], topk_ids[..., tokens - 1, :]), tokens


def chance_overlap(first: Int[Tensor, " E"], second: Int[Tensor, " E"], num_tokens: int) -> float:
    """Compute the overlap@K that two choices have on average if neither depends on the other.

    sum_e p_e q_e / max(sum p, sum q), with p_e = n_e / T the part of the tokens that chose expert e.

    Args:
        first: [E] tokens that chose each expert, the first time.
        second: [E] the second time.
        num_tokens: T.

    Returns:
        In [0, 1]; K / E where loads are even.

    Example:
        >>> even = torch.tensor([5, 5, 5, 5])
        >>> chance_overlap(even, even, 10)
        0.5
    """
    p, q = (counts.double() / max(1, num_tokens) for counts in (first, second))
    most = float(torch.maximum(p.sum(), q.sum()))
    return float((p * q).sum()) / most if most else 0.0
