"""SGLang's routed experts per request, and the files of its expert distribution recorder.

Per request: flat base64 in `meta_info.routed_experts` (or `sgl_ext.routed_experts`), int32 unless
`meta_info.routed_experts_dtype` says otherwise, for the tokens from `routed_experts_start_len` to all but the last. The
message does not say the shape, so the model's config must.

Recorder (`.pt`): mode `stat` is summed over the ranks already; `per_pass` and `per_token` are one file per rank, with
physical ids and the map to logical ones; `per_token` keeps at most 8 choices. Older recorders wrote CSV.

References:
    https://github.com/sgl-project/sglang/pull/17434
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from headgate.errors import ArtifactError, InputError
from headgate.observe.importers.build import RoutedSequence, build_counts, build_trace
from headgate.observe.importers.decode import (
    decode_base64,
    load_pickled_tensors,
    read_json,
    read_json_lines,
    read_number_rows,
)
from headgate.observe.importers.shape import RouterShape
from headgate.observe.importers.vllm import shape_flat
from headgate.observe.trace import RoutingTrace

_DTYPES = ("int32", "uint16", "uint8")
_RECORDED_K = 8
"""`_TOP_K_NUM` of the recorder, whatever the model's own."""

_METADATA = {"engine": "sglang"}


def import_sglang(paths: Sequence[Path], shape: RouterShape) -> RoutingTrace:
    """Read SGLang's routing.

    Args:
        paths: `.json` or `.jsonl` responses; or `.pt` files of the recorder, one per rank; or its older `.csv`.
        shape: of the model.

    Raises:
        InputError: what the files say could mean two things, or can't be.
        ArtifactError: a file can't be read.
    """
    suffixes = {path.suffix for path in paths}
    if suffixes <= {".json", ".jsonl"}:
        return _import_responses(paths, shape)
    if suffixes == {".pt"}:
        return _import_recorder(paths, shape)
    if suffixes == {".csv"}:
        return build_counts(read_count_csv(paths, shape), path=paths[0], metadata=_METADATA, top_k=shape.top_k)
    raise InputError(
        f"files end in {sorted(suffixes)} and must all be .json or .jsonl, or .pt, or .csv; import each kind"
    )


def _import_responses(paths: Sequence[Path], shape: RouterShape) -> RoutingTrace:
    sequences, ignored = [], set()
    for path in paths:
        found = list(read_json_lines(path)) if path.suffix == ".jsonl" else [read_json(path)]
        for response in (item for value in found for item in (value if isinstance(value, list) else [value])):
            if not isinstance(response, dict):
                raise ArtifactError(f"{path}: a response is no JSON object; save what the server sent")
            sequence = _of_response(response, shape, path)
            if sequence is not None:
                sequences.append(sequence)
            if "expert_logits" in _holder(response):
                ignored.add("expert_logits")
    notes: dict[str, Any] = {"ignored": sorted(ignored)} if ignored else {}
    return build_trace(sequences, shape, path=paths[0], metadata={**_METADATA, **notes})


def _holder(response: dict[str, Any]) -> dict[str, Any]:
    """What holds the routing: it has another name in each of the two interfaces."""
    for name in ("meta_info", "sgl_ext"):
        if isinstance(response.get(name), dict):
            found: dict[str, Any] = response[name]
            return found
    return {}


