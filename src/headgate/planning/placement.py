"""Place experts on devices: replication, packing, nodes, and how good the result is."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headgate.errors import InputError
from headgate.layout import ExpertLayout, check_sizes, fewest_replicas
from headgate.planning.packing import busiest, pack_one_by_one, pack_replicas
from headgate.planning.replicas import load_bound, replicate_experts
from headgate.planning.steps import improve_packing

Rows = NDArray[np.float64]
Ids = NDArray[np.int64]

_EVEN = 1e-5
"""Swaps end where the busiest device is within this fraction of the mean."""

_GOOD = 1e-3
"""Other replicas are tried where the busiest device is farther than this fraction from the bound."""

_MOST_FULL = 6
"""So many experts, at most, are tried on every device."""

_STEPS = 8
"""So many steps, at most, are taken in each layer in the end; in larger cases they are as slow as all before."""

_SHIFTS = ((0, 0), (1, 0), (2, 0), (3, 0), (0, 1), (0, 2), (0, 3), (1, 1), (1, 2))
"""Replicas that are tried with another expert: from the one that it hurts so little, to the so large share."""

_FEW_SLOTS = 64
"""With more slots in all, a single replica matters less, and only the first two of `_SHIFTS` are tried."""


def place_experts(
    counts: NDArray[np.integer] | Rows,
    *,
    num_devices: int,
    num_replicas: int | None = None,
    num_nodes: int = 1,
    num_groups: int | None = None,
    layer_index: tuple[int, ...] | None = None,
) -> ExpertLayout:
    """Choose the replicas of each expert and the device of each replica, so that the busiest device has few rows.

    Replicas go to the experts whose share is largest, then largest shares are packed first, and then replicas are
    swapped until no swap helps. Layers are placed independently of each other, all at once.

    With groups (routing limited to some groups of experts), whole groups go to nodes first, and experts are replicated
    within theirs, so that a token is sent to few nodes.

    Args:
        counts: [L, E] rows per expert.
        num_devices: W.
        num_replicas: slots beyond one for each expert; None = as few as fill the devices evenly.
        num_nodes: which the devices are spread over evenly, in order.
        num_groups: of experts, in the order of their ids; None = keep none together.
        layer_index: decoder layer of each row; None = 0 to L - 1.

    Raises:
        InputError: sizes that can't be, or counts that are negative or not finite.

    Example:
        >>> layout = place_experts(np.array([[8, 3, 3, 2]]), num_devices=2, num_replicas=2)
        >>> layout.device_loads(np.array([[8, 3, 3, 2]])).tolist()
        [[8.0, 8.0]]
    """
    rows = check_counts(counts)
    num_experts = rows.shape[1]
    extra = fewest_replicas(num_experts, max(num_devices, 1)) if num_replicas is None else num_replicas
    check_sizes(num_experts, num_devices=num_devices, num_replicas=extra, num_nodes=num_nodes)
    if num_groups is None:
        packed, top = _pack_evenly(rows, num_slots=num_experts + extra, num_devices=num_devices)
        aim = load_bound(rows, num_slots=num_experts + extra, num_devices=num_devices) * (1 + _GOOD)
        for row in np.flatnonzero(top > aim):
            improve_packing(packed[row], rows[row], target=float(aim[row]), max_steps=_STEPS)
    else:
        _check_groups(num_experts, num_groups, num_nodes)
        packed = _pack_groups(rows, num_experts + extra, num_devices, num_nodes, num_groups)
    return ExpertLayout(device_experts=packed, num_experts=num_experts, layer_index=layer_index, num_nodes=num_nodes)


def check_counts(counts: NDArray[Any]) -> Rows:
    """[L, E] float64 counts.

    Raises:
        InputError: another shape, negative, or not finite.
    """
    if counts.ndim != 2 or 0 in counts.shape:
        raise InputError(f"counts.shape (={counts.shape}) must be [L, E], none 0; give one row per layer")
    rows = counts.astype(np.float64)
    if not np.isfinite(rows).all() or (rows < 0).any():
        wrong = rows[~np.isfinite(rows) | (rows < 0)][0]
        raise InputError(f"counts (={wrong}) must be finite and at least 0; give the rows of each expert")
    return rows


def _check_groups(num_experts: int, num_groups: int, num_nodes: int) -> None:
    if num_groups < 1 or num_experts % num_groups:
        raise InputError(f"groups (={num_groups}) must divide the experts (={num_experts}); see the model's config")
    if num_groups % num_nodes:
        raise InputError(
            f"nodes (={num_nodes}) must divide the groups (={num_groups}) to keep groups together; leave --groups out"
        )


def _pack_evenly(counts: Rows, *, num_slots: int, num_devices: int) -> tuple[Ids, Rows]:
    """Pack with the replicas that make shares small; where that is uneven, try others.

    A smaller largest share is not always evener: three whole experts fill two devices worse than one on each and one on
    both. So the busiest experts are tried on every device, and then single replicas with another expert.

    Returns:
        [X, W, S] experts, and [X] rows of the busiest device.
    """
    replicas = replicate_experts(counts, num_slots=num_slots, max_replicas=num_devices)
    packed = pack_replicas(counts, replicas, num_devices=num_devices, tolerance=_EVEN)
    top = busiest(counts / replicas, packed)
    num_extra = num_slots - counts.shape[1]
    if packed.shape[2] == 1 or num_extra == 0 or num_devices == 1:
        return packed, top
    aim = load_bound(counts, num_slots=num_slots, num_devices=num_devices) * (1 + _GOOD)
    num_tries = min(num_extra // (num_devices - 1), _MOST_FULL)
    shifts = _SHIFTS if num_slots <= _FEW_SLOTS else _SHIFTS[:2]
    for number in range(num_tries + len(shifts)):
        rows = np.flatnonzero(top > aim)
        if not len(rows):
            break
        if number < num_tries:
            other = _replicate_fully(counts[rows], number + 1, num_slots, num_devices)
        else:
            other = _shift_replica(counts[rows], replicas[rows], shifts[number - num_tries], num_devices)
        tried = pack_replicas(counts[rows], other, num_devices=num_devices, tolerance=_EVEN)
        reached = busiest(counts[rows] / other, tried)
        better = reached < top[rows]
        rows = rows[better]
        packed[rows], replicas[rows], top[rows] = tried[better], other[better], reached[better]
    return packed, top


def _shift_replica(counts: Rows, replicas: Ids, places: tuple[int, int], num_devices: int) -> Ids:
    """[X, E] replicas after one went from an expert that it hurts little to one with a large share.

    Args:
        counts: [X, E].
        replicas: [X, E].
        places: of the two, 0 being the least hurt and the largest share; where there are no two such, nothing changes.
        num_devices: W.
    """
    rows = np.arange(len(counts))
    harm = np.where(replicas > 1, counts / np.maximum(replicas - 1, 1), np.inf)
    giver = np.argsort(harm, axis=1, kind="stable")[:, min(places[0], counts.shape[1] - 1)]
    share = np.where(replicas < num_devices, counts / replicas, -1.0)
    share[rows, giver] = -1.0
    taker = np.argsort(-share, axis=1, kind="stable")[:, min(places[1], counts.shape[1] - 1)]
    rows = np.flatnonzero((replicas[rows, giver] > 1) & (share[rows, taker] >= 0))
    shifted = replicas.copy()
    shifted[rows, giver[rows]] -= 1
    shifted[rows, taker[rows]] += 1
    return shifted


def _replicate_fully(counts: Rows, num_full: int, num_slots: int, num_devices: int) -> Ids:
    """[X, E] replicas with the `num_full` busiest experts on every device, and what is left for the others."""
    order = np.argsort(-counts, axis=1, kind="stable")
    full, others = order[:, :num_full], order[:, num_full:]
    replicas = np.full(counts.shape, num_devices, dtype=np.int64)
    rest = replicate_experts(
        np.take_along_axis(counts, others, axis=1),
        num_slots=num_slots - full.shape[1] * num_devices,
        max_replicas=num_devices,
    )
    np.put_along_axis(replicas, others, rest, axis=1)
    return replicas


def _pack_groups(counts: Rows, num_slots: int, num_devices: int, num_nodes: int, num_groups: int) -> Ids:
    """Pack groups into nodes in two ways, then each node for itself, and keep what is better in the end.

    The evener nodes do not always have the evener devices: what counts may be how few of the large experts meet.
    """
    group_counts = counts.reshape(len(counts), num_groups, -1).sum(2)
    ones = np.ones_like(group_counts, dtype=np.int64)
    nodes = pack_replicas(group_counts, ones, num_devices=num_nodes, tolerance=_EVEN)
    packed, top = _pack_nodes(counts, nodes, num_slots, num_devices)
    rows = np.flatnonzero(top > counts.sum(1) / num_devices * (1 + _GOOD))
    if nodes.shape[2] > 1 and len(rows):
        largest_first = np.argsort(-group_counts[rows], axis=1, kind="stable")
        nodes, _ = pack_one_by_one(group_counts[rows], largest_first, num_nodes)
        other, reached = _pack_nodes(counts[rows], nodes, num_slots, num_devices)
        better = reached < top[rows]
        packed[rows[better]] = other[better]
    return packed


def _pack_nodes(counts: Rows, nodes: Ids, num_slots: int, num_devices: int) -> tuple[Ids, Rows]:
    """Replicate and pack the groups of every node ([L, N, groups of a node]); [L, W, S], and the busiest's rows [L]."""
    num_layers, num_nodes, _ = nodes.shape
    size = counts.shape[1] // (num_nodes * nodes.shape[2])
    experts = (nodes[..., None] * size + np.arange(size)).reshape(num_layers * num_nodes, -1)
    part = np.take_along_axis(np.repeat(counts, num_nodes, axis=0), experts, axis=1)
    packed, top = _pack_evenly(part, num_slots=num_slots // num_nodes, num_devices=num_devices // num_nodes)
    ids = np.take_along_axis(experts, packed.reshape(len(packed), -1), axis=1)
    return ids.reshape(num_layers, num_devices, -1), top.reshape(num_layers, num_nodes).max(1)


@dataclass(frozen=True, slots=True, kw_only=True)
class Evenness:
    """How evenly a layout shares out some rows.

    Attributes:
        balancedness: mean / max of the devices' rows, the mean over layers; 1 is even.
        worst_balancedness: of the least even layer.
        max_over_mean: the busiest device in even shares, the mean over layers.
        bound: what `max_over_mean` is at least, whatever the layout, by `load_bound`.
    """

    balancedness: float
    worst_balancedness: float
    max_over_mean: float
    bound: float

    @property
    def distance(self) -> float:
        """How far the busiest device is above the bound, as a fraction; 0 is proven to be the best there is."""
        return self.max_over_mean / self.bound - 1

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "distance": self.distance}


