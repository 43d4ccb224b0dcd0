"""What a trace's metadata says of its layers, as values; where it says nothing, what follows from the arrays."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

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
        num_zero_experts: further ones that return their input.
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
    return tuple(_layer(index, note, trace.num_experts, top_k) for index, note in zip(indices, notes, strict=True))


def _layer(index: int, note: Mapping[str, Any], width: int, top_k: int) -> NotedLayer:
    router = note.get("router") or {}
    spec = _read_spec(router, width)
    zero_experts = spec.num_zero_experts if spec is not None else 0
    return NotedLayer(
        index=index,
        path=note.get("path", ""),
        spec=spec,
        num_experts=spec.num_experts if spec is not None else _count(router.get("num_experts"), width),
        num_zero_experts=zero_experts,
        top_k=min(spec.top_k, width) if spec is not None else _count(router.get("top_k"), top_k),
        num_shared=_number(note.get("num_shared")),
    )


def _read_spec(router: Mapping[str, Any], width: int) -> RouterSpec | None:
    try:
        spec = RouterSpec.from_dict(dict(router))
    except (SpecError, TypeError):
        return None
    sizes = (spec.num_experts, spec.num_zero_experts, spec.top_k)
    # JSON may say 2.0 or true where a number of experts belongs.
    return spec if all(type(size) is int for size in sizes) and spec.num_choices <= width else None


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _count(value: object, most: int) -> int:
    """A noted number of experts, where it is one that the arrays can hold."""
    number = _number(value)
    return number if number is not None and 0 < number <= most else most
