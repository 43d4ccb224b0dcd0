"""Whether a calibration text reaches every expert: quantisation needs tokens of each to see its activations."""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from typing import Any

from headgate.errors import InputError
from headgate.observe.align import TraceSource

DEFAULT_NEEDED = 512
"""Tokens that an expert needs by default. A convention: what a quantiser really needs depends on it."""

_UNSEEN_EVENTS = 3.0
"""The rule of three (Hanley and Lippman-Hand, 1983): what n tokens never showed is, at 95 %, below 3 in n."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertCoverage:
    """An expert that got too few tokens.

    Attributes:
        layer: decoder layer.
        expert: its id.
        num_rows: tokens that it got.
        more_tokens: further tokens of such a text that bring it to what it needs, on average; for one that got none,
            the least that could do, with 95 % confidence.
        is_seen: whether it got any.
    """

    layer: int
    expert: int
    num_rows: int
    more_tokens: int
    is_seen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How well a text reaches the experts.

    Attributes:
        needed: rows that each expert needs.
        num_tokens: of the trace.
        num_experts: over all layers.
        poor: the experts that got fewer, the poorest first.
        more_tokens: further tokens until all have enough, on average; None where one got none, since then only a
            lower bound is known.
        more_sequences: the same in sequences of this trace's mean length.
    """

    needed: int
    num_tokens: int
    num_experts: int
    poor: tuple[ExpertCoverage, ...]
    more_tokens: int | None
    more_sequences: int | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def measure_coverage(trace: TraceSource, *, needed: int = DEFAULT_NEEDED) -> Coverage:
    """Find the experts that got too few tokens, and how many more tokens of such a text they need.

    An expert that got n of T tokens gets further ones at the same rate, so it needs (needed - n) * T / n more.

    Args:
        trace: of the calibration text.
        needed: rows that each expert needs.

    Raises:
        InputError: `needed` below 1, or a trace of counts alone, which does not say how many tokens there were.

    Example:
        >>> import torch
        >>> from headgate.observe.trace import RoutingTrace
        >>> ids = torch.tensor([[[0], [0], [0], [1]]])
        >>> fields = {"layer_index": torch.tensor([0]), "seq_offsets": torch.tensor([0, 4]), "metadata": {}}
        >>> trace = RoutingTrace(topk_ids=ids, counts=torch.tensor([[3, 1]]), **fields)
        >>> measure_coverage(trace, needed=3).more_tokens
        8
    """
    if needed < 1:
        raise InputError(f"needed (={needed}) must be at least 1; a few hundred rows per expert are usual")
    tokens = trace.num_tokens
    if tokens == 0:
        raise InputError("the trace has no tokens, so there is no rate to go by; record the calibration text itself")
    poor = []
    counts = trace.counts.tolist()
    for layer, row in zip(trace.layer_index.tolist(), counts, strict=True):
        for expert, rows in enumerate(row):
            if rows < needed:
                more = (needed - rows) * tokens / (rows or _UNSEEN_EVENTS)
                poor.append(
                    ExpertCoverage(
                        layer=layer, expert=expert, num_rows=rows, more_tokens=math.ceil(more), is_seen=rows > 0
                    )
                )
    poor.sort(key=lambda found: (found.num_rows, found.layer, found.expert))
    more_tokens = max((found.more_tokens for found in poor), default=0) if all(f.is_seen for f in poor) else None
    mean_length = tokens / (len(trace.seq_offsets) - 1)
    return Coverage(
        needed=needed,
        num_tokens=tokens,
        num_experts=sum(map(len, counts)),
        poor=tuple(poor),
        more_tokens=more_tokens,
        more_sequences=None if more_tokens is None else math.ceil(more_tokens / mean_length),
    )
