"""Whether a calibration text reaches every expert: quantisation needs tokens of each to see its activations."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from headgate.errors import InputError
from headgate.flow import NO_EXPERT
from headgate.observe.align import TraceSource, real_tokens
from headgate.observe.intervals import CONFIDENCE, SequenceSums
from headgate.observe.noted import NotedLayer, noted_layers
from headgate.observe.pieces import count_groups
from headgate.observe.summary import layer_pieces, small_chunks

DEFAULT_NEEDED = 512
"""Tokens that an expert needs by default. A convention: what a quantiser really needs depends on it."""

_UNSEEN_EVENTS = 3.0
"""The rule of three (Hanley and Lippman-Hand, 1983): what n tokens never showed is, at 95 %, below 3 in n."""

Need: TypeAlias = tuple[int, int | None]
"""The fewest and the most further tokens; None where nothing bounds the most."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertCoverage:
    """An expert that got too few tokens.

    Attributes:
        layer: decoder layer.
        expert: its id.
        num_rows: tokens that it got.
        more_tokens: further tokens of such a text that bring it to what it needs, on average; for one that got none,
            the least that could do, at 95 %: the lower end of `more_interval`, and where there is no interval, what
            follows if tokens were independent.
        more_interval: of `more_tokens`, at 95 %, from what the expert's rate may be, with sequences as what is
            independent (`headgate.observe.intervals`); its upper end is None where the rate may be 0. None with fewer
            than two sequences, or without scipy.
        is_seen: whether it got any.
    """

    layer: int
    expert: int
    num_rows: int
    more_tokens: int
    more_interval: Need | None
    is_seen: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class Coverage:
    """How well a text reaches the experts.

    Attributes:
        needed: rows that each expert needs.
        num_tokens: of the trace, without padding.
        num_experts: with weights, over all layers.
        poor: the experts that got fewer, the poorest first.
        more_tokens: further tokens until all have enough, on average; None where one got none, since then only a
            lower bound is known.
        more_interval: of `more_tokens`, at 95 % for all these experts at once (Bonferroni); None where an expert has
            none, or none is poor.
        more_sequences: the same in sequences of this trace's mean length.
    """

    needed: int
    num_tokens: int
    num_experts: int
    poor: tuple[ExpertCoverage, ...]
    more_tokens: int | None
    more_interval: Need | None
    more_sequences: int | None

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def measure_coverage(trace: TraceSource, *, needed: int = DEFAULT_NEEDED) -> Coverage:
    """Find the experts that got too few tokens, and how many more tokens of such a text they need.

    An expert that got n of T tokens gets further ones at the same rate, so it needs (needed - n) * T / n more. Its
    interval takes the ends of the rate's in place of n / T.

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
    tokens = len(real_tokens(trace))
    if tokens == 0:
        raise InputError("the trace has no tokens, so there is no rate to go by; record the calibration text itself")
    layers = noted_layers(trace, top_k=1)
    counts = [row[: layer.num_experts] for row, layer in zip(trace.counts, layers, strict=True)]
    found = list(_find_poor(trace, layers, counts, needed=needed, num_tokens=tokens))
    poor = sorted((expert for expert, _ in found), key=lambda expert: (expert.num_rows, expert.layer, expert.expert))
    more_tokens = max((found.more_tokens for found in poor), default=0) if all(f.is_seen for f in poor) else None
    mean_length = tokens / (len(trace.seq_offsets) - 1)
    return Coverage(
        needed=needed,
        num_tokens=tokens,
        num_experts=sum(map(len, counts)),
        poor=tuple(poor),
        more_tokens=more_tokens,
        more_interval=_slowest([interval for _, interval in found]),
        more_sequences=None if more_tokens is None else math.ceil(more_tokens / mean_length),
    )


def _find_poor(
    trace: TraceSource, layers: Sequence[NotedLayer], counts: Sequence[Tensor], *, needed: int, num_tokens: int
) -> Iterator[tuple[ExpertCoverage, Need | None]]:
    """Each poor expert, and its interval where those of all of them are to hold at once."""
    num_poor = sum(int((row < needed).sum()) for row in counts)
    # Also where the counts suffice: reading the choices finds those of experts that there are not.
    sums = _sum_rates(trace, layers)
    for layer, row, rates in zip(layers, counts, sums if num_poor else [], strict=bool(num_poor)):
        alone, at_once = (rates.intervals(confidence=1 - (1 - CONFIDENCE) / number) for number in (1, num_poor))
        for expert in (row < needed).nonzero()[:, 0].tolist():
            rows = int(row[expert])
            interval = _need(alone, expert, needed - rows)
            judged = ExpertCoverage(
                layer=layer.index,
                expert=expert,
                num_rows=rows,
                more_tokens=_more_tokens(rows, needed, num_tokens, interval),
                more_interval=interval,
                is_seen=rows > 0,
            )
            yield judged, _need(at_once, expert, needed - rows)


def _sum_rates(trace: TraceSource, layers: Sequence[NotedLayer]) -> list[SequenceSums]:
    """Rows of each expert with weights over tokens, layer by layer, in one pass over the trace."""
    sums = [SequenceSums((layer.num_experts,)) for layer in layers]
    for begin, chunk in small_chunks(trace):
        for layer, rates, piece in zip(layers, sums, layer_pieces(chunk, trace.seq_offsets, begin), strict=True):
            rows, num_sequences = piece.topk_ids, len(piece.sequences)
            if piece.is_dropped is not None:
                rows = rows.masked_fill(piece.is_dropped, NO_EXPERT)
            counts = count_groups(rows, piece.sequence, num_groups=num_sequences, num_experts=layer.num_choices)
            lengths = piece.sequence.bincount(minlength=num_sequences)
            rates.add(piece.sequences, counts[:, : layer.num_experts], lengths[:, None])
    return sums


def _need(rates: NDArray[np.float64] | None, expert: int, missing: int) -> Need | None:
    """The further tokens that bring an expert its missing rows, at the highest and at the lowest rate it may have."""
    if rates is None or np.isnan(rates[:, expert]).any():
        return None
    low, high = rates[:, expert].tolist()
    return math.ceil(missing / high), math.ceil(missing / low) if low > 0 else None


def _more_tokens(rows: int, needed: int, tokens: int, interval: Need | None) -> int:
    if rows == 0 and interval is not None:
        return interval[0]
    return math.ceil((needed - rows) * tokens / (rows or _UNSEEN_EVENTS))


def _slowest(needs: Sequence[Need | None]) -> Need | None:
    """What all experts need, from what each does."""
    known = [need for need in needs if need is not None]
    if not needs or len(known) < len(needs):
        return None
    highs = [high for _, high in known if high is not None]
    return max(low for low, _ in known), max(highs) if len(highs) == len(known) else None
