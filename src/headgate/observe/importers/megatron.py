"""Megatron-Core's routing: replay lists, and the router trace.

Replay list: a `.pt` with a list of tensors `[T, k]`, one per router in the order in which they were built.
Router trace: `router_trace_rank{r}.jsonl`, one record per step, block and layer, with `top_indices`.

References:
    https://docs.nvidia.com/megatron-core/developer-guide/nightly/apidocs/core/core.transformer.moe.router_trace.html,
    https://docs.nvidia.com/megatron-core/developer-guide/latest/apidocs/core/core.transformer.moe.router_replay.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from numpy.typing import NDArray

from headgate.errors import ArtifactError, InputError
from headgate.observe.importers.build import RoutedSequence, build_trace
from headgate.observe.importers.decode import load_pickled_tensors, nested_ids, read_json_lines
from headgate.observe.importers.shape import ModelShape
from headgate.observe.trace import RoutingTrace

Ranks = Literal["tokens", "same"]

_METADATA = {"engine": "megatron-core"}


def import_megatron(paths: Sequence[Path], shape: ModelShape, *, ranks: Ranks | None = None) -> RoutingTrace:
    """Read Megatron-Core's routing.

    Args:
        paths: one `.pt` replay list, or the `.jsonl` router traces of the ranks.
        shape: of the model.
        ranks: with several router traces: whether the ranks had their own "tokens", or the "same" ones.

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
    if len(paths) > 1 and ranks is None:
        raise InputError(
            f"router traces (={len(paths)}) may hold different tokens (data parallel) or the same (tensor parallel); "
            "say which by --ranks tokens or --ranks same"
        )
    return _of_router_traces(paths if ranks == "tokens" else paths[:1], shape)


def _of_list(path: Path, shape: ModelShape) -> RoutingTrace:
    tensors = load_pickled_tensors(path)
    is_list = isinstance(tensors, list | tuple) and tensors
    if not is_list or not all(isinstance(t, torch.Tensor) and t.dim() == 2 for t in tensors):
        raise ArtifactError(f"{path} is no list of tensors [tokens, k]; save what RouterReplay returned")
    if len({tuple(t.shape) for t in tensors}) > 1 or tensors[0].is_floating_point():
        raise ArtifactError(f"{path}: the routers' tensors are of different shapes, or not integers; save one pass")
    ids = torch.stack(list(tensors), dim=1).numpy()
    return build_trace([RoutedSequence(ids=ids)], shape, path=path, metadata=_METADATA)


def _of_router_traces(paths: Sequence[Path], shape: ModelShape) -> RoutingTrace:
    steps: dict[tuple[Path, int], dict[int, NDArray[np.int64]]] = {}
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
    sequences = []
    for (path, step), found in sorted(steps.items(), key=lambda item: (item[0][1], str(item[0][0]))):
        if sorted(found) != layers or len({len(ids) for ids in found.values()}) > 1:
            raise InputError(
                f"{path}: step {step} has not the same tokens in each of the layers {layers[:8]}; "
                "with pipeline stages, import and merge each stage (headgate export --by layers)"
            )
        sequences.append(RoutedSequence(ids=np.stack([found[layer] for layer in layers], axis=1)))
    if shape.moe_layers is not None and tuple(layers) != shape.moe_layers:
        raise InputError(
            f"{paths[0]} has the layers {layers[:8]}, and the config {list(shape.moe_layers)[:8]}; give its own"
        )
    # The record names its layers, so nothing is left to ask.
    return build_trace(sequences, replace(shape, moe_layers=tuple(layers)), path=paths[0], metadata=_METADATA)


def _add(record: dict[str, Any], steps: dict[tuple[Path, int], dict[int, NDArray[np.int64]]], path: Path) -> None:
    step, layer = record.get("step"), record.get("layer")
    if type(step) is not int or type(layer) is not int or layer < 0:
        raise ArtifactError(f"{path}: a record has no step and layer; give the router trace itself")
    ids = nested_ids([record.get("top_indices")], path)[0]
    if len(ids) != record.get("num_tokens", len(ids)) or ids.shape[1] != record.get("topk", ids.shape[1]):
        raise ArtifactError(
            f"{path}: step {step}, layer {layer} has not as many top_indices as it says; record it again"
        )
    found = steps.setdefault((path, step), {})
    if layer in found:
        raise InputError(f"{path} has step {step}, layer {layer} twice, so runs were appended; split the file")
    found[layer] = ids
