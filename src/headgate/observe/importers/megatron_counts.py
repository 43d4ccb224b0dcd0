"""Megatron-Core's `tokens_per_expert/rank{r}.jsonl`: the rows of each expert, per micro-batch.

One record per iteration, block and layer, `{"iter", "block", "mtp_idx"?, "layer", "tpe": [[...] per micro-batch]}`.
A rank counts the experts that it holds, so with expert parallelism each file has a part of them. `layer` is the
number within the model chunk of the rank: with pipeline parallelism, import each stage with its own --layers.

References:
    https://github.com/NVIDIA/Megatron-LM/pull/3842
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from headgate.errors import ArtifactError, InputError
from headgate.observe.importers.build import build_counts
from headgate.observe.importers.decode import read_json_lines
from headgate.observe.importers.shape import RouterShape
from headgate.observe.trace import RoutingTrace

Ranks = Literal["tokens", "same", "experts"]

Counts = dict[int, NDArray[np.int64]]


def holds_counts(path: Path) -> bool:
    """Whether a `.jsonl` of Megatron-Core is of this kind: its first record has `tpe`.

    Raises:
        ArtifactError: it can't be read.
    """
    first = next(read_json_lines(path), None)
    return isinstance(first, dict) and "tpe" in first


def import_tokens_per_expert(paths: Sequence[Path], shape: RouterShape, *, ranks: Ranks | None) -> RoutingTrace:
    """Read the counts of one or more ranks.

    Args:
        paths: one `.jsonl` per rank; with experts dealt out over ranks, in the order of these.
        shape: of the model.
        ranks: of several ranks: had each its own "tokens", all the "same" ones, or each its own "experts"?

    Raises:
        InputError: what the files say could mean two things, or can't be.
        ArtifactError: a file can't be read.
    """
    if len(paths) > 1 and ranks is None:
        raise InputError(
            f"ranks (={len(paths)}) may have counted different tokens, the same, or different experts; say which by "
            "--ranks tokens, --ranks same or --ranks experts"
        )
    found = [_counts_of(path) for path in (paths[:1] if ranks == "same" else paths)]
    for path, counts in zip(paths, found, strict=False):
        if sorted(counts) != sorted(found[0]):
            raise InputError(
                f"{path} has the layers {sorted(counts)[:8]}, and {paths[0]} {sorted(found[0])[:8]}; with pipeline "
                "stages, import each and merge them (headgate export --by layers)"
            )
    total = {layer: _join([counts[layer] for counts in found], ranks, paths) for layer in found[0]}
    _require_all_experts(total, shape, paths)
    named = _decoder_layers(sorted(total), shape, paths[0])
    return build_counts(
        {named[layer]: counts for layer, counts in total.items()},
        path=paths[0],
        metadata={"engine": "megatron-core"},
        top_k=shape.top_k,
    )


def _counts_of(path: Path) -> Counts:
    """Rows of each layer of the decoder, over all iterations and micro-batches."""
    counts: Counts = {}
    for record in read_json_lines(path):
        if not isinstance(record, dict) or type(record.get("layer")) is not int or "tpe" not in record:
            raise ArtifactError(f"{path}: a record has no layer and tpe; give the files of tokens_per_expert")
        # Multi-token prediction has layers of its own, under numbers that the decoder uses, too.
        if record.get("block", "decoder") != "decoder":
            continue
        layer, rows = record["layer"], _micro_batches(record["tpe"], path)
        if layer in counts and len(counts[layer]) != len(rows):
            raise InputError(f"{path}: layer {layer} has now {len(rows)} experts, now {len(counts[layer])}; split it")
        counts[layer] = counts.get(layer, 0) + rows
    if not counts:
        raise InputError(f"{path} holds no record of the decoder; was anything recorded?")
    return counts


def _micro_batches(values: Any, path: Path) -> NDArray[np.int64]:
    """The sum over the micro-batches: [E of this rank]."""
    try:
        rows = np.array(values)
    except (ValueError, RecursionError, OverflowError) as error:
        raise ArtifactError(f"{path}: tpe's lists are of different lengths; record it again") from error
    if rows.ndim != 2 or rows.dtype.kind != "i" or not rows.size:
        raise ArtifactError(f"{path}: tpe is no list of lists of whole numbers; record it again")
    return np.asarray(rows.sum(0), dtype=np.int64)


def _join(parts: list[NDArray[np.int64]], ranks: Ranks | None, paths: Sequence[Path]) -> NDArray[np.int64]:
    if ranks == "experts":
        return np.concatenate(parts)
    if len({len(part) for part in parts}) > 1:
        raise InputError(
            f"{paths[0]} and other ranks count {sorted({len(part) for part in parts})} experts; if each rank holds its "
            "own, say --ranks experts"
        )
    return np.asarray(sum(parts))


def _require_all_experts(counts: Counts, shape: RouterShape, paths: Sequence[Path]) -> None:
    num_experts = shape.require("num_experts", "--experts")
    for layer, rows in counts.items():
        if len(rows) != num_experts:
            raise InputError(
                f"{paths[0]}: layer {layer} has counts of {len(rows)} experts, and the model has {num_experts}: a rank "
                "counts those that it holds; give the files of all ranks that share them, with --ranks experts"
            )


def _decoder_layers(layers: list[int], shape: RouterShape, path: Path) -> dict[int, int]:
    """The decoder layer of each number in the file, which is that within a rank's own model chunk."""
    known = shape.moe_layers
    if known is None:
        return {layer: layer for layer in layers}
    if len(known) != len(layers):
        raise InputError(
            f"{path} has {len(layers)} layers, and the model {len(known)} routed ones; name those of this stage by "
            "--layers"
        )
    return dict(zip(layers, known, strict=True))
