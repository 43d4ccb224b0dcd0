"""Experts and ranks that tokens touch: laws of the formulas, and measured tokens against counting."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.errors import InputError
from headgate.planning.touch import (
    deal_out,
    distinct_experts,
    distinct_ranks,
    measured_ranks,
    measured_touch,
    uniform_touch,
)
from planning.shapes import routed_layer

LAWS = settings(deadline=None, max_examples=60)


@st.composite
def experts_and_choices(draw):
    num_experts = draw(st.integers(1, 300))
    return num_experts, draw(st.integers(1, num_experts))


@LAWS
@given(experts_and_choices(), st.integers(1, 2000))
def test_a_batch_of_one_touches_exactly_k_and_no_batch_more_than_there_are(sizes, num_tokens):
    num_experts, top_k = sizes
    one = distinct_experts(num_experts=num_experts, mean_choices=top_k, num_tokens=1)
    many = distinct_experts(num_experts=num_experts, mean_choices=top_k, num_tokens=num_tokens)
    more = distinct_experts(num_experts=num_experts, mean_choices=top_k, num_tokens=num_tokens + 1)
    rounding = 4 * num_experts * 2**-53  # one subtraction and product of numbers up to E, and a power near 1
    assert abs(one - top_k) <= rounding
    assert one - rounding <= many <= more + rounding
    assert more <= min(num_experts, (num_tokens + 1) * top_k) + rounding


@LAWS
@given(experts_and_choices())
def test_a_batch_without_end_touches_all(sizes):
    num_experts, top_k = sizes
    # E (1 - 1/E)^T < 1e-9 where T = 40 E
    assert distinct_experts(num_experts=num_experts, mean_choices=top_k, num_tokens=40 * num_experts) == pytest.approx(
        num_experts, abs=1e-9
    )


def test_the_formula_is_the_mean_over_every_way_to_choose():
    # Three tokens, each with 2 of 4 experts: all 6^3 ways are equally likely.
    pairs = list(itertools.combinations(range(4), 2))
    unions = [len(set().union(*ways)) for ways in itertools.product(pairs, repeat=3)]
    assert distinct_experts(num_experts=4, mean_choices=2, num_tokens=3) == pytest.approx(sum(unions) / len(unions))


@pytest.mark.parametrize("num_ranks", [1, 2, 3, 4, 6])
def test_distinct_ranks_are_the_mean_over_every_choice(num_ranks):
    sizes = deal_out(6, num_ranks)
    rank_of = [rank for rank, size in enumerate(sizes) for _ in range(size)]
    counts = [len({rank_of[expert] for expert in choice}) for choice in itertools.combinations(range(6), 3)]
    assert distinct_ranks(num_experts=6, top_k=3, num_ranks=num_ranks) == pytest.approx(sum(counts) / len(counts))


@LAWS
@given(experts_and_choices(), st.integers(1, 64))
def test_distinct_ranks_keep_their_bounds(sizes, num_ranks):
    num_experts, top_k = sizes
    found = distinct_ranks(num_experts=num_experts, top_k=top_k, num_ranks=num_ranks)
    assert 1 - 1e-9 <= found <= min(top_k, num_ranks) + 1e-9
    if num_ranks == 1:
        assert found == 1


@LAWS
@given(st.integers(0, 1000), st.integers(1, 50))
def test_what_is_dealt_out_sums_to_the_whole_and_is_even(count, num_ranks):
    parts = deal_out(count, num_ranks)
    assert sum(parts) == count
    assert max(parts) - min(parts) <= 1


def random_ids(num_tokens, num_experts, top_k, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(num_tokens, num_experts, generator=generator).topk(top_k).indices


@LAWS
@given(st.integers(0, 2**31), st.integers(1, 4), st.integers(1, 5))
def test_a_measured_batch_of_one_is_the_mean_union_over_consecutive_tokens(seed, top_k, span):
    sequences = [(0, 7), (7, 16), (16, 18)]
    ids = random_ids(18, 6, top_k, seed)
    unions = [len(torch.unique(ids[i : i + span])) for begin, end in sequences for i in range(begin, end - span + 1)]
    touch = measured_touch(ids, sequences, num_experts=6, span=span)
    assert touch.distinct(1) == pytest.approx(sum(unions) / len(unions))
    assert touch.mean_choices == top_k
    assert touch.distinct(1) - 1e-9 <= touch.distinct(2) <= 6
    if span == 1:
        assert touch.distinct(1) == pytest.approx(top_k)


def test_repetition_touches_fewer_than_independence():
    ids = torch.tensor([[0, 1]] * 8)
    touch = measured_touch(ids, [(0, 8)], num_experts=8, span=4)
    assert touch.distinct(1) == 2
    assert uniform_touch(routed_layer(), span=4).distinct(1) > 5


def test_slots_without_an_expert_touch_nothing():
    ids = torch.tensor([[0, -1], [-1, -1]])
    touch = measured_touch(ids, [(0, 2)], num_experts=4)
    assert (touch.mean_choices, touch.distinct(1)) == (0.5, 0.5)


def test_measured_ranks_are_counted_over_contiguous_experts():
    ids = torch.tensor([[0, 1, 2], [0, 3, -1], [-1, -1, -1]])
    assert measured_ranks(ids, num_experts=4, num_ranks=2) == pytest.approx((2 + 2 + 0) / 3)


def test_expert_choice_touches_all_and_an_empty_batch_none():
    touch = uniform_touch(routed_layer(selection="expert_choice", top_k=1.5))
    assert (touch.distinct(1), touch.distinct(0)) == (8, 0)


def test_zero_compute_experts_and_depths_lower_the_mean():
    layer = routed_layer(top_k=3, num_zero_experts=4)
    assert layer.mean_choices == 2
    assert uniform_touch(layer).distinct(1) == pytest.approx(2)
    half = routed_layer(token_fraction=0.5)
    assert half.mean_choices == 1
    assert half.num_parameters == routed_layer().num_parameters


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (
            lambda: distinct_experts(num_experts=8, mean_choices=9, num_tokens=1),
            r"mean_choices \(=9\) must be from 0 to num_experts \(=8\)",
        ),
        (
            lambda: distinct_experts(num_experts=8, mean_choices=2, num_tokens=-1),
            r"num_tokens \(=-1\) must not be negative",
        ),
        (
            lambda: distinct_ranks(num_experts=8, top_k=9, num_ranks=2),
            r"top_k \(=9\) must be from 0 to num_experts \(=8\)",
        ),
        (
            lambda: distinct_ranks(num_experts=8, top_k=2, num_ranks=0),
            r"num_ranks \(=0\) must be at least 1",
        ),
        (
            lambda: measured_touch(torch.zeros(3, 1, dtype=torch.long), [(0, 3)], num_experts=2, span=4),
            r"span \(=4\) is longer than every sequence",
        ),
    ],
)
def test_nonsense_is_refused(call, message):
    with pytest.raises(InputError, match=message):
        call()


def test_one_in_a_trillion_is_not_lost():
    # 1 - (1 - k/E)^T in floating point: for T = 1 it must still be k, whatever E.
    assert math.isclose(distinct_experts(num_experts=10**6, mean_choices=1, num_tokens=1), 1.0, rel_tol=1e-9)
