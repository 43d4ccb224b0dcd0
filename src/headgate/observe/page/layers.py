"""What a page says of each layer: what its router is, how its load does, how much it leaves out."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from headgate.observe.health import LayerHealth
from headgate.observe.layer_summary import LayerSummary
from headgate.observe.noted import NotedLayer
from headgate.observe.summary import TraceSummary
from headgate.spec.words import describe_in_symbols

_NOTHING = "No row reached an expert of this layer."


def layer_entries(
    summary: TraceSummary, layers: Sequence[NotedLayer], verdicts: Sequence[LayerHealth | None], *, num_routed: int
) -> list[dict[str, Any]]:
    """The header's `layers`.

    Args:
        summary: of the trace.
        layers: of the trace, as noted.
        verdicts: on them.
        num_routed: tokens of the trace that are not padding.
    """
    parts = zip(summary.layers, layers, verdicts, strict=True)
    return [_entry(summed, layer, verdict, num_routed) for summed, layer, verdict in parts]


def _entry(summed: LayerSummary, layer: NotedLayer, verdict: LayerHealth | None, num_routed: int) -> dict[str, Any]:
    spec = layer.spec
    return {
        "index": layer.index,
        "path": layer.path,
        "num_experts": layer.num_experts,
        "zero_experts": layer.num_zero_experts,
        "top_k": layer.top_k,
        "num_shared": layer.num_shared or 0,
        "formula": None if spec is None else describe_in_symbols(spec),
        "score": None if spec is None else spec.score,
        "selects_on_bias": spec is not None and spec.selection_bias,
        "normalises": None if spec is None else spec.normalise,
        "verdict": {
            "status": "unknown" if verdict is None else verdict.verdict,
            "sentence": _NOTHING if verdict is None else f"{verdict.sentence[0].upper()}{verdict.sentence[1:]}.",
        },
        "max_over_mean": None if verdict is None else verdict.load_ratio,
        "cv": None if verdict is None else verdict.load_variation,
        "normalised_entropy": None if verdict is None else verdict.normalised_entropy,
        "dead": 0 if verdict is None else verdict.dead.count,
        "drop_fraction": summed.drop_fraction,
        "margin": None if summed.margin is None else list(summed.margin),
        "skipped_fraction": _skipped_fraction(summed, layer, num_routed),
    }


def _skipped_fraction(summed: LayerSummary, layer: NotedLayer, num_routed: int) -> float | None:
    """The part of the routed experts that a token skips, on average, as measured; None without tokens."""
    rows = sum(summed.expert_counts[: layer.num_experts])
    return 1.0 - rows / (num_routed * layer.num_experts) if num_routed else None
