import dataclasses

import pytest
import torch

from headgate.errors import InputError
from headgate.observe.health import health


def test_a_balanced_layer_is_healthy():
    found = health(torch.tensor([100, 100, 100, 100]), top_k=1)
    assert found.verdict == "healthy"
    assert (found.load_ratio, found.load_variation, found.normalised_entropy) == (1.0, 0.0, pytest.approx(1.0))
    assert (found.effective_experts, found.spread) == (pytest.approx(4.0), pytest.approx(1.0))
    assert found.sentence == "all 4 experts share the work; the busiest does 1.00 times an even share"


def test_a_collapsed_layer_is_collapsed():
    found = health(torch.tensor([0, 400, 0, 400, 0, 0, 0, 0]), top_k=2)
    assert found.verdict == "collapsed"
    assert (found.load_ratio, found.spread) == (4.0, pytest.approx(0.0, abs=1e-9))
    assert found.sentence == (
        "the work of 8 experts lies on about 2.0 of them; the busiest does 4.00 times an even share; "
        "6 experts dead (0, 2, 4, 5, 6, 7)"
    )


def test_a_busy_expert_is_imbalance():
    # 9 of 28 rows is 9 * 7 / 28 = 2.25 times an even share of 7.
    found = health(torch.tensor([900, 300, 300, 300, 300, 300, 400]), top_k=1)
    assert (found.verdict, found.load_ratio) == ("imbalanced", 2.25)
    assert found.sentence == "the work is shared unevenly; the busiest does 2.25 times an even share"


def test_twice_an_even_share_is_still_healthy():
    assert health(torch.tensor([200, 50, 50, 100]), top_k=1).verdict == "healthy"


def test_one_dead_expert_is_imbalance_once_the_sample_shows_it():
    assert health(torch.tensor([100, 100, 100, 0]), top_k=1).verdict == "imbalanced"
    found = health(torch.tensor([2, 2, 2, 0]), top_k=1)
    assert found.verdict == "healthy"
    assert found.sentence == (
        "the work is shared evenly among the experts seen so far; the busiest does 1.33 times an even share; "
        "1 expert got nothing, but 6 rows are too few to call one dead (182 would do)"
    )


def test_drops_are_imbalance():
    reasons = torch.tensor([[0, 0]] * 49 + [[0, 2]], dtype=torch.uint8)
    exactly = health(torch.tensor([50, 49]), top_k=2, drop_reason=reasons)
    assert (exactly.verdict, exactly.capacity_drop_fraction) == ("healthy", pytest.approx(0.01))
    reasons[0, 1] = 2
    found = health(torch.tensor([50, 48]), top_k=2, drop_reason=reasons)
    assert (found.verdict, found.capacity_drop_fraction) == ("imbalanced", pytest.approx(0.02))
    assert "2.0% of the choices were dropped because the expert was full" in found.sentence


def test_slots_that_chose_nothing_are_no_choices():
    reasons = torch.tensor([[0, 1], [0, 1], [0, 3], [2, 1]], dtype=torch.uint8)
    assert health(torch.tensor([3, 0]), top_k=1, drop_reason=reasons).capacity_drop_fraction == pytest.approx(0.25)
    nothing_chosen = torch.ones(2, 2, dtype=torch.uint8)
    assert health(torch.tensor([3, 3]), top_k=1, drop_reason=nothing_chosen).capacity_drop_fraction == 0.0


def test_where_every_token_gets_every_expert_nothing_can_collapse():
    found = health(torch.tensor([7]), top_k=1)
    assert (found.verdict, found.spread, found.normalised_entropy) == ("healthy", 1.0, 1.0)


def test_a_long_list_of_dead_experts_is_cut():
    counts = torch.zeros(64, dtype=torch.int64)
    counts[20:] = 1000
    assert "20 experts dead (0, 1, 2, 3, 4, 5, 6, 7, ...)" in health(counts, top_k=1).sentence


def test_nothing_routed_is_nothing_to_judge():
    with pytest.raises(
        InputError, match=r"^expert_counts sums to 0: no row reached an expert; route some tokens first$"
    ):
        health(torch.zeros(4, dtype=torch.int64), top_k=1)


def test_the_verdict_is_frozen():
    found = health(torch.tensor([1, 1]), top_k=1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.verdict = "collapsed"  # type: ignore[misc]
