import math

import pytest
import torch

from headgate.errors import InputError
from headgate.observe.specialisation import (
    favoured_kinds,
    kind_table,
    kinds_of_tokens,
    least_deviation,
    mutual_information,
    poisson_deviations,
    specialisation,
)


def drawn(num_tokens, num_kinds, seed=0):
    return torch.randint(0, num_kinds, (num_tokens,), generator=torch.Generator().manual_seed(seed))


def test_specialisation_is_found_and_chance_is_not():
    tokens = drawn(2000, 20)
    by_token = specialisation((tokens % 4)[:, None], tokens, num_experts=4)
    assert by_token.information == pytest.approx(math.log(4), rel=0.01)
    assert by_token.p_value == 1 / 21
    chance = specialisation(drawn(2000, 4, seed=1)[:, None], tokens, num_experts=4)
    # The estimate's bias is about (20 - 1) * (4 - 1) / (2 * 2000) nats (Miller 1955); shuffling has the same.
    assert chance.information == pytest.approx(19 * 3 / 4000, rel=0.5)
    assert abs(chance.excess) < 0.5 * chance.information
    assert chance.p_value > 0.05


def test_the_interval_of_the_excess_covers_the_truth():
    hits = 0
    for seed in range(20):
        tokens = drawn(3000, 20, seed)
        # Half of the choices follow the token, so p(e | t) is 1/2 + 1/8 for one expert and 1/8 for the others.
        follows = drawn(3000, 2, seed + 100) == 0
        ids = torch.where(follows, tokens % 4, drawn(3000, 4, seed + 200))[:, None]
        sequence = torch.arange(3000) // 50
        found = specialisation(ids, tokens, num_experts=4, sequence=sequence, num_permutations=5)
        low, high = found.excess_interval
        truth = math.log(4) + 0.625 * math.log(0.625) + 3 * 0.125 * math.log(0.125)
        hits += low <= truth <= high
        assert high - low < truth
    # A binomial of 20 with p = 0.95 is below 16 once in 400.
    assert hits >= 16


def test_no_interval_without_sequences_or_with_one():
    ids = torch.tensor([[0], [1]]).repeat(50, 1)
    for sequence in (None, torch.zeros(100, dtype=torch.int64)):
        assert specialisation(ids, ids[:, 0], num_experts=2, sequence=sequence).excess_interval is None


def test_nothing_chosen_is_nothing_to_explain():
    with pytest.raises(InputError, match=r"^topk_ids holds no choice, so there is nothing that tokens could say"):
        specialisation(torch.tensor([[-1]]), torch.tensor([3]), num_experts=2)


def test_information_of_tables():
    assert mutual_information(torch.tensor([[5, 0], [0, 5]])) == pytest.approx(math.log(2))
    table = torch.tensor([[3, 1], [2, 4]])
    p = table / 10
    wanted = (p * (p / (p.sum(0) * p.sum(1)[:, None])).log()).sum().item()
    assert mutual_information(table) == pytest.approx(wanted)


def test_rare_tokens_are_one_kind_where_there_is_no_room(monkeypatch):
    monkeypatch.setattr("headgate.observe.specialisation.MAX_CELLS", 6)
    kinds, ids = kinds_of_tokens(torch.tensor([7, 7, 3, 9, 9, 9, 5]), num_experts=2)
    assert (kinds.tolist(), ids.tolist()) == ([0, 0, 2, 1, 1, 1, 2], [7, 9, -1])
    monkeypatch.setattr("headgate.observe.specialisation.MAX_CELLS", 8)
    assert kinds_of_tokens(torch.tensor([7, 7, 3, 9, 9, 9, 5]), num_experts=2)[1].tolist() == [3, 5, 7, 9]


def test_a_table_counts_rows():
    table = kind_table(torch.tensor([[0, 2], [2, -1], [1, 2]]), torch.tensor([1, 1, 0]), num_experts=3)
    assert table.tolist() == [[0, 1, 1], [1, 0, 2]]


def test_deviations_are_standard_normal_by_chance():
    mean = torch.tensor(40.0)
    counts = torch.poisson(mean.expand(20000), generator=torch.Generator().manual_seed(0)).long()
    found = poisson_deviations(counts, mean.expand(20000))
    # Their mean is -1 / (6 sqrt(40)) = -0.026 (the skewness of a Poisson count), their own deviation 1 / sqrt(20000).
    assert abs(found.mean().item()) < 0.026 + 4 / 20000**0.5
    assert found.std().item() == pytest.approx(1.0, abs=0.03)
    assert poisson_deviations(torch.tensor([0, 3]), torch.tensor([0.0, 3.0])).tolist() == [0.0, 0.0]


def test_only_what_chance_does_not_give_is_favoured():
    tokens = drawn(4000, 30)
    ids = drawn(4000, 6, seed=1)[:, None]
    kinds, counts = tokens, torch.bincount(tokens)
    by_chance = favoured_kinds(kind_table(ids, kinds, num_experts=6), counts, most=5)
    assert by_chance == [[]] * 6
    ids[tokens == 7] = 4
    found = favoured_kinds(kind_table(ids, kinds, num_experts=6), counts, most=5)
    ((kind, rows, lift, deviations),) = found[4]
    assert (kind, rows) == (7, int(counts[7]))
    assert lift == pytest.approx(4000 / int((ids == 4).sum()))
    assert deviations > least_deviation(180) > 3
