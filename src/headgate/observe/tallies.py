"""How a model's routing does over some steps of training, in a few numbers: what trainers log.

A `LayerTally` is a sum over passes; it stays on the device of the model, and adding to it waits for nothing. The keys
of `describe_tallies` are bounded, whatever the number of experts.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headgate.errors import InputError
from headgate.observe.metrics import load_ratio, normalised_entropy
from headgate.observe.utilisation import dead_expert_fraction, utilisation

MAX_LAYERS = 64
"""No more layers than this are logged one by one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTally:
    """One layer's routing, summed over passes.

    Attributes:
        expert_counts: [E] int64, rows per expert.
        num_dropped: [] int64, choices whose expert was full.
        margin_sum: [] float32, of the selection margins that are finite.
        num_margins: [] int64, how many these are.
    """

    expert_counts: Int[Tensor, " E"]
    num_dropped: Int[Tensor, ""]
    margin_sum: Float[Tensor, ""]
    num_margins: Int[Tensor, ""]

    def __add__(self, other: LayerTally) -> LayerTally:
        return LayerTally(
            expert_counts=self.expert_counts + other.expert_counts,
            num_dropped=self.num_dropped + other.num_dropped,
            margin_sum=self.margin_sum + other.margin_sum,
            num_margins=self.num_margins + other.num_margins,
        )


def tally(
    expert_counts: Int[Tensor, " E"],
    *,
    is_dropped: Bool[Tensor, ...] | None = None,
    margins: Float[Tensor, " T"] | None = None,
    is_padding: Bool[Tensor, " T"] | None = None,
) -> LayerTally:
    """Sum up one pass of one layer, without waiting for the device.

    Args:
        expert_counts: rows per expert, without padding.
        is_dropped: which choices found their expert full; None = none.
        margins: selection margins; None = not known.
        is_padding: tokens whose margins don't count.
    """
    zero = expert_counts.new_zeros(())
    if margins is None:
        margin_sum, num_margins = zero.float(), zero
    else:
        counts = margins.isfinite() if is_padding is None else margins.isfinite() & ~is_padding
        margin_sum, num_margins = margins.float().masked_fill(~counts, 0.0).sum(), counts.sum()
    return LayerTally(
        expert_counts=expert_counts,
        num_dropped=zero if is_dropped is None else is_dropped.sum(),
        margin_sum=margin_sum,
        num_margins=num_margins,
    )


def count_choices(
    expert_ids: Int[Tensor, "T K"], *, num_experts: int, is_padding: Bool[Tensor, " T"] | None = None
) -> Int[Tensor, " E"]:
    """Count rows per expert without waiting for the device, as `torch.bincount` would.

    Args:
        expert_ids: [T, K] integer; what isn't in 0 ... E - 1 is no expert.
        num_experts: E.
        is_padding: tokens that don't count.
    """
    is_row = (expert_ids >= 0) & (expert_ids < num_experts)
    if is_padding is not None:
        is_row = is_row & ~is_padding[:, None]
    # What is no row goes to a bucket of its own, which is cut off.
    buckets = expert_ids.long().where(is_row, num_experts).flatten()
    counts = torch.zeros(num_experts + 1, dtype=torch.int64, device=expert_ids.device)
    return counts.index_add_(0, buckets, torch.ones_like(buckets))[:num_experts]


def describe_tallies(tallies: Mapping[str, LayerTally], *, per_layer: bool = False) -> dict[str, float]:
    """Describe the routing of some layers by a bounded set of numbers. This waits for the device.

    For each measure the mean over the layers, `routing/NAME`, and the worst layer, `routing/NAME_worst`:
    `max_over_mean` (busiest expert over even share), `min_over_mean` (idlest expert over even share),
    `dead_expert_fraction` (experts without a row in this sample), `normalised_entropy` of the load, `drop_fraction`
    (choices whose expert was full), `margin` (mean selection margin, where it is known).

    Args:
        tallies: by layer.
        per_layer: whether to add `routing/layer_N/NAME` for each layer, N counting from 0.

    Returns:
        At balance `max_over_mean`, `min_over_mean` and `normalised_entropy` are 1, the fractions 0. Layers without rows
        are left out, and so are measures that no layer has.

    Raises:
        InputError: more layers than `MAX_LAYERS` one by one.

    Example:
        >>> found = describe_tallies({"a": tally(torch.tensor([6, 2])), "b": tally(torch.tensor([4, 4]))})
        >>> found["routing/max_over_mean"], found["routing/max_over_mean_worst"]
        (1.25, 1.5)
    """
    if per_layer and len(tallies) > MAX_LAYERS:
        raise InputError(
            f"per_layer (=True) would log {len(tallies)} layers one by one, and {MAX_LAYERS} is the most; leave it out"
        )
    layers = [_measure(layer) for layer in tallies.values()]
    values: dict[str, float] = {}
    for name, worst in _WORST.items():
        known = [layer[name] for layer in layers if not math.isnan(layer[name])]
        if known:
            values[f"routing/{name}"] = math.fsum(known) / len(known)
            values[f"routing/{name}_worst"] = worst(known)
    for number, layer in enumerate(layers if per_layer else []):
        values.update({f"routing/layer_{number}/{name}": one for name, one in layer.items() if not math.isnan(one)})
    return values


_WORST: Mapping[str, Callable[[list[float]], float]] = {
    "max_over_mean": max,
    "min_over_mean": min,
    "dead_expert_fraction": max,
    "normalised_entropy": min,
    "drop_fraction": max,
    "margin": min,
}
"""Each measure, and which layer's value is the worst."""


def _measure(layer: LayerTally) -> dict[str, float]:
    """Every measure of one layer, NaN where it isn't known."""
    counts = layer.expert_counts.cpu()
    num_rows, num_dropped = int(counts.sum()), int(layer.num_dropped)
    if not num_rows:
        return dict.fromkeys(_WORST, math.nan)
    num_margins = int(layer.num_margins)
    return {
        "max_over_mean": load_ratio(counts).item(),
        "min_over_mean": utilisation(counts).min().item(),
        "dead_expert_fraction": dead_expert_fraction(counts).item(),
        "normalised_entropy": normalised_entropy(counts).item() if len(counts) > 1 else 1.0,
        "drop_fraction": num_dropped / (num_rows + num_dropped),
        "margin": float(layer.margin_sum) / num_margins if num_margins else math.nan,
    }
