"""The comparison of choices fails when it should."""

import pytest
import torch

from integrations.choices import compare_choices

RANKED = torch.tensor([[0.1, 0.4, 0.3, 0.3], [0.4, 0.1, 0.2, 0.3]])


def choose(*ids):
    return torch.zeros(2, 4, dtype=torch.bool).scatter(1, torch.tensor(ids), True)


def test_equal_choices_agree_and_ties_are_counted():
    agreement = compare_choices(choose([1, 2], [0, 3]), choose([1, 2], [0, 3]), RANKED)
    assert agreement.is_same.tolist() == [True, True]
    assert agreement.is_tied.tolist() == [True, False]


def test_a_tie_may_be_settled_otherwise():
    agreement = compare_choices(choose([1, 2], [0, 3]), choose([1, 3], [0, 3]), RANKED)
    assert agreement.is_same.tolist() == [False, True]


@pytest.mark.parametrize(
    ("ours", "theirs", "ranked", "message"),
    [
        (choose([1, 2], [0, 3]), choose([1, 3], [0, 3]), None, "other experts for tokens \\[0\\]"),
        (choose([1, 3], [0, 3]), choose([1, 2], [0, 3]), RANKED, "lowest ids"),
        (choose([1, 2], [0, 2]), choose([1, 2], [0, 3]), RANKED, "token 1 chose values"),
        (choose([2, 3], [0, 3]), choose([1, 2], [0, 3]), RANKED, "token 0 chose values"),
        (choose([1], [0]), choose([1, 2], [0, 3]), RANKED, "other numbers of experts"),
    ],
)
def test_anything_else_is_refused(ours, theirs, ranked, message):
    with pytest.raises(AssertionError, match=message):
        compare_choices(ours, theirs, ranked)
