"""What routers draw at random in training: its distribution, its reach, and its gradient.

Frequencies of n draws are held to 5 standard errors, 5 * sqrt(p (1 - p) / n); the seed is fixed.
"""

import math

import pytest
import torch
import torch.nn.functional as F

import headgate
from headgate.scores import add_learned_noise, jitter_tokens
from headgate.selection import draw_second_expert
from headgate.sparsemixer import choose_sparsemixer

N = 20_000


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def assert_frequencies(drawn: torch.Tensor, probabilities: list[float]) -> None:
    for outcome, p in enumerate(probabilities):
        frequency = (drawn == outcome).double().mean().item()
        assert abs(frequency - p) <= 5 * math.sqrt(p * (1 - p) / len(drawn)) + 1e-12, outcome


def test_learned_noise_has_the_learned_width():
    width_logits = torch.tensor([[-3.0, 0.0, 2.0]])
    noise = add_learned_noise(torch.zeros(N, 3), width_logits.expand(N, 3))
    widths = F.softplus(width_logits[0])
    # The standard error of a standard deviation is width / sqrt(2 n).
    torch.testing.assert_close(noise.std(dim=0), widths, rtol=5 / math.sqrt(2 * N), atol=0)
    torch.testing.assert_close(noise.mean(dim=0) / widths, torch.zeros(3), atol=5 / math.sqrt(N), rtol=0)


def test_noise_is_for_training_and_its_width_learns():
    layer = headgate.MoE(8, 12, num_experts=6, top_k=2, router="noisy_top_k")
    x = torch.randn(40, 8)
    with headgate.tap(layer) as tape:
        layer(x).square().sum().backward()
        layer(x)
        layer.eval()
        layer(x)
        layer(x)
    assert layer.router.noise_weight.grad.abs().sum() > 0
    first, second, *quiet = tape[""]
    assert torch.equal(first.logits, second.logits)
    assert not torch.equal(first.scores, second.scores)
    assert torch.equal(quiet[0].scores, quiet[1].scores)


def test_jitter_stays_within_its_bounds_and_away_from_the_experts():
    x = torch.ones(N, 1)
    jittered = jitter_tokens(x, jitter=0.25)
    assert x.eq(1.0).all()
    assert jittered.min() >= 0.75
    assert jittered.max() <= 1.25
    assert jittered.mean().item() == pytest.approx(1.0, abs=5 * 0.25 / math.sqrt(3 * N))
    # With one expert the weight is 1 whatever the router sees, so the output must not notice.
    layer = headgate.MoE(8, 12, router=headgate.RouterSpec(num_experts=1, top_k=1, jitter=0.5))
    tokens = torch.randn(5, 8)
    assert torch.equal(layer(tokens), layer.eval()(tokens))


def test_a_sampled_second_expert_follows_the_scores_of_the_others():
    scores = torch.tensor([[0.5, 0.3, 0.15, 0.05]]).expand(N, 4)
    ids = torch.tensor([[0, 1]]).expand(N, 2)
    drawn = draw_second_expert(scores, ids, policy="sampled")
    assert drawn[:, 0].eq(0).all()
    assert_frequencies(drawn[:, 1], [0.0, 0.6, 0.3, 0.1])


def test_a_random_second_expert_is_kept_with_twice_its_score():
    scores = torch.tensor([[0.8, 0.2], [0.5, 0.5]]).repeat(N // 2, 1)
    ids = torch.tensor([[0, 1]]).expand(N, 2)
    kept = draw_second_expert(scores, ids, policy="random")[:, 1] == 1
    assert kept[1::2].all()
    assert kept[::2].double().mean().item() == pytest.approx(0.4, abs=5 * math.sqrt(0.24 / (N / 2)))


@pytest.mark.parametrize("policy", ["sampled", "random"])
def test_second_experts_are_drawn_in_training_alone(policy):
    layer = headgate.MoE(8, 12, router=headgate.RouterSpec(num_experts=6, top_k=2, second_expert=policy))
    x = torch.randn(50, 8)
    with headgate.tap(layer) as tape:
        layer(x).sum().backward()
        layer.eval()(x)
    drawn, best = (routing.choice for routing in tape[""])
    assert torch.equal(drawn.expert_ids[:, 0], best.expert_ids[:, 0])
    assert not torch.equal(drawn.expert_ids, best.expert_ids)
    empty = drawn.expert_ids == -1
    assert empty.any() == (policy == "random")
    assert not drawn.combine_weights[empty].any()
    torch.testing.assert_close(drawn.combine_weights.sum(dim=1), torch.ones(50))


def test_sparsemixer_draws_among_those_that_compete():
    logits = torch.tensor([[1.00, 0.99, 0.5, -1.0]]).expand(N, 4)
    ids, weights = choose_sparsemixer(logits, top_k=1, jitter=0.01, training=True)
    p = torch.softmax(logits[0, :2], dim=0)
    assert_frequencies(ids[:, 0], [p[0].item(), p[1].item(), 0.0, 0.0])
    # The best keeps its weight; another does one time in four, and has a third of it otherwise.
    torch.testing.assert_close(weights[ids == 0], p[0].expand_as(weights[ids == 0]))
    others = weights[ids == 1]
    whole = torch.isclose(others, p[1])
    torch.testing.assert_close(others[~whole], (p[1] / 3).expand_as(others[~whole]))
    assert whole.double().mean().item() == pytest.approx(0.25, abs=5 * math.sqrt(0.1875 / len(others)))


def test_sparsemixer_never_picks_twice_and_its_gradient_ignores_the_scaling():
    logits = torch.randn(N, 5, dtype=torch.float64, requires_grad=True)
    ids, weights = choose_sparsemixer(logits, top_k=2, jitter=0.5, training=True)
    assert (ids[:, 0] != ids[:, 1]).all()
    got = torch.autograd.grad(weights[:, 0].sum(), logits)[0]
    best = logits.detach().max(dim=1, keepdim=True).values
    distance = (best - logits.detach()) / logits.detach().abs().clamp(min=best)
    gates = logits.masked_fill(distance > 1.0, float("-inf")).softmax(dim=1)
    want = torch.autograd.grad(gates.gather(1, ids[:, :1]).sum(), logits)[0]
    torch.testing.assert_close(got, want)
