"""Rows, sends, drops and weights read, against one token at a time; and real processes that send and count."""

import numpy as np
import pytest
import torch
import torch.multiprocessing as mp
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.errors import InputError
from headgate.layout import deal_experts
from headgate.planning.placement import place_experts
from headgate.planning.traffic import RoutedTokens, count_traffic, deal_tokens, tokens_of, whole_steps
from traces import random_trace


def count_slowly(ids, step, layout, capacity_factor, exchange):
    """One token at a time: rows, drops, touched, sent and received, as plain dictionaries of counts."""
    num_devices, size = layout.num_devices, layout.slots_per_device
    per_node = num_devices // layout.num_nodes
    num_steps = int(step[-1]) + 1
    rows, touched = (np.zeros((num_steps, num_devices), dtype=int) for _ in range(2))
    sent, received = (np.zeros((num_steps, num_devices, 2), dtype=int) for _ in range(2))
    drops = np.zeros(num_steps, dtype=int)
    for number in range(num_steps):
        tokens = np.flatnonzero(step == number)
        capacity = np.inf if capacity_factor is None else np.ceil(capacity_factor * len(tokens) * ids.shape[1] / 8)
        seen, filled, ran = {}, {}, set()
        for place, token in enumerate(tokens):
            rank = place * num_devices // len(tokens)
            reached = set()
            for expert in ids[token]:
                if expert < 0:
                    continue
                filled[expert] = filled.get(expert, 0) + 1
                if filled[expert] > capacity:
                    drops[number] += 1
                    continue
                holders = np.flatnonzero(layout.physical_to_logical[0] == expert)
                turn = seen.get((rank, expert), 0)
                seen[rank, expert] = turn + 1
                slot = int(holders[(turn + rank) % len(holders)])
                reached.add(slot // size)
                ran.add(slot)
                rows[number, slot // size] += 1
            sends = {(rank, device) for device in reached}
            if exchange == "two_level":
                relays = {device: device // per_node * per_node + rank % per_node for device in reached}
                sends = {(rank, relay) for relay in relays.values()} | {(relays[d], d) for d in reached}
            for begin, end in sends:
                is_across = int(begin // per_node != end // per_node)
                sent[number, begin, is_across] += begin != end
                received[number, end, is_across] += begin != end
        for slot in ran:
            touched[number, slot // size] += 1
    return rows, drops, touched, sent, received


@given(st.integers(0, 2**32 - 1), st.sampled_from([None, 0.5, 1.0, 1.25]), st.sampled_from(["flat", "two_level"]))
@settings(deadline=None, max_examples=60)
def test_traffic_is_what_a_loop_counts(seed, capacity_factor, exchange):
    rng = np.random.default_rng(seed)
    num_tokens, top_k = int(rng.integers(1, 40)), int(rng.integers(1, 5))
    ids = np.argsort(rng.random((num_tokens, 8)))[:, :top_k]
    ids[rng.random(ids.shape) < 0.15] = -1
    step = np.sort(rng.integers(0, 3, num_tokens))
    step = np.unique(step, return_inverse=True)[1]
    layout = place_experts(rng.integers(1, 99, (1, 8)), num_devices=4, num_replicas=4, num_nodes=2)
    options = {"capacity_factor": capacity_factor, "exchange": exchange}
    found = count_traffic(torch.from_numpy(ids), torch.from_numpy(step), layout, 0, **options)
    expected = count_slowly(ids, step, layout, capacity_factor, exchange)
    for name, want in zip(("rows", "drops", "touched", "sent", "received"), expected, strict=True):
        assert getattr(found, name).tolist() == want.tolist(), name
    assert int(found.rows.sum() + found.drops.sum()) == (ids >= 0).sum()
    assert found.sent.sum((1, 2)).tolist() == found.received.sum((1, 2)).tolist()


def test_one_device_sends_nothing_and_experts_together_are_reached_once():
    ids = torch.tensor([[0, 1], [1, 0]])
    step = torch.zeros(2, dtype=torch.int64)
    assert count_traffic(ids, step, deal_experts(1, 2, num_devices=1), 0).sent.sum() == 0
    together = deal_experts(1, 4, num_devices=2)
    # Both tokens choose experts 0 and 1 of device 0; the second token is on device 1 and is sent once.
    assert count_traffic(ids, step, together, 0).sent.sum() == 1


def test_a_token_crosses_once_to_a_node_however_many_devices_it_needs_there():
    layout = deal_experts(1, 4, num_devices=4, num_nodes=2)
    ids, step = torch.tensor([[2, 3], [2, 3], [0, 1], [0, 1]]), torch.zeros(4, dtype=torch.int64)
    flat, two_level = (count_traffic(ids, step, layout, 0, exchange=name).sent[0] for name in ("flat", "two_level"))
    assert flat.tolist() == [[0, 2], [0, 2], [0, 2], [0, 2]]
    assert two_level.tolist() == [[1, 1], [1, 1], [1, 1], [1, 1]]


def test_tokens_are_dealt_out_evenly():
    step = torch.tensor([0] * 7 + [1] * 3)
    source = deal_tokens(step, num_devices=3)
    assert source.tolist() == [0, 0, 0, 1, 1, 2, 2, 0, 1, 2]


@given(st.lists(st.integers(1, 9), min_size=1, max_size=6), st.integers(1, 7), st.sampled_from([None, 1, 4, 100]))
@settings(deadline=None, max_examples=40)
def test_steps_are_whole_wherever_the_parts_are_cut(lengths, cut, step_tokens):
    marks = torch.arange(len(lengths)).repeat_interleave(torch.tensor(lengths)) * 3
    ids = torch.arange(len(marks)).view(1, -1, 1)
    cuts = zip(ids.split(cut, dim=1), marks.split(cut), strict=True)
    parts = [RoutedTokens(expert_ids=part, step=step) for part, step in cuts]
    blocks = list(whole_steps(parts, num_devices=2, step_tokens=step_tokens))
    assert torch.cat([block.expert_ids for block in blocks], dim=1).tolist() == ids.tolist()
    found = [size for block in blocks for size in torch.unique_consecutive(block.step, return_counts=True)[1].tolist()]
    whole, left = divmod(sum(lengths), step_tokens or 1)
    assert found == ([step_tokens] * whole + [left] * (left > 0) if step_tokens else lengths)


def test_blocks_are_bounded(monkeypatch):
    from headgate.planning import traffic

    monkeypatch.setattr(traffic, "_BLOCK_SLOTS", 64)
    ids = torch.zeros(1, 100, 2, dtype=torch.int64)
    blocks = list(whole_steps([RoutedTokens(expert_ids=ids, step=torch.arange(100) // 5)], num_devices=2))
    assert all(block.expert_ids.shape[1] * 2 <= 64 for block in blocks)
    assert sum(block.expert_ids.shape[1] for block in blocks) == 100


def test_steps_need_tokens():
    with pytest.raises(InputError, match=r"^tokens \(=0\) must be at least one; give a trace of tokens"):
        list(whole_steps([], num_devices=2))
    with pytest.raises(
        InputError, match=r"^step tokens \(=0\) must be at least 1; leave it out for the passes of the trace$"
    ):
        list(whole_steps([], num_devices=2, step_tokens=0))


def test_tokens_of_a_trace_are_without_padding_and_drops():
    trace = random_trace()
    (tokens,) = tokens_of(trace)
    assert torch.equal(tokens.expert_ids, trace.topk_ids.masked_fill(trace.is_dropped, -1))
    assert torch.equal(tokens.step, trace.forward_id.long())
    (tokens,) = tokens_of(trace, top_k=1)
    assert tokens.expert_ids.shape[2] == 1
    with pytest.raises(InputError, match=r"^top_k \(=3\) must be between 1 and the choices that were recorded \(=2\)$"):
        list(tokens_of(trace, top_k=3))


def send_rows(rank, num_ranks, ids, width, folder):
    """One process of a real exchange: send each token once to each device of its experts, and count the bytes."""
    torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=num_ranks)
    layout = deal_experts(1, 8, num_devices=num_ranks, num_replicas=8)
    holders = [np.flatnonzero(layout.physical_to_logical[0] == expert) for expert in range(8)]
    mine = [token for token in range(len(ids)) if token * num_ranks // len(ids) == rank]
    seen, to, rows_to = {}, [[] for _ in range(num_ranks)], [0] * num_ranks
    for token in mine:
        reached = set()
        for expert in ids[token].tolist():
            slot = int(holders[expert][(seen.get(expert, 0) + rank) % len(holders[expert])])
            seen[expert] = seen.get(expert, 0) + 1
            reached.add(slot // layout.slots_per_device)
            rows_to[slot // layout.slots_per_device] += 1
        for device in reached:
            to[device].append(torch.full((width,), float(token)))
    sizes = torch.tensor([[len(tokens), rows] for tokens, rows in zip(to, rows_to, strict=True)])
    arriving = torch.zeros(num_ranks, 2, dtype=torch.int64)
    torch.distributed.all_to_all_single(arriving, sizes)
    packed = torch.cat([torch.stack(part) if part else torch.zeros(0, width) for part in to])
    landed = torch.zeros(int(arriving[:, 0].sum()), width)
    torch.distributed.all_to_all_single(landed, packed, arriving[:, 0].tolist(), sizes[:, 0].tolist())
    others = [device for device in range(num_ranks) if device != rank]
    sent_bytes = int(sizes[others, 0].sum()) * width * 4
    received_bytes = (len(landed) - int(arriving[rank, 0])) * landed.element_size() * width
    torch.save((int(arriving[:, 1].sum()), sent_bytes, received_bytes), f"{folder}/{rank}.pt")
    torch.distributed.destroy_process_group()


def test_real_processes_send_what_is_counted(tmp_path):
    ids = torch.from_numpy(np.argsort(np.random.default_rng(0).random((50, 8)))[:, :3].copy())
    width, num_ranks = 16, 2
    mp.start_processes(send_rows, (num_ranks, ids, width, str(tmp_path)), nprocs=num_ranks, start_method="fork")
    layout = deal_experts(1, 8, num_devices=num_ranks, num_replicas=8)
    found = count_traffic(ids, torch.zeros(50, dtype=torch.int64), layout, 0)
    for rank in range(num_ranks):
        rows, sent_bytes, received_bytes = torch.load(tmp_path / f"{rank}.pt")
        assert rows == found.rows[0, rank]
        assert sent_bytes == found.sent[0, rank].sum() * width * 4
        assert received_bytes == found.received[0, rank].sum() * width * 4
