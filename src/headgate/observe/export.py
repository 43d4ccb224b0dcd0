"""Traces for other tools: Arrow, pandas, Parquet and JSON lines, with one row per token and layer.

Columns: `layer`, `token` (from 0, in the whole trace), `sequence`, `position`, `token_id`, `text`, `phase`,
`forward_id`, `expert_ids`, `combine_weights`, `is_dropped` and `contribution_norms` (lists of K), `select_margin`,
`router_entropy`, `shared_norms`, `output_norms`, `sum_error`; those that the trace records. A trace of counts alone has
the columns `layer`, `expert` and `count`.
"""

from __future__ import annotations

import importlib
import itertools
import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from headgate.errors import BackendError, InputError
from headgate.files import explain_os_errors, replacing
from headgate.observe.trace import RoutingTrace

if TYPE_CHECKING:
    import pandas
    import pyarrow

    from headgate.observe.reader import TraceFile

_SLOTS = {
    "expert_ids": "topk_ids",
    "combine_weights": "topk_weights",
    "is_dropped": "is_dropped",
    "contribution_norms": "contribution_norms",
}
_VALUES = ("select_margin", "router_entropy", "shared_norms", "output_norms", "sum_error")


def to_arrow(trace: RoutingTrace | TraceFile) -> pyarrow.Table:
    """Turn a whole trace into an Arrow table; see this module for its columns.

    Raises:
        BackendError: pyarrow is not installed.
    """
    return _pyarrow().Table.from_batches(list(_batches(trace)))


def to_pandas(trace: RoutingTrace | TraceFile) -> pandas.DataFrame:
    """Turn a whole trace into a pandas frame; see this module for its columns.

    Raises:
        BackendError: pyarrow or pandas is not installed.
    """
    try:
        importlib.import_module("pandas")  # Asked before pyarrow asks, which remembers the answer.
    except ImportError as error:
        raise BackendError("pandas is not installed; pip install 'headgate[observe]'") from error
    return to_arrow(trace).to_pandas()


def export_parquet(trace: RoutingTrace | TraceFile, path: Path | str) -> None:
    """Write a trace as Parquet, in one step and bounded memory; its metadata is the schema's entry "headgate".

    Raises:
        BackendError: pyarrow is not installed.
        ArtifactError: the file can't be written.
    """
    _pyarrow()
    import pyarrow.parquet as parquet

    batches = _batches(trace)
    first = next(batches)
    schema = first.schema.with_metadata({"headgate": json.dumps(trace.metadata)})
    with replacing(Path(path)) as temporary, parquet.ParquetWriter(temporary, schema, compression="zstd") as writer:
        for batch in itertools.chain([first], batches):
            writer.write_batch(batch.replace_schema_metadata(schema.metadata))


def export_jsonl(trace: RoutingTrace | TraceFile, path: Path | str) -> None:
    """Write a trace as JSON lines in ASCII, in one step and bounded memory; what is not finite becomes null.

    Raises:
        ArtifactError: the file can't be written.
    """
    with replacing(Path(path)) as temporary, temporary.open("w", encoding="ascii") as file:
        for columns in _columns(trace):
            plain = {name: _plain(values) for name, values in columns.items()}
            for row in zip(*plain.values(), strict=True):
                file.write(json.dumps(dict(zip(plain, row, strict=True))) + "\n")


def export_trace(trace: RoutingTrace | TraceFile, path: Path | str) -> None:
    """Write a trace in the format that the name ends with: `.parquet` or `.jsonl`.

    Raises:
        InputError: another ending.
        BackendError: pyarrow is not installed.
        ArtifactError: the file can't be written.
    """
    writers = {".parquet": export_parquet, ".jsonl": export_jsonl}
    write = writers.get(Path(path).suffix)
    if write is None:
        raise InputError(f"path (={str(path)!r}) must end in .parquet or .jsonl; choose one of these formats")
    with explain_os_errors("write", Path(path)):
        write(trace, path)


