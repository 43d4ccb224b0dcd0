"""A cache of experts for offloading: how often is an expert there when a token needs it?

A cache has slots for experts in fast memory; all others are loaded when they are needed. It is asked for all experts of
a token in a layer at once, and holds them together while the layer runs, so it needs at least K slots.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

import numpy as np
from numpy.typing import NDArray

from headgate.errors import InputError

Policy = Literal["lru", "lfu", "primed", "belady"]
POLICIES: tuple[Policy, ...] = get_args(Policy)

Ids = NDArray[np.int64]
Rows = NDArray[np.float64]

_EXPLOITABLE = 0.02
"""A policy that hits by less than this above an even choice is not worth a cache."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheOutcome:
    """What a policy reaches.

    Attributes:
        policy: its name.
        hit_fraction: needed experts that were there.
        loads_per_token: experts that a token makes the cache load, over all layers.
        bytes_per_token: what that moves; None where the size of an expert was not given.
        shuffled_hit_fraction: the same with the tokens in random order, so what is above it comes from their order.
    """

    policy: Policy
    hit_fraction: float
    loads_per_token: float
    bytes_per_token: float | None
    shuffled_hit_fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheReport:
    """What a cache of experts would do on a trace.

    Attributes:
        num_slots: of each cache.
        scope: whether every layer has its own cache, or all share one.
        num_tokens: measured, in the second half of the trace; the first half warms the caches up.
        even_hit_fraction: slots / experts of the cache, what any policy that can't foresee gets where all choices are
            equally likely.
        policies: their outcomes.
        verdict: in one sentence, whether there is skew to exploit.
    """

    num_slots: int
    scope: Literal["layer", "all"]
    num_tokens: int
    even_hit_fraction: float
    policies: tuple[CacheOutcome, ...]
    verdict: str

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def simulate_cache(
    expert_ids: Ids,
    *,
    num_experts: int,
    num_slots: int,
    scope: Literal["layer", "all"] = "layer",
    policies: tuple[Policy, ...] = POLICIES,
    expert_bytes: float | None = None,
    seed: int = 0,
) -> CacheReport:
    """Replay a trace through caches of experts, token by token.

    - lru: what was used least recently goes.
    - lfu: what was used least often so far goes, and of those the least recently used.
    - primed: the experts that the first half of the trace uses most stay for good; the rest share what slots are left
      to hold a token's experts (lru).
    - belady: what is needed again latest goes (Belady 1966). It knows the future: no policy can do better.

    Args:
        expert_ids: [L, T, K], -1 = no expert; tokens in the order in which they ran.
        num_experts: E.
        num_slots: of each cache; at least K.
        scope: one cache per layer, or one for all.
        policies: those wanted.
        expert_bytes: of one expert's weights; None = count loads only.
        seed: of the random order that is compared with.

    Raises:
        InputError: too few or too many slots, or fewer than two tokens.

    References:
        L. A. Belady, "A study of replacement algorithms for a virtual-storage computer", 1966,
        https://doi.org/10.1147/sj.52.0078.

    Example:
        >>> ids = np.array([[[0], [1], [0], [1], [0], [1]]])
        >>> report = simulate_cache(ids, num_experts=4, num_slots=2)
        >>> [outcome.hit_fraction for outcome in report.policies]
        [1.0, 1.0, 1.0, 1.0]
    """
    num_layers, num_tokens, _ = expert_ids.shape
    most = num_experts * (num_layers if scope == "all" else 1)
    _require_room(expert_ids, num_slots, most)
    shuffled = expert_ids[:, np.random.default_rng(seed).permutation(num_tokens)]
    outcomes = []
    for policy in policies:
        hits, asked = _run(expert_ids, num_experts, num_slots, scope, policy)
        plain, all_asked = _run(shuffled, num_experts, num_slots, scope, policy)
        loads = (asked - hits) / (num_tokens - num_tokens // 2)
        outcomes.append(
            CacheOutcome(
                policy=policy,
                hit_fraction=hits / max(asked, 1),
                loads_per_token=loads,
                bytes_per_token=None if expert_bytes is None else loads * expert_bytes,
                shuffled_hit_fraction=plain / max(all_asked, 1),
            )
        )
    even = num_slots / most
    return CacheReport(
        num_slots=num_slots,
        scope=scope,
        num_tokens=num_tokens - num_tokens // 2,
        even_hit_fraction=even,
        policies=tuple(outcomes),
        verdict=_judge(outcomes, even),
    )


def _require_room(expert_ids: Ids, num_slots: int, most: int) -> None:
    _, num_tokens, width = expert_ids.shape
    if not width <= num_slots <= most:
        raise InputError(
            f"slots (={num_slots}) must be between K (={width}), which a token needs at once, and the experts (={most})"
        )
    if num_tokens < 2:
        raise InputError(f"tokens (={num_tokens}) must be at least 2: the first half warms the caches up")


def _judge(outcomes: list[CacheOutcome], even: float) -> str:
    able = [outcome for outcome in outcomes if outcome.policy != "belady"]
    if not able:
        return "Only the ceiling was asked for, which no policy reaches."
    best = max(able, key=lambda outcome: outcome.hit_fraction)
    gain, order = best.hit_fraction - even, best.hit_fraction - best.shuffled_hit_fraction
    if even >= 1:
        return "Every expert has a slot: nothing is ever loaded twice."
    if gain < _EXPLOITABLE:
        return (
            f"There is no exploitable skew: the best policy hits {best.hit_fraction:.1%}, and with evenly spread "
            f"choices it would be {even:.1%}."
        )
    source = "the order of the tokens" if order > gain / 2 else "some experts being used more than others"
    return (
        f"There is skew to exploit: {best.policy} hits {best.hit_fraction:.1%} against {even:.1%} with evenly spread "
        f"choices, mostly thanks to {source}."
    )


def _run(ids: Ids, num_experts: int, num_slots: int, scope: str, policy: Policy) -> tuple[int, int]:
    """Hits and needs in the second half of the tokens."""
    num_layers, num_tokens, width = ids.shape
    asked = ids
    if scope == "all":
        # One cache, asked by layer after layer of a token.
        named = np.where(ids >= 0, ids + np.arange(num_layers)[:, None, None] * num_experts, -1)
        asked = named.transpose(1, 0, 2).reshape(1, -1, width)
        num_experts *= num_layers
    half = asked.shape[1] // num_tokens * (num_tokens // 2)
    rank = _RANKINGS[policy](asked, num_experts, num_slots, half)
    return _replay(asked, num_experts, num_slots, half, rank)


_Ranking = Callable[[int, Ids], Rows]
"""From the number of a request, and its ids [X, K] (none: E), to how much each expert should stay, [X, E + 1]."""


def _replay(asked: Ids, num_experts: int, num_slots: int, begin: int, rank: _Ranking) -> tuple[int, int]:
    """Ask X caches for the experts of one request after the other; those that should stay least go."""
    num_caches, num_requests, width = asked.shape
    rows = np.arange(num_caches)[:, None]
    # A column more, for slots without an expert.
    is_there = np.zeros((num_caches, num_experts + 1), dtype=bool)
    known = np.where(asked < 0, num_experts, asked)
    hits = total = 0
    for number in range(num_requests):
        ids = known[:, number]
        if number >= begin:
            hits += int(is_there[rows, ids].sum())
            total += int((ids < num_experts).sum())
        is_there[rows, ids] = True
        is_there[:, num_experts] = False
        keep = rank(number, ids)
        excess = is_there.sum(1) - num_slots
        if (excess <= 0).all():
            continue
        worth = np.where(is_there, keep, np.inf)
        np.put_along_axis(worth, ids, np.inf, axis=1)
        # At most K leave, since at most K came.
        order = np.argpartition(worth, width - 1, axis=1)[:, :width]
        order = np.take_along_axis(order, np.argsort(np.take_along_axis(worth, order, 1), axis=1, kind="stable"), 1)
        leaves = np.arange(width) < excess[:, None]
        is_there[np.broadcast_to(rows, order.shape)[leaves], order[leaves]] = False
    return hits, total


def _recent(asked: Ids, num_experts: int, num_slots: int, half: int) -> _Ranking:
    last = np.full((len(asked), num_experts + 1), -1.0)

    def rank(number: int, ids: Ids) -> Rows:
        # Of one token's experts, the one with the lowest id leaves first.
        np.put_along_axis(last, ids, number + ids / (num_experts + 1), axis=1)
        return last

    return rank


def _frequent(asked: Ids, num_experts: int, num_slots: int, half: int) -> _Ranking:
    used = np.zeros((len(asked), num_experts + 1))
    recent = _recent(asked, num_experts, num_slots, half)
    rows = np.arange(len(asked))[:, None]

    def rank(number: int, ids: Ids) -> Rows:
        # A token's experts are distinct; only the empty slots' column may be named twice.
        used[rows, ids] += 1
        worth: Rows = used + recent(number, ids) / asked.shape[1]
        return worth

    return rank


def _primed(asked: Ids, num_experts: int, num_slots: int, half: int) -> _Ranking:
    known = np.where(asked < 0, num_experts, asked)[:, :half].reshape(len(asked), -1)
    counts = np.stack([np.bincount(row, minlength=num_experts + 1)[:num_experts] for row in known])
    order = np.argsort(-counts, axis=1, kind="stable")
    stays = np.zeros((len(asked), num_experts + 1))
    # What is left must hold one token's experts besides those that stay.
    np.put_along_axis(stays, order[:, : max(num_slots - asked.shape[2], 0)], 2.0 * asked.shape[1], axis=1)
    recent = _recent(asked, num_experts, num_slots, half)

    def rank(number: int, ids: Ids) -> Rows:
        worth: Rows = stays + recent(number, ids)
        return worth

    return rank


def _foreseen(asked: Ids, num_experts: int, num_slots: int, half: int) -> _Ranking:
    num_caches, num_requests, width = asked.shape
    following = np.empty((num_requests, num_caches, width), dtype=np.int64)
    known = np.where(asked < 0, num_experts, asked)
    soonest = np.full((num_caches, num_experts + 1), num_requests, dtype=np.int64)
    for number in range(num_requests - 1, -1, -1):
        following[number] = np.take_along_axis(soonest, known[:, number], axis=1)
        np.put_along_axis(soonest, known[:, number], number, axis=1)
    need = np.full((num_caches, num_experts + 1), num_requests, dtype=np.int64)

    def rank(number: int, ids: Ids) -> Rows:
        np.put_along_axis(need, ids, following[number], axis=1)
        return -need.astype(np.float64)

    return rank


_RANKINGS: Mapping[Policy, Callable[[Ids, int, int, int], _Ranking]] = {
    "lru": _recent,
    "lfu": _frequent,
    "primed": _primed,
    "belady": _foreseen,
}
