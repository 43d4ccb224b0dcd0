"""The validator: silent about every trace that we write, and each rule has a file that breaks it."""

import dataclasses

import pytest
import torch

from headgate.observe.reader import open_trace
from headgate.observe.validate import Violation, validate_trace
from headgate.observe.writer import save_trace
from traces import random_trace


def violations(folder, trace):
    save_trace(folder / "a.safetensors", trace)
    return validate_trace(open_trace(folder / "a.safetensors"))


@pytest.mark.parametrize("full", [True, False])
def test_a_trace_of_ours_breaks_no_rule(tmp_path, full):
    assert violations(tmp_path, random_trace(full=full)) == []


def broken(rule):
    trace = random_trace(drop=0)
    ids, weights, dropped = trace.topk_ids.clone(), trace.topk_weights.clone(), trace.is_dropped.clone()
    counts = trace.counts.clone()
    if rule == "topk_ids":
        counts[1, ids[1, 7, 1]] -= 1
        counts[1, ids[1, 7, 0]] += 1
        ids[1, 7, 1] = ids[1, 7, 0]
    elif rule == "topk_weights":
        counts[1, ids[1, 7, 0]] -= 1
        dropped[1, 7, 0] = True
    elif rule == "dropped":
        counts[1, ids[1, 7, 0]] -= 1
        ids[1, 7, 0], weights[1, 7, 0], dropped[1, 7, 0] = -1, 0, True
    else:
        counts[2, 3] += 1
    changes = {"topk_ids": ids, "topk_weights": weights, "is_dropped": dropped, "counts": counts}
    return dataclasses.replace(trace, **changes)


@pytest.mark.parametrize(
    ("rule", "where", "sentence"),
    [
        ("topk_ids", "layer 2, token 7", "a token chooses an expert once"),
        ("topk_weights", "layer 2, token 7", "a slot without a row has no weight"),
        ("dropped", "layer 2, token 7", "only a choice can be dropped"),
    ],
)
def test_a_broken_rule_is_named_with_its_place(tmp_path, rule, where, sentence):
    assert violations(tmp_path, broken(rule)) == [Violation(rule=rule, where=where, number=1, sentence=sentence)]


def test_counts_that_are_not_those_of_the_choices(tmp_path):
    (found,) = violations(tmp_path, broken("counts"))
    said = random_trace(drop=0).counts[2, 3].item()
    assert (found.rule, found.where) == ("counts", "layer 4, expert 3")
    assert found.sentence == f"counts say {said + 1}, and the choices {said}"


@pytest.mark.parametrize(
    ("changes", "rule"),
    [
        ({"phase": torch.full((12,), 4, dtype=torch.uint8)}, "phase"),
        ({"position": torch.full((12,), -1, dtype=torch.int32)}, "position"),
        ({"forward_id": torch.full((12,), -1, dtype=torch.int32)}, "forward_id"),
        ({"layer_index": torch.tensor([1, 1, 2], dtype=torch.int32)}, "layer_index"),
        ({"layer_index": torch.tensor([1, -1, 2], dtype=torch.int32)}, "layer_index"),
        ({"metadata": {"content": "counts"}}, "content"),
        ({"metadata": {"id_space": "physical"}}, "id_space"),
    ],
)
def test_values_that_make_no_sense(tmp_path, changes, rule):
    found = violations(tmp_path, dataclasses.replace(random_trace(), **changes))
    assert [violation.rule for violation in found] == [rule]


def test_counts_below_zero(tmp_path):
    trace = random_trace(lengths=(), full=False, content="counts")
    found = violations(tmp_path, dataclasses.replace(trace, counts=torch.full((3, 6), -1)))
    assert [violation.sentence for violation in found] == ["counts are not negative"]
