"""How sure a measured fraction is: 95 % intervals in which sequences, not tokens, are what is independent.

Tokens of a sequence resemble each other, so a million tokens of ten texts say less than their number suggests. The
spread between sequences shows by how much (the design effect); the interval is then that of so many fewer independent
observations. scipy has the distributions; without it there are no intervals.

References:
    Korn and Graubard, "Confidence intervals for proportions with small expected number of positive counts estimated
    from survey data", Survey Methodology 24, 1998: the Clopper-Pearson interval of the effective sample size.
    Cochran, "Sampling Techniques", 3rd edition, 1977, section 6.3: the variance of a ratio between clusters.
    Wolter, "Introduction to Variance Estimation", 2nd edition, 2007, chapter 4: the jackknife by groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeAlias

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

CONFIDENCE = 0.95

Interval: TypeAlias = tuple[float, float]


class SequenceSums:
    """Adds up ratios sum(parts) / sum(wholes) over sequences, many at once, and what their intervals take.

    Memory does not grow with the sequences. A sequence may come in several pieces, one after the other.

    Args:
        shape: of the ratios, such as (L, E).

    Example:
        >>> sums = SequenceSums(())
        >>> sums.add(torch.arange(4), torch.tensor([8.0, 9.0, 7.0, 8.0]), torch.full((4,), 10.0))
        >>> low, high = sums.interval()
        >>> 0.5 < low < 0.8 < high < 1
        True
    """

    def __init__(self, shape: tuple[int, ...]) -> None:
        self._sums = torch.zeros(6, *shape, dtype=torch.float64)
        self._waiting: tuple[int, Tensor] | None = None

    def add(self, sequences: Int[Tensor, " S"], parts: Float[Tensor, S * L], wholes: Float[Tensor, S * M]) -> None:
        """Add neighbouring sequences.

        Args:
            sequences: [S] their numbers, rising; where the last call ended with the first of them, this is its rest.
            parts: [S, ...] of each sequence, such as the choices of each expert.
            wholes: [S, ...] of each sequence, such as all choices; broadcast to `parts`.
        """
        if not len(sequences):
            return
        pairs = torch.stack([parts.double(), wholes.double().expand_as(parts)])
        if self._waiting is not None and self._waiting[0] == int(sequences[0]):
            pairs[:, 0] += self._waiting[1]
        else:
            self._add_waiting()
        self._add_whole(pairs[:, :-1])
        self._waiting = int(sequences[-1]), pairs[:, -1].clone()

    def add_tokens(
        self, sequence: Int[Tensor, " T"], parts: Float[Tensor, "*L T"], wholes: Float[Tensor, "*M T"]
    ) -> None:
        """Add tokens in the order of their sequences.

        Args:
            sequence: [T] which sequence each is of, never falling.
            parts: [..., T] of each token.
            wholes: [..., T] of each token; broadcast to `parts`.
        """
        ids, number = torch.unique_consecutive(sequence, return_inverse=True)
        sums = [
            torch.zeros(*values.shape[:-1], len(ids), dtype=torch.float64)
            .index_add_(-1, number, values.double())
            .movedim(-1, 0)
            for values in (parts, wholes.expand_as(parts))
        ]
        self.add(ids, *sums)

    def _add_waiting(self) -> None:
        if self._waiting is not None:
            self._add_whole(self._waiting[1][:, None])
            self._waiting = None

    def _add_whole(self, pairs: Float[Tensor, "2 S *L"]) -> None:
        x, n = pairs
        terms = (x, n, x * x, x * n, n * n, (n > 0).double())
        self._sums += torch.stack([term.sum(0) for term in terms])

    def finish(self) -> Float[Tensor, 6 * L]:
        """Sums over all sequences of x, n, x^2, x n, n^2 and 1, with x a part and n its whole."""
        self._add_waiting()
        return self._sums

    def ratios(self) -> Float[Tensor, "*L"]:
        """sum(parts) / sum(wholes); NaN where there is nothing."""
        x, n, *_ = self.finish()
        ratios: Tensor = x / n
        return ratios

    def intervals(self, *, confidence: float = CONFIDENCE) -> NDArray[np.float64] | None:
        """Intervals of the ratios.

        Returns:
            [2, ...] low and high; NaN with fewer than two sequences. None without scipy.
        """
        return ratio_intervals(self.finish(), confidence=confidence)

    def interval(self) -> Interval | None:
        """The interval of a single ratio, or None where there is none."""
        return one_interval(self.intervals())


def ratio_intervals(sums: Float[Tensor, 6 * L], *, confidence: float = CONFIDENCE) -> NDArray[np.float64] | None:
    """Compute intervals of ratios between 0 and 1 from sums over sequences, those of `SequenceSums.finish`.

    A part that no sequence shows has no spread; it then has the mean design effect of its neighbours on the last axis,
    and where these have none either, each sequence counts as one observation.

    Returns:
        [2, ...] low and high; NaN with fewer than two sequences. None without scipy.
    """
    special = _special()
    if special is None:
        return None
    # A single ratio gets an axis, on which it has no neighbours.
    x, n, xx, xn, nn, num = (values.numpy() for values in sums.view(6, *(sums.shape[1:] or (1,))))
    tail = (1 - confidence) / 2
    with np.errstate(invalid="ignore", divide="ignore"):
        ratio = x / n
        variance = num / (num - 1) * (xx - 2 * ratio * xn + ratio**2 * nn) / n**2
        size = _effective_sizes(n, num, variance * n / (ratio * (1 - ratio)), tail, special)
        hits = ratio * size
        low = np.where(hits > 0, special.betaincinv(hits, size - hits + 1, tail), 0.0)
        high = np.where(hits < size, special.betaincinv(hits + 1, size - hits, 1 - tail), 1.0)
    return np.where(num > 1, np.stack([low, high]), np.nan).reshape(2, *sums.shape[1:])


def _effective_sizes(
    n: NDArray[np.float64], num: NDArray[np.float64], design: NDArray[np.float64], tail: float, special: Any
) -> NDArray[np.float64]:
    """Observations that would say as much if they were independent; design effects below 1 count as 1."""
    is_known = np.isfinite(design)
    known = np.where(is_known, np.maximum(design, 1.0), 0.0)
    known = np.where(is_known, known, known.sum(-1, keepdims=True) / is_known.sum(-1, keepdims=True))
    # The spread between few sequences is itself uncertain: Korn and Graubard's correction.
    corrected = n / known * (special.stdtrit(n - 1, tail) / special.stdtrit(num - 1, tail)) ** 2
    return np.where(np.isfinite(corrected), corrected, num)


def one_interval(found: NDArray[np.float64] | None) -> Interval | None:
    """A single ratio's interval of [2], or None where it isn't known."""
    if found is None or np.isnan(found).any():
        return None
    return float(found[0]), float(found[1])


def jackknife_interval(value: float, without: Sequence[float]) -> Interval | None:
    """Compute the interval of a value from what it is without each of G groups in turn.

    The variance is (G - 1) / G sum (v_g - mean(v))^2, with Student's t of G - 1 degrees of freedom.

    Returns:
        None with fewer than two groups, or without scipy.

    Example:
        >>> low, high = jackknife_interval(2.0, [1.9, 2.1, 2.0])
        >>> round(low, 2), round(high, 2)
        (1.5, 2.5)
    """
    special = _special()
    if special is None or len(without) < 2:
        return None
    spread = np.var(without) * (len(without) - 1)
    half = special.stdtrit(len(without) - 1, (1 + CONFIDENCE) / 2) * float(np.sqrt(spread))
    return float(value - half), float(value + half)


def _special() -> Any:
    """scipy.special, which is loaded in half the time of scipy.stats; None where it isn't installed."""
    try:
        from scipy import special
    except ImportError:
        return None
    return special
