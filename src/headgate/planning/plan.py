"""A placement from a trace or counts, and what it is worth: before, after, and on tokens that it has not seen."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from headgate.layout import ExpertLayout
from headgate.planning.locality import count_pairs, gather_partners
from headgate.planning.moves import name_devices_as, replan
from headgate.planning.placement import Evenness, measure_evenness, measure_in_order, place_experts
from headgate.planning.traffic import RoutedTokens, count_traffic

_SAMPLE = 1 << 16
"""So many tokens of each half are kept to see which experts are chosen together."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceHalf:
    """Half of a trace: the rows of each expert, and the choices of its first tokens.

    Attributes:
        counts: [L, E].
        expert_ids: [L, T, K], at most 65536 tokens.
    """

    counts: NDArray[np.int64]
    expert_ids: Int[Tensor, "L T K"]


@dataclass(frozen=True, slots=True, kw_only=True)
class PlacementOptions:
    """What a placement is to be like; see `place_experts`, `gather_partners` and `replan`.

    Attributes:
        num_devices: W.
        num_replicas: None = as few as fill the devices evenly.
        num_nodes: of devices.
        num_groups: of experts that stay on a node; None = none.
        slack: how much busier the busiest device may become for the sake of fewer sends.
        old: the layout in use; None = plan afresh.
        tolerance: how much busier than the best the busiest device may stay for the sake of fewer moves.
    """

    num_devices: int
    num_replicas: int | None = None
    num_nodes: int = 1
    num_groups: int | None = None
    slack: float = 0.01
    old: ExpertLayout | None = None
    tolerance: float = 0.02


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """A layout and what it is worth. What a trace of counts alone can't tell is None.

    Attributes:
        layout: planned on everything.
        before: with the old layout, or the experts in the order of their ids.
        after: with the layout.
        held_out: of a layout planned on the first half of the tokens, on the second half.
        sends: per token and layer, of the second half: with the experts in order of their ids, and as `held_out`.
        num_moves: experts that devices must load to get there from the old layout; None without one.
    """

    layout: ExpertLayout
    before: Evenness
    after: Evenness
    held_out: Evenness | None
    sends: tuple[float | None, float] | None
    num_moves: int | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            "num_layers": len(self.layout.device_experts),
            "num_experts": self.layout.num_experts,
            "num_devices": self.layout.num_devices,
            "num_nodes": self.layout.num_nodes,
            "num_replicas": self.layout.num_replicas,
            "slots_per_device": self.layout.slots_per_device,
            "before": self.before.to_dict(),
            "after": self.after.to_dict(),
            "held_out": None if self.held_out is None else self.held_out.to_dict(),
            "sends_per_token": None if self.sends is None else {"before": self.sends[0], "held_out": self.sends[1]},
            "num_moves": self.num_moves,
        }


def split_trace(parts: Iterable[RoutedTokens], *, num_tokens: int, num_experts: int) -> list[TraceHalf]:
    """Count the rows of both halves of a trace, and keep the choices of their first tokens.

    Args:
        parts: see `tokens_of`.
        num_tokens: T, of all parts.
        num_experts: E.

    Returns:
        Both halves; none for a trace without tokens.
    """
    counts: list[NDArray[np.int64] | None] = [None, None]
    kept: list[list[Tensor]] = [[], []]
    begin, half = 0, num_tokens // 2
    for tokens in parts:
        ids = tokens.expert_ids
        cut = min(max(half - begin, 0), ids.shape[1])
        begin += ids.shape[1]
        for side, part in enumerate((ids[:, :cut], ids[:, cut:])):
            if part.shape[1]:
                known, found = counts[side], count_experts(part, num_experts=num_experts)
                counts[side] = found if known is None else known + found
                room = _SAMPLE - sum(piece.shape[1] for piece in kept[side])
                kept[side].append(part[:, : max(room, 0)])
    return [
        TraceHalf(counts=count, expert_ids=torch.cat(pieces, dim=1))
        for count, pieces in zip(counts, kept, strict=True)
        if count is not None
    ]


