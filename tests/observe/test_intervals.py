import numpy as np
import pytest
import torch
from scipy import stats

from headgate.observe.intervals import SequenceSums, jackknife_interval


def sums_of(parts, wholes):
    sums = SequenceSums(tuple(parts.shape[1:]))
    sums.add(torch.arange(len(parts)), parts, wholes)
    return sums


def test_the_formula_by_hand():
    parts, wholes = torch.tensor([8.0, 3.0, 6.0, 7.0]), torch.tensor([10.0, 8.0, 9.0, 13.0])
    ratio = 24 / 40
    variance = 4 / 3 * sum((x - ratio * n) ** 2 for x, n in zip(parts, wholes, strict=True)).item() / 40**2
    size = ratio * (1 - ratio) / variance
    size = min(size, 40) * (stats.t.ppf(0.975, 39) / stats.t.ppf(0.975, 3)) ** 2
    hits = ratio * size
    wanted = stats.beta.ppf(0.025, hits, size - hits + 1), stats.beta.ppf(0.975, hits + 1, size - hits)
    sums = sums_of(parts, wholes)
    assert sums.ratios().item() == ratio
    assert sums.interval() == pytest.approx(wanted)


@pytest.mark.parametrize("sequences", [60, 8])
def test_it_covers_the_truth(sequences):
    rng = np.random.default_rng(0)
    hits = 0
    for _ in range(100):
        # Sequences with fractions of their own, around 0.7.
        parts = rng.binomial(100, rng.normal(0.7, 0.1, sequences).clip(0, 1)).astype(float)
        low, high = sums_of(torch.from_numpy(parts), torch.full((sequences,), 100.0)).interval()
        hits += low <= 0.7 <= high
        # Far wider than if its tokens were independent.
        assert high - low > 3 * (0.21 / (100 * sequences)) ** 0.5
    # A binomial of 100 with p = 0.95 is below 87 once in 1000.
    assert hits >= 87


def test_pieces_of_sequences_add_up():
    generator = torch.Generator().manual_seed(0)
    sequence = torch.randint(0, 9, (60,), generator=generator).sort().values
    hits, ones = torch.rand(2, 60, generator=generator), torch.ones(60)
    whole, parts = SequenceSums((2,)), SequenceSums((2,))
    whole.add_tokens(sequence, hits, ones)
    for begin in range(0, 60, 7):
        parts.add_tokens(sequence[begin : begin + 7], hits[:, begin : begin + 7], ones[begin : begin + 7])
    parts.add_tokens(sequence[:0], hits[:, :0], ones[:0])
    torch.testing.assert_close(parts.finish(), whole.finish())
    np.testing.assert_allclose(parts.intervals(), whole.intervals())


def test_what_no_sequence_shows_takes_the_spread_of_its_neighbours():
    shown = torch.tensor([[9.0, 1.0, 0.0], [1.0, 9.0, 0.0], [8.0, 2.0, 0.0], [3.0, 7.0, 0.0]])
    low, high = sums_of(shown, torch.full((4, 1), 10.0)).intervals()
    alone = sums_of(shown[:, 2:], torch.full((4, 1), 10.0)).intervals()
    assert low[2] == alone[0, 0] == 0
    # Alone, each sequence counts once: Clopper and Pearson's bound for 0 of 4.
    assert alone[1, 0] == pytest.approx(1 - 0.025**0.25)
    assert 0 < high[2] != alone[1, 0]


def test_what_all_sequences_show_alike():
    low, high = sums_of(torch.full((5,), 7.0), torch.full((5,), 7.0)).interval()
    assert (low, high) == (pytest.approx(0.025**0.2), 1.0)


def test_one_sequence_has_no_interval():
    assert sums_of(torch.ones(1), torch.full((1,), 3.0)).interval() is None
    assert SequenceSums(()).interval() is None
    # A sequence without anything is none.
    assert sums_of(torch.tensor([1.0, 0.0]), torch.tensor([3.0, 0.0])).interval() is None


def test_the_jackknife_of_a_mean_is_that_of_students_t():
    values = np.random.default_rng(0).normal(size=12)
    without = [float(np.delete(values, place).mean()) for place in range(12)]
    wanted = stats.t.interval(0.95, 11, loc=values.mean(), scale=stats.sem(values))
    assert jackknife_interval(values.mean(), without) == pytest.approx(wanted)
    assert jackknife_interval(1.0, [1.0]) is None


def test_without_scipy_there_are_none(monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "scipy", None)
    assert sums_of(torch.ones(3), torch.full((3,), 3.0)).interval() is None
    assert jackknife_interval(1.0, [1.0, 2.0]) is None
