"""The claim: placement is never less even than DeepSeek's EPLB, evener in most cases, and takes no longer.

58 layers of 256 experts with 32 replicas (64 on 320 devices), 8 to 320 devices, five kinds of counts, seed 0. A case's
figure is busiest device / mean, averaged over layers; the bound is that of `load_bound`, for any placement. EPLB may
put two replicas of an expert on one device, which Headgate never does.

EPLB is not part of this repository. Get its one file, and say where it is:

    git clone https://github.com/deepseek-ai/EPLB /tmp/EPLB
    python benchmarks/placement.py --eplb /tmp/EPLB/eplb.py                   # one node, no groups
    python benchmarks/placement.py --eplb /tmp/EPLB/eplb.py --part nodes      # 8 groups, 2 to 8 nodes
    python benchmarks/placement.py --eplb /tmp/EPLB/eplb.py --part optimum    # small cases, against a solver's optimum
"""

from __future__ import annotations

import argparse
import importlib.util
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from support.optimum import smallest_maximum
from support.report import publish

from headgate.planning.placement import place_experts
from headgate.planning.replicas import load_bound

L, E = 58, 256
GLOBAL = [(devices, 1, None) for devices in (8, 16, 32, 48, 72, 96, 144, 288, 320)]
NODES = [(16, 2, 8), (32, 4, 8), (72, 8, 8), (144, 8, 8), (288, 8, 8)]
SMALL = [(6, 3, 9), (8, 4, 8), (7, 2, 8), (6, 4, 8), (5, 5, 10), (8, 4, 12), (7, 3, 9)]
"""Experts, devices, slots."""

Counts = NDArray[np.float64]


def make_counts() -> Iterator[tuple[str, Counts]]:
    """[L, E] counts of each kind."""
    rng = np.random.default_rng(0)
    yield "uniform", rng.poisson(1000, (L, E)).astype(float)
    rows = 50000 / np.arange(1, E + 1)
    yield "Zipf", np.stack([rng.permutation(rng.poisson(rows)) for _ in range(L)]).astype(float)
    yield "bursty", np.round(rng.lognormal(5, 1.5, (L, E)))
    groups = rng.lognormal(0, 0.8, (L, 8)).repeat(E // 8, axis=1)
    yield "grouped", np.round(groups * rng.gamma(2, 500, (L, E)))
    hard = np.ones((L, E))
    for layer in range(L):
        if layer % 4 == 0:  # One expert has nearly everything.
            hard[layer, rng.integers(E)] = 1e5
        elif layer % 4 == 1:  # Powers of two.
            hard[layer] = np.floor(2.0 ** -(np.arange(E) % 40) * 1e9)
        elif layer % 4 == 2:  # One more than half of the experts are twice as large as the rest.
            hard[layer] = np.where(np.arange(E) <= E // 2, 1000, 501)
        else:  # One more hot expert than replicas.
            hard[layer, rng.permutation(E)[:33]] = 1e4
    yield "adversarial", hard


def load_eplb(path: Path) -> Callable[..., Any]:
    """EPLB's function, from its file."""
    spec = importlib.util.spec_from_file_location("eplb", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.rebalance_experts


def busiest_of_eplb(plan: tuple[torch.Tensor, ...], counts: Counts, num_devices: int) -> Counts:
    """[L] rows of the busiest device in EPLB's answer."""
    expert, _, replicas = (part.numpy() for part in plan)
    of_slots = np.take_along_axis(counts / replicas, expert, axis=1)
    return of_slots.reshape(len(counts), num_devices, -1).sum(2).max(1)


def compare(rebalance: Callable[..., Any], cases: list[tuple[int, int, int | None]]) -> list[list[object]]:
    """One row per kind of counts and number of devices."""
    table: list[list[object]] = []
    for kind, counts in make_counts():
        for devices, nodes, groups in cases:
            slots = E + 64 if devices == 320 else E + 32
            times: dict[str, list[float]] = {"headgate": [], "EPLB": []}
            for _ in range(3 if slots == devices else 1):  # Milliseconds are worth repeating.
                begin = time.perf_counter()
                layout = place_experts(
                    counts, num_devices=devices, num_replicas=slots - E, num_nodes=nodes, num_groups=groups
                )
                times["headgate"].append(time.perf_counter() - begin)
                begin = time.perf_counter()
                plan = rebalance(torch.from_numpy(counts), slots, groups or 1, nodes, devices)
                times["EPLB"].append(time.perf_counter() - begin)
            mean = counts.sum(1) / devices
            ours, theirs = layout.device_loads(counts).max(1), busiest_of_eplb(plan, counts, devices)
            table.append(
                [
                    kind,
                    devices,
                    nodes,
                    float((ours / mean).mean()),
                    float((theirs / mean).mean()),
                    float((load_bound(counts, num_slots=slots, num_devices=devices) / mean).mean()),
                    int((ours < theirs * (1 - 1e-6)).sum()),
                    int((ours > theirs * (1 + 1e-6)).sum()),
                    min(times["headgate"]),
                    min(times["EPLB"]),
                ]
            )
    return table


def compare_with_optimum(rebalance: Callable[..., Any]) -> list[list[object]]:
    """One row per size: how far above the proven optimum both are, over six layers."""
    rng = np.random.default_rng(0)
    table: list[list[object]] = []
    for experts, devices, slots in SMALL:
        counts = np.round(rng.lognormal(3, rng.uniform(0.3, 2, (6, 1)), (6, experts))) + 1
        layout = place_experts(counts, num_devices=devices, num_replicas=slots - experts)
        plan = rebalance(torch.from_numpy(counts), slots, 1, 1, devices)
        best = np.array(
            [smallest_maximum(row, num_slots=slots, num_devices=devices, time_limit_s=30.0) for row in counts]
        )
        both = [layout.device_loads(counts).max(1), busiest_of_eplb(plan, counts, devices)]
        figures = [float(value) for found in both for value in ((found / best).mean(), (found / best).max())]
        table.append([experts, devices, slots, *figures])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--eplb", type=Path, help="eplb.py of https://github.com/deepseek-ai/EPLB")
    parser.add_argument("--part", choices=("global", "nodes", "optimum"), default="global")
    options = parser.parse_args()
    if options.eplb is None:
        print("nothing to compare with: give --eplb, the file eplb.py of https://github.com/deepseek-ai/EPLB")
        return
    rebalance = load_eplb(options.eplb)
    if options.part == "optimum":
        columns = ["experts", "devices", "slots", "headgate / optimum", "worst", "EPLB / optimum", "worst of EPLB"]
        publish("placement_optimum", "Small cases against HiGHS", columns, compare_with_optimum(rebalance))
        return
    table = compare(rebalance, GLOBAL if options.part == "global" else NODES)
    columns = ["counts", "devices", "nodes", "headgate", "EPLB", "bound"]
    columns += ["layers evener", "less even", "headgate s", "EPLB s"]
    publish(f"placement_{options.part}", "Busiest device / mean, 58 layers", columns, table)
    evener = sum(row[3] < row[4] * (1 - 1e-6) for row in table)
    worse = sum(row[3] > row[4] * (1 + 1e-6) for row in table)
    slower = sum(row[8] > row[9] for row in table)
    print(f"{len(table)} cases: evener in {evener}, less even in {worse}, slower in {slower}")


if __name__ == "__main__":
    main()