def count_experts(expert_ids: Int[Tensor, "L T K"], *, num_experts: int) -> NDArray[np.int64]:
    """[L, E] how often each expert was chosen.

    Example:
        >>> count_experts(torch.tensor([[[0, 2], [2, -1]]]), num_experts=3).tolist()
        [[1, 0, 2]]
    """
    shifted = expert_ids.flatten(1).numpy() + 1
    return np.stack([np.bincount(row, minlength=num_experts + 1)[1:] for row in shifted])


def plan_placement(
    counts: NDArray[Any],
    options: PlacementOptions,
    *,
    halves: list[TraceHalf] | None = None,
    layer_index: tuple[int, ...] | None = None,
) -> Placement:
    """Plan a placement, and measure it on what it was planned for and on what it was not.

    Args:
        counts: [L, E] rows per expert, of everything.
        options: what is wanted.
        halves: both halves of the trace, see `split_trace`; None = counts alone.
        layer_index: decoder layer of each row.

    Raises:
        InputError: as `place_experts`, `gather_partners` and `replan`.

    Example:
        >>> plan = plan_placement(np.array([[6, 2, 1, 1]]), PlacementOptions(num_devices=2, num_replicas=2))
        >>> round(plan.before.balancedness, 3), plan.after.balancedness
        (0.625, 1.0)
    """
    seen = halves or []
    layout = _place(counts, options, [half.expert_ids for half in seen], layer_index)
    before = _before(counts, options)
    held_out, sends = None, None
    if len(seen) == 2:
        planned = _place(seen[0].counts, options, [seen[0].expert_ids], layer_index)
        held_out = measure_evenness(planned, seen[1].counts)
        sends = (_sends_before(seen[1].expert_ids, options, layout.num_experts), _sends(seen[1].expert_ids, planned))
    return Placement(
        layout=layout,
        before=before,
        after=measure_evenness(layout, counts),
        held_out=held_out,
        sends=sends,
        num_moves=None if options.old is None else layout.moves_from(options.old),
    )


def _place(
    counts: NDArray[Any], options: PlacementOptions, chosen: list[Tensor], layer_index: tuple[int, ...] | None
) -> ExpertLayout:
    layout = place_experts(
        counts,
        num_devices=options.num_devices,
        num_replicas=options.num_replicas,
        num_nodes=options.num_nodes,
        num_groups=options.num_groups,
        layer_index=layer_index,
    )
    if options.old is not None:
        if options.num_groups is not None:  # Single swaps could take a group apart.
            return name_devices_as(layout, options.old)
        layout = replan(options.old, layout, counts, tolerance=options.tolerance)
    elif chosen and options.num_groups is None:
        # Groups are together already, and a swap could take one apart.
        pairs = count_pairs(chosen, num_experts=layout.num_experts)
        layout = gather_partners(layout, counts, pairs, slack=options.slack)
    return layout


def _before(counts: NDArray[Any], options: PlacementOptions) -> Evenness:
    if options.old is not None:
        return measure_evenness(options.old, counts)
    return measure_in_order(counts, num_devices=options.num_devices)


def _sends(expert_ids: Int[Tensor, "L T K"], layout: ExpertLayout) -> float:
    """Tokens sent, per token and layer."""
    step = torch.zeros(expert_ids.shape[1], dtype=torch.int64)
    found = [count_traffic(ids, step, layout, row) for row, ids in enumerate(expert_ids)]
    return sum(int(traffic.sent.sum()) for traffic in found) / (expert_ids.shape[0] * expert_ids.shape[1])


def _sends_before(expert_ids: Int[Tensor, "L T K"], options: PlacementOptions, num_experts: int) -> float | None:
    if options.old is not None:
        return _sends(expert_ids, options.old)
    if num_experts % options.num_devices:
        return None
    table = np.arange(num_experts).reshape(1, options.num_devices, -1).repeat(len(expert_ids), axis=0)
    return _sends(expert_ids, ExpertLayout(device_experts=table, num_experts=num_experts, num_nodes=options.num_nodes))
