"""How uneven single forward passes are: the busiest expert's load in each."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from numpy.typing import NDArray
from torch import Tensor

from headgate.flow import NO_EXPERT
from headgate.observe.align import TraceSource
from headgate.observe.metrics import load_ratio
from headgate.observe.noted import NotedLayer
from headgate.observe.trace import Phase, RoutingTrace

_MOST_PASSES = 4096


def pass_arrays(trace: TraceSource, layers: Sequence[NotedLayer], *, pass_bytes: int) -> dict[str, NDArray[Any] | None]:
    """Measure max / mean of the rows per expert, in each of at most 4096 forward passes, evenly taken.

    Args:
        trace: read once, in bounded memory.
        layers: of the trace.
        pass_bytes: that the result may take.

    Returns:
        `pass_ids` [P] int32 and `pass_ratio` [L, P] float32, NaN where a pass has no rows; None without passes.
    """
    forward_id = trace.of_tokens("forward_id")
    if forward_id is None or not len(forward_id):
        return {"pass_ids": None, "pass_ratio": None}
    ids = np.unique(forward_id.numpy())
    most = max(1, min(_MOST_PASSES, pass_bytes // (4 * len(layers)), len(ids)))
    kept = torch.from_numpy(ids[np.linspace(0, len(ids) - 1, most).round().astype(np.int64)])
    counts = torch.zeros(len(layers), most, trace.num_experts, dtype=torch.int64)
    for chunk in trace.chunks():
        _add_chunk(counts, chunk, kept)
    ratios = [load_ratio(counts[row, :, : layer.num_experts]) for row, layer in enumerate(layers)]
    return {"pass_ids": kept.int().numpy(), "pass_ratio": torch.stack(ratios).float().numpy()}


def _add_chunk(counts: Int[Tensor, "L P E"], chunk: RoutingTrace, kept: Int[Tensor, " P"]) -> None:
    """Add a chunk's rows to the counts of the passes that are kept."""
    assert chunk.forward_id is not None  # The whole trace has it.
    place = torch.searchsorted(kept, chunk.forward_id.to(kept.dtype)).clamp(max=len(kept) - 1)
    is_kept = kept[place] == chunk.forward_id
    if chunk.phase is not None:
        is_kept &= chunk.phase != Phase.PADDING
    is_row = (chunk.topk_ids != NO_EXPERT) & is_kept[:, None]
    if chunk.is_dropped is not None:
        is_row &= ~chunk.is_dropped
    num_passes, num_experts = counts.shape[1:]
    bucket = place[:, None] * num_experts + chunk.topk_ids
    for row in range(len(counts)):
        found = torch.bincount(bucket[row][is_row[row]], minlength=num_passes * num_experts)
        counts[row] += found.view(num_passes, num_experts)
