"""How many replicas each expert gets, and a proven bound on how even any placement can be."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def replicate_experts(counts: NDArray[np.float64], *, num_slots: int, max_replicas: int) -> NDArray[np.int64]:
    """Give slots to experts so that the largest share of a replica is as small as it can be.

    Each slot beyond the first of every expert goes to the expert whose replicas have the largest share. That is
    optimal: any replicas with a smaller largest share are at least these for every expert. Ties go to the lowest id.

    Args:
        counts: [X, E] rows per expert, at least 0.
        num_slots: P, from E to E * max_replicas.
        max_replicas: of one expert; the number of devices.

    Returns:
        [X, E] int64, each row sums to P.

    Example:
        >>> replicate_experts(np.array([[9.0, 2.0, 1.0]]), num_slots=5, max_replicas=4).tolist()
        [[3, 1, 1]]
    """
    rows = np.arange(len(counts))
    replicas = np.ones(counts.shape, dtype=np.int64)
    # Experts without rows still share out what is left evenly.
    loads = np.maximum(counts, 1e-9 * max(counts.max(initial=0), 1))
    share = loads.copy() if max_replicas > 1 else np.full_like(loads, -1)
    for _ in range(num_slots - counts.shape[1]):
        largest = share.argmax(axis=1)
        replicas[rows, largest] += 1
        number = replicas[rows, largest]
        share[rows, largest] = np.where(number < max_replicas, loads[rows, largest] / number, -1)
    return replicas


def load_bound(counts: NDArray[np.float64], *, num_slots: int, num_devices: int) -> NDArray[np.float64]:
    r"""Bound the busiest device's rows from below, for every placement whose replicas share evenly.

    The largest of three bounds:

    - the mean: W devices share all rows;
    - the largest replica: a device that holds it, and S - 1 other experts, of which none can have a share below its
      rows over the most replicas that it could have;
    - the single experts: at most P - E experts have a second replica, so at least 2 E - P are whole. Take away the
      P - E largest; of the rest v_1 >= v_2 >= ..., some device holds m + 1 of the first m W + 1 (pigeons and holes),
      and so at least the m + 1 smallest of these, for every m.

    Args:
        counts: [X, E].
        num_slots: P.
        num_devices: W.

    Returns:
        [X] rows.

    Example:
        >>> load_bound(np.array([[3.0, 3.0, 3.0]]), num_slots=3, num_devices=2 - 1).tolist()
        [9.0]
    """
    num_experts = counts.shape[1]
    replicas = replicate_experts(counts, num_slots=num_slots, max_replicas=num_devices)
    most = min(num_devices, num_slots - num_experts + 1)
    least_shares = np.sort(counts / most, axis=1)[:, : num_slots // num_devices - 1]
    bound: NDArray[np.float64] = counts.sum(1) / num_devices
    bound = np.maximum(bound, (counts / replicas).max(1) + least_shares.sum(1))
    singles = -np.sort(-counts, axis=1)[:, num_slots - num_experts :]
    sums = np.concatenate([np.zeros((len(counts), 1)), singles.cumsum(1)], axis=1)
    for m in range(1, (singles.shape[1] - 1) // num_devices + 1):
        last = m * num_devices + 1
        bound = np.maximum(bound, sums[:, last] - sums[:, last - m - 1])
    return bound
