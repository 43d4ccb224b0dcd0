"""How sure a measured fraction is: confidence intervals, which need scipy."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from headgate.errors import BackendError, InputError

CONFIDENCE = 0.95
_RESAMPLES = 1000


def proportion_interval(successes: int, total: int) -> tuple[float, float]:
    """Compute Wilson's 95 % interval of a fraction of independent trials.

    Raises:
        InputError: no trials.
        BackendError: scipy is not installed.

    Example:
        >>> [round(bound, 3) for bound in proportion_interval(5, 100)]
        [0.022, 0.112]
    """
    if total < 1:
        raise InputError(f"total (={total}) must be at least 1; a fraction of nothing has no interval")
    found = _stats().binomtest(successes, total).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def ratio_interval(parts: NDArray[np.float64], wholes: NDArray[np.float64], *, seed: int = 0) -> tuple[float, float]:
    """Compute a 95 % interval of sum(parts) / sum(wholes) when sequences, not tokens, are what is independent.

    The bootstrap draws whole sequences, since tokens of a sequence resemble each other.

    Args:
        parts: [S], of each sequence, such as choices in common.
        wholes: [S], of each sequence, such as choices.
        seed: of the draws.

    Raises:
        InputError: fewer than two sequences.
        BackendError: scipy is not installed.

    Example:
        >>> low, high = ratio_interval(np.array([8.0, 9.0, 7.0, 8.0]), np.full(4, 10.0))
        >>> 0.7 <= low < 0.8 < high <= 0.9
        True
    """
    if len(parts) < 2:
        raise InputError(f"sequences (={len(parts)}) must be at least 2; one alone does not show how much they differ")

    def ratio(part: NDArray[np.float64], whole: NDArray[np.float64], axis: int) -> NDArray[np.float64]:
        return np.asarray(part.sum(axis) / whole.sum(axis))

    found = (
        _stats()
        .bootstrap(
            (parts, wholes),
            ratio,
            paired=True,
            vectorized=True,
            n_resamples=_RESAMPLES,
            batch=100,
            confidence_level=CONFIDENCE,
            method="percentile",
            rng=np.random.default_rng(seed),
        )
        .confidence_interval
    )
    return float(found.low), float(found.high)


def _stats() -> Any:
    try:
        from scipy import stats
    except ImportError as error:
        raise BackendError("scipy is not installed; pip install 'headgate[observe]'") from error
    return stats
