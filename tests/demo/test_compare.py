import io

import pytest
from rich.console import Console

from headgate.demo.compare import ArmResult, arm_configs, print_comparison
from headgate.demo.config import DemoConfig

FIELDS = {
    "balance": "switch",
    "unigram_loss": 6.6,
    "tokens_per_s": 5000.0,
    "training_s": 120.0,
    "active_parameters": 1_180_000,
    "total_parameters": 2_360_000,
    "load_ratio": 1.25,
    "dead_experts": 1,
    "num_experts": 32,
}


def table(*, dense_loss):
    results = [
        ArmResult(name="balanced", loss=4.5, **FIELDS),
        ArmResult(name="unbalanced", loss=4.6, **FIELDS),
        ArmResult(name="dense", loss=dense_loss, **{**FIELDS, "load_ratio": None, "dead_experts": None}),
    ]
    console = Console(file=io.StringIO(), width=110)
    print_comparison(console, results, DemoConfig())
    return console.file.getvalue()


def test_the_table_has_every_figure():
    row = next(line for line in table(dense_loss=4.7).splitlines() if line.strip().startswith("balanced"))
    assert row.split() == ["balanced", "4.500", "1.25", "x", "1", "of", "32", "5,000", "1.18", "M", "2.36", "M"]


@pytest.mark.parametrize(("dense_loss", "is_ahead"), [(4.4, True), (4.55, False), (4.7, False)])
def test_it_says_so_where_the_dense_model_is_ahead(dense_loss, is_ahead):
    text = " ".join(table(dense_loss=dense_loss).split())
    assert ("The dense model is ahead here." in text) == is_ahead
    assert ("only from about 25% of them" in text) == is_ahead


@pytest.mark.parametrize(
    ("router", "asked", "balanced"),
    [("mixtral", "bias", "bias"), ("mixtral", "off", "switch"), ("deepseek_v3", "off", "bias"), ("hash", "off", "off")],
)
def test_the_arms_differ_in_what_is_compared(router, asked, balanced):
    config = DemoConfig().with_options({"router": router, "balance": asked})
    arms = arm_configs(config)
    assert [(arm.model.balance, arm.model.feed_forward) for arm in arms.values()] == [
        (balanced, "moe"),
        ("off", "moe"),
        ("off", "dense"),
    ]
    assert {arm.training for arm in arms.values()} == {config.training}
