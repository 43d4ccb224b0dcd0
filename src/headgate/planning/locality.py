"""Bring experts together that tokens choose together, without loading any device more than is allowed.

A token is sent once to each device that holds one of its experts, so two of them on one device save a send.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from headgate.errors import InputError
from headgate.layout import ExpertLayout
from headgate.planning.placement import check_counts

Rows = NDArray[np.float64]

_MAX_SWAPS = 400
_BLOCK = 1 << 16


def count_pairs(chunks: Iterable[Tensor], *, num_experts: int) -> NDArray[np.int64]:
    """Count the tokens that chose each pair of experts, in each layer.

    Args:
        chunks: [L, T, K] expert ids each, -1 = no expert.
        num_experts: E.

    Returns:
        [L, E, E], symmetric; 0 on the diagonal.

    Raises:
        InputError: there are no chunks.

    Example:
        >>> import torch
        >>> count_pairs([torch.tensor([[[0, 1], [1, 0], [2, -1]]])], num_experts=3)[0].tolist()
        [[0, 2, 0], [2, 0, 0], [0, 0, 0]]
    """
    total: NDArray[np.int64] | None = None
    for ids in chunks:
        found = np.stack([_pairs_of(layer.numpy(), num_experts) for layer in ids])
        total = found if total is None else total + found
    if total is None:
        raise InputError("chunks (=0) must hold tokens; count pairs of a trace that has some")
    return total


def _pairs_of(ids: NDArray[Any], num_experts: int) -> NDArray[np.int64]:
    """Of one layer: [T, K] ids as marks [T, E], times themselves."""
    total = np.zeros((num_experts, num_experts))
    for begin in range(0, len(ids), _BLOCK):
        part = ids[begin : begin + _BLOCK]
        marks = np.zeros((len(part), num_experts + 1), dtype=np.float32)
        # Empty slots mark a column of their own, which is cut off; float32 counts exactly to 2^24.
        np.put_along_axis(marks, np.where(part < 0, num_experts, part), 1.0, axis=1)
        total += marks[:, :num_experts].T @ marks[:, :num_experts]
    np.fill_diagonal(total, 0)
    return total.astype(np.int64)


def gather_partners(
    layout: ExpertLayout, counts: NDArray[Any], pairs: NDArray[np.int64], *, slack: float = 0.0
) -> ExpertLayout:
    """Swap replicas between devices so that tokens find more of their experts together.

    Each swap is the one that brings most pairs together, a pair on one node counting half as much as one on a device;
    none may load a device above the layer's busiest one (or, with slack, above `1 + slack` times it).

    Args:
        layout: an even one, such as `place_experts` gives.
        counts: [L, E] rows per expert.
        pairs: [L, E, E] tokens that chose both, see `count_pairs`.
        slack: how much busier the busiest device may become, as a fraction.

    Raises:
        InputError: shapes that do not fit, an empty slot, or a negative slack.
    """
    layout.require_full()
    rows = check_counts(counts)
    wanted = (len(layout.device_experts), layout.num_experts)
    if rows.shape != wanted or pairs.shape != (*wanted, wanted[1]):
        raise InputError(f"counts and pairs (={rows.shape}, {pairs.shape}) must fit the layout [L, E] (={wanted})")
    if not slack >= 0:
        raise InputError(f"slack (={slack}) must be at least 0; 0.02 lets the busiest device get 2 % busier")
    share = rows / layout.replica_counts
    # Rounding: a swap of equal shares must not look like a gain in load.
    limit = layout.device_loads(rows).max(1) * (1 + slack + 1e-12)
    packed = layout.device_experts.copy()
    nearness = _nearness(layout.num_devices, layout.num_nodes)
    for row in range(len(packed)):
        weight = pairs[row] / np.outer(layout.replica_counts[row], layout.replica_counts[row])
        _gather_layer(packed[row], share[row], weight, nearness, limit[row])
    return replace(layout, device_experts=packed)


def _nearness(num_devices: int, num_nodes: int) -> Rows:
    """[W, W] what a pair on two devices is worth: 1 on the same one, 1/2 on the same node."""
    node = np.arange(num_devices) * num_nodes // num_devices
    together: Rows = (node[:, None] == node) * (0.5 if num_nodes > 1 else 0.0)
    np.fill_diagonal(together, 1.0)
    return together


def _gather_layer(packed: NDArray[np.int64], share: Rows, weight: Rows, nearness: Rows, limit: float) -> None:
    """Swap slots of one layer ([W, S]), in place."""
    size = packed.shape[1]
    expert = packed.reshape(-1)
    device = np.arange(len(expert)) // size
    load = share[expert].reshape(packed.shape).sum(1)
    between = weight[np.ix_(expert, expert)]
    # [P, W] what each slot would be worth on each device.
    worth = between @ nearness[device]
    for _ in range(_MAX_SWAPS):
        gain = _swap_gains(expert, device, worth, between, nearness)
        after = load[device][:, None] + share[expert] - share[expert][:, None]
        gain[np.maximum(after, after.T) > limit] = -np.inf
        one, two = np.unravel_index(gain.argmax(), gain.shape)
        if gain[one, two] <= 1e-9 * max(worth.max(initial=0), 1e-300):
            return
        first, second = device[one], device[two]
        moved = share[expert[two]] - share[expert[one]]
        load[first] += moved
        load[second] -= moved
        expert[one], expert[two] = expert[two], expert[one]
        between[[one, two]] = between[[two, one]]
        between[:, [one, two]] = between[:, [two, one]]
        worth = between @ nearness[device]


def _swap_gains(expert: NDArray[np.int64], device: NDArray[np.int64], worth: Rows, between: Rows, near: Rows) -> Rows:
    """[P, P] what swapping two slots is worth; minus infinity where a device would hold an expert twice."""
    there = worth[:, device]
    here = worth[np.arange(len(expert)), device]
    gain = there + there.T - here[:, None] - here - 2 * between * (1 - near[np.ix_(device, device)])
    held = np.zeros((near.shape[0], int(expert.max()) + 1), dtype=bool)
    held[device, expert] = True
    is_there = held[device][:, expert].T
    gain[is_there | is_there.T | (device[:, None] == device)] = -np.inf
    return gain
