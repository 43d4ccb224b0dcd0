"""Balance losses: hand-worked values, their stated extremes, padding, and the autograd identities."""

import math

import pytest
import torch

from headgate import balance
from headgate.errors import SpecError

E, K = 8, 2


def even_case(num_tokens: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """Even scores, and choices that use every expert equally often."""
    ids = (torch.arange(num_tokens * K).reshape(num_tokens, K)) % E
    return torch.full((num_tokens, E), 1 / E, dtype=torch.float64), ids


def collapsed_case(num_tokens: int = 16) -> tuple[torch.Tensor, torch.Tensor]:
    """All tokens choose experts 0 and 1, with scores 1/K each."""
    scores = torch.zeros(num_tokens, E, dtype=torch.float64)
    scores[:, :K] = 1 / K
    return scores, torch.arange(K).expand(num_tokens, K).clone()


def counts_of(ids: torch.Tensor) -> torch.Tensor:
    return balance.count_choices(ids, num_experts=E)


@pytest.mark.parametrize(("case", "switch", "importance"), [(even_case, 1.0, 0.0), (collapsed_case, E / K, E / K - 1)])
def test_losses_at_balance_and_at_collapse(case, switch, importance):
    scores, ids = case()
    assert balance.switch_loss(scores, counts_of(ids)).item() == pytest.approx(switch)
    assert balance.sequence_loss(scores, ids, sequence_length=8).item() == pytest.approx(switch)
    assert balance.importance_loss(scores).item() == pytest.approx(importance)


def test_z_loss_is_log_e_squared_for_zero_logits_and_grows_with_them():
    assert balance.z_loss(torch.zeros(5, E)).item() == pytest.approx(math.log(E) ** 2)
    assert balance.z_loss(torch.full((5, E), 10.0)).item() == pytest.approx((10 + math.log(E)) ** 2)


def test_switch_loss_counts_every_choice_not_only_the_first():
    scores, _ = even_case(2)
    # First choices are even over experts 0 and 1, second choices all go to expert 2.
    ids = torch.tensor([[0, 2], [1, 2]])
    scores = scores.clone()
    scores[:, 2] += 0.5
    scores /= scores.sum(1, keepdim=True)
    by_hand = E * (0.25 * scores[:, 0].mean() + 0.25 * scores[:, 1].mean() + 0.5 * scores[:, 2].mean())
    assert balance.switch_loss(scores, counts_of(ids)).item() == pytest.approx(by_hand.item())


def test_scores_that_do_not_sum_to_one_are_shared_out():
    scores, ids = even_case()
    assert balance.switch_loss(scores * 3.7, counts_of(ids)).item() == pytest.approx(1.0)


def test_sequence_loss_is_the_mean_of_each_sequences_own_loss():
    torch.manual_seed(0)
    scores = torch.rand(12, E, dtype=torch.float64).softmax(1)
    ids = torch.stack([torch.randperm(E)[:K] for _ in range(12)])
    each = [balance.switch_loss(scores[s : s + 4], counts_of(ids[s : s + 4])) for s in (0, 4, 8)]
    together = balance.sequence_loss(scores, ids, sequence_length=4)
    assert together.item() == pytest.approx(torch.stack(each).mean().item())


def test_opposite_imbalances_of_two_sequences_do_not_cancel():
    scores, ids = collapsed_case(8)
    scores, ids = torch.cat([scores, scores.flip(1)]), torch.cat([ids, E - 1 - ids])
    assert balance.sequence_loss(scores, ids, sequence_length=8).item() == pytest.approx(E / K)
    assert balance.switch_loss(scores, counts_of(ids)).item() == pytest.approx(E / (2 * K))


def loss_values(scores, logits, ids, is_padding, sequence_length):
    counts = balance.count_choices(ids, num_experts=E, is_padding=is_padding)
    threshold = torch.full((E,), 0.1, dtype=torch.float64)
    return {
        "switch": balance.switch_loss(scores, counts, is_padding=is_padding),
        "sequence": balance.sequence_loss(scores, ids, sequence_length=sequence_length, is_padding=is_padding),
        "z": balance.z_loss(logits, is_padding=is_padding),
        "importance": balance.importance_loss(scores, is_padding=is_padding),
        "quantile": balance.quantile_loss(scores, threshold, fraction=0.25, is_padding=is_padding),
    }


def test_padding_leaves_every_loss_and_gradient_as_without_it():
    torch.manual_seed(1)
    plain = torch.randn(6, E, dtype=torch.float64, requires_grad=True)
    ids = torch.stack([torch.randperm(E)[:K] for _ in range(6)])
    # Two sequences of 3 tokens; the padded batch has 2 tokens of padding behind each, full of garbage.
    padded = torch.full((10, E), 50.0, dtype=torch.float64)
    real = torch.tensor([0, 1, 2, 5, 6, 7])
    padded[real] = plain.detach()
    padded.requires_grad_()
    padded_ids = torch.zeros(10, K, dtype=torch.int64)
    padded_ids[:, 1] = 1
    padded_ids[real] = ids
    is_padding = torch.ones(10, dtype=torch.bool)
    is_padding[real] = False
    expected = loss_values(plain.softmax(1), plain, ids, None, 3)
    actual = loss_values(padded.softmax(1), padded, padded_ids, is_padding, 5)
    for name, value in expected.items():
        assert actual[name].item() == pytest.approx(value.item()), name
        if not value.requires_grad:
            assert name == "quantile"
            continue
        want = torch.autograd.grad(value, plain, retain_graph=True)[0]
        got = torch.autograd.grad(actual[name], padded, retain_graph=True)[0]
        torch.testing.assert_close(got[real], want)
        assert not got[is_padding].any(), name


def test_an_empty_batch_has_zero_losses_and_gradients():
    logits = torch.zeros(0, E, dtype=torch.float64, requires_grad=True)
    values = loss_values(logits.softmax(1), logits, torch.zeros(0, K, dtype=torch.int64), None, 1)
    total = sum(values.values())
    assert total.item() == 0.0
    assert torch.autograd.grad(total, logits)[0].shape == (0, E)


def test_count_choices_skips_empty_slots_and_padding():
    ids = torch.tensor([[0, 1], [1, -1], [2, 1]])
    counts = balance.count_choices(ids, num_experts=4, is_padding=torch.tensor([False, False, True]))
    assert counts.tolist() == [1, 2, 0, 0]


def test_the_bias_steps_against_the_load():
    bias = balance.step_selection_bias(torch.zeros(3), torch.tensor([9, 3, 6]), rate=0.01)
    assert bias.tolist() == pytest.approx([-0.01, 0.01, 0.0])


def test_quantile_loss_is_least_at_the_quantile_and_never_moves_the_router():
    torch.manual_seed(0)
    scores = torch.rand(1001, 1, dtype=torch.float64, requires_grad=True)
    candidates = torch.linspace(0, 1, 201, dtype=torch.float64)
    losses = [balance.quantile_loss(scores, t[None], fraction=0.3).item() for t in candidates]
    best = candidates[torch.tensor(losses).argmin()]
    assert (scores >= best).double().mean().item() == pytest.approx(0.3, abs=0.01)
    loss = balance.quantile_loss(scores, torch.zeros(1, dtype=torch.float64, requires_grad=True), fraction=0.3)
    assert torch.autograd.grad(loss, scores, allow_unused=True) == (None,)


def test_add_loss_gradient_is_the_gradient_of_adding_the_loss():
    torch.manual_seed(0)
    a = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    (balance.add_loss_gradient(a * 2, a.square().sum()).sin().sum()).backward()
    expected = torch.autograd.grad((a * 2).sin().sum() + a.square().sum(), a)[0]
    torch.testing.assert_close(a.grad, expected)


def test_counts_arrive_with_the_gradient_and_only_then():
    tally = torch.zeros(3, dtype=torch.int64)
    x = torch.ones(2, requires_grad=True)
    y = balance.count_in_backward(x * 1, torch.tensor([1, 0, 2]), tally)
    assert tally.tolist() == [0, 0, 0]
    y.sum().backward()
    assert tally.tolist() == [1, 0, 2]


@pytest.mark.parametrize("name", ["switch", "z", "importance", "sequence", "global_batch", "bias"])
def test_named_balances_turn_one_means_on(name):
    strengths = balance.Balance.named(name)
    active = [field for field in balance.Balance.__dataclass_fields__ if getattr(strengths, field) > 0]
    assert active == ["bias_rate" if name == "bias" else name]


def test_errors_say_what_to_do():
    with pytest.raises(SpecError, match=r"balance \(='swich'\) is not known; use one of switch, z"):
        balance.Balance.named("swich")
    with pytest.raises(SpecError, match=r"balance z \(=-1\.0\) must be at least 0"):
        balance.Balance(z=-1.0)
