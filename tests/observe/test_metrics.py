import math

import pytest
import torch

from headgate.errors import InputError
from headgate.flow import DropReason, ExpertChoice, TokenChoice
from headgate.observe.metrics import (
    choice_disagreement,
    dead_experts,
    drop_fraction,
    load_entropy,
    load_ratio,
    load_ratio_chance,
    load_variation,
    normalised_entropy,
    router_entropy,
    select_margin,
)

BALANCED = torch.tensor([25, 25, 25, 25])
COLLAPSED = torch.tensor([0, 50, 0, 50])  # onto K = 2 of E = 4 experts


@pytest.mark.parametrize(
    ("metric", "at_balance", "at_collapse"),
    [
        (load_ratio, 1.0, 4 / 2),
        (load_variation, 0.0, math.sqrt(4 / 2 - 1)),
        (load_entropy, math.log(4), math.log(2)),
        (normalised_entropy, 1.0, math.log(2) / math.log(4)),
    ],
)
def test_the_values_at_balance_and_at_collapse(metric, at_balance, at_collapse):
    assert metric(BALANCED).item() == pytest.approx(at_balance, abs=1e-12)
    assert metric(COLLAPSED).item() == pytest.approx(at_collapse, abs=1e-12)
    both = metric(torch.stack([BALANCED, COLLAPSED]))
    assert both.tolist() == pytest.approx([at_balance, at_collapse], abs=1e-12)


@pytest.mark.parametrize(
    ("metric", "expected"),
    [
        # counts 1, 2, 3, 6: mean 3; squared deviations 4 + 1 + 0 + 9 = 14, variance 3.5
        (load_ratio, 2.0),
        (load_variation, math.sqrt(3.5) / 3),
        # shares 1/12, 1/6, 1/4, 1/2
        (load_entropy, (math.log(12) / 12) + (math.log(6) / 6) + (math.log(4) / 4) + (math.log(2) / 2)),
    ],
)
def test_a_case_worked_by_hand(metric, expected):
    assert metric(torch.tensor([1, 2, 3, 6])).item() == pytest.approx(expected, rel=1e-12)


def test_an_even_router_shows_a_busiest_expert_no_more_often_than_the_bound_says():
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(6, (4000, 24), generator=generator)
    counts = torch.stack([row.bincount(minlength=6) for row in ids])
    ratios = load_ratio(counts)
    for row in counts[:40]:
        # A fraction of 4000 is known to 0.025, three standard deviations.
        assert (ratios >= load_ratio(row)).double().mean() <= load_ratio_chance(row) + 0.025
    assert load_ratio_chance(torch.tensor([10, 10, 10])) == load_ratio_chance(torch.zeros(3, dtype=torch.int64)) == 1
    assert load_ratio_chance(torch.tensor([0, 0, 30])) == pytest.approx(3 * math.exp(-10 * (3 * math.log(3) - 2)))


@pytest.mark.parametrize("metric", [load_ratio, load_variation, load_entropy, normalised_entropy])
def test_no_rows_have_no_load(metric):
    assert math.isnan(metric(torch.zeros(3, dtype=torch.int64)).item())


@pytest.mark.parametrize("metric", [load_ratio, load_variation, load_entropy, normalised_entropy])
def test_renaming_experts_changes_nothing(metric):
    counts = torch.tensor([7, 0, 3, 11, 5])
    assert metric(counts[[3, 1, 4, 0, 2]]).item() == pytest.approx(metric(counts).item(), rel=1e-12)


def test_a_single_expert_has_no_entropy_to_normalise():
    with pytest.raises(InputError, match=r"^E \(=1\) must be at least 2: a single expert's load has no entropy"):
        normalised_entropy(torch.tensor([5]))


def test_dead_experts_and_the_sample_they_need():
    # An expert with a tenth of an even share of 8 gets 1/80 of the rows: (1 - 1/80)^n < 1 % from n = 367 on.
    assert (79 / 80) ** 367 < 0.01 < (79 / 80) ** 366
    few = dead_experts(torch.tensor([60, 0, 50, 40, 30, 50, 60, 76]))
    assert (few.expert_ids, few.count, few.num_rows, few.num_rows_needed) == ((1,), 1, 366, 367)
    assert not few.is_sample_sufficient
    assert dead_experts(torch.tensor([60, 0, 50, 40, 30, 50, 60, 77])).is_sample_sufficient


