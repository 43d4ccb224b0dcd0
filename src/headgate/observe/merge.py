"""Put the traces of several ranks together, in bounded memory."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch.nn.functional import pad

from headgate.errors import InputError
from headgate.flow import NO_EXPERT
from headgate.observe.pieces import MODEL_NAMES, memory_bytes, require_same_model
from headgate.observe.reader import CHUNK_BYTES, TraceFile
from headgate.observe.trace import RoutingTrace
from headgate.observe.writer import SHARD_BYTES, TraceWriter

MergeBy = Literal["tokens", "layers"]

_SHARED_TENSORS = ("seq_offsets", "token_ids", "position", "phase", "forward_id")
_TOKEN_VALUES = ("select_margin", "router_entropy", "shared_norms", "output_norms", "sum_error")
_LAYER_TENSORS = (
    "topk_ids",
    "layer_index",
    "counts",
    "topk_weights",
    "router_logits",
    "is_dropped",
    "select_bias",
    "contribution_norms",
    *_TOKEN_VALUES,
)


def merge_files(
    traces: Sequence[TraceFile],
    path: Path | str,
    *,
    by: MergeBy,
    overwrite: bool = False,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write one trace that holds several.

    Args:
        traces: one per rank, in order.
        path: what the result is called.
        by: "tokens", where each rank routed its own tokens (data parallel); "layers", where each rank has its own
            layers and all saw the same tokens (pipeline parallel).
        overwrite: replace a trace of that name.
        shard_bytes: as for `TraceWriter`.

    Raises:
        InputError: traces that do not fit together, and in what.
        ArtifactError: a file can't be read or written.
    """
    if not traces:
        raise InputError("there are no traces to merge; name at least one")
    if by == "layers":
        _require_same_tokens(traces)
    with TraceWriter(path, overwrite=overwrite, shard_bytes=shard_bytes) as writer:
        if by == "tokens":
            for trace in traces:
                _copy(trace, writer)
        else:
            _copy_stacked(traces, writer)


def _copy(trace: TraceFile, writer: TraceWriter) -> None:
    """Append a trace chunk by chunk; a sequence that a chunk cuts goes on in the next."""
    begins = set(trace.seq_offsets.tolist())
    begin = 0
    if trace.num_tokens == 0:
        writer.append(replace(trace.read(0, 0), counts=trace.counts))
    for chunk in trace.chunks():
        writer.append(chunk, continues=begin not in begins)
        begin += chunk.num_tokens


def _copy_stacked(traces: Sequence[TraceFile], writer: TraceWriter) -> None:
    if traces[0].num_tokens == 0:
        writer.append(stack_layers([replace(trace.read(0, 0), counts=trace.counts) for trace in traces]))
    begins = set(traces[0].seq_offsets.tolist())
    size = max(1, CHUNK_BYTES // max(1, sum(memory_bytes(trace.read(0, 1)) for trace in traces)))
    for begin in range(0, traces[0].num_tokens, size):
        stop = min(begin + size, traces[0].num_tokens)
        writer.append(stack_layers([trace.read(begin, stop) for trace in traces]), continues=begin not in begins)


def stack_layers(parts: Sequence[RoutingTrace]) -> RoutingTrace:
    """Put the layers of traces of the same tokens on top of each other, in the order of the decoder layers.

    Raises:
        InputError: traces of different models, a decoder layer that two have, or something that only some record.

    Example:
        >>> import torch
        >>> def one(layer):
        ...     ids = torch.tensor([[[0]]])
        ...     fields = {"layer_index": torch.tensor([layer]), "seq_offsets": torch.tensor([0, 1])}
        ...     return RoutingTrace(topk_ids=ids, counts=torch.tensor([[1, 0]]), metadata={}, **fields)
        >>> stack_layers([one(4), one(2)]).layer_index.tolist()
        [2, 4]
    """
    first = parts[0]
    require_same_model([part.metadata for part in parts], names=MODEL_NAMES)
    layers = torch.cat([part.layer_index for part in parts])
    if len(set(layers.tolist())) != len(layers):
        raise InputError(
            f"layers (={layers.tolist()}) must differ between the traces to merge; "
            "drop the ranks that repeat a layer, or merge by tokens"
        )
    order = layers.argsort()
    slots = max(part.topk_ids.shape[2] for part in parts)
    experts = max(part.num_experts for part in parts)
    joined = {}
    for name in _LAYER_TENSORS:
        values = [getattr(part, name) for part in parts]
        if all(value is None for value in values):
            continue
        if any(value is None for value in values):
            raise InputError(f"only some of the traces record {name}; record all ranks alike")
        width = {"counts": experts, "router_logits": experts, "select_bias": experts}.get(name, slots)
        fill = {"topk_ids": NO_EXPERT, "router_logits": float("-inf")}.get(name, 0)
        if values[0].dim() > 1 and name not in _TOKEN_VALUES:
            values = [pad(value, (0, width - value.shape[-1]), value=fill) for value in values]
        joined[name] = torch.cat(values)[order]
    return replace(first, **joined, metadata={**first.metadata, **_noted_layers(parts, order.tolist())})


def _noted_layers(parts: Sequence[RoutingTrace], order: Sequence[int]) -> dict[str, list[Any]]:
    noted = [part.metadata.get("layers") for part in parts]
    if not any(noted):
        return {}
    if not all(noted):
        raise InputError("only some of the traces name their layers; record all ranks alike")
    rows = [layer for layers in noted for layer in layers or []]
    return {"layers": [rows[row] for row in order]}


def _require_same_tokens(traces: Sequence[TraceFile]) -> None:
    first = traces[0]
    for trace in traces[1:]:
        for name in _SHARED_TENSORS:
            mine, theirs = _of_tokens(first, name), _of_tokens(trace, name)
            is_same = mine is theirs if mine is None or theirs is None else torch.equal(mine, theirs)
            if not is_same:
                raise InputError(
                    f"{trace.path} has another {name} than {first.path}, so they do not hold the same tokens; "
                    "merge by tokens, or record the ranks in the same run"
                )


def _of_tokens(trace: TraceFile, name: str) -> torch.Tensor | None:
    return trace.seq_offsets if name == "seq_offsets" else trace.of_tokens(name)
