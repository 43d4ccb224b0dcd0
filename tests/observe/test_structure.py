import math

import numpy as np
import pytest
import torch
from scipy import stats

from headgate.errors import BackendError, InputError
from headgate.observe.intervals import proportion_interval, ratio_interval
from headgate.observe.structure import coactivation, layer_persistence, specialisation, token_persistence
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
    with pytest.raises(InputError, match=r"^num_devices \(=3\) must divide the number of experts \(=4\)$"):
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


def test_neighbours_of_other_sequences_are_none():
    ids = torch.tensor([[0, 1], [1, 2], [1, 2], [3, 4]])
    assert token_persistence(ids, torch.tensor([0, 2, 4])).item() == 0.25
    assert token_persistence(ids, torch.tensor([0, 4])).item() == 0.5
    assert token_persistence(ids, torch.tensor([0, 1, 2, 3, 4])).isnan()


def test_layers_next_to_each_other():
    ids = torch.tensor([[[0, 1], [2, 3]], [[0, 5], [2, 3]], [[7, 8], [7, 8]]])
    assert layer_persistence(ids).tolist() == [0.75, 0.0]


def test_specialisation_is_found_and_chance_is_not():
    generator = torch.Generator().manual_seed(0)
    tokens = torch.randint(0, 20, (2000,), generator=generator)
    by_token = specialisation((tokens % 4)[:, None], tokens, num_experts=4)
    assert by_token.information == pytest.approx(math.log(4), rel=0.01)
    assert by_token.p_value == 1 / 21
    chance = specialisation(torch.randint(0, 4, (2000, 1), generator=generator), tokens, num_experts=4)
    # The estimate's bias is about (20 - 1) * (4 - 1) / (2 * 2000) nats (Miller 1955); shuffling has the same.
    assert chance.information == pytest.approx(19 * 3 / 4000, rel=0.5)
    assert abs(chance.excess) < 0.5 * chance.information
    assert chance.p_value > 0.05


def test_nothing_chosen_is_nothing_to_explain():
    with pytest.raises(InputError, match=r"^topk_ids holds no choice, so there is nothing that tokens could say"):
        specialisation(torch.tensor([[-1]]), torch.tensor([3]), num_experts=2)


def test_the_interval_of_a_fraction():
    # Wilson's formula by hand.
    n, p, z = 50, 0.2, stats.norm.ppf(0.975)
    middle = (p + z * z / (2 * n)) / (1 + z * z / n)
    half = z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n)) / (1 + z * z / n)
    assert proportion_interval(10, 50) == pytest.approx((middle - half, middle + half))
    with pytest.raises(InputError, match=r"^total \(=0\) must be at least 1"):
        proportion_interval(0, 0)


def test_the_interval_of_a_ratio_covers_the_truth():
    rng = np.random.default_rng(0)
    hits = 0
    for seed in range(40):
        # Sequences with fractions of their own, around 0.7.
        wholes = np.full(60, 100.0)
        parts = rng.binomial(100, rng.normal(0.7, 0.1, 60).clip(0, 1)).astype(float)
        low, high = ratio_interval(parts, wholes, seed=seed)
        hits += low <= 0.7 <= high
        # Far wider than if its 6000 tokens were independent.
        assert high - low > 3 * math.sqrt(0.21 / 6000)
    # A binomial of 40 with p = 0.95 is below 33 once in 2000.
    assert hits >= 33


def test_one_sequence_has_no_interval():
    with pytest.raises(InputError, match=r"^sequences \(=1\) must be at least 2; one alone does not show"):
        ratio_interval(np.ones(1), np.ones(1))


def test_without_scipy_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "scipy", None)
    with pytest.raises(BackendError, match=r"^scipy is not installed; pip install 'headgate\[observe\]'$"):
        proportion_interval(1, 2)
