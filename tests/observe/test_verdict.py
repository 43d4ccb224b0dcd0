import dataclasses

import pytest
import torch

from headgate.observe.noted import noted_layers
from headgate.observe.verdict import RULES, judge_layers, judge_trace
from traces import random_trace

EVEN = [100, 110, 95, 105, 90, 100]
UNEVEN = [260, 70, 70, 70, 65, 65]
ONE_DEAD = [120, 120, 120, 120, 120, 0]
COLLAPSED = [300, 298, 1, 1, 0, 0]


def judge(*counts, drops=None):
    layers = noted_layers(random_trace(layers=tuple(range(1, len(counts) + 1)), num_experts=6), top_k=2)
    found = judge_layers(torch.tensor(counts), layers, drop_fractions=drops or [None] * len(counts))
    return judge_trace({layer.index: health for layer, health in zip(layers, found, strict=True)})


@pytest.mark.parametrize(
    ("counts", "status", "sentence"),
    [
        (
            [EVEN],
            "healthy",
            "In the one layer the experts share the work; the busiest, in layer 1, does 1.10 times an even share.",
        ),
        (
            [EVEN, UNEVEN],
            "imbalanced",
            "1 of 2 layers share the work unevenly (layer 2); the busiest, in layer 2, does 2.60 times an even share.",
        ),
        (
            [EVEN, ONE_DEAD],
            "imbalanced",
            "1 of 2 layers share the work unevenly (layer 2); the busiest, in layer 2, does 1.20 times an even share; "
            "1 expert is dead.",
        ),
        (
            [UNEVEN, COLLAPSED, EVEN],
            "collapsed",
            "1 of 3 layers collapsed (layer 2); in layer 2 the work lies on about 2.0 experts; 1 of 3 layers share the "
            "work unevenly (layer 1); the busiest, in layer 2, does 3.00 times an even share; 2 experts are dead.",
        ),
        ([[0] * 6], "unknown", "No row reached an expert, so there is nothing to judge."),
        (
            [EVEN, [0] * 6],
            "healthy",
            "In the one layer the experts share the work; the busiest, in layer 1, does 1.10 times an even share.",
        ),
    ],
)
def test_the_worst_layer_decides(counts, status, sentence):
    found = judge(*counts)
    assert (found.status, found.sentence) == (status, sentence)


def test_a_small_sample_calls_nothing_dead():
    found = judge([2, 1, 1, 2, 1, 0])
    assert found.status == "healthy"
    assert "1 more got nothing, in fewer rows than it takes to call them dead (275 in a layer)" in found.sentence


def test_drops_count():
    found = judge(EVEN, EVEN, drops=[0.005, 0.02])
    assert found.status == "imbalanced"
    assert found.sentence.endswith("in layer 2 2.0% of the choices found their expert full.")


def test_columns_beyond_a_layer_are_not_its_experts():
    counts = torch.tensor([[50, 50, 50, 50, 0, 0]])
    trace = dataclasses.replace(random_trace(layers=(0,), num_experts=6), counts=counts)
    trace.metadata["layers"] = [{"router": {"num_experts": 4, "top_k": 2}}]
    (found,) = judge_layers(counts, noted_layers(trace, top_k=2), drop_fractions=[None])
    assert found.verdict == "healthy"
    assert found.dead.count == 0


def test_the_rules_name_their_thresholds():
    assert all(said in RULES for said in ("25%", "2 times", "1%"))
