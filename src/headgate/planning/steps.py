"""Single steps that make one layer's packing more even: swaps, and replicas that change hands."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Rows = NDArray[np.float64]
Ids = NDArray[np.int64]


def improve_packing(packed: Ids, counts: Rows, *, target: float, max_steps: int) -> bool:
    """Change a packing step by step until no device has more rows than a target; changes `packed`.

    Each step is the one that lowers the busiest device most per expert that a device must load: a swap (two), or a
    replica that changes hands (one).

    Args:
        packed: [W, S] expert ids, none twice on a device.
        counts: [E] rows per expert.
        target: rows.
        max_steps: after which it gives up.

    Returns:
        Whether the target was reached.
    """
    for _ in range(max_steps):
        replicas = np.bincount(packed.ravel(), minlength=len(counts))
        share = counts / replicas
        loads = share[packed].sum(1)
        busy = int(loads.argmax())
        if loads[busy] <= target * (1 + 1e-12):
            return True
        swap = _best_swap(packed, share, loads, busy)
        handover = _best_handover(packed, counts, replicas, loads, busy)
        step = max(swap, handover, key=lambda found: found[0])
        if step[0] <= 1e-12 * loads[busy]:
            return False
        for device, slot, expert in step[1]:
            packed[device, slot] = expert
    return False


_Step = tuple[float, list[tuple[int, int, int]]]


def _best_swap(packed: Ids, share: Rows, loads: Rows, busy: int) -> _Step:
    """Swap a slot of the busiest device with another: how much lower both stay, per expert loaded, and the writes."""
    held = np.zeros((len(packed), len(share)), dtype=bool)
    np.put_along_axis(held, packed, True, axis=1)
    moved = share[packed[busy]][:, None, None] - share[packed]
    worst = np.maximum(loads[busy] - moved, loads[None, :, None] + moved)
    worst[held[:, packed[busy]].T[:, :, None] | held[busy][packed][None]] = np.inf
    slot, device, other = np.unravel_index(worst.argmin(), worst.shape)
    gain = (loads[busy] - worst[slot, device, other]) / 2
    writes = [(busy, int(slot), int(packed[device, other])), (int(device), int(other), int(packed[busy, slot]))]
    return float(gain), writes


def _best_handover(packed: Ids, counts: Rows, replicas: Ids, loads: Rows, busy: int) -> _Step:
    """Let a slot whose expert has other replicas take an expert of the busiest device: one expert to load."""
    held = np.zeros((len(packed), len(counts)), dtype=bool)
    np.put_along_axis(held, packed, True, axis=1)
    best: _Step = (0.0, [])
    slots = np.argwhere(replicas[packed] > 1)
    for taken in packed[busy]:
        free = slots[~held[slots[:, 0], taken]]
        if not len(free):
            continue
        given = packed[free[:, 0], free[:, 1]]
        rise = counts[given] / (replicas[given] - 1) - counts[given] / replicas[given]
        fall = counts[taken] / replicas[taken] - counts[taken] / (replicas[taken] + 1)
        after = loads + held[:, given].T * rise[:, None] - held[:, taken] * fall
        after[np.arange(len(free)), free[:, 0]] += counts[taken] / (replicas[taken] + 1) - counts[given] / (
            replicas[given] - 1
        )
        worst = after.max(1)
        index = int(worst.argmin())
        gain = float(loads[busy] - worst[index])
        if gain > best[0]:
            best = (gain, [(int(free[index, 0]), int(free[index, 1]), int(taken))])
    return best
