import pytest
import torch

from headgate.errors import InputError
from headgate.observe.structure import chance_coactivation, chance_overlap, coactivation, token_overlaps
from headgate.observe.utilisation import (
    active_fraction,
    balancedness,
    dead_expert_fraction,
    expert_diversity,
    max_share,
    pass_ratios,
    utilisation,
)

BALANCED, COLLAPSED = torch.tensor([25, 25, 25, 25]), torch.tensor([0, 50, 0, 50])


@pytest.mark.parametrize(
    ("metric", "at_balance", "at_collapse"),
    [
        (dead_expert_fraction, 0.0, 0.5),
        (active_fraction, 1.0, 0.5),
        (expert_diversity, 1.0, 0.5),
        (max_share, 0.25, 0.5),
    ],
)
def test_the_values_at_balance_and_at_collapse(metric, at_balance, at_collapse):
    assert metric(torch.stack([BALANCED, COLLAPSED])).tolist() == pytest.approx([at_balance, at_collapse])


def test_utilisation_and_balancedness():
    assert utilisation(COLLAPSED).tolist() == [0.0, 2.0, 0.0, 2.0]
    assert balancedness(COLLAPSED, num_devices=2).item() == 1.0
    assert balancedness(torch.tensor([90, 10, 0, 0]), num_devices=2).item() == 0.5
    with pytest.raises(
        InputError, match=r"^num_devices \(=3\) must divide the number of experts \(=4\); give one that does$"
    ):
        balancedness(BALANCED, num_devices=3)


def test_the_load_of_each_pass():
    ids = torch.tensor([[0, 1], [0, 1], [0, -1], [2, 3], [-1, -1]])
    passes = torch.tensor([1, 1, 0, 0, 5])
    # Pass 0: experts 0, 2, 3 once each of 4; pass 1: experts 0 and 1 twice each; pass 5 has no rows.
    assert pass_ratios(ids, passes, num_experts=4).tolist() == pytest.approx([1 / 0.75, 2.0])


def test_coactivation_counts_pairs():
    ids = torch.tensor([[0, 2], [2, 0], [1, -1], [-1, -1]])
    assert coactivation(ids, num_experts=3).tolist() == [[2, 0, 2], [0, 1, 0], [2, 0, 2]]
    assert coactivation(ids[:0], num_experts=3).tolist() == [[0] * 3] * 3


def test_pairs_by_chance_have_the_partners_of_each_expert():
    together = torch.tensor([[9, 4, 3, 2], [4, 7, 2, 1], [3, 2, 5, 0], [2, 1, 0, 3]])
    chance = chance_coactivation(together)
    off_diagonal = together.double().fill_diagonal_(0)
    # 200 steps of a map that halves the error.
    torch.testing.assert_close(chance.sum(1), off_diagonal.sum(1))
    assert torch.equal(chance, chance.t())
    # Quasi-independent: the cross ratio of any four different experts is 1.
    assert (chance[0, 1] * chance[2, 3] / (chance[0, 2] * chance[1, 3])).item() == pytest.approx(1.0)


def test_pairs_drawn_by_frequency_are_chance():
    generator = torch.Generator().manual_seed(0)
    weights = torch.tensor([4.0, 2.0, 1.0, 1.0, 1.0, 1.0])
    pairs = torch.outer(weights, weights).fill_diagonal_(0).triu()
    drawn = torch.multinomial(pairs.flatten(), 20000, replacement=True, generator=generator)
    together = coactivation(torch.stack([drawn // 6, drawn % 6], 1), num_experts=6)
    chance = chance_coactivation(together)
    is_pair = ~torch.eye(6, dtype=torch.bool)
    # 15 pairs, each Poisson about its mean: none goes beyond 4 deviations but once in 1000 such tests.
    assert ((together - chance)[is_pair] / chance[is_pair].sqrt()).abs().max() < 4


def test_nothing_together_is_no_chance():
    assert chance_coactivation(torch.tensor([[3, 0], [0, 5]])).tolist() == [[0.0, 0.0], [0.0, 0.0]]


def test_neighbours_of_other_sequences_are_none():
    ids = torch.tensor([[0, 1], [1, 2], [1, 2], [3, 4]])
    overlaps, tokens = token_overlaps(ids, torch.tensor([0, 2, 4]))
    assert (overlaps.tolist(), tokens.tolist()) == ([0.5, 0.0], [1, 3])
    assert token_overlaps(ids, torch.tensor([0, 4]))[0].tolist() == [0.5, 1.0, 0.0]
    assert token_overlaps(ids, torch.arange(5))[0].numel() == 0


def test_the_overlap_of_independent_choices():
    generator = torch.Generator().manual_seed(0)
    weights = torch.tensor([3.0, 2.0, 1.0, 1.0, 1.0]).expand(20000, -1)
    ids = torch.multinomial(weights, 2, generator=generator)
    counts = torch.bincount(ids.flatten(), minlength=5)
    overlaps, _ = token_overlaps(ids, torch.tensor([0, len(ids)]))
    # Neighbours' overlaps are nearly independent, each with a deviation of at most 1/2.
    assert overlaps.mean().item() == pytest.approx(chance_overlap(counts, counts, len(ids)), abs=4 * 0.5 / 20000**0.5)
    assert chance_overlap(torch.zeros(2).long(), torch.zeros(2).long(), 3) == 0.0
