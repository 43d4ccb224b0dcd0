"""The tap: paths, order, detachment, and that it leaves nothing behind."""

import pytest
import torch
from torch import nn

import headgate
from headgate.errors import InputError

D = 8


class Block(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.moe = headgate.MoE(D, 12, num_experts=4, top_k=2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return x + self.moe(x)


def make_model() -> nn.Sequential:
    return nn.Sequential(Block(), nn.Linear(D, D), Block())


def test_layers_are_named_by_their_path_in_model_order():
    model = make_model()
    with headgate.tap(model) as tape:
        model(torch.randn(3, D))
        model(torch.randn(5, D))
    assert list(tape) == ["0.moe", "2.moe"]
    assert [routing.logits.shape[0] for routing in tape["0.moe"]] == [3, 5]


def test_a_bare_router_and_a_router_called_otherwise_have_names():
    router = headgate.Router(D, headgate.preset("mixtral", num_experts=4))
    holder = nn.ModuleDict({"gate": router})
    with headgate.tap(holder) as tape:
        router(torch.randn(2, D))
    assert list(tape) == ["gate"]
    with headgate.tap(router) as tape:
        router(torch.randn(2, D))
    assert list(tape) == [""]


def test_values_are_detached_and_equal_what_the_layer_used():
    model = make_model()
    with headgate.tap(model) as tape:
        model(torch.randn(3, D)).sum().backward()
    routing = tape["0.moe"][0]
    assert not routing.logits.requires_grad
    assert not routing.choice.combine_weights.requires_grad
    assert routing.plan.num_tokens == 3
    assert routing.plan.num_experts == 4
    assert int(routing.expert_counts.sum()) == routing.plan.num_rows == 6


def test_expert_choice_is_recorded_as_such():
    layer = headgate.MoE(D, 12, num_experts=4, top_k=2, router="expert_choice")
    with headgate.tap(layer) as tape:
        layer(torch.randn(6, D))
    choice = tape[""][0].choice
    assert isinstance(choice, headgate.ExpertChoice)
    assert choice.token_ids.shape == (4, 3)
    assert not choice.combine_weights.requires_grad


def test_nothing_stays_behind_even_after_an_error():
    model = make_model()
    hooks = lambda: [len(m._forward_hooks) for m in model.modules()]  # noqa: E731
    before = hooks()
    tapes = []

    def fail_inside() -> None:
        with headgate.tap(model) as tape:
            tapes.append(tape)
            assert hooks() != before
            raise RuntimeError("stop")

    with pytest.raises(RuntimeError, match="stop"):
        fail_inside()
    assert hooks() == before
    model(torch.randn(2, D))
    assert tapes[0]["0.moe"] == []


def test_taps_may_be_nested():
    model = make_model()
    with headgate.tap(model) as outer:
        model(torch.randn(2, D))
        with headgate.tap(model) as inner:
            model(torch.randn(3, D))
    assert (len(outer["0.moe"]), len(inner["0.moe"])) == (2, 1)


def test_a_model_without_routed_layers_is_refused():
    with pytest.raises(InputError, match=r"model \(=Linear\) holds no routed layer; put a headgate\.MoE in it"):
        headgate.tap(nn.Linear(2, 2)).__enter__()
