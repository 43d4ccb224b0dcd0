"""What a trace's metadata says of its layers, as values; where it says nothing, what follows from the arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from jaxtyping import Int
from torch import Tensor

from headgate.errors import SpecError
from headgate.observe.align import TraceSource
from headgate.spec import RouterSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class NotedLayer:
    """One layer of a trace.

    Attributes:
        index: decoder layer.
        path: module path, "" where it isn't noted. It may hold anything: show it escaped.
        spec: the router; None where none is noted, or one that this version can't read.
        num_experts: experts with weights.
        num_zero_experts: further ones without weights and work, such as the identity.
        top_k: K, the most choices of a token.
        num_shared: experts that run for every token; None where it isn't noted.
    """

    index: int
    path: str
    spec: RouterSpec | None
    num_experts: int
    num_zero_experts: int
    top_k: int
    num_shared: int | None

    @property
    def num_choices(self) -> int:
        """Columns of the trace's arrays that belong to this layer; a wider layer has more."""
        return self.num_experts + self.num_zero_experts


def noted_layers(trace: TraceSource, *, top_k: int) -> tuple[NotedLayer, ...]:
    """Read the layers of a trace.

    Args:
        trace: whose metadata to read, which may be anything that JSON can say.
        top_k: K of the arrays, for layers that note none.
    """
    indices = trace.layer_index.tolist()
    notes = trace.metadata.get("layers") or [{}] * len(indices)
    sizes = [(_num_used(row), trace.num_experts) for row in trace.counts]
    return tuple(_layer(index, note, size, top_k) for index, note, size in zip(indices, notes, sizes, strict=True))


def layer_widths(trace: TraceSource) -> tuple[int, ...]:
    """Columns of the trace's arrays that belong to each layer; a layer with fewer experts than the widest has fewer.

    Example:
        >>> import torch
        >>> from headgate.observe.trace import RoutingTrace
        >>> fields = {"topk_ids": torch.zeros(2, 1, 1).long(), "seq_offsets": torch.tensor([0, 1]), "metadata": {}}
        >>> layer_widths(RoutingTrace(layer_index=torch.arange(2), counts=torch.tensor([[1, 0], [1, 0]]), **fields))
        (2, 2)
    """
    return tuple(layer.num_choices for layer in noted_layers(trace, top_k=1))


def _num_used(counts: Int[Tensor, " E"]) -> int:
    """The fewest experts that a layer with these rows can have."""
    return int(counts.nonzero().max()) + 1 if counts.any() else 1


def _layer(index: int, note: Mapping[str, Any], sizes: tuple[int, int], top_k: int) -> NotedLayer:
    router = note.get("router") or {}
    fewest, most = sizes
    spec = _read_spec(router, fewest, most)
    zero_experts = spec.num_zero_experts if spec is not None else 0
    return NotedLayer(
        index=index,
        path=note.get("path", ""),
        spec=spec,
        num_experts=spec.num_experts if spec is not None else _count(router.get("num_experts"), fewest, most),
        num_zero_experts=zero_experts,
        top_k=min(spec.top_k, most) if spec is not None else _count(router.get("top_k"), 1, top_k),
        num_shared=_number(note.get("num_shared")),
    )


def _read_spec(router: Mapping[str, Any], fewest: int, most: int) -> RouterSpec | None:
    try:
        spec = RouterSpec.from_dict(dict(router))
    except (SpecError, TypeError):
        return None
    sizes = (spec.num_experts, spec.num_zero_experts, spec.top_k)
    # JSON may say 2.0 or true where a number of experts belongs.
    return spec if all(type(size) is int for size in sizes) and fewest <= spec.num_choices <= most else None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _count(value: object, fewest: int, most: int) -> int:
    """A noted number of experts, where the arrays allow it; else the largest that they do."""
    number = _number(value)
    return number if number is not None and fewest <= number <= most else most
