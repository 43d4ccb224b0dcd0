"""The story of the README on a small scale: coarser rounding changes more choices, those that were close first."""

import importlib.util
from pathlib import Path

import pytest
import torch
from torch import nn

import headgate
from tiny_demo import run, tiny_config

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def example():
    spec = importlib.util.spec_from_file_location("quantised_router", ROOT / "examples" / "quantised_router.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_rounding_has_as_many_levels_as_it_says(example):
    weight = torch.randn(4, 1000, generator=torch.Generator().manual_seed(0))
    for bits in (4, 8):
        rounded = example.round_weight(weight, bits)
        assert max(len(row.unique()) for row in rounded) <= 2**bits - 1
        # Half a step of the scale, which is the largest value over 2^(bits - 1) - 1.
        step = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
        assert ((rounded - weight).abs() <= step * (0.5 + 1e-5)).all()


def test_the_routers_come_back_as_they_were(example):
    layer = nn.Sequential(headgate.MoE(8, 8, num_experts=4, top_k=2))
    before = layer[0].router.weight.clone()
    with example.quantised_routers(layer, 4):
        assert not torch.equal(layer[0].router.weight, before)
    assert torch.equal(layer[0].router.weight, before)


def test_int4_changes_more_than_int8_and_close_choices_first(example, tmp_path):
    run(tmp_path / "run", tiny_config(steps=20))
    found = example.record(tmp_path / "run", tmp_path / "traces")
    (loss, itself), (_, int8), (loss4, int4) = found["float32"], found["int8"], found["int4"]
    assert itself.agreement.overlap == 1.0
    assert 0 < int8.agreement.flipped_fraction < int4.agreement.flipped_fraction
    assert int8.agreement.weight_moved < int4.agreement.weight_moved
    for diff in (int8, int4):
        assert diff.buckets[0].share_of_flips > 0.5
        assert diff.buckets[0].share_of_flips > diff.buckets[-1].share_of_flips
    assert loss4 == pytest.approx(loss, rel=0.05)
    assert sorted(path.name for path in (tmp_path / "traces").iterdir()) == [
        "float32.safetensors",
        "int4.safetensors",
        "int8.safetensors",
    ]
