"""Mixture-of-Depths: who passes through the block, in which order, with which weight, and causally in inference."""

import pytest
import torch
from torch import nn

import headgate
from headgate.errors import InputError, SpecError

D = 8


class Recorder(nn.Module):
    """A block that keeps what it was given, and doubles it."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[torch.Tensor] = []

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        self.seen.append(x)
        return 2 * x


class CausalAttention(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return nn.functional.scaled_dot_product_attention(x, x, x, is_causal=True)


def make_layer(block: nn.Module, **options) -> headgate.MixtureOfDepths:
    torch.manual_seed(0)
    return headgate.MixtureOfDepths(block, D, **options)


@pytest.mark.parametrize("score", ["linear", "sigmoid"])
def test_the_best_tokens_of_each_sequence_pass_and_the_others_skip(score):
    layer = make_layer(Recorder(), capacity_factor=0.5, score=score)
    x = torch.randn(3, 6, D)
    y = layer(x)
    logits = (x @ layer.router.weight.T).squeeze(-1)
    weights = logits if score == "linear" else logits.sigmoid()
    for b in range(3):
        picked = logits[b].topk(3).indices.sort().values
        torch.testing.assert_close(layer.block.seen[0][b], x[b, picked])
        expected = x[b].clone()
        expected[picked] += weights[b, picked, None] * 2 * x[b, picked]
        torch.testing.assert_close(y[b], expected)


def test_the_router_learns_through_the_weight():
    layer = make_layer(nn.Linear(D, D))
    layer(torch.randn(2, 16, D)).square().sum().backward()
    assert layer.router.weight.grad.abs().sum() > 0
    assert layer.block.weight.grad.abs().sum() > 0


@pytest.mark.parametrize("shape", [(0, 4, D), (2, 0, D), (1, 1, D), (2, 5, D)])
@pytest.mark.parametrize("training", [True, False])
def test_small_shapes(shape, training):
    layer = make_layer(nn.Linear(D, D), capacity_factor=0.3).train(training)
    x = torch.randn(*shape, requires_grad=True)
    y = layer(x)
    assert y.shape == x.shape
    y.sum().backward()
    assert x.grad.isfinite().all()


def test_inference_is_causal_and_training_is_not():
    layer = make_layer(CausalAttention(), capacity_factor=0.5)
    with torch.no_grad():
        layer.router.threshold.fill_(0.1)
    causal, looking_ahead = True, False
    for seed in range(10):
        torch.manual_seed(seed)
        x = torch.randn(1, 8, D)
        later = torch.cat([x[:, :4], 3 * torch.randn(1, 4, D)], dim=1)
        causal &= torch.allclose(layer.eval()(x)[:, :4], layer(later)[:, :4], atol=1e-6)
        looking_ahead |= not torch.allclose(layer.train()(x)[:, :4], layer(later)[:, :4], atol=1e-6)
    assert causal
    assert looking_ahead
    assert layer.router.spec.may_see_later_tokens_in_training
    assert not layer.router.spec.may_see_later_tokens_in_inference


def test_the_threshold_learns_the_capacity():
    layer = make_layer(nn.Linear(D, D), capacity_factor=0.25)
    x = torch.randn(8, 64, D)
    optimizer = torch.optim.Adam([layer.router.threshold], lr=0.01)
    for _ in range(200):
        optimizer.zero_grad()
        layer(x).sum().backward()
        optimizer.step()
    with headgate.tap(layer.eval()) as tape:
        layer(x)
    assert tape[""][0].plan.num_rows / 512 == pytest.approx(0.25, abs=0.03)


def test_a_causal_token_with_nobody_picked_is_untouched():
    layer = make_layer(Recorder()).eval()
    with torch.no_grad():
        layer.router.threshold.fill_(1e6)
    x = torch.randn(2, 4, D)
    assert torch.equal(layer(x), x)
    assert layer.block.seen == []


def test_it_holds_an_moe_and_bfloat16():
    layer = make_layer(headgate.MoE(D, 12, num_experts=4), capacity_factor=0.5).bfloat16()
    y = layer(torch.randn(2, 6, D, dtype=torch.bfloat16))
    assert y.dtype == torch.bfloat16
    with headgate.tap(layer) as tape:
        layer(torch.randn(2, 6, D, dtype=torch.bfloat16))
    assert list(tape) == ["", "block"]


def test_errors_say_what_to_do():
    with pytest.raises(InputError, match="add the batch axis"):
        make_layer(Recorder())(torch.randn(4, D))
    with pytest.raises(InputError, match="must have the shape of its input"):
        make_layer(nn.Linear(D, D + 1))(torch.randn(1, 8, D))
    with pytest.raises(SpecError, match="capacity factor"):
        make_layer(Recorder(), capacity_factor=0.0)
    with pytest.raises(SpecError, match=r"score \(='tanh'\) is not known"):
        make_layer(Recorder(), score="tanh")
