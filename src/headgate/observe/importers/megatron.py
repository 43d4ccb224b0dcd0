"""Megatron-Core's routing: replay lists, and the router trace.

Replay list: a `.pt` with a list of tensors `[T, k]`, one per router in the order in which they were built.
Router trace: `router_trace_rank{r}.jsonl`, one record per step, block and layer, with `top_indices`; and beside it,
where they were asked for, `logits_rank{r}.bin`, raw bfloat16 at the place that a record names.

References:
    https://docs.nvidia.com/megatron-core/developer-guide/nightly/apidocs/core/core.transformer.moe.router_trace.html,
    https://docs.nvidia.com/megatron-core/developer-guide/latest/apidocs/core/core.transformer.moe.router_replay.html
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from headgate.errors import ArtifactError, InputError
from headgate.files import explain_os_errors
from headgate.observe.importers.build import RoutedSequence, build_trace
from headgate.observe.importers.decode import load_pickled_tensors, nested_ids, read_json_lines
from headgate.observe.importers.megatron_counts import Ranks, holds_counts, import_tokens_per_expert
from headgate.observe.importers.shape import RouterShape
from headgate.observe.trace import RoutingTrace

_METADATA = {"engine": "megatron-core"}


def import_megatron(paths: Sequence[Path], shape: RouterShape, *, ranks: Ranks | None = None) -> RoutingTrace:
    """Read Megatron-Core's routing.

    Args:
        paths: one `.pt` replay list, or the `.jsonl` router traces, or counts, of the ranks.
        shape: of the model.
        ranks: with several ranks: whether each had its own "tokens", all the "same" ones, or, of counts, each its own
            "experts".

    Raises:
        InputError: what the files say could mean two things, or can't be.
        ArtifactError: a file can't be read.
    """
    suffixes = {path.suffix for path in paths}
    if suffixes == {".pt"}:
        if len(paths) > 1:
            raise InputError(
                f"replay lists (={len(paths)}) have no token ids to tell ranks apart; import one at a time"
            )
        return _of_list(paths[0], shape)
    if suffixes != {".jsonl"}:
        raise InputError(f"files end in {sorted(suffixes)} and must be one .pt, or .jsonl router traces; import those")
    if any(map(holds_counts, paths)):
        return import_tokens_per_expert(paths, shape, ranks=ranks)
    if len(paths) > 1 and ranks not in ("tokens", "same"):
        raise InputError(
            f"router traces (={len(paths)}) may hold different tokens (data parallel) or the same (tensor parallel); "
            "say which by --ranks tokens or --ranks same"
        )
    return _of_router_traces(paths if ranks == "tokens" else paths[:1], shape)


def _of_list(path: Path, shape: RouterShape) -> RoutingTrace:
    tensors = load_pickled_tensors(path)
    is_list = isinstance(tensors, list | tuple) and tensors
    if not is_list or not all(isinstance(t, torch.Tensor) and t.dim() == 2 for t in tensors):
        raise ArtifactError(f"{path} is no list of tensors [tokens, k]; save what RouterReplay returned")
    if len({tuple(t.shape) for t in tensors}) > 1 or tensors[0].is_floating_point():
        raise ArtifactError(f"{path}: the routers' tensors are of different shapes, or not integers; save one pass")
    ids = torch.stack(list(tensors), dim=1).numpy()
    return build_trace([RoutedSequence(ids=ids)], shape, path=path, metadata=_METADATA)


@dataclass(frozen=True, slots=True, kw_only=True)
class _LayerRecord:
    """What one record says: ids [T, K], and logits [T, E] where they were kept."""

    ids: NDArray[np.int64]
    logits: torch.Tensor | None


Steps = dict[tuple[Path, int], dict[int, _LayerRecord]]


def _of_router_traces(paths: Sequence[Path], shape: RouterShape) -> RoutingTrace:
    steps: Steps = {}
    for path in paths:
        for record in read_json_lines(path):
            if not isinstance(record, dict):
                raise ArtifactError(f"{path}: a record is no JSON object; give the router trace itself")
            # Multi-token prediction has layers of its own, under numbers that the decoder uses, too.
            if record.get("block", "decoder") == "decoder":
                _add(record, steps, path)
    if not steps:
        raise InputError(f"{paths[0]} holds no record of the decoder; was anything recorded?")
    layers = sorted({layer for found in steps.values() for layer in found})
    in_order = sorted(steps.items(), key=lambda item: (item[0][1], str(item[0][0])))
    for (path, step), found in in_order:
        if sorted(found) != layers or len({one.ids.shape for one in found.values()}) > 1:
            raise InputError(
                f"{path}: step {step} has not the same tokens in each of the layers {layers[:8]}; "
                "with pipeline stages, import and merge each stage (headgate export --by layers)"
            )
    shape.require_layers(layers, paths[0])
    sequences = [RoutedSequence(ids=np.stack([found[layer].ids for layer in layers], axis=1)) for _, found in in_order]
    # The record names its layers, so nothing is left to ask.
    trace = build_trace(sequences, replace(shape, moe_layers=tuple(layers)), path=paths[0], metadata=_METADATA)
    return _with_logits(trace, [[found[layer].logits for layer in layers] for _, found in in_order], paths[0])


def _with_logits(trace: RoutingTrace, logits: list[list[torch.Tensor | None]], path: Path) -> RoutingTrace:
    """The trace with its logits, if every record that has tokens kept them."""
    kept = [[one for one in step if one is not None] for step in logits]
    if not all(len(some) == len(step) for some, step in zip(kept, logits, strict=True)):
        if any(kept):
            raise InputError(f"{path}: only some of the records name logits; import those with and without apart")
        return trace
    joined = torch.cat([torch.stack(step) for step in kept if len(step[0])], dim=1)
    if joined.shape[2] != trace.num_experts:
        raise InputError(
            f"{path}: the logits are of {joined.shape[2]} experts, and the model has {trace.num_experts}; give its own"
        )
    return replace(trace, router_logits=joined.half())


def _add(record: dict[str, Any], steps: Steps, path: Path) -> None:
    step, layer = record.get("step"), record.get("layer")
    if type(step) is not int or type(layer) is not int or layer < 0:
        raise ArtifactError(f"{path}: a record has no step and layer; give the router trace itself")
    nested = nested_ids([record.get("top_indices")], path)
    # A pass without tokens has an empty list, which says nothing of k.
    ids = nested[0] if len(nested) else np.zeros((0, 0), dtype=np.int64)
    is_k_right = not len(ids) or ids.shape[1] == record.get("topk", ids.shape[1])
    if len(ids) != record.get("num_tokens", len(ids)) or not is_k_right:
        raise ArtifactError(
            f"{path}: step {step}, layer {layer} has not as many top_indices as it says; record it again"
        )
    found = steps.setdefault((path, step), {})
    if layer in found:
        raise InputError(f"{path} has step {step}, layer {layer} twice, so runs were appended; split the file")
    found[layer] = _LayerRecord(ids=ids, logits=_read_logits(record, len(ids), path))


def _read_logits(record: dict[str, Any], num_tokens: int, path: Path) -> torch.Tensor | None:
    """[T, E] float32 from the file beside the trace, or None where the record names none."""
    if "logits_offset" not in record:
        return None
    values: list[Any] = [record.get(f"logits_{name}") for name in ("offset", "bytes", "shape")]
    offset, size, shape = values
    numbers = [offset, size, *shape] if isinstance(shape, list) and len(shape) == 2 else [None]
    is_whole = all(type(number) is int and number >= 0 for number in numbers)
    if not is_whole or shape[0] != num_tokens or size != 2 * math.prod(shape):
        raise ArtifactError(f"{path}: a record's logits are not [{num_tokens}, E] of bfloat16; record it again")
    sidecar = path.with_name(path.name.replace("router_trace_", "logits_")).with_suffix(".bin")
    with explain_os_errors("read", sidecar), sidecar.open("rb") as file:
        if size > file.seek(0, 2) - offset:
            raise ArtifactError(f"{sidecar} ends before the logits that {path.name} names; copy the whole file")
        file.seek(offset)
        content = file.read(size)
    if not size:
        return torch.zeros(num_tokens, 0)
    return torch.frombuffer(bytearray(content), dtype=torch.bfloat16).view(shape).float()
