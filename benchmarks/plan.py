"""Claim: the native counting sort makes dispatch plans faster than PyTorch's stable sort.

Both read N ids and write N slots and E + 1 offsets, so the floor is 16 bytes a slot over the memory's bandwidth;
the rest is passes over the data: two for a counting sort.
"""

from __future__ import annotations

import functools

import torch
from support.report import publish
from support.timing import time_interleaved

from headgate.kernels import native
from headgate.kernels.plan import sort_slots_native, sort_slots_torch

CASES = [(64, 8), (4096, 64), (32768, 64), (32768, 256), (262144, 256)]
ROUNDS = 41


def main() -> None:
    """Time both on the same ids, in turn."""
    if native.library() is None:
        print(f"nothing to compare: {native.why_missing()}")
        return
    rows = []
    for num_slots, num_experts in CASES:
        torch.manual_seed(0)
        ids = torch.randint(0, num_experts, (num_slots,))
        calls = {
            "native": functools.partial(sort_slots_native, ids, num_experts),
            "torch": functools.partial(sort_slots_torch, ids, num_experts),
        }
        times = time_interleaved(calls, rounds=ROUNDS, warm_up=5)
        fast, slow = times["native"].median_s, times["torch"].median_s
        rows.append([num_slots, num_experts, fast * 1e6, slow * 1e6, slow / fast])
    columns = ["slots N", "experts E", "native us", "torch us", "torch / native"]
    publish("plan", f"sort_slots on the CPU; medians of {ROUNDS} interleaved rounds", columns, rows)


if __name__ == "__main__":
    main()