def measure_evenness(layout: ExpertLayout, counts: NDArray[Any]) -> Evenness:
    """Measure how evenly a layout shares out rows; layers without rows are left out.

    Args:
        layout: whose replicas share their expert's rows evenly.
        counts: [L, E] rows per expert; of any tokens, not only those that it was planned for.

    Raises:
        InputError: counts of another shape, or all 0.

    Example:
        >>> layout = ExpertLayout(device_experts=np.array([[[0], [1]]]), num_experts=2)
        >>> measure_evenness(layout, np.array([[3, 1]])).max_over_mean
        1.5
    """
    rows = check_counts(counts)
    wanted = (len(layout.device_experts), layout.num_experts)
    if rows.shape != wanted:
        raise InputError(f"counts.shape (={rows.shape}) must be the layout's layers and experts (={wanted})")
    num_slots = layout.num_experts + layout.num_replicas
    bound = load_bound(rows, num_slots=num_slots, num_devices=layout.num_devices)
    return _evenness(layout.device_loads(rows), bound)


def measure_in_order(counts: NDArray[Any], *, num_devices: int) -> Evenness:
    """Measure how evenly devices are loaded that hold the experts in the order of their ids, each once.

    Where devices can't hold equally many, some hold one more; the bound is the mean.

    Example:
        >>> measure_in_order(np.array([[3, 1, 1, 1]]), num_devices=2).max_over_mean
        1.3333333333333333
    """
    rows = check_counts(counts)
    first = np.arange(num_devices) * rows.shape[1] // num_devices
    sums = np.concatenate([np.zeros((len(rows), 1)), rows.cumsum(1)], axis=1)
    loads = np.diff(np.concatenate([sums[:, first], sums[:, -1:]], axis=1), axis=1)
    return _evenness(loads, rows.sum(1) / num_devices)


def _evenness(loads: Rows, bound: Rows) -> Evenness:
    has_rows = loads.sum(1) > 0
    if not has_rows.any():
        raise InputError("counts (=0 rows in every layer) must have rows; record some tokens")
    top, mean = loads[has_rows].max(1), loads[has_rows].mean(1)
    return Evenness(
        balancedness=float((mean / top).mean()),
        worst_balancedness=float((mean / top).min()),
        max_over_mean=float((top / mean).mean()),
        bound=float((bound[has_rows] / mean).mean()),
    )
