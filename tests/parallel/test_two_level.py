"""Two levels do what one does: who gets what, in pure numbers; and on real ranks, outputs, gradients and bytes."""

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import headgate
from headgate.dispatch import find_drops, plan_token_choice
from headgate.layout import ExpertLayout
from headgate.parallel.routes import Placement, find_routes
from headgate.parallel.two_level import place_in_node, place_on_nodes
from headgate.planning.traffic import count_traffic
from parallel import layers
from parallel.layers import Case
from parallel.two_levels import refuse_mesh, run_and_count, run_in_two_levels


def make_layout(rng, num_nodes, per_node, num_experts):
    """Replicas, empty slots and ranks without an expert, at random; every expert somewhere."""
    slots = np.full((1, num_nodes * per_node, num_experts), -1, dtype=np.int64)
    holds = rng.random((num_nodes * per_node, num_experts)) < 0.3
    holds[rng.integers(0, len(holds), num_experts), np.arange(num_experts)] = True
    for rank, held in enumerate(holds):
        experts = rng.permutation(np.flatnonzero(held))
        slots[0, rank, : len(experts)] = experts
    return ExpertLayout(device_experts=slots, num_experts=num_experts, num_nodes=num_nodes)


@given(st.integers(0, 2**32 - 1), st.integers(1, 3), st.integers(1, 3))
@settings(deadline=None, max_examples=60)
def test_both_levels_lead_each_choice_to_the_expert_that_one_level_leads_it_to(seed, num_nodes, per_node):
    rng = np.random.default_rng(seed)
    num_experts, num_tokens = int(rng.integers(3, 8)), int(rng.integers(0, 9))
    ids = torch.from_numpy(np.argsort(rng.random((num_tokens, num_experts)))[:, :3].copy())
    plan = plan_token_choice(ids, find_drops(ids, None), num_experts=num_experts, is_dropless=True)
    flat = Placement.of_layer(make_layout(rng, num_nodes, per_node, num_experts), 0)
    nodes = place_on_nodes(flat, num_nodes=num_nodes)
    rank = int(rng.integers(num_nodes * per_node))
    direct = list_ends(find_routes(plan, flat, rank=rank))
    over_nodes = find_routes(plan, nodes, rank=rank // per_node, source=rank)
    by_node = {}
    for slot, (node, number) in list_ends(over_nodes).items():
        inside = place_in_node(flat, node, num_nodes=num_nodes)
        by_node[slot] = (node * per_node + int(inside.rank_of_physical[number]), int(inside.local_of_physical[number]))
    assert by_node == direct
    tokens = {(slot // 3, end // per_node) for slot, (end, _) in direct.items()}
    assert int(over_nodes.pair_counts.sum()) == len(tokens)


def list_ends(routes):
    """Slot -> (rank, number of the expert there)."""
    ranks = torch.arange(routes.num_ranks).repeat_interleave(routes.row_counts)
    ends = zip(ranks.tolist(), routes.expert_of_row.tolist(), strict=True)
    return dict(zip(routes.slot_of_row.tolist(), ends, strict=True))


# By the number of ranks: another one takes a new group.
CASES = {
    "one node": (Case((5, 3), num_experts=6), 1),
    "one rank a node": (Case((5, 3, 7), num_experts=6), 3),
    "dealt": (Case((5, 3, 7, 2), num_experts=6), 2),
    "replicas in both nodes": (Case((4, 3, 5, 6), slots=((0, 1, 2), (3, 4, 5), (5, 0, -1), (1, 3, -1))), 2),
    "a node without an expert": (Case((4, 3, 5, 6), slots=((0, 1, 2), (3, 4, 5), (-1,) * 3, (-1,) * 3)), 2),
    "ranks without tokens": (Case((0, 3, 0, 0)), 2),
    "zero-compute experts": (Case((4, 3, 5, 6), router="longcat_flash", num_experts=8), 2),
    "float32": (Case((5, 3, 7, 2), dtype=torch.float32), 2),
}


@pytest.mark.parametrize(("case", "num_nodes"), CASES.values(), ids=CASES)
def test_outputs_and_gradients_are_those_of_one_process(ranks, case, num_nodes):
    layers.check_parts(case, ranks.begin(case.num_ranks, run_in_two_levels, case, num_nodes))


def test_the_same_bits_on_every_run(ranks):
    case = Case((5, 3, 7, 2), dtype=torch.float32)
    first, second = (ranks.run(4, run_in_two_levels, case, 2) for _ in range(2))
    for (one, *_), (other, *_) in zip(first, second, strict=True):
        assert torch.equal(one.y, other.y)
        assert all(torch.equal(one.grads[name], grad) for name, grad in other.grads.items())


def test_a_mesh_of_other_dimensions_is_refused(ranks):
    assert (
        ranks.run(4, refuse_mesh)
        == [
            "mesh (=('dp', 'ep')) must have one dimension, or the two ('node', 'ep'); pass a part of it, such as "
            'mesh["ep"]'
        ]
        * 4
    )


TIGHT = {"capacity": headgate.Capacity(factor=0.7)}

AGREEING = {
    "two ranks": (Case((6, 6)), 1),
    "capacity": (Case((6, 6), options=TIGHT), 1),
    "three ranks, dealt unevenly": (Case((4, 4, 4), num_experts=7), 1),
    "replicas on three ranks": (Case((6, 6, 6), slots=((0, 1, 2, 3), (3, 4, 5, 0), (0, 2, -1, -1))), 1),
    "three nodes": (Case((5, 5, 5), num_experts=6), 3),
    "four ranks": (Case((5, 5, 5, 5), num_experts=8), 1),
    "replicas": (Case((5, 5, 5, 5), slots=((0, 1, 2), (2, 3, 4), (4, 5, 0), (1, 3, -1))), 1),
    "two nodes": (Case((7, 7, 7, 7), num_experts=8), 2),
    "two nodes with replicas": (Case((6, 6, 6, 6), slots=((0, 1, 2), (2, 3, 4), (4, 5, 0), (1, 3, -1))), 2),
    "capacity on two nodes": (Case((7, 7, 7, 7), num_experts=8, options=TIGHT), 2),
    "capacity and replicas": (
        Case((6, 6, 6, 6), slots=((0, 1, 2), (2, 3, 4), (4, 5, 0), (1, 3, -1)), options=TIGHT),
        2,
    ),
}


@pytest.mark.parametrize("exchange", ["flat", "two_level"])
@pytest.mark.parametrize(("case", "num_nodes"), AGREEING.values(), ids=AGREEING)
def test_simulate_counts_what_the_ranks_send(ranks, case, num_nodes, exchange):
    """Rows at every rank's experts, and tokens that leave and reach every rank, within its node and across; drops."""
    results = ranks.run(case.num_ranks, run_and_count, case, num_nodes if exchange == "two_level" else None)
    ids = torch.cat([ids for ids, *_ in results])
    layout = dataclasses.replace(results[0][3], num_nodes=num_nodes)
    capacity = case.options.get("capacity")
    limits = {"capacity_factor": None if capacity is None else capacity.factor, "exchange": exchange}
    found = count_traffic(ids, torch.zeros(len(ids), dtype=torch.int64), layout, 0, **limits)
    assert int(found.drops.sum()) == ids.numel() - sum(rows for _, rows, *_ in results)
    assert (int(found.drops.sum()) > 0) == (capacity is not None)
    per_node = case.num_ranks // num_nodes
    for rank, (_, rows, traffic, _) in enumerate(results):
        assert rows == found.rows[0, rank]
        for way, counted in ((traffic.rows_sent, found.sent), (traffic.rows_returned, found.received)):
            across = sum(count for other, count in enumerate(way) if other // per_node != rank // per_node)
            assert counted[0, rank].tolist() == [sum(way) - across, across]
        row_bytes = layers.D * case.dtype.itemsize
        assert sum(traffic.bytes_sent) == row_bytes * int(found.sent[0, rank].sum() + found.received[0, rank].sum())
