"""Routes: every row goes once to a rank that holds its expert, no token twice to one, replicas evenly."""

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.dispatch import find_drops, plan_expert_choice, plan_token_choice
from headgate.layout import ExpertLayout
from headgate.parallel.routes import Placement, find_routes, plan_arrivals
from headgate.parallel.style import chunk_experts


# The strategies draw numbers alone: the checks of types in headgate's functions use random numbers of their own.
@st.composite
def all_slots(draw):
    """[W, S] of any layer: ranks with no expert or all, replicas anywhere; and how many experts there are."""
    num_experts, num_ranks = draw(st.integers(1, 6)), draw(st.integers(1, 4))
    homes = [draw(st.sets(st.integers(0, num_ranks - 1), min_size=1)) for _ in range(num_experts)]
    slots = np.full((num_ranks, num_experts + 1), -1)
    for rank in range(num_ranks):
        held = draw(st.permutations([expert for expert in range(num_experts) if rank in homes[expert]]))
        places = draw(st.permutations(range(num_experts + 1)))[: len(held)]
        slots[rank, places] = held
    return slots, num_experts


@st.composite
def choices(draw, num_experts):
    """Token or expert choice (which of them, ids, T), with empty slots; and how many experts are zero-compute."""
    num_tokens, num_zero_compute = draw(st.integers(0, 7)), draw(st.integers(0, 2))
    width = num_experts + num_zero_compute
    if draw(st.booleans()):
        columns = [draw(st.permutations(range(-1, num_tokens))) for _ in range(width)]
        ids = [column[: num_tokens // 2 + 1] for column in columns]
        return "expert", ids, num_tokens, num_zero_compute
    top_k = draw(st.integers(1, width))
    ids = []
    for _ in range(num_tokens):
        ranked = draw(st.permutations(range(width)))[:top_k]
        ids += [expert if draw(st.booleans()) else -1 for expert in ranked]
    return "token", [ids[at : at + top_k] for at in range(0, len(ids), top_k)] or top_k, num_tokens, num_zero_compute


def make_layout(slots, num_experts):
    return ExpertLayout(device_experts=slots[None], num_experts=num_experts)


def make_plan(kind, ids, num_tokens, num_experts):
    if kind == "expert":
        return plan_expert_choice(torch.tensor(ids), num_tokens=num_tokens)
    table = torch.empty(0, ids, dtype=torch.int64) if num_tokens == 0 else torch.tensor(ids)
    return plan_token_choice(table, find_drops(table, None), num_experts=num_experts, is_dropless=False)


def rows_of(plan):
    """Each row's slot -> its token and expert."""
    experts = torch.repeat_interleave(plan.expert_counts).tolist()
    return dict(zip(plan.slot_of_row.tolist(), zip(plan.token_of_row.tolist(), experts, strict=True), strict=True))


@settings(deadline=None, max_examples=150)
@given(st.data())
def test_every_row_goes_once_to_a_rank_that_holds_its_expert(data):
    layout = make_layout(*data.draw(all_slots()))
    *choice, num_zero_compute = data.draw(choices(layout.num_experts))
    plan = make_plan(*choice, layout.num_experts + num_zero_compute)
    placement = Placement.of_layer(layout, 0)
    rank = data.draw(st.integers(0, layout.num_devices - 1))
    routes = find_routes(plan, placement, rank=rank)

    expected = rows_of(plan)
    assert sorted(routes.slot_of_row.tolist()) == sorted(expected)
    to_ranks = torch.repeat_interleave(routes.row_counts).tolist()
    pair_ranks = torch.repeat_interleave(routes.pair_counts).tolist()
    loads: dict[int, list[int]] = {}
    rows = zip(*(x.tolist() for x in (routes.slot_of_row, routes.expert_of_row, routes.pair_of_row)), strict=True)
    for (slot, number, pair), to in zip(rows, to_ranks, strict=True):
        token, expert = expected[slot]
        assert (routes.token_of_pair[pair], pair_ranks[pair]) == (token, to)
        if expert >= layout.num_experts:
            assert (to, number) == (rank, len(placement.rank_experts[rank]))
            continue
        assert placement.rank_experts[to][number] == expert
        loads.setdefault(expert, [0] * layout.num_devices)[to] += 1
    for expert, load in loads.items():
        homes = [rank for rank, held in enumerate(placement.rank_experts) if expert in held]
        assert max(load[home] for home in homes) - min(load[home] for home in homes) <= 1

    pairs = list(zip(pair_ranks, routes.token_of_pair.tolist(), strict=True))
    assert pairs == sorted(set(pairs))
    assert set(routes.pair_of_row.tolist()) == set(range(len(pairs)))
    by_token = [(routes.token_of_pair[pair].item(), pair_ranks[pair]) for pair in routes.pair_order.tolist()]
    assert by_token == sorted(by_token)
    assert routes.pair_offsets.diff().tolist() == [
        sum(token == t for token, _ in by_token) for t in range(plan.num_tokens)
    ]


def test_tables_follow_the_tokens_to_their_device():
    placement = Placement.of_layer(chunk_experts(5, num_ranks=2), 0)
    assert placement.to(torch.device("cpu")) is placement
    moved = placement.to(torch.device("meta"))
    assert {moved.replicas.device.type, moved.rank_of_physical.device.type, moved.local_of_physical.device.type} == {
        "meta"
    }
    assert moved.rank_experts == ((0, 1, 2), (3, 4))


@settings(deadline=None, max_examples=100)
@given(st.data())
def test_what_arrives_is_planned_in_the_order_of_slots(data):
    num_experts = data.draw(st.integers(1, 6))
    *choice, num_zero_compute = data.draw(choices(num_experts))
    plan = make_plan(*choice, num_experts + num_zero_compute)
    # On a single rank everything arrives where it was, so the plan of arrivals is the plan, by another numbering.
    alone = Placement.of_layer(chunk_experts(num_experts, num_ranks=1), 0)
    routes = find_routes(plan, alone, rank=0)
    arrived = plan_arrivals(
        routes.pair_of_row,
        routes.expert_of_row,
        num_pairs=len(routes.token_of_pair),
        num_experts=num_experts + bool(num_zero_compute),
        max_rows_per_token=plan.max_rows_per_token,
    )
    assert routes.token_of_pair[arrived.token_of_row].tolist() == [
        token
        for expert in range(arrived.num_experts)
        for _, (token, e) in sorted(rows_of(plan).items(), key=lambda item: order_of(plan, item[0]))
        if min(e, num_experts) == expert
    ]
    slots = routes.slot_of_row[arrived.slot_of_row[arrived.row_order]].tolist()
    assert slots == plan.slot_of_row[plan.row_order].tolist()
    assert arrived.expert_counts.sum() == plan.num_rows


def order_of(plan, slot):
    """The place of a row in the order (token, slot) in which a plan adds up."""
    return plan.slot_of_row[plan.row_order].tolist().index(slot)
