"""Few moves from a layout in use, and experts that are chosen together on one device."""

import sys

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.errors import BackendError, InputError
from headgate.layout import ExpertLayout, deal_experts
from headgate.planning.locality import count_pairs, gather_partners
from headgate.planning.moves import improve_layout, name_devices_as, replan
from headgate.planning.placement import place_experts


@given(st.integers(0, 2**32 - 1), st.sampled_from([1, 2]))
@settings(deadline=None, max_examples=20)
def test_renamed_devices_carry_the_same_rows(seed, num_nodes):
    rng = np.random.default_rng(seed)
    counts = rng.integers(0, 99, (2, 12))
    new = place_experts(counts, num_devices=4, num_replicas=4, num_nodes=num_nodes)
    old = deal_experts(2, 12, num_devices=4, num_replicas=4, num_nodes=num_nodes)
    renamed = name_devices_as(new, old)
    assert np.allclose(np.sort(renamed.device_loads(counts)), np.sort(new.device_loads(counts)))
    assert renamed.moves_from(old) <= new.moves_from(old)
    for mine, theirs in zip(new.device_experts, renamed.device_experts, strict=True):
        # The devices of a node stay together.
        nodes = [{tuple(device) for device in part} for part in theirs.reshape(num_nodes, -1, theirs.shape[1]).tolist()]
        assert all({tuple(d) for d in part} in nodes for part in mine.reshape(num_nodes, -1, mine.shape[1]).tolist())


def test_a_layout_is_given_back_its_old_names():
    old = place_experts(np.arange(12)[None], num_devices=3)
    shuffled = ExpertLayout(device_experts=old.device_experts[:, [2, 0, 1]], num_experts=12)
    assert name_devices_as(shuffled, old).moves_from(old) == 0


def test_small_changes_take_few_moves():
    rng = np.random.default_rng(0)
    before = rng.lognormal(3, 1, (6, 64))
    now = before * rng.lognormal(0, 0.2, before.shape)
    old = place_experts(before, num_devices=8, num_replicas=8)
    new = place_experts(now, num_devices=8, num_replicas=8)
    chosen = replan(old, new, now, tolerance=0.02)
    assert (chosen.device_loads(now).max(1) <= new.device_loads(now).max(1) * 1.02 * (1 + 1e-9)).all()
    assert chosen.moves_from(old) < new.moves_from(old) / 4
    assert replan(old, old, before).moves_from(old) == 0


def test_a_replica_changes_hands_where_that_is_cheapest():
    old = ExpertLayout(device_experts=np.array([[[0, 1], [0, 2]]]), num_experts=3)
    counts = np.array([[1.0, 9.0, 1.0]])
    improved, reached = improve_layout(old, counts, target=np.array([5.5]))
    assert reached.tolist() == [True]
    assert improved.moves_from(old) == 1
    assert improved.device_loads(counts).max() == 5.5


def test_a_target_out_of_reach_is_said():
    old = deal_experts(1, 2, num_devices=2)
    improved, reached = improve_layout(old, np.array([[3.0, 1.0]]), target=np.array([2.0]))
    assert (reached.tolist(), improved.moves_from(old)) == ([False], 0)


def test_without_scipy_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    layout = deal_experts(1, 4, num_devices=2)
    with pytest.raises(BackendError, match=r"^scipy is not installed; pip install 'headgate\[planning\]'$"):
        name_devices_as(layout, layout)


def test_layouts_of_other_sizes_are_refused():
    with pytest.raises(InputError, match=r"^old layout \(=\(1, 4, 1, 4, 1\) layers, devices, slots, experts, nodes\)"):
        name_devices_as(deal_experts(1, 4, num_devices=2), deal_experts(1, 4, num_devices=4))
    layout = deal_experts(1, 4, num_devices=2)
    with pytest.raises(InputError, match=r"^tolerance \(=-0.5\) must be at least 0; 0.02 accepts"):
        replan(layout, layout, np.ones((1, 4)), tolerance=-0.5)


def test_pairs_are_counted_as_a_loop_counts_them():
    rng = np.random.default_rng(0)
    ids = np.argsort(rng.random((2, 30, 6)))[..., :3]
    ids[rng.random(ids.shape) < 0.1] = -1
    expected = np.zeros((2, 6, 6), dtype=int)
    for layer in range(2):
        for token in ids[layer]:
            for a in token:
                for b in token:
                    if a != b and a >= 0 and b >= 0:
                        expected[layer, a, b] += 1
    found = count_pairs([torch.from_numpy(ids[:, :11]), torch.from_numpy(ids[:, 11:])], num_experts=6)
    assert found.tolist() == expected.tolist()
    with pytest.raises(InputError, match=r"^chunks \(=0\) must hold tokens"):
        count_pairs([], num_experts=6)


@pytest.mark.parametrize("num_nodes", [1, 2])
def test_partners_are_gathered_without_loading_a_device_more(num_nodes):
    rng = np.random.default_rng(1)
    # Tokens choose both experts of a hidden pair.
    partner = rng.permutation(16).reshape(8, 2)
    ids = partner[rng.integers(0, 8, 400)][None]
    pairs = count_pairs([torch.from_numpy(ids)], num_experts=16)
    counts = pairs.sum(2)
    layout = place_experts(counts, num_devices=4, num_nodes=num_nodes)
    before = layout.device_loads(counts).max()
    gathered = gather_partners(layout, counts, pairs, slack=0.1)
    assert gathered.device_loads(counts).max() <= before * 1.1 * (1 + 1e-9)
    place = {int(e): d for d, held in enumerate(gathered.device_experts[0]) for e in held}
    assert sum(place[a] == place[b] for a, b in partner.tolist()) >= 6
    still = gather_partners(layout, counts, pairs * 0)
    assert (still.device_experts == layout.device_experts).all()


def test_planning_starts_from_full_devices():
    layout = ExpertLayout(device_experts=np.array([[[0, 1], [2, -1]]]), num_experts=3)
    full = deal_experts(1, 3, num_devices=2, num_replicas=1)
    counts = np.ones((1, 3))
    message = r"^slot 1 \(=-1\) of device 1 in layer 0 must not be empty here; give every device as many experts"
    for attempt in (
        lambda: name_devices_as(layout, full),
        lambda: name_devices_as(full, layout),
        lambda: improve_layout(layout, counts, target=np.ones(1)),
        lambda: gather_partners(layout, counts, np.ones((1, 3, 3), dtype=np.int64)),
    ):
        with pytest.raises(InputError, match=message):
            attempt()


def test_gathering_needs_what_fits():
    layout = deal_experts(1, 4, num_devices=2)
    with pytest.raises(InputError, match=r"^counts and pairs \(=\(1, 4\), \(1, 3, 3\)\) must fit the layout"):
        gather_partners(layout, np.ones((1, 4)), np.ones((1, 3, 3), dtype=np.int64))
    with pytest.raises(InputError, match=r"^slack \(=-0.1\) must be at least 0; 0.02 lets"):
        gather_partners(layout, np.ones((1, 4)), np.ones((1, 4, 4), dtype=np.int64), slack=-0.1)
