import pytest
import torch

from headgate.demo.config import ModelConfig, usual_balance
from headgate.demo.model import DemoModel, count_parameters, dense_width, rotate
from headgate.demo.train import make_optimizer
from headgate.nn import attach_balance
from headgate.spec import family, preset_names
from tiny_demo import tiny_config

TOKENS = torch.arange(2 * 16).view(2, 16)


@pytest.mark.parametrize("router", preset_names())
def test_every_preset_trains(router):
    config = tiny_config(router=router, balance=usual_balance(router))
    torch.manual_seed(0)
    model = DemoModel(config.model)
    optimizer = make_optimizer(model, config.training)
    attach_balance(model, optimizer)
    logits = model(TOKENS)
    assert logits.shape == (2, 16, 280)
    logits.square().mean().backward()
    optimizer.step()
    assert all(parameter.isfinite().all() for parameter in model.parameters())


@pytest.mark.parametrize("router", ["mixtral", "deepseek_v3", "switch", "expert_choice"])
def test_outside_training_no_token_sees_a_later_one(router):
    torch.manual_seed(0)
    model = DemoModel(tiny_config(router=router, balance="off").model).eval()
    changed = TOKENS.clone()
    changed[:, 9:] = 200
    before, after = model(TOKENS), model(changed)
    torch.testing.assert_close(before[:, :9], after[:, :9], rtol=0, atol=1e-5)
    assert not torch.allclose(before[:, 9:], after[:, 9:])


@pytest.mark.parametrize("router", preset_names())
def test_the_dense_model_has_as_many_active_parameters(router):
    config = tiny_config(router=router, balance=usual_balance(router))
    dense = config.with_options({"feed_forward": "dense"})
    routed, plain = count_parameters(DemoModel(config.model)), count_parameters(DemoModel(dense.model))
    assert plain.total == plain.active
    # A hidden unit has 3 D parameters, so each of the L layers is off by at most half of that.
    bound = config.model.num_layers * 3 * config.model.d_model / 2
    assert abs(plain.active - routed.active) <= bound
    assert routed.total >= routed.active


def test_parameters_counted_by_hand():
    config = tiny_config(num_experts=4, top_k=1)
    counts = count_parameters(DemoModel(config.model))
    expert, router, attention, norms = 3 * 16 * 16, 4 * 16, 4 * 16 * 16, 2 * 16
    shared_part = 2 * (router + attention + norms) + 280 * 16 + 16
    assert counts.total == shared_part + 2 * 4 * expert
    assert counts.active == shared_part + 2 * expert


def test_the_width_of_the_dense_model():
    assert family("mixtral").experts.gated
    # K = 2 experts of 128 units each; the router's 8 * 128 parameters are 8 / 3 units of 3 * 128 more.
    assert dense_width(ModelConfig()) == 2 * 128 + 3


def test_rotation_keeps_lengths_and_depends_on_distance():
    torch.manual_seed(0)
    query, key = torch.randn(1, 1, 1, 8).expand(1, 1, 6, 8), torch.randn(1, 1, 1, 8).expand(1, 1, 6, 8)
    torch.testing.assert_close(rotate(query).norm(dim=-1), query.norm(dim=-1))
    products = rotate(query)[0, 0] @ rotate(key)[0, 0].T
    torch.testing.assert_close(products.diagonal(1), products[0, 1].expand(5))
    torch.testing.assert_close(products.diagonal(-2), products[2, 0].expand(4))
