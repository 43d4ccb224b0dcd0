"""One verdict on all layers of a trace, and the rules behind it in one sentence."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Int
from torch import Tensor

from headgate.observe.findings import name_layers
from headgate.observe.health import (
    COLLAPSED_SPREAD,
    IMBALANCED_DROP_FRACTION,
    IMBALANCED_LOAD_RATIO,
    LayerHealth,
    judge_load,
)
from headgate.observe.noted import NotedLayer
from headgate.wording import number_of

RULES = (
    f"A layer counts as collapsed where its experts use less than {COLLAPSED_SPREAD:.0%} of the room between K and all "
    f"of them (effective number of experts, from the entropy of the load), and as imbalanced where its busiest expert "
    f"does more than {IMBALANCED_LOAD_RATIO:g} times an even share, where more than {IMBALANCED_DROP_FRACTION:.0%} of "
    "the choices were dropped, or where an expert got nothing in a sample that is large enough to show it."
)
"""The thresholds of `headgate.observe.health`, which gives their sources."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceVerdict:
    """How the routing of a whole trace does.

    Attributes:
        status: that of the worst layer; "unknown" where no row reached an expert.
        sentence: with its numbers.
    """

    status: Literal["healthy", "imbalanced", "collapsed", "unknown"]
    sentence: str


def judge_layers(
    counts: Int[Tensor, "L E"], layers: Sequence[NotedLayer], *, drop_fractions: Sequence[float | None]
) -> tuple[LayerHealth | None, ...]:
    """Judge each layer of a trace; None where it has no rows.

    Args:
        counts: [L, E] rows per expert.
        layers: of the trace, as noted.
        drop_fractions: of each layer's choices, those dropped because the expert was full; None = not known.
    """
    found: list[LayerHealth | None] = []
    for row, (layer, dropped) in enumerate(zip(layers, drop_fractions, strict=True)):
        # A layer with fewer experts than the widest has columns that belong to none.
        own = counts[row, : layer.num_experts]
        health = judge_load(own, top_k=layer.top_k, capacity_drop_fraction=dropped or 0.0) if own.any() else None
        found.append(health)
    return tuple(found)


def judge_trace(verdicts: Mapping[int, LayerHealth | None]) -> TraceVerdict:
    """Put the verdicts of all layers, by decoder layer, into one.

    Example:
        >>> import torch
        >>> layer = judge_load(torch.tensor([90, 110, 95, 105]), top_k=1, capacity_drop_fraction=0.0)
        >>> judge_trace({3: layer, 7: layer}).sentence
        'In all 2 layers the experts share the work; the busiest, in layer 3, does 1.10 times an even share.'
    """
    known = {layer: found for layer, found in verdicts.items() if found is not None}
    if not known:
        return TraceVerdict(status="unknown", sentence="No row reached an expert, so there is nothing to judge.")
    by_status = {
        status: [layer for layer, found in known.items() if found.verdict == status]
        for status in ("collapsed", "imbalanced")
    }
    said = [*_lead(by_status, known), _busiest(known), *_dead(known), *_drops(known)]
    status: Literal["healthy", "imbalanced", "collapsed"] = "healthy"
    if by_status["collapsed"]:
        status = "collapsed"
    elif by_status["imbalanced"]:
        status = "imbalanced"
    sentence = "; ".join(said)
    return TraceVerdict(status=status, sentence=f"{sentence[0].upper()}{sentence[1:]}.")


def _lead(by_status: Mapping[str, list[int]], known: Mapping[int, LayerHealth]) -> list[str]:
    collapsed, uneven = by_status["collapsed"], by_status["imbalanced"]
    total = len(known)
    if not collapsed and not uneven:
        where = "the one layer" if total == 1 else f"all {total} layers"
        return [f"in {where} the experts share the work"]
    said = []
    if collapsed:
        worst = min(collapsed, key=lambda layer: known[layer].spread)
        said.append(
            f"{len(collapsed)} of {total} layers collapsed ({name_layers(collapsed)}); in layer {worst} the work lies "
            f"on about {known[worst].effective_experts:.1f} experts"
        )
    if uneven:
        said.append(f"{len(uneven)} of {total} layers share the work unevenly ({name_layers(uneven)})")
    return said


def _busiest(known: Mapping[int, LayerHealth]) -> str:
    worst = max(known, key=lambda layer: known[layer].load_ratio)
    return f"the busiest, in layer {worst}, does {known[worst].load_ratio:.2f} times an even share"


def _dead(known: Mapping[int, LayerHealth]) -> list[str]:
    sure = sum(found.dead.count for found in known.values() if found.dead.is_sample_sufficient)
    unsure = sum(found.dead.count for found in known.values() if not found.dead.is_sample_sufficient)
    said = []
    if sure:
        said.append(f"{number_of(sure, 'expert is', 'experts are')} dead")
    if unsure:
        needed = max(found.dead.num_rows_needed for found in known.values())
        said.append(f"{unsure} more got nothing, in fewer rows than it takes to call them dead ({needed:,} in a layer)")
    return said


def _drops(known: Mapping[int, LayerHealth]) -> list[str]:
    worst = max(known, key=lambda layer: known[layer].capacity_drop_fraction)
    dropped = known[worst].capacity_drop_fraction
    return [f"in layer {worst} {dropped:.1%} of the choices found their expert full"] if dropped else []
