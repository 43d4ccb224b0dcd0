"""Measure what a token's id says about its experts, and find the tokens that an expert takes more of than chance gives.

Chance is the routing with the tokens shuffled over their places: each place keeps its experts and gets another token.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from statistics import NormalDist

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headgate.errors import InputError
from headgate.flow import NO_EXPERT
from headgate.observe.intervals import Interval, jackknife_interval
from headgate.observe.pieces import count_groups

MAX_CELLS = 2**20
"""Cells of a table of kinds of tokens by experts: the 8192 most frequent tokens for 128 experts. All rarer ones count
as one kind, which can only lower the information."""

_GROUPS = 10
"""Parts of the sequences that the jackknife leaves out in turn."""

CHANCE_OF_ANY = 0.05
"""A token is named only where shuffling gives any token of the layer as much with at most this probability."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Specialisation:
    """How much a token's id says about its experts.

    Attributes:
        information: mutual information of token id and expert, nats, as estimated; biased upwards in small samples.
        baseline: mean of the same estimate with the tokens shuffled, which shows that bias.
        excess: information - baseline.
        p_value: how likely shuffling gives as much: (1 + shuffles that do) / (1 + shuffles).
        excess_interval: 95 %, of the excess; None with fewer than two sequences, or without scipy.
    """

    information: float
    baseline: float
    excess: float
    p_value: float
    excess_interval: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FavouredToken:
    """A token that an expert takes more often than chance gives.

    Attributes:
        token_id: its id.
        text: its string, None where the trace has none. It may hold anything: show it escaped.
        num_rows: how often the expert took it.
        lift: num_rows / what shuffled tokens would give on average.
        deviations: how far above chance, as the signed root of the Poisson deviance: about a standard normal deviate.
    """

    token_id: int
    text: str | None
    num_rows: int
    lift: float
    deviations: float


def specialisation(
    topk_ids: Int[Tensor, "T K"],
    token_ids: Int[Tensor, " T"],
    *,
    num_experts: int,
    sequence: Int[Tensor, " T"] | None = None,
    num_permutations: int = 20,
    seed: int = 0,
) -> Specialisation:
    """Compute the mutual information of a row's token id and its expert, against shuffled tokens.

    sum p(t, e) ln(p(t, e) / (p(t) p(e))) over the rows. The interval is the jackknife's that leaves out a tenth of the
    sequences at a time, since tokens of a sequence resemble each other.

    Args:
        topk_ids: [T, K] of one layer.
        token_ids: [T].
        num_experts: E.
        sequence: [T], which sequence each token is of; None = no interval.
        num_permutations: shuffles of the tokens; at least 1.
        seed: of the shuffles.

    Raises:
        InputError: there are no rows.

    Example:
        >>> ids = torch.tensor([[0], [1]]).repeat(50, 1)
        >>> found = specialisation(ids, ids[:, 0], num_experts=2)
        >>> round(found.information, 3), round(found.baseline, 1), found.p_value < 0.05
        (0.693, 0.0, True)
    """
    if not (topk_ids != NO_EXPERT).any():
        raise InputError("topk_ids holds no choice, so there is nothing that tokens could say about it")
    kinds, _ = kinds_of_tokens(token_ids, num_experts=num_experts)
    generator = torch.Generator().manual_seed(seed)
    shuffles = [kinds[torch.randperm(len(kinds), generator=generator)] for _ in range(num_permutations)]
    found, *by_chance = (
        mutual_information(kind_table(topk_ids, of, num_experts=num_experts)) for of in (kinds, *shuffles)
    )
    baseline = sum(by_chance) / num_permutations
    without = []
    if sequence is not None:
        without = _excess_without_each_group(topk_ids, kinds, shuffles[0], sequence, num_experts=num_experts)
    return Specialisation(
        information=found,
        baseline=baseline,
        excess=found - baseline,
        p_value=(1 + sum(value >= found for value in by_chance)) / (1 + num_permutations),
        excess_interval=jackknife_interval(found - baseline, without),
    )


def _excess_without_each_group(
    topk_ids: Int[Tensor, "T K"],
    kinds: Int[Tensor, " T"],
    shuffled: Int[Tensor, " T"],
    sequence: Int[Tensor, " T"],
    *,
    num_experts: int,
) -> list[float]:
    """The excess over one shuffle without each tenth of the sequences."""
    number = torch.unique(sequence, return_inverse=True)[1]
    num_groups = min(_GROUPS, int(number.max()) + 1)
    excesses = []
    for group in range(num_groups if num_groups > 1 else 0):
        is_kept = number % num_groups != group
        left = [kind_table(topk_ids[is_kept], of[is_kept], num_experts=num_experts) for of in (kinds, shuffled)]
        if left[0].any():
            excesses.append(mutual_information(left[0]) - mutual_information(left[1]))
    return excesses