def _pyarrow() -> Any:
    try:
        import pyarrow
    except ImportError as error:
        raise BackendError("pyarrow is not installed; pip install 'headgate[observe]'") from error
    return pyarrow


def _columns(trace: RoutingTrace | TraceFile) -> Iterator[dict[str, Any]]:
    """Yield the columns of the table piece by piece, token by token: arrays of numbers, or lists of strings."""
    if trace.num_tokens == 0:
        yield _count_columns(trace)
        return
    begin = 0
    ends = trace.seq_offsets[1:].contiguous()
    strings = trace.metadata.get("token_strings", {})
    for chunk in trace.chunks():
        yield _chunk_columns(chunk, begin, ends, strings)
        begin += chunk.num_tokens


def _count_columns(trace: RoutingTrace | TraceFile) -> dict[str, Any]:
    num_experts = trace.num_experts
    return {
        "layer": trace.layer_index.repeat_interleave(num_experts).numpy(),
        "expert": np.tile(np.arange(num_experts, dtype=np.int32), len(trace.layer_index)),
        "count": trace.counts.flatten().numpy(),
    }


def _chunk_columns(chunk: RoutingTrace, begin: int, ends: Int[Tensor, " S"], strings: dict[str, str]) -> dict[str, Any]:
    num_layers, num_tokens, _ = chunk.topk_ids.shape
    tokens = torch.arange(begin, begin + num_tokens)
    per_token: dict[str, Tensor | None] = {
        "token": tokens,
        "sequence": torch.searchsorted(ends, tokens, right=True).int(),
        "position": chunk.position,
        "token_id": chunk.token_ids,
        "phase": chunk.phase,
        "forward_id": chunk.forward_id,
    }
    columns: dict[str, Any] = {"layer": chunk.layer_index.repeat(num_tokens).numpy()}
    for name, value in per_token.items():
        if value is not None:
            columns[name] = value.repeat_interleave(num_layers).numpy()
    if chunk.token_ids is not None and strings:
        columns["text"] = [_text(strings.get(str(token))) for token in columns["token_id"].tolist()]
    for name, field in _SLOTS.items():
        if (value := getattr(chunk, field)) is not None:
            flat = value.transpose(0, 1).flatten(0, 1)
            columns[name] = (flat.int() if name == "expert_ids" else flat).numpy()
    for name in _VALUES:
        if (value := getattr(chunk, name)) is not None:
            columns[name] = value.t().flatten().float().numpy()
    return columns


def _text(text: str | None) -> str | None:
    """A token's text as valid UTF-8: half a surrogate pair becomes its escape."""
    return None if text is None else text.encode("utf-8", "backslashreplace").decode()


def _plain(values: Any) -> list[Any]:
    """Python values, with None for what JSON can't say."""
    if isinstance(values, list):
        return values
    plain: list[Any] = values.tolist()
    if values.dtype.kind != "f" or np.isfinite(values).all():
        return plain
    if values.ndim > 1:
        return [[number if math.isfinite(number) else None for number in row] for row in plain]
    return [number if math.isfinite(number) else None for number in plain]


def _batches(trace: RoutingTrace | TraceFile) -> Iterator[pyarrow.RecordBatch]:
    arrow = _pyarrow()
    for columns in _columns(trace):
        yield arrow.RecordBatch.from_pydict({name: _arrow_array(values) for name, values in columns.items()})


def _arrow_array(values: Any) -> pyarrow.Array:
    arrow = _pyarrow()
    if isinstance(values, list):
        return arrow.array(values, arrow.string())
    if values.dtype == np.float16:
        values = values.astype(np.float32)
    if values.ndim == 1:
        return arrow.array(values)
    flat = arrow.array(values.reshape(-1))
    return arrow.FixedSizeListArray.from_arrays(flat, values.shape[1])
