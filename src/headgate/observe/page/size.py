"""How large the recorded model is, how much of it one token uses, and what the trace really touched."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch

from headgate.flow import NO_EXPERT
from headgate.observe.align import TraceSource
from headgate.observe.noted import NotedLayer
from headgate.observe.shape import RecordedShape
from headgate.observe.trace import RoutingTrace
from headgate.wording import number_of

_WINDOWS = (1, 8, 64, 512)
"""So many neighbouring tokens are taken as one pass, to see how many experts they touch together."""


def size_entry(trace: TraceSource, part: RoutingTrace, layers: Sequence[NotedLayer]) -> dict[str, Any] | None:
    """The header's `size`; None where the trace does not know the model's shape.

    Args:
        trace: whose metadata to read.
        part: the tokens of the page.
        layers: of the trace, as noted.
    """
    shape = RecordedShape.from_metadata(trace.metadata)
    dtype = None if shape is None else getattr(torch, str(shape.dtype), None)
    if shape is None or not isinstance(dtype, torch.dtype):
        return None
    routed_active = sum(min(layer.top_k, layer.num_experts) for layer in layers) * shape.num_expert_parameters
    always = shape.num_shared_parameters + shape.num_other_parameters
    num_experts = sum(layer.num_experts for layer in layers)
    expert_bytes = shape.num_expert_parameters * dtype.itemsize
    touched = _touched(part, layers)
    touched.append((f"all {number_of(trace.num_tokens, 'token')}", float(_touched_by_all(trace, layers))))
    return {
        "total": shape.num_parameters,
        "active": always + routed_active,
        "routed_total": shape.num_routed_parameters,
        "routed_active": routed_active,
        "shared": shape.num_shared_parameters,
        "other": shape.num_other_parameters,
        "bytes_per_parameter": dtype.itemsize,
        "expert_bytes": expert_bytes,
        "touched": [[label, number, num_experts, number * expert_bytes] for label, number in touched],
        "sentence": _sentence(shape, always + routed_active, touched, num_experts),
    }


def _touched(part: RoutingTrace, layers: Sequence[NotedLayer]) -> list[tuple[str, float]]:
    """How many experts, over all layers, some neighbouring tokens touch together, on average."""
    found = []
    for window in _WINDOWS:
        num_windows = part.num_tokens // window
        if not num_windows:
            break
        ids = part.topk_ids[:, : num_windows * window]
        total = sum(_distinct(ids[row], window, layer.num_experts) for row, layer in enumerate(layers))
        found.append((number_of(window, "token"), total / num_windows))
    return found


def _distinct(ids: torch.Tensor, window: int, num_experts: int) -> int:
    """Distinct pairs of window and expert; zero-compute experts have no weights to touch."""
    number = torch.arange(len(ids)) // window
    is_expert = (ids != NO_EXPERT) & (ids < num_experts)
    return len(torch.unique((number[:, None] * num_experts + ids)[is_expert]))


def _touched_by_all(trace: TraceSource, layers: Sequence[NotedLayer]) -> int:
    return sum(int((trace.counts[row, : layer.num_experts] > 0).sum()) for row, layer in enumerate(layers))


def _sentence(shape: RecordedShape, active: int, touched: list[tuple[str, float]], num_experts: int) -> str:
    said = (
        f"Of {_millions(shape.num_parameters)} parameters {_millions(active)} work on any one token "
        f"({100 * active / shape.num_parameters:.0f} %); all of them must be at hand."
    )
    if len(touched) < 3:
        return said
    (_, one), (label, several) = touched[0], touched[2]
    return (
        f"{said} In this trace one token touched {_mean(one)} of {num_experts:,} experts, and {label} in a row touched "
        f"{_mean(several)} together."
    )


def _mean(number: float) -> str:
    """One decimal, unless it is whole."""
    return f"{number:,.1f}".removesuffix(".0")


def _millions(number: int) -> str:
    return f"{number / 1e9:.2f} billion" if number >= 10**9 else f"{number / 1e6:.2f} million"