def kinds_of_tokens(token_ids: Int[Tensor, " T"], *, num_experts: int) -> tuple[Int[Tensor, " T"], Int[Tensor, " V"]]:
    """Number the token ids that occur, so that a table of them by experts has at most `MAX_CELLS` cells.

    Returns:
        The number of each token's kind, and the token id of each kind: -1 for all the rarer ones together.
    """
    ids, kinds, counts = torch.unique(token_ids, return_inverse=True, return_counts=True)
    room = max(2, MAX_CELLS // num_experts)
    if len(ids) <= room:
        return kinds, ids
    is_rare = torch.ones(len(ids), dtype=torch.bool)
    is_rare[counts.argsort(descending=True, stable=True)[: room - 1]] = False
    number = (~is_rare).cumsum(0) - 1
    number[is_rare] = room - 1
    return number[kinds], torch.cat([ids[~is_rare], ids.new_tensor([-1])])


def kind_table(topk_ids: Int[Tensor, "T K"], kinds: Int[Tensor, " T"], *, num_experts: int) -> Int[Tensor, "V E"]:
    """Count the rows of each kind of token with each expert; V is one more than the highest kind."""
    num_kinds = int(kinds.max()) + 1 if len(kinds) else 0
    return count_groups(topk_ids, kinds, num_groups=num_kinds, num_experts=num_experts)


def mutual_information(table: Int[Tensor, "V E"]) -> float:
    """Compute the mutual information of the rows and columns of a table of counts.

    Returns:
        Nats, 0 for independent ones, at most the entropy of either.

    Example:
        >>> mutual_information(torch.tensor([[2, 2], [1, 1]]))
        0.0
    """
    total = int(table.sum())
    cells, columns, rows = (_sum_of_logs(counts) for counts in (table.reshape(-1), table.sum(0), table.sum(1)))
    return max(0.0, math.log(total) + (cells - columns - rows) / total)


def _sum_of_logs(counts: Int[Tensor, " N"]) -> float:
    """Sum n ln n, by how often each n occurs: most cells of a table hold the same few numbers."""
    number = torch.bincount(counts)
    present = number.nonzero()[:, 0].double()
    return float((number[number > 0] * torch.xlogy(present, present)).sum())


def poisson_deviations(counts: Int[Tensor, "*L"], expected: Float[Tensor, "*L"]) -> Float[Tensor, "*L"]:
    """Compute how far counts are from what is expected: sign(n - m) sqrt(2 (n ln(n / m) - (n - m))).

    Returns:
        [...] float64, about standard normal where the counts are Poisson with that mean; 0 where nothing is expected.

    References:
        McCullagh and Nelder, "Generalized Linear Models", 2nd edition, 1989, section 2.4.3 (deviance residuals).

    Example:
        >>> round(poisson_deviations(torch.tensor([20]), torch.tensor([10.0])).item(), 2)
        2.78
    """
    n, m = counts.double(), expected.double()
    deviance = 2 * (torch.special.xlogy(n, n / m) - (n - m))
    signed: Tensor = (n - m).sign() * deviance.clamp(min=0).sqrt()
    return signed.where(m > 0, 0.0)


def least_deviation(num_compared: int) -> float:
    """How far the farthest of so many values goes by chance with the probability `CHANCE_OF_ANY` (Bonferroni)."""
    return NormalDist().inv_cdf(1 - CHANCE_OF_ANY / max(2, num_compared))


def favoured_kinds(
    table: Int[Tensor, "V E"], kind_counts: Int[Tensor, " V"], *, most: int
) -> list[list[tuple[int, int, float, float]]]:
    """Find, for each expert, the kinds of tokens that it takes more of than chance gives.

    Of n_t tokens of a kind, an expert with n_e of all T tokens gets n_t n_e / T on average when tokens are shuffled.
    A kind counts only where no kind of the whole layer is likely to come as far by chance.

    Args:
        table: of `kind_table`.
        kind_counts: [V] tokens of each kind.
        most: how many to find.

    Returns:
        Per expert: (kind, rows, lift, deviations), farthest from chance first.
    """
    least = least_deviation(table.numel())
    found = []
    for rows in table.unbind(1):
        expected = kind_counts * (rows.sum() / kind_counts.sum())
        deviations = poisson_deviations(rows, expected)
        best = deviations.topk(min(most, len(deviations)))
        found.append(
            [
                (kind, int(rows[kind]), float(rows[kind] / expected[kind]), float(deviations[kind]))
                for kind in best.indices[best.values >= least].tolist()
            ]
        )
    return found
