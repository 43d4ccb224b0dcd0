"""Begin the file of a recording, or go on with one that was interrupted."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from headgate.integrations.transformers.provenance import require_same_recording
from headgate.observe.reader import TraceFile, open_trace
from headgate.observe.shards import shard_path
from headgate.observe.writer import TraceWriter


@dataclass(frozen=True, slots=True, kw_only=True)
class Begun:
    """An open recording.

    Attributes:
        writer: of its file.
        metadata: to keep with what is recorded.
        num_sequences: that it holds already.
        num_passes: forward passes that it holds already.
    """

    writer: TraceWriter
    metadata: Mapping[str, Any]
    num_sequences: int = 0
    num_passes: int = 0


def open_recording(path: Path, metadata: Mapping[str, Any], *, resume: bool, overwrite: bool) -> Begun | None:
    """Open the file of a recording.

    Args:
        path: of the trace.
        metadata: of `describe_recording`.
        resume: whether to go on with what is there.
        overwrite: whether to remove what is there.

    Returns:
        None where there is nothing to go on with, since the recording is complete.

    Raises:
        InputError: what is there is of another model, text or option.
        ArtifactError: there is a trace, and neither `resume` nor `overwrite`; or a file can't be read or written.
    """
    is_there = path.exists() or shard_path(path, 0).exists()
    if not (resume and is_there):
        # An index alone is a recording that was stopped before its first text.
        return Begun(writer=TraceWriter(path, overwrite=overwrite or resume), metadata=metadata)
    begun = open_trace(path)
    require_same_recording(begun.metadata, metadata, path=path)
    if begun.is_complete:
        return None
    return Begun(
        writer=TraceWriter(path, resume=True),
        metadata={**metadata, "created": begun.metadata.get("created")},
        num_sequences=len(begun.seq_offsets) - 1,
        num_passes=_num_passes(begun),
    )


def _num_passes(trace: TraceFile) -> int:
    forward_ids = trace.of_tokens("forward_id")
    return 0 if forward_ids is None else int(forward_ids.max()) + 1
