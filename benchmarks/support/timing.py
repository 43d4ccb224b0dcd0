"""Interleaved rounds: on a shared machine only a ratio within one run means anything."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True, kw_only=True)
class Timing:
    """Seconds per call: the median over rounds, and the quartiles around it."""

    median_s: float
    lower_s: float
    upper_s: float
    rounds: int


def time_interleaved(
    calls: Mapping[str, Callable[[], object]],
    *,
    rounds: int,
    warm_up: int = 2,
    between: Mapping[str, Callable[[], object]] | None = None,
) -> dict[str, Timing]:
    """Time several calls in turn, round after round, so that a slow minute hits all of them alike.

    Args:
        calls: what to time, once a round each.
        rounds: at least 2, for there to be quartiles.
        warm_up: rounds before these, not counted.
        between: timed as well, before each of `calls`, such as what clears the caches.
    """
    before = dict(between or {})
    samples: dict[str, list[float]] = {name: [] for name in (*calls, *before)}
    for index in range(warm_up + rounds):
        for name, call in calls.items():
            for timed, run in {**before, name: call}.items():
                begin = time.perf_counter()
                run()
                if index >= warm_up:
                    samples[timed].append(time.perf_counter() - begin)
    return {name: _summarise(values) for name, values in samples.items()}


def _summarise(values: list[float]) -> Timing:
    lower, median, upper = statistics.quantiles(values, n=4)
    return Timing(median_s=median, lower_s=lower, upper_s=upper, rounds=len(values))
