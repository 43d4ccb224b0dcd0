"""Agreement of two routings: cases by hand, laws, and a slow second opinion."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.observe.agreement import jaccard, load_distance, overlap_at_k, rank_correlation, weight_moved

LISTS = st.lists(st.integers(0, 6), max_size=4, unique=True)


def padded(values, width=5):
    return torch.tensor([values + [-1] * (width - len(values))])


def slow_tau(first, second):
    """Kendall's tau of two top lists, pair by pair."""
    total = concordant = 0
    for i, j in itertools.combinations(sorted({*first, *second}), 2):
        signs = []
        for listed in (first, second):
            a, b = (listed.index(x) if x in listed else len(listed) + 99 for x in (i, j))
            signs.append((a > b) - (a < b))
        if 0 not in signs:
            total += 1
            concordant += 1 if signs[0] == signs[1] else -1
    return concordant / total if total else math.nan


@given(LISTS, LISTS)
@settings(deadline=None, max_examples=100)
def test_the_set_measures_are_those_of_sets(first, second):
    a, b = padded(first), padded(second)
    both, either = len({*first} & {*second}), len({*first} | {*second})
    larger = max(len(first), len(second))
    assert overlap_at_k(a, b).item() == (both / larger if larger else 1.0)
    assert jaccard(a, b).item() == (both / either if either else 1.0)
    assert rank_correlation(a, b).item() == pytest.approx(slow_tau(first, second), nan_ok=True)


@given(LISTS, LISTS, st.randoms(use_true_random=False))
@settings(deadline=None, max_examples=100)
def test_moved_weight_is_that_of_dictionaries(first, second, random):
    weights = [[0.5 + random.random() for _ in listed] for listed in (first, second)]
    a, b = (dict(zip(listed, values, strict=True)) for listed, values in zip((first, second), weights, strict=True))
    total = sum(a.values()) + sum(b.values())
    moved = sum(abs(a.get(e, 0) - b.get(e, 0)) for e in {*a, *b})
    tensors = [torch.tensor([values + [9.0] * (5 - len(values))]) for values in weights]
    found = weight_moved(padded(first), tensors[0], padded(second), tensors[1]).item()
    assert found == pytest.approx(moved / total if total else 0.0, abs=1e-6)


def test_everything_has_leading_axes():
    ids = torch.arange(24).view(2, 3, 4)
    for found in (overlap_at_k(ids, ids), jaccard(ids, ids), rank_correlation(ids, ids)):
        assert found.tolist() == [[1.0] * 3] * 2
    assert weight_moved(ids, torch.ones(2, 3, 4), ids, torch.ones(2, 3, 4)).tolist() == [[0.0] * 3] * 2


def test_lists_of_different_lengths():
    assert overlap_at_k(torch.tensor([[0, 1, 2]]), torch.tensor([[1]])).item() == pytest.approx(1 / 3)


def test_nan_weights_stay_visible():
    ids = torch.tensor([[0]])
    assert weight_moved(ids, torch.tensor([[math.nan]]), ids, torch.tensor([[1.0]])).isnan().all()


def test_the_distance_of_loads():
    even, skewed = torch.tensor([10, 10]), torch.tensor([20, 0])
    # JSD = H(3/4, 1/4) - H(1/2, 1/2) / 2 - 0, in bits
    jsd = -(0.75 * math.log2(0.75) + 0.25 * math.log2(0.25)) - 0.5
    assert load_distance(even, skewed).item() == pytest.approx(math.sqrt(jsd), rel=1e-12)
    assert load_distance(even, 7 * even).item() == 0.0
    assert load_distance(torch.stack([even, skewed]), torch.stack([even, even])).shape == (2,)
    assert load_distance(even, 0 * even).isnan()
