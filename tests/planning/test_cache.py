"""Caches of experts: against plain loops, and Belady's against every possible choice."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.errors import InputError
from headgate.planning.cache import simulate_cache


def outcome_of(ids, policy, **options):
    (outcome,) = simulate_cache(ids, policies=(policy,), **options).policies
    return outcome


def hits_slowly(requests, num_slots, half, *, least):
    """A cache of one layer, as sets; `least(expert, number, used, last)` says what leaves first."""
    there, used, last, hits = set(), {}, {}, 0
    for number, wanted in enumerate(requests):
        hits += len(there & wanted) * (number >= half)
        for expert in wanted:
            used[expert], last[expert] = used.get(expert, 0) + 1, number
        there |= wanted
        leaving = sorted(there - wanted, key=lambda expert: least(expert, number, used, last))
        for expert in leaving[: max(0, len(there) - num_slots)]:
            there.remove(expert)
    return hits


def best_hits(requests, num_slots, half, there=frozenset(), number=0):
    """Every way to choose what leaves."""
    if number == len(requests):
        return 0
    wanted = requests[number]
    now = len(there & wanted) * (number >= half)
    excess = max(0, len(there | wanted) - num_slots)
    return now + max(
        best_hits(requests, num_slots, half, (there | wanted) - set(gone), number + 1)
        for gone in itertools.combinations(sorted(there - wanted), excess)
    )


@st.composite
def streams(draw):
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    ids = np.argsort(rng.random((1, draw(st.integers(2, 9)), 6)) * rng.random(6))[..., :2]
    ids[rng.random(ids.shape) < 0.1] = -1
    return ids, [{int(e) for e in token if e >= 0} for token in ids[0]]


@given(streams(), st.integers(2, 5))
@settings(deadline=None, max_examples=25)
def test_policies_do_what_their_loops_do(stream, num_slots):
    ids, requests = stream
    half = len(requests) // 2
    asked = sum(len(wanted) for wanted in requests[half:])
    rules = {
        "lru": lambda expert, number, used, last: last[expert],
        "lfu": lambda expert, number, used, last: (used[expert], last[expert]),
    }
    for policy, least in rules.items():
        found = outcome_of(ids, policy, num_experts=6, num_slots=num_slots)
        assert found.hit_fraction * max(asked, 1) == pytest.approx(
            hits_slowly(requests, num_slots, half, least=least)
        ), policy


@given(streams(), st.integers(2, 4))
@settings(deadline=None, max_examples=15)
def test_no_choice_beats_belady(stream, num_slots):
    ids, requests = stream
    # What counts is the second half alone, and Belady's choices serve the whole: so measure the whole.
    padded = np.concatenate([np.full_like(ids, -1), ids], axis=1)
    found = outcome_of(padded, "belady", num_experts=6, num_slots=num_slots)
    asked = sum(map(len, requests))
    assert found.hit_fraction * max(asked, 1) == pytest.approx(best_hits(requests, num_slots, 0))
    for policy in ("lru", "lfu", "primed"):
        other = outcome_of(padded, policy, num_experts=6, num_slots=num_slots)
        assert other.hit_fraction <= found.hit_fraction + 1e-12


def test_without_skew_it_says_so():
    ids = np.argsort(np.random.default_rng(0).random((2, 800, 16)))[..., :2]
    report = simulate_cache(ids, num_experts=16, num_slots=4)
    assert report.verdict.startswith("There is no exploitable skew: the best policy hits 2")
    assert report.even_hit_fraction == 0.25
    belady = next(outcome for outcome in report.policies if outcome.policy == "belady")
    assert belady.hit_fraction > 0.4


def test_frequency_and_order_are_told_apart():
    rng = np.random.default_rng(0)
    hot = np.argsort(-(np.log(np.arange(1, 17)[::-1]) * 2 + rng.gumbel(size=(1, 600, 16))))[..., :2]
    verdict = simulate_cache(hot, num_experts=16, num_slots=4).verdict
    assert "skew to exploit" in verdict
    assert "used more than others" in verdict
    bursts = (np.arange(600)[None, :, None] // 50 * 2 + np.arange(2)) % 16
    verdict = simulate_cache(bursts, num_experts=16, num_slots=4).verdict
    assert "the order of the tokens" in verdict


def test_slots_for_all_layers_and_bytes():
    ids = np.array([[[0], [1], [0], [1]], [[2], [2], [2], [2]]])
    report = simulate_cache(ids, num_experts=3, num_slots=3, scope="all", expert_bytes=10.0)
    lru = report.policies[0]
    assert (lru.hit_fraction, lru.loads_per_token, lru.bytes_per_token) == (1.0, 0.0, 0.0)
    assert report.even_hit_fraction == 0.5
    tight = simulate_cache(ids, num_experts=3, num_slots=1, scope="all", expert_bytes=10.0, policies=("lru",))
    assert tight.policies[0].bytes_per_token == 20.0
    full = simulate_cache(ids, num_experts=3, num_slots=3)
    assert full.verdict == "Every expert has a slot: nothing is ever loaded twice."
    ceiling = simulate_cache(ids, num_experts=3, num_slots=1, policies=("belady",))
    assert ceiling.verdict == "Only the ceiling was asked for, which no policy reaches."
    assert ceiling.to_dict()["scope"] == "layer"


@pytest.mark.parametrize(
    ("tokens", "num_slots", "message"),
    [
        (4, 1, r"^slots \(=1\) must be between K \(=2\), which a token needs at once, and the experts \(=4\)$"),
        (4, 5, r"^slots \(=5\) must be between"),
        (1, 2, r"^tokens \(=1\) must be at least 2: the first half warms the caches up$"),
    ],
)
def test_nonsense_is_refused(tokens, num_slots, message):
    with pytest.raises(InputError, match=message):
        simulate_cache(np.zeros((1, tokens, 2), dtype=np.int64), num_experts=4, num_slots=num_slots)