def test_an_even_share_needs_a_smaller_sample():
    # (1 - 1/2)^7 = 1/128 < 1 % < 1/64
    assert dead_experts(torch.tensor([7, 0]), least_share=1.0).num_rows_needed == 7
    assert dead_experts(torch.tensor([1]), least_share=1.0).num_rows_needed == 1


def test_nobody_is_dead_at_balance_and_all_but_k_at_collapse():
    assert dead_experts(BALANCED).count == 0
    assert dead_experts(COLLAPSED).expert_ids == (0, 2)


@pytest.mark.parametrize("share", [0.0, -0.1, 1.5])
def test_a_share_must_be_one(share):
    with pytest.raises(InputError, match=rf"^least_share \(={share}\) must be in \(0, 1\]; it is a part of an even"):
        dead_experts(BALANCED, least_share=share)


def test_drops_by_reason():
    reasons = torch.tensor([[0, 2], [1, 0], [3, 3], [0, 2], [2, 0]], dtype=torch.uint8)
    assert drop_fraction(reasons) == {
        DropReason.NO_EXPERT: 0.1,
        DropReason.CAPACITY: pytest.approx(0.3),
        DropReason.PADDING: 0.2,
    }


def test_no_slots_drop_nothing():
    assert set(drop_fraction(torch.zeros(0, 2, dtype=torch.uint8)).values()) == {0.0}


def test_the_margin_is_the_kth_score_minus_the_next():
    scores = torch.tensor([[0.5, 0.125, 0.25, 0.0625], [1.0, 4.0, 2.0, 3.0]])
    assert select_margin(scores, torch.tensor([[0, 2], [1, 3]])).tolist() == [0.125, 1.0]


def test_the_margin_is_negative_where_something_else_decided():
    assert select_margin(torch.tensor([[3.0, 1.0, 2.0]]), torch.tensor([[1]])).tolist() == [-2.0]


def test_the_margin_is_infinite_without_an_alternative():
    scores = torch.tensor([[3.0, 1.0]])
    assert select_margin(scores, torch.tensor([[0, 1]])).tolist() == [math.inf]
    assert select_margin(scores, torch.tensor([[-1, -1]])).tolist() == [math.inf]
    assert select_margin(torch.zeros(0, 2), torch.zeros(0, 1, dtype=torch.int64)).shape == (0,)


def test_an_empty_slot_does_not_count_for_the_margin():
    assert select_margin(torch.tensor([[3.0, 1.0, 2.5]]), torch.tensor([[0, -1]])).tolist() == [0.5]


def test_the_routers_entropy():
    scores = torch.tensor([[1.0, 1.0, 1.0, 1.0], [0.0, 3.0, 0.0, 0.0], [0.5, 0.25, 0.25, 0.0]])
    expected = [math.log(4), 0.0, 0.5 * math.log(2) + 0.5 * math.log(4)]
    assert router_entropy(scores).tolist() == pytest.approx(expected, rel=1e-6)


def token_choice(*ids):
    expert_ids = torch.tensor(ids)
    return TokenChoice(expert_ids=expert_ids, combine_weights=torch.ones(expert_ids.shape))


def test_equal_choices_do_not_disagree_whatever_their_order():
    assert choice_disagreement(token_choice([0, 1], [2, 3]), token_choice([1, 0], [3, 2])) == 0.0


def test_choices_without_a_common_pair_disagree_completely():
    assert choice_disagreement(token_choice([0], [1]), token_choice([1], [0])) == 1.0


def test_a_disagreement_worked_by_hand():
    # {(0,0), (0,1), (1,2)} and {(0,0), (1,3)}: one common pair, three others, five chosen.
    first, second = token_choice([0, 1], [2, -1]), token_choice([0], [3])
    assert choice_disagreement(first, second) == choice_disagreement(second, first) == 3 / 5


def test_the_two_kinds_of_choice_can_be_compared():
    # Expert 0 takes tokens 0 and 2, expert 1 takes token 1; the tokens wanted 0, 1 and 1.
    by_expert = ExpertChoice(token_ids=torch.tensor([[0, 2], [1, -1]]), combine_weights=torch.ones(2, 2))
    assert choice_disagreement(token_choice([0], [1], [1]), by_expert) == 2 / 6


def test_two_empty_choices_agree():
    assert choice_disagreement(token_choice([-1], [-1]), token_choice([-1], [-1])) == 0.0
