"""Where experts live: the rules of a layout, its maps, and the replica that a row goes to."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.errors import InputError
from headgate.layout import ExpertLayout, check_sizes, choose_replicas, deal_experts, fewest_replicas


def layout_of(slots, num_experts, **options):
    return ExpertLayout(device_experts=np.array(slots, dtype=np.int64), num_experts=num_experts, **options)


@pytest.mark.parametrize(
    ("slots", "num_experts", "options", "message"),
    [
        ([[0, 1]], 2, {}, r"^device_experts.shape \(=\(1, 2\)\) must be \[L, W, S\], none 0; give a layer one device$"),
        ([[[0], [1]]], 2, {"num_nodes": 3}, r"^num_nodes \(=3\) must divide the number of devices \(=2\); give every"),
        ([[[0], [1]]], 2, {"layer_index": (1, 2)}, r"^layer_index \(=2 layers\) must name each row \(=1\)$"),
        (
            [[[0], [2]]],
            2,
            {"layer_index": (7,)},
            r"^expert \(=2\) on device 1 of layer 7 must be in \[0, 2\), or -1 for an empty slot; give the",
        ),
        ([[[0], [-2]]], 2, {}, r"^expert \(=-2\) on device 1 of layer 0 must be in \[0, 2\), or -1 for an empty slot"),
        ([[[0], [-1]]], 2, {}, r"^expert \(=1\) is on no device of layer 0; give it a slot$"),
        ([[[0, 1], [1, 1]]], 2, {}, r"^expert \(=1\) is twice on device 1 of layer 0; put its replicas on different"),
        ([[[0], [1]]], 3, {}, r"^expert \(=2\) is on no device of layer 0; give it a slot$"),
    ],
)
def test_a_layout_that_breaks_a_rule_is_refused(slots, num_experts, options, message):
    with pytest.raises(InputError, match=message):
        layout_of(slots, num_experts, **options)


def test_maps_of_a_layout():
    layout = layout_of([[[0, 1], [2, 0]], [[1, 2], [0, 1]]], 3, layer_index=(3, 5), num_nodes=2)
    assert (layout.num_devices, layout.slots_per_device, layout.num_replicas, layout.layers) == (2, 2, 1, (3, 5))
    assert layout.physical_to_logical.tolist() == [[0, 1, 2, 0], [1, 2, 0, 1]]
    assert layout.replica_counts.tolist() == [[2, 1, 1], [1, 2, 1]]
    assert layout.logical_to_physical.tolist() == [[[0, 3], [1, -1], [2, -1]], [[2, -1], [0, 3], [1, -1]]]
    assert layout.device_loads(np.array([[4, 1, 0], [1, 2, 3]])).tolist() == [[3, 2], [4, 2]]


def test_maps_of_a_layout_with_empty_slots():
    layout = layout_of([[[-1, 0, 1], [-1, -1, -1], [2, -1, 0]]], 3)
    assert (layout.num_replicas, layout.has_empty_slots) == (1, True)
    assert layout.replica_counts.tolist() == [[2, 1, 1]]
    assert layout.logical_to_physical.tolist() == [[[1, 8], [2, -1], [6, -1]]]
    assert layout.device_loads(np.array([[4, 1, 5]])).tolist() == [[3, 0, 7]]
    full = layout_of([[[0, 1, 2], [0, 1, 2], [0, 1, 2]]], 3)
    assert not full.has_empty_slots
    assert layout.moves_from(full) == 0
    assert full.moves_from(layout) == 1 + 3 + 1


def test_experts_that_move():
    old = layout_of([[[0, 1], [2, 3]]], 4)
    assert layout_of([[[1, 0], [3, 2]]], 4).moves_from(old) == 0
    assert layout_of([[[0, 2], [1, 3]]], 4).moves_from(old) == 2
    with pytest.raises(InputError, match=r"^old layout \(=\(1, 2, 4\) layers, devices, experts\) must be as the new"):
        layout_of([[[0, 1], [2, 3]]] * 2, 4).moves_from(old)


@pytest.mark.parametrize(
    ("num_devices", "num_replicas", "num_nodes", "message"),
    [
        (0, 0, 1, r"^devices \(=0\) must be at least 1; give how many share the experts$"),
        (4, 0, 3, r"^nodes \(=3\) must divide the devices \(=4\)"),
        (4, -4, 1, r"^replicas \(=-4\) must be at least 0; leave it out for as few as fill the devices$"),
        (4, 28, 1, r"^replicas \(=28\) must be at most 24: with 4 devices and 8 experts, every device then holds"),
        (4, 5, 1, r"must be a multiple of the devices \(=4\), since every device .*; ask for 4 or 8 replicas$"),
        (16, 2, 1, r"ask for 8 replicas$"),
    ],
)
def test_sizes_that_can_not_be(num_devices, num_replicas, num_nodes, message):
    with pytest.raises(InputError, match=message):
        check_sizes(8, num_devices=num_devices, num_replicas=num_replicas, num_nodes=num_nodes)


@given(st.integers(1, 40), st.integers(1, 12))
@settings(deadline=None, max_examples=40)
def test_the_fewest_replicas_fit(num_experts, num_devices):
    fewest = fewest_replicas(num_experts, num_devices)
    layout = deal_experts(2, num_experts, num_devices=num_devices, num_replicas=fewest)
    assert layout.num_replicas == fewest < num_devices
    assert np.abs(np.diff(np.sort(layout.replica_counts))).max(initial=0) <= 1


def choose_slowly(ids, source, layout, step):
    """One row at a time, with a counter for each rank, step and expert."""
    seen = {}
    chosen = np.full(ids.shape, -1)
    for token in range(len(ids)):
        for slot, expert in enumerate(ids[token]):
            if expert >= 0:
                holders = np.flatnonzero(layout.physical_to_logical[0] == expert)
                key = (step[token], source[token], expert)
                chosen[token, slot] = holders[(seen.get(key, 0) + source[token]) % len(holders)]
                seen[key] = seen.get(key, 0) + 1
    return chosen


@given(st.integers(0, 2**32 - 1))
@settings(deadline=None, max_examples=30)
def test_rows_choose_replicas_as_the_rule_says(seed):
    rng = np.random.default_rng(seed)
    num_experts, num_devices = 5, 3
    layout = deal_experts(1, num_experts, num_devices=num_devices, num_replicas=int(rng.choice([1, 4, 10])))
    ids = np.argsort(rng.random((17, num_experts)))[:, :2]
    ids[rng.random(ids.shape) < 0.2] = -1
    source, step = rng.integers(0, num_devices, 17), np.sort(rng.integers(0, 3, 17))
    table = torch.from_numpy(layout.logical_to_physical[0])
    found = choose_replicas(torch.from_numpy(ids), torch.from_numpy(source), table, step=torch.from_numpy(step))
    assert found.tolist() == choose_slowly(ids, source, layout, step).tolist()
    # Even: of one rank and step, no replica of an expert is more than one row ahead.
    for part in {(s, r) for s, r in zip(step, source, strict=True)}:
        rows = found[torch.from_numpy((step == part[0]) & (source == part[1]))].flatten()
        for holders in table:
            counts = [(rows == slot).sum().item() for slot in holders[holders >= 0]]
            assert max(counts) - min(counts) <= 1


def test_no_tokens_choose_nothing():
    table = torch.tensor([[0, 1]])
    assert choose_replicas(torch.zeros(0, 2).long(), torch.zeros(0).long(), table).shape == (0, 2)


def test_a_layout_is_frozen():
    with pytest.raises(dataclasses.FrozenInstanceError):
        deal_experts(1, 2, num_devices=1).num_experts = 3
