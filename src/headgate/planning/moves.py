"""From a layout in use to a better one, with few experts to load."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headgate.errors import BackendError, InputError
from headgate.layout import ExpertLayout
from headgate.planning.placement import check_counts
from headgate.planning.steps import improve_packing

Rows = NDArray[np.float64]
Ids = NDArray[np.int64]


def name_devices_as(layout: ExpertLayout, old: ExpertLayout) -> ExpertLayout:
    """Rename a layout's nodes, and their devices, so that most experts stay where the old layout has them.

    Loads do not change: devices are alike. Each layer is an assignment problem, solved exactly, for devices within a
    node, and then for nodes.

    Raises:
        InputError: layouts of different sizes, or with an empty slot.
        BackendError: scipy is not installed.

    Example:
        >>> new = ExpertLayout(device_experts=np.array([[[2, 1], [0, 3]]]), num_experts=4)
        >>> old = ExpertLayout(device_experts=np.array([[[0, 1], [2, 3]]]), num_experts=4)
        >>> new.moves_from(old), name_devices_as(new, old).device_experts.tolist()
        (2, [[[2, 1], [0, 3]]])
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise BackendError("scipy is not installed; pip install 'headgate[planning]'") from error
    _require_alike(layout, old)
    num_nodes = layout.num_nodes
    renamed = layout.device_experts.copy()
    for row, (mine, theirs) in enumerate(zip(layout.device_experts, old.device_experts, strict=True)):
        kept = _shared_experts(mine, theirs, layout.num_experts)
        size = len(mine) // num_nodes
        blocks = kept.reshape(num_nodes, size, num_nodes, size).transpose(0, 2, 1, 3)
        best = [[linear_sum_assignment(-block) for block in line] for line in blocks]
        value = np.array([[blocks[a, b][best[a][b]].sum() for b in range(num_nodes)] for a in range(num_nodes)])
        for node, place in zip(*linear_sum_assignment(-value), strict=True):
            device, target = best[node][place]
            renamed[row, place * size + target] = mine[node * size + device]
    return replace(layout, device_experts=renamed)


def _require_alike(layout: ExpertLayout, old: ExpertLayout) -> None:
    layout.require_full()
    old.require_full()
    mine, theirs = ((*x.device_experts.shape, x.num_experts, x.num_nodes) for x in (layout, old))
    if mine != theirs:
        raise InputError(
            f"old layout (={theirs} layers, devices, slots, experts, nodes) must be as the new one (={mine}); "
            "plan without the old one when sizes change"
        )


def _shared_experts(mine: Ids, theirs: Ids, num_experts: int) -> Ids:
    """[W, W] experts that a device of one layout has in common with a device of the other."""
    held = np.zeros((2, len(mine), num_experts), dtype=np.int64)
    for side, table in enumerate((mine, theirs)):
        np.put_along_axis(held[side], table, 1, axis=1)
    shared: Ids = held[0] @ held[1].T
    return shared


def improve_layout(
    old: ExpertLayout, counts: NDArray[Any], *, target: Rows, max_steps: int = 200
) -> tuple[ExpertLayout, NDArray[np.bool_]]:
    """Change as little of a layout as brings the busiest device of each layer down to a target.

    Steps are swaps (two experts to load) and replicas that change hands (one): each time the one that lowers the
    busiest device most per expert loaded.

    Args:
        old: where experts are now.
        counts: [L, E] rows per expert.
        target: [L] rows of the busiest device at which to stop.
        max_steps: of one layer.

    Returns:
        The layout, and [L] whether the target was reached; where not, it is as near as such steps come.

    Raises:
        InputError: a slot is empty.
    """
    old.require_full()
    rows = check_counts(counts)
    packed = old.device_experts.copy()
    reached = [
        improve_packing(packed[row], rows[row], target=target[row], max_steps=max_steps) for row in range(len(packed))
    ]
    return replace(old, device_experts=packed), np.array(reached)


def replan(old: ExpertLayout, new: ExpertLayout, counts: NDArray[Any], *, tolerance: float = 0.02) -> ExpertLayout:
    """Take the cheaper way, layer by layer: improve the old layout, or take the new one, with its devices renamed.

    Args:
        old: where experts are now.
        new: the best layout that is known, of the same sizes.
        counts: [L, E] rows per expert.
        tolerance: how much busier than in `new` the busiest device may stay, as a fraction.

    Raises:
        InputError: layouts of different sizes or with an empty slot, or a negative tolerance.
        BackendError: scipy is not installed.
    """
    if not tolerance >= 0:
        raise InputError(f"tolerance (={tolerance}) must be at least 0; 0.02 accepts what is 2 % above the best")
    renamed = name_devices_as(new, old)
    rows = check_counts(counts)
    target = renamed.device_loads(rows).max(1) * (1 + tolerance)
    improved, is_reached = improve_layout(old, rows, target=target)
    held = np.zeros((*old.device_experts.shape[:2], old.num_experts), dtype=bool)
    np.put_along_axis(held, old.device_experts, True, axis=2)
    moves = [(~np.take_along_axis(held, layout.device_experts, axis=2)).sum((1, 2)) for layout in (improved, renamed)]
    keeps = is_reached & (moves[0] <= moves[1])
    packed = np.where(keeps[:, None, None], improved.device_experts, renamed.device_experts)
    return replace(new, device_experts=packed)
