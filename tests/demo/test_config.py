import json

import pytest

from headgate.demo.config import (
    DemoConfig,
    ModelConfig,
    TrainingConfig,
    balance_of,
    differing_fields,
    expert_width,
    router_spec,
    usual_balance,
)
from headgate.errors import SpecError
from headgate.spec import preset_names


@pytest.mark.parametrize("router", preset_names())
def test_every_preset_makes_a_demo(router):
    config = ModelConfig(router=router, balance=usual_balance(router))
    spec = router_spec(config)
    assert spec.num_experts == 8
    assert spec.top_k <= 2
    assert expert_width(config) >= config.active_width // 3


def test_a_config_survives_json():
    config = DemoConfig(model=ModelConfig(router="deepseek_v3", balance="bias"), training=TrainingConfig(steps=7))
    assert DemoConfig.from_dict(json.loads(json.dumps(config.to_dict()))) == config


def test_a_config_of_another_version_says_so():
    with pytest.raises(
        SpecError, match=r"^the config is not one of Headgate .*'speed'.*; use the version that wrote it$"
    ):
        DemoConfig.from_dict({"model": {"speed": 3}, "training": {}})
    with pytest.raises(SpecError, match=r"^the config is not one of Headgate"):
        DemoConfig.from_dict({})


def test_options_find_their_part():
    config = DemoConfig().with_options({"num_experts": 16, "steps": 5})
    assert (config.model.num_experts, config.training.steps) == (16, 5)


def test_groups_shrink_with_the_experts():
    limit = router_spec(ModelConfig(router="deepseek_v3", num_experts=8)).group_limit
    assert (limit.num_groups, limit.num_kept, limit.group_score) == (4, 2, "top2_sum")
    assert router_spec(ModelConfig(router="deepseek_v3", num_experts=64)).group_limit.num_groups == 8


def test_a_capacity_keeps_the_presets_drop_rule():
    assert router_spec(ModelConfig(router="nllb_moe", capacity=2.0)).capacity.drop_rule == "choice_position"
    assert router_spec(ModelConfig(router="nllb_moe", capacity=2.0)).capacity.factor == 2.0
    assert router_spec(ModelConfig(capacity=1.5)).capacity.factor == 1.5


@pytest.mark.parametrize(
    ("router", "balance"), [("mixtral", "switch"), ("deepseek_v3", "bias"), ("expert_choice", "off"), ("hash", "off")]
)
def test_the_usual_balance(router, balance):
    assert usual_balance(router) == balance


def test_the_balance_of_a_layer():
    assert balance_of(ModelConfig(balance="off")) is None
    assert balance_of(ModelConfig(balance="global-batch")).global_batch > 0
    assert balance_of(ModelConfig(balance="bias")).bias_rate > 0
    assert router_spec(ModelConfig(balance="bias")).selection_bias


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"router": "mixtrel"}, r"^preset \(='mixtrel'\) is not known; did you mean mixtral"),
        ({"num_experts": 4, "top_k": 5}, r"top_k \(=5\) must be at most the number of experts \(=4\)"),
        ({"d_model": 100}, r"^d_model \(=100\) must be divisible by twice num_heads \(=4\)"),
        ({"steps": 0}, r"^steps \(=0\) must be at least 1"),
        ({"capacity": -1.0}, r"capacity factor \(=-1.0\) must be positive and finite"),
    ],
)
def test_a_config_that_can_not_be(options, message):
    with pytest.raises(SpecError, match=message):
        DemoConfig().with_options(options)


def test_the_fields_that_differ():
    saved = {"a": 1, "b": {"c": 2, "d": None}, "e": "x"}
    assert differing_fields(saved, saved) == []
    assert differing_fields(saved, {"a": 1, "b": {"c": 3, "d": None}, "f": 0}) == [
        "b.c (2 there, 3 here)",
        "e ('x' there, None here)",
        "f (None there, 0 here)",
    ]