def _of_response(response: dict[str, Any], shape: RouterShape, path: Path) -> RoutedSequence | None:
    holder = _holder(response)
    text = holder.get("routed_experts")
    if text is None:
        return None
    dtype = holder.get("routed_experts_dtype", "int32")
    if not isinstance(text, str) or dtype not in _DTYPES:
        raise ArtifactError(
            f"{path}: routed_experts must be base64 of one of {', '.join(_DTYPES)}, and not of {ascii(dtype)[:40]}; "
            "export it again"
        )
    content = decode_base64(text, path)
    width = np.dtype(dtype).itemsize
    flat = np.frombuffer(content[: len(content) // width * width], dtype)
    start = holder.get("routed_experts_start_len", response.get("routed_experts_start_len", 0))
    if type(start) is not int or start < 0:
        raise ArtifactError(f"{path}: routed_experts_start_len (={ascii(start)[:40]}) must be a position from 0")
    prompt, output = response.get("input_ids", response.get("prompt_token_ids")), response.get("output_ids")
    both = [*prompt, *output] if isinstance(prompt, list) and isinstance(output, list) else None
    return RoutedSequence(
        ids=shape_flat(flat, shape, path, len(content)),
        token_ids=None if both is None else both[start:],
        num_prompt=max(0, len(prompt) - start) if both and isinstance(prompt, list) else None,
        start=start,
    )


def read_count_csv(paths: Sequence[Path], shape: RouterShape) -> dict[int, NDArray[np.int64]]:
    """Add up CSV files of `layer_id,expert_id,count`, one per rank.

    Raises:
        InputError: an expert or a layer that there is none of.
        ArtifactError: not such a file.
    """
    num_experts = shape.require("num_experts", "--experts")
    counts: dict[int, NDArray[np.int64]] = defaultdict(lambda: np.zeros(num_experts, np.int64))
    for path in paths:
        for layer, expert, count in read_number_rows(path, ("layer_id", "expert_id", "count")):
            if expert >= num_experts:
                raise InputError(f"{path}: expert id {expert} is outside [0, {num_experts}); give the right --experts")
            counts[layer][expert] += count
    # Dense layers have empty rows here, too.
    busy = {layer: rows for layer, rows in counts.items() if rows.any()}
    shape.require_layers(busy, paths[0])
    return busy


def _import_recorder(paths: Sequence[Path], shape: RouterShape) -> RoutingTrace:
    dumps = [load_pickled_tensors(path) for path in paths]
    for path, dump in zip(paths, dumps, strict=True):
        if not isinstance(dump, dict) or not ({"logical_count", "records"} & set(dump)):
            raise ArtifactError(f"{path} is no dump of the expert distribution recorder; give the .pt that it wrote")
    if "logical_count" in dumps[0]:
        return _of_stat(paths, dumps, shape)
    records = [(path, record, dump) for path, dump in zip(paths, dumps, strict=True) for record in _records(dump, path)]
    if all("topk_ids_of_layer" in record for _, record, _ in records) and records:
        return _of_tokens(paths, records, shape)
    return _of_passes(paths, records, shape)


def _records(dump: dict[str, Any], path: Path) -> list[dict[str, Any]]:
    records = dump.get("records")
    if not isinstance(records, list) or not all(isinstance(record, dict) for record in records):
        raise ArtifactError(f"{path} has no list of records; give the .pt that the recorder wrote")
    return records


def _array(value: Any, ndim: int, name: str, path: Path) -> NDArray[np.int64]:
    array = value.numpy() if isinstance(value, torch.Tensor) and not value.is_floating_point() else np.array(0.0)
    if array.ndim != ndim or array.dtype.kind not in "iu":
        raise ArtifactError(
            f"{path}: {name} is not an array of integers with {ndim} axes; give what the recorder wrote"
        )
    return np.asarray(array, dtype=np.int64)


def _of_stat(paths: Sequence[Path], dumps: Sequence[dict[str, Any]], shape: RouterShape) -> RoutingTrace:
    if len(paths) > 1:
        raise InputError(
            f"files (={len(paths)}) of mode stat are summed over the ranks already, and several would count twice; "
            "import one"
        )
    total = _array(dumps[0]["logical_count"], 3, "logical_count", paths[0]).sum(0)
    return build_counts(_busy_layers(total, shape), path=paths[0], metadata=_METADATA, top_k=shape.top_k)


def _busy_layers(total: NDArray[np.int64], shape: RouterShape) -> dict[int, NDArray[np.int64]]:
    """Leave out dense layers, of which the recorder keeps empty rows."""
    layers = range(len(total)) if shape.moe_layers is None else [n for n in shape.moe_layers if n < len(total)]
    return {layer: total[layer] for layer in layers if shape.moe_layers is not None or total[layer].any()}


def _logical_map(dump: dict[str, Any], path: Path) -> NDArray[np.int64]:
    if not isinstance(dump.get("last_physical_to_logical_map"), torch.Tensor):
        raise InputError(
            f"{path} has physical ids and no last_physical_to_logical_map, so what they are is unknown; give the whole "
            "dump, as the recorder wrote it"
        )
    return _array(dump["last_physical_to_logical_map"], 2, "last_physical_to_logical_map", path)


def _of_passes(
    paths: Sequence[Path], records: Sequence[tuple[Path, dict[str, Any], dict[str, Any]]], shape: RouterShape
) -> RoutingTrace:
    """Sum the counts of all passes and ranks: each rank holds its own tokens."""
    num_experts = shape.require("num_experts", "--experts")
    total: NDArray[np.int64] | None = None
    for path, record, dump in records:
        physical = _array(record.get("global_physical_count"), 2, "global_physical_count", path)
        to_logical = _logical_map(dump, path)
        _require_map(to_logical, physical.shape, num_experts, path)
        counts = np.zeros((len(physical), num_experts), np.int64)
        np.add.at(counts, (np.arange(len(physical))[:, None], to_logical), physical)
        if total is not None and total.shape != counts.shape:
            raise InputError(f"{path} has {len(counts)} layers, and another file {len(total)}; import files of one run")
        total = counts if total is None else total + counts
    if total is None:
        raise InputError(f"{paths[0]} holds no record; was anything recorded?")
    return build_counts(_busy_layers(total, shape), path=paths[0], metadata=_METADATA, top_k=shape.top_k)


def _require_map(to_logical: NDArray[np.int64], shape: tuple[int, ...], num_experts: int, path: Path) -> None:
    if to_logical.shape != shape or to_logical.min(initial=0) < 0 or to_logical.max(initial=0) >= num_experts:
        raise InputError(
            f"{path}: the map of physical to logical ids has shape {to_logical.shape} and ids up to "
            f"{to_logical.max(initial=0)}, for {shape} and {num_experts} experts; give the right --experts or --config"
        )


def _of_tokens(
    paths: Sequence[Path], records: Sequence[tuple[Path, dict[str, Any], dict[str, Any]]], shape: RouterShape
) -> RoutingTrace:
    top_k = shape.require("top_k", "--top-k")
    if top_k > _RECORDED_K:
        raise InputError(
            f"top_k (={top_k}) is more than the {_RECORDED_K} choices that the recorder keeps; they are cut off"
        )
    sequences = []
    for path, record, dump in records:
        ids = _array(record["topk_ids_of_layer"], 3, "topk_ids_of_layer", path)
        sequences += _split_pass(_to_logical(ids, dump, top_k, path), record, path)
    return build_trace(sequences, shape, path=paths[0], metadata=_METADATA)


def _to_logical(ids: NDArray[np.int64], dump: dict[str, Any], top_k: int, path: Path) -> NDArray[np.int64]:
    """[L, T, 8] physical ids to [T, L, top_k] logical ones."""
    if (ids[..., top_k:] != -1).any():
        raise InputError(
            f"{path} has more than {top_k} choices per token: with shared experts fused the recorder mixes them in; "
            "record without that fusion, or give the right --top-k"
        )
    ids = ids[..., :top_k]
    table = _logical_map(dump, path)
    if len(table) != len(ids) or ids.min(initial=-1) < -1 or ids.max(initial=-1) >= table.shape[1]:
        raise InputError(
            f"{path}: physical ids do not fit the map of shape {table.shape}; the map may have changed meanwhile"
        )
    logical = np.where(ids == -1, -1, np.take_along_axis(table[:, None], ids.clip(min=0), axis=2))
    return logical.transpose(1, 0, 2)


def _split_pass(ids: NDArray[np.int64], record: dict[str, Any], path: Path) -> list[RoutedSequence]:
    """Cut a pass into its sequences: `extend_seq_lens` of a prefill; in decoding each token is one of its own."""
    tokens = _array(record.get("input_ids"), 1, "input_ids", path).tolist()
    positions = _array(record.get("positions"), 1, "positions", path).tolist()
    if len(tokens) != len(ids) or len(positions) != len(ids):
        raise ArtifactError(
            f"{path}: a record has {len(ids)} routed tokens and {len(tokens)} input_ids; record it again"
        )
    lengths = record.get("extend_seq_lens")
    lengths = lengths.tolist() if isinstance(lengths, torch.Tensor) else lengths or [1] * len(tokens)
    if not all(type(n) is int and n > 0 for n in lengths) or sum(lengths) != len(tokens):
        raise ArtifactError(f"{path}: extend_seq_lens do not add up to the {len(tokens)} tokens; record it again")
    ends = np.cumsum(lengths).tolist()
    return [
        RoutedSequence(ids=ids[end - n : end], token_ids=tokens[end - n : end], start=positions[end - n])
        for end, n in zip(ends, lengths, strict=True)
    ]
