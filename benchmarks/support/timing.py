"""Interleaved rounds: on a shared machine only a ratio within one run means anything."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds per call, round by round; their median, and the quartiles around it."""

    median_s: float
    lower_s: float
    upper_s: float
    samples_s: tuple[float, ...]

    @property
    def rounds(self) -> int:
        """How many there were."""
        return len(self.samples_s)


def time_interleaved(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warm_up: int = 2,
    between: Mapping[str, Callable[[], object]] | None = None,
) -> dict[str, Timing]:
    """Time several calls in turn, round after round, so that a slow minute hits all of them alike.

    Every other round takes them in the opposite order, so that none always follows the same one.

    Args:
        calls: what to time, once a round each.
        rounds: at least 2, for there to be quartiles.
        warm_up: rounds before these, not counted.
        between: timed as well, before each of `calls`, such as what clears the caches.
    """
    before = dict(between or {})
    samples: dict[str, list[float]] = {name: [] for name in (*calls, *before)}
    for index in range(warm_up + rounds):
        for name, call in list(calls.items())[:: -1 if index % 2 else 1]:
            for timed, run in {**before, name: call}.items():
                begin = time.perf_counter()
                run()
                if index >= warm_up:
                    samples[timed].append(time.perf_counter() - begin)
    return {name: summarise(values) for name, values in samples.items()}


def paired_quartiles(one: Timing, other: Timing) -> tuple[float, float, float]:
    """Lower quartile, median and upper quartile of one call's time over another's in the same round.

    Where the machine's speed drifts from round to round, this says more than the ratio of two medians.
    """
    lower, median, upper = statistics.quantiles(
        [a / b for a, b in zip(one.samples_s, other.samples_s, strict=True)], n=4
    )
    return lower, median, upper


def summarise(values: Sequence[float]) -> Timing:
    """The timing of a call, from the seconds of each round."""
    lower, median, upper = statistics.quantiles(values, n=4)
    return Timing(median_s=median, lower_s=lower, upper_s=upper, samples_s=tuple(values))
