"""What a trace holds and how its layers do, in one pass over the file and bounded memory."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from headgate.observe.align import TraceSource
from headgate.observe.layer_summary import LayerPiece, LayerSummary, LayerSums
from headgate.observe.noted import layer_widths
from headgate.observe.pieces import take_tokens
from headgate.observe.trace import Phase, RoutingTrace
from headgate.observe.utilisation import require_even_devices

PASS_BYTES = 128 * 2**20
"""Loads of single forward passes are kept up to so many bytes; of the passes after that, none."""

TABLE_CELLS = 2**22
"""Cells of a table of sequences by experts: 32 MiB."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSummary:
    """A trace.

    Attributes:
        num_layers, num_tokens, num_sequences, num_experts, top_k: its sizes.
        phases: tokens of each phase; empty where the trace has none.
        num_passes: forward passes that single loads were measured on; there is memory for so many.
        layers: one for each.
    """

    num_layers: int
    num_tokens: int
    num_sequences: int
    num_experts: int
    top_k: int
    phases: dict[str, int]
    num_passes: int
    layers: tuple[LayerSummary, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {**asdict(self), "layers": [layer.to_dict() for layer in self.layers]}


def summarise_trace(trace: TraceSource, *, num_devices: int | None = None) -> TraceSummary:
    """Read a trace once and summarise it.

    Args:
        trace: of tokens or counts.
        num_devices: over which the experts would be dealt out, equally many each, in id order; None = none.

    Raises:
        ArtifactError: an expert id that there is no expert for.
        InputError: `num_devices` does not divide the number of experts.

    Example:
        >>> import headgate
        >>> layer = headgate.MoE(8, 16, num_experts=4, top_k=2)
        >>> with headgate.tap(layer) as tape:
        ...     _ = layer(torch.randn(5, 8))
        >>> summary = summarise_trace(headgate.trace_of(layer, tape, token_ids=torch.arange(5)))
        >>> summary.num_tokens, sum(summary.layers[0].expert_counts)
        (5, 10)
    """
    widths = layer_widths(trace)
    for width in widths if num_devices is not None else ():
        require_even_devices(num_devices or 0, width)
    pass_bytes = PASS_BYTES // max(1, len(widths))
    layers = [
        LayerSums(layer=layer, num_experts=width, pass_bytes=pass_bytes)
        for layer, width in zip(trace.layer_index.tolist(), widths, strict=True)
    ]
    top_k = 0
    for begin, chunk in small_chunks(trace):
        top_k = chunk.topk_ids.shape[2]
        for sums, piece in zip(layers, layer_pieces(chunk, trace.seq_offsets, begin), strict=True):
            sums.add(piece)
    phase = trace.of_tokens("phase")
    return TraceSummary(
        num_layers=len(layers),
        num_tokens=trace.num_tokens,
        num_sequences=len(trace.seq_offsets) - 1,
        num_experts=trace.num_experts,
        top_k=top_k,
        phases={} if phase is None else _count_phases(phase),
        num_passes=max((sums.num_passes for sums in layers), default=0),
        layers=tuple(
            sums.finish(counts[:width], num_devices)
            for sums, counts, width in zip(layers, trace.counts, widths, strict=True)
        ),
    )


def small_chunks(trace: TraceSource) -> Iterator[tuple[int, RoutingTrace]]:
    """Parts so small that a table of their sequences by experts is small, too, each with its first token's index."""
    size = max(1, TABLE_CELLS // (trace.num_experts + 1))
    first = 0
    for chunk in trace.uncounted_chunks():
        for begin in range(0, chunk.num_tokens, size):
            tokens = np.arange(begin, min(begin + size, chunk.num_tokens))
            yield first + begin, chunk if len(tokens) == chunk.num_tokens else take_tokens(chunk, tokens)
        first += chunk.num_tokens


def layer_pieces(chunk: RoutingTrace, seq_offsets: Tensor, begin: int) -> Iterator[LayerPiece]:
    """Each layer's part of a chunk, without padding."""
    tokens = torch.arange(begin, begin + chunk.num_tokens)
    if chunk.phase is not None and (chunk.phase == Phase.PADDING).any():
        is_real = (chunk.phase != Phase.PADDING).numpy()
        tokens, chunk = tokens[torch.from_numpy(is_real)], take_tokens(chunk, is_real.nonzero()[0])
    # Empty sequences end where they begin, so the last offset that is not above a token is its sequence's.
    sequences, sequence = torch.unique_consecutive(
        torch.searchsorted(seq_offsets, tokens, right=True) - 1, return_inverse=True
    )
    arrays = {
        "is_dropped": chunk.is_dropped,
        "weights": chunk.topk_weights,
        "margin": chunk.select_margin,
        "entropy": chunk.router_entropy,
    }
    for row, ids in enumerate(chunk.topk_ids):
        yield LayerPiece(
            topk_ids=ids,
            sequences=sequences,
            sequence=sequence,
            forward_id=chunk.forward_id,
            **{name: None if array is None else array[row] for name, array in arrays.items()},
        )


def _count_phases(phase: Tensor) -> dict[str, int]:
    counts = torch.bincount(phase.long(), minlength=len(Phase)).tolist()
    return {kind.name.lower(): counts[kind] for kind in Phase if counts[kind]}
