"""A layer spread over ranks, timed and counted: `torchrun ... benchmarks/support/spread.py OPTIONS`, JSON in and out.

Rank 0 writes the results to the file that the options name.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor.parallel import parallelize_module

import headgate
from headgate.dispatch import find_drops, plan_token_choice
from headgate.parallel import ExpertParallel
from headgate.parallel.exchange import Traffic
from headgate.parallel.experts import ShardedExperts
from headgate.parallel.traffic import measure_traffic


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """What is measured.

    Attributes:
        d_model, d_ff, num_experts, top_k: of the layer.
        num_tokens: over all ranks, dealt out evenly.
        num_nodes: over which the ranks are spread evenly, one after the other.
        two_level: whether a token goes once to each node, and on from there.
        rounds: of each figure.
        interface: whose bytes are read on the first rank of each host; "" = none.
        results: a file.
    """

    d_model: int
    d_ff: int
    num_experts: int
    top_k: int
    num_tokens: int
    rounds: int
    results: str
    num_nodes: int = 1
    two_level: bool = False
    interface: str = ""

    def to_json(self) -> str:
        """For the command line of the ranks."""
        return json.dumps(asdict(self))


def measure(setting: Setting) -> dict[str, Any] | None:
    """Time a step and the exchange alone, and count what one forward pass sends; None on all ranks but the first."""
    layer, tokens, mesh = _make(setting)

    def step() -> None:
        layer(tokens).square().mean().backward()
        layer.zero_grad()

    calls: dict[str, Callable[[], None]] = {"step_s": step}
    found: dict[str, Any] = {"traffic": {}, "crossed": 0}
    if isinstance(layer.experts, ShardedExperts):
        calls["exchange_s"] = _make_exchange_alone(layer, tokens, mesh)
        with measure_traffic(layer) as record, torch.no_grad():
            layer(tokens)
        found["traffic"] = _describe(record[""][0], setting)
        found["crossed"] = _count_crossing(layer, tokens, setting)
    found |= _time(calls, setting.rounds)
    gathered: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(gathered, found)
    return _join(gathered, list(calls)) if dist.get_rank() == 0 else None


def _make(setting: Setting) -> tuple[Any, Tensor, DeviceMesh]:
    """The layer with its experts spread, this rank's tokens, and the ranks."""
    num_ranks = dist.get_world_size()
    torch.manual_seed(0)
    sizes = {"num_experts": setting.num_experts, "top_k": setting.top_k}
    layer = headgate.MoE(setting.d_model, setting.d_ff, **sizes)
    tokens = torch.randn(setting.num_tokens, setting.d_model)
    shape, names = ((num_ranks,), ("ep",))
    if setting.two_level:
        shape, names = (setting.num_nodes, num_ranks // setting.num_nodes), ("node", "ep")
    mesh = dist.init_device_mesh("cpu", shape, mesh_dim_names=names)
    spread = parallelize_module(layer, mesh, ExpertParallel())
    return spread, tokens.tensor_split(num_ranks)[dist.get_rank()].clone().requires_grad_(), mesh


def _make_exchange_alone(layer: Any, tokens: Tensor, mesh: DeviceMesh) -> Callable[[], None]:
    """The same messages forward and backward, with experts that return their input."""
    with headgate.tap(layer) as tape, torch.no_grad():
        layer(tokens)
    choice = tape[""][0].choice
    num_experts = layer.experts.num_experts
    drops = find_drops(choice.expert_ids, None)
    plan = plan_token_choice(choice.expert_ids, drops, num_experts=num_experts, is_dropless=True)
    weights = choice.combine_weights.requires_grad_()
    spread = layer.experts.spread

    def run() -> None:
        def echo(arrived: Tensor, _: Any, row_weights: Tensor) -> Tensor:
            return arrived + 0 * row_weights.sum()

        y, _ = spread.run(tokens, plan, weights, echo)
        y.square().mean().backward()

    return run


def _count_crossing(layer: Any, tokens: Tensor, setting: Setting) -> float:
    """Bytes that left this rank's host in one forward pass, by the interface's own count; 0 where nobody reads it."""
    reads = setting.interface and os.environ["LOCAL_RANK"] == "0"
    with torch.no_grad():
        dist.barrier()
        before = read_sent_bytes(setting.interface) if reads else 0
        for _ in range(setting.rounds):
            layer(tokens)
        dist.barrier()
        after = read_sent_bytes(setting.interface) if reads else 0
    return (after - before) / setting.rounds


def read_sent_bytes(interface: str) -> int:
    """Bytes that have left an interface of this host, headers of Ethernet, IP and TCP included."""
    return int(Path(f"/sys/class/net/{interface}/statistics/tx_bytes").read_text(encoding="utf-8"))


def _describe(traffic: Traffic, setting: Setting) -> dict[str, int]:
    """What this rank sends in one forward pass, and how much of it to other nodes."""
    num_ranks, rank = dist.get_world_size(), dist.get_rank()
    per_node = num_ranks // setting.num_nodes
    others = [other for other in range(num_ranks) if other // per_node != rank // per_node]
    return {
        "rows_bytes": traffic.rows_bytes,
        "copies_bytes": traffic.copies_bytes,
        "both_ways_bytes": sum(traffic.bytes_sent),
        "message_bytes": traffic.message_bytes,
        "across_bytes": sum(traffic.bytes_sent[other] for other in others),
        "across_message_bytes": sum(traffic.choices_sent[other] for other in others) * traffic.choice_bytes,
    }


def _time(calls: dict[str, Callable[[], None]], rounds: int) -> dict[str, list[float]]:
    """Seconds of each call in each round, in turn; two rounds before these aren't counted."""
    samples: dict[str, list[float]] = {name: [] for name in calls}
    for index in range(2 + rounds):
        for name, call in calls.items():
            dist.barrier()
            begin = time.perf_counter()
            call()
            dist.barrier()
            if index >= 2:
                samples[name].append(time.perf_counter() - begin)
    return samples


def _join(ranks: Sequence[dict[str, Any]], names: Sequence[str]) -> dict[str, Any]:
    """Sums of what is counted; medians over rounds, and quartiles, of the slowest rank in each round."""
    joined: dict[str, Any] = {key: sum(rank["traffic"][key] for rank in ranks) for key in ranks[0]["traffic"]}
    joined["crossed_bytes"] = sum(rank["crossed"] for rank in ranks)
    for name in names:
        slowest = [max(times) for times in zip(*(rank[name] for rank in ranks), strict=True)]
        lower, median, upper = statistics.quantiles(slowest, n=4)
        joined |= {name: median, f"{name}_quartiles": (lower, upper)}
    return joined


def main() -> None:
    """Join the group that torchrun describes, measure, and leave."""
    setting = Setting(**json.loads(sys.argv[1]))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", timeout=timedelta(seconds=120))
    found = measure(setting)
    if found is not None:
        Path(setting.results).write_text(json.dumps(found), encoding="utf-8")
    dist.destroy_process_group()


if __name__ == "__main__":
    main()
