"""Pack replicas into devices of equally many slots: two quick packings, and swaps that make either more even.

Letters: X independent problems (layers, or nodes of layers), W devices, S slots of a device, P = W * S, E experts.
A packing is [X, W, S] expert ids. `share` is [X, E], the rows of one replica of each expert.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Ids = NDArray[np.int64]
Rows = NDArray[np.float64]


def pack_replicas(
    counts: Rows, replicas: Ids, *, num_devices: int, tolerance: float = 1e-5, max_swaps: int = 1000
) -> Ids:
    """Pack the replicas of every problem: the better of two packings, after swaps.

    Args:
        counts: [X, E] rows per expert.
        replicas: [X, E], from 1 to W each; each row sums to P.
        num_devices: W.
        tolerance: a packing whose busiest device is within this fraction of the mean is even enough.
        max_swaps: of one problem.

    Returns:
        [X, W, S] expert ids; none twice on a device.

    Example:
        >>> counts = np.array([[5.0, 4.0, 3.0, 2.0]])
        >>> pack_replicas(counts, np.ones((1, 4), np.int64), num_devices=2).tolist()
        [[[0, 3], [1, 2]]]
    """
    if replicas[:1].sum() == num_devices * len(replicas[:1]):  # One slot each: nothing to choose.
        experts = np.broadcast_to(np.arange(counts.shape[1]), counts.shape)
        return np.repeat(experts.ravel(), replicas.ravel()).reshape(len(counts), num_devices, 1)
    share = counts / replicas
    order = _largest_first(share, replicas)
    packed = pack_in_rounds(share, order, num_devices)
    swap_until_even(share, packed, tolerance=tolerance, max_swaps=max_swaps)
    rows = np.flatnonzero(busiest(share, packed) > counts.sum(1) / num_devices * (1 + tolerance))
    if not len(rows):
        return packed
    other, is_packed = pack_one_by_one(share[rows], order[rows], num_devices)
    rows, other = rows[is_packed], other[is_packed]
    if len(rows):
        swap_until_even(share[rows], other, tolerance=tolerance, max_swaps=max_swaps)
        is_better = busiest(share[rows], other) < busiest(share[rows], packed[rows])
        packed[rows[is_better]] = other[is_better]
    return packed


def _largest_first(share: Rows, replicas: Ids) -> Ids:
    """[X, P] the experts of all replicas, largest share first; the replicas of an expert follow each other."""
    order = np.argsort(-share, axis=1, kind="stable")
    numbers = np.take_along_axis(replicas, order, axis=1)
    return np.repeat(order.ravel(), numbers.ravel()).reshape(len(share), -1)


def device_loads(share: Rows, packed: Ids) -> Rows:
    """[X, W] rows of each device."""
    loads: Rows = np.take_along_axis(share, packed.reshape(len(packed), -1), axis=1).reshape(packed.shape).sum(2)
    return loads


def busiest(share: Rows, packed: Ids) -> Rows:
    """[X] rows of the busiest device."""
    top: Rows = device_loads(share, packed).max(axis=1, initial=0)
    return top


def pack_in_rounds(share: Rows, order: Ids, num_devices: int) -> Ids:
    """Give every device one replica per round, the largest to the one that has least so far.

    It always succeeds: an expert's replicas follow each other and are at most W, so they fall in at most two rounds;
    those in the second go to the devices that got none in the first.

    Args:
        share: [X, E].
        order: [X, P] experts, those of one expert side by side.
        num_devices: W.

    Returns:
        [X, W, S].
    """
    rounds = order.reshape(len(order), -1, num_devices)
    rows = np.arange(len(order))[:, None]
    packed = np.empty((len(order), num_devices, rounds.shape[1]), dtype=np.int64)
    loads = np.zeros((len(order), num_devices))
    for number in range(rounds.shape[1]):
        experts = rounds[:, number]
        rank = loads
        if number:
            again = rounds[:, number - 1, -1:]
            num_again = np.cumprod(experts == again, axis=1).sum(1, keepdims=True)
            has_it = (packed[:, :, :number] == again[:, :, None]).any(2)
            place = np.argsort(np.argsort(np.where(has_it, np.inf, loads), axis=1, kind="stable"), axis=1)
            # Loads are not negative, so these devices come first.
            rank = np.where(place < num_again, place - num_devices, loads)
        devices = np.argsort(rank, axis=1, kind="stable")
        packed[rows, devices, number] = experts
        loads[rows, devices] += np.take_along_axis(share, experts, axis=1)
    return packed


def pack_one_by_one(share: Rows, order: Ids, num_devices: int) -> tuple[Ids, NDArray[np.bool_]]:
    """Give each replica, largest first, to the device that has least so far, a free slot, and not that expert.

    References:
        R. L. Graham, "Bounds on Multiprocessing Timing Anomalies", 1969, https://doi.org/10.1137/0117039 (largest
        first), with slots counted.

    Returns:
        [X, W, S], and [X] whether every replica found a device; where not, the packing is incomplete.
    """
    num_rows, num_slots = order.shape
    size = num_slots // num_devices
    rows = np.arange(num_rows)
    packed = np.full((num_rows, num_devices, size), -1, dtype=np.int64)
    loads, used = np.zeros((num_rows, num_devices)), np.zeros((num_rows, num_devices), dtype=np.int64)
    held = np.zeros((num_rows, num_devices), dtype=bool)
    is_packed = np.ones(num_rows, dtype=bool)
    for number in range(num_slots):
        expert = order[:, number]
        # Replicas of an expert follow each other, so only the last one's devices are to be remembered.
        held[expert != order[:, number - 1]] = False
        free = np.where(held, np.inf, loads)
        device = free.argmin(axis=1)
        is_packed &= np.isfinite(free[rows, device])
        held[rows, device] = True
        slot = np.minimum(used[rows, device], size - 1)
        packed[rows, device, slot] = expert
        used[rows, device] += 1
        loads[rows, device] = np.where(used[rows, device] < size, loads[rows, device] + share[rows, expert], np.inf)
    return packed, is_packed


def swap_until_even(share: Rows, packed: Ids, *, tolerance: float, max_swaps: int) -> None:
    """Swap replicas of the busiest device with others, each time the pair that helps most; changes `packed`.

    Every swap makes the larger load of its two devices smaller, so the busiest device never gets busier, and none ever
    holds an expert twice.
    """
    size = packed.shape[2]
    loads = device_loads(share, packed)
    enough = loads.mean(1) * (1 + tolerance)
    active = np.flatnonzero(loads.max(1, initial=0) > enough)
    for _ in range(max_swaps):
        if not len(active):
            return
        rows = np.arange(len(active))
        worst, gain = _weigh_swaps(share[active], packed[active], loads[active])
        best = worst.reshape(len(active), -1).argmin(1)
        mine, other = np.divmod(best, worst.shape[2])
        top = loads[active].max(1)
        is_good = worst[rows, mine, other] < top * (1 - 1e-9)
        moved = gain[rows, mine, other][is_good]
        active, mine, other = active[is_good], mine[is_good], other[is_good]
        device, (other_device, other_slot) = loads[active].argmax(1), np.divmod(other, size)
        given = packed[active, device, mine].copy()
        packed[active, device, mine] = packed[active, other_device, other_slot]
        packed[active, other_device, other_slot] = given
        loads[active, device] -= moved
        loads[active, other_device] += moved
        active = active[loads[active].max(1) > enough[active]]


def _weigh_swaps(share: Rows, packed: Ids, loads: Rows) -> tuple[Rows, Rows]:
    """For each slot of the busiest device and each slot anywhere: the larger load after a swap, and what it moves.

    Returns:
        [X, S, P] rows; infinite where a device would hold an expert twice.
    """
    num_rows, _, size = packed.shape
    busy = loads.argmax(1)
    rows = np.arange(num_rows)
    flat = packed.reshape(num_rows, -1)
    mine = packed[rows, busy]
    gain = np.take_along_axis(share, mine, 1)[:, :, None] - np.take_along_axis(share, flat, 1)[:, None]
    worst = np.maximum(loads[rows, busy][:, None, None] - gain, np.repeat(loads, size, axis=1)[:, None] + gain)
    num_experts = share.shape[1]
    held = np.zeros((num_rows, packed.shape[1], num_experts), dtype=bool)
    np.put_along_axis(held, packed, True, axis=2)
    has_mine = np.take_along_axis(held, np.repeat(mine[:, None], packed.shape[1], axis=1), axis=2)
    worst[np.repeat(has_mine.transpose(0, 2, 1), size, axis=2)] = np.inf
    is_mine = np.take_along_axis(held[rows, busy], flat, axis=1)
    worst[np.broadcast_to(is_mine[:, None], worst.shape)] = np.inf
    return worst, gain
