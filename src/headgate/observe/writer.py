"""Write traces: at once, or piece by piece so that a crash at any moment leaves what was flushed readable."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np

from headgate.errors import ArtifactError, InputError
from headgate.files import explain_os_errors, replacing, sync_folder
from headgate.observe.container import write_arrays
from headgate.observe.pieces import concatenate, memory_bytes, require_same_kind, take_tokens
from headgate.observe.reader import SHARD_KEY, open_trace
from headgate.observe.shards import (
    ShardIndex,
    existing_files,
    index_path,
    read_index,
    shard_path,
    write_index,
)
from headgate.observe.trace import RoutingTrace, encode_metadata, to_arrays

SHARD_BYTES = 256 * 2**20
"""A writer flushes by itself once its pieces take so much memory."""


def save_trace(path: Path | str, trace: RoutingTrace) -> None:
    """Write a trace as one file, in one step.

    Raises:
        InputError: more experts than a u16 holds.
        ArtifactError: the file can't be written; an old one is untouched.
    """
    arrays = to_arrays(trace)
    with replacing(Path(path)) as temporary, temporary.open("wb") as file:
        write_arrays(file, arrays, encode_metadata(trace.metadata))


class TraceWriter:
    """Writes a trace piece by piece.

    What `flush` has written survives whatever happens next; `open_trace` reads it under the same name while the
    writer is still at work, and after it was killed. When a flush fails, because the disk is full, say, everything
    that was flushed before is intact, and what was not is kept: make room and flush again. Closing a trace of one
    shard leaves one file.

    Args:
        path: what the trace is called, as in "routing.safetensors".
        shard_bytes: flush by itself once the pieces take so much memory, of which a flush needs about twice as much
            again; more tokens per shard read faster, fewer are lost in a crash.
        overwrite: remove a trace of that name first.
        resume: go on with a trace of that name that was not closed, after its last shard.

    Raises:
        InputError: both to overwrite and to resume.
        ArtifactError: there is a trace of that name, or none to go on with, or the folder can't be written.

    Example:
        >>> import tempfile, torch, headgate
        >>> layer = headgate.MoE(8, 16, num_experts=4, top_k=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     with TraceWriter(f"{folder}/a.safetensors") as writer:
        ...         for _ in range(3):
        ...             with headgate.tap(layer) as tape:
        ...                 _ = layer(torch.randn(5, 8))
        ...             writer.append(headgate.trace_of(layer, tape, token_ids=torch.arange(5)))
        ...     headgate.load_trace(f"{folder}/a.safetensors").num_tokens
        15
    """

    def __init__(
        self, path: Path | str, *, shard_bytes: int = SHARD_BYTES, overwrite: bool = False, resume: bool = False
    ) -> None:
        self.path = Path(path)
        self._shard_bytes = shard_bytes
        self._pattern: RoutingTrace | None = None
        self._pieces: list[RoutingTrace] = []
        self._continues: list[bool] = []
        self._held_bytes = 0
        self._num_shards = 0
        self._is_closed = False
        if resume:
            if overwrite:
                raise InputError(
                    "overwrite (=True) removes what resume (=True) would go on with; leave one of them out"
                )
            self._go_on()
            return
        taken = existing_files(self.path)
        if taken and not overwrite:
            raise ArtifactError(f"{taken[0]} is there already; choose another name, or say that it may be overwritten")
        with explain_os_errors("write", self.path):
            # The index goes first: without it, shards that are still there are no trace.
            for file in taken:
                file.unlink()
        write_index(self.path, ShardIndex(is_complete=False, num_shards=None))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        elif self._pieces and not isinstance(error, ArtifactError):
            # The trace stays incomplete, and says so; what was recorded may explain what went wrong.
            self.flush()

    def append(self, piece: RoutingTrace, *, continues: bool = False) -> None:
        """Add some sequences.

        Args:
            piece: of the same layers, experts and arrays as those before.
            continues: its first sequence goes on with the last one of the piece before.

        Raises:
            InputError: another kind of trace than the pieces before, or nothing to continue.
            ArtifactError: it was time to flush, and the disk refused.
        """
        self._require_open()
        if continues and (self._num_shards + len(self._pieces) == 0 or len(piece.seq_offsets) < 2):
            raise InputError("continues (=True) needs a sequence before it and one to go on with; leave it out")
        # What would not go together is refused here, where it can be named, and not when the shard is written.
        if self._pattern is None:
            self._pattern = take_tokens(piece, np.zeros(0, dtype=np.int64))
        require_same_kind([self._pattern, piece])
        self._pieces.append(piece)
        self._continues.append(continues)
        self._held_bytes += memory_bytes(piece)
        if self._held_bytes >= self._shard_bytes:
            self.flush()

    def flush(self) -> None:
        """Write what was appended since the last flush as a shard of its own, and wait until it is on the disk.

        Raises:
            ArtifactError: the disk refused. Nothing is lost: what was not written is kept for the next try.
        """
        self._require_open()
        if not self._pieces:
            return
        joined = concatenate(self._pieces, continues=self._continues)
        note = {"number": self._num_shards, "continues": self._continues[0]}
        save_trace(
            shard_path(self.path, self._num_shards),
            replace(joined, metadata={**joined.metadata, SHARD_KEY: note}),
        )
        self._num_shards += 1
        self._pieces, self._continues, self._held_bytes = [], [], 0

    def close(self) -> None:
        """Flush, and mark the trace as complete.

        Raises:
            InputError: nothing was appended.
            ArtifactError: the disk refused; close again once there is room.
        """
        if self._is_closed:
            return
        self.flush()
        if self._num_shards == 0:
            index_path(self.path).unlink(missing_ok=True)
            self._is_closed = True
            raise InputError("nothing was appended, so there is no trace; record at least one forward pass")
        if self._num_shards == 1:
            with explain_os_errors("write", self.path):
                os.replace(shard_path(self.path, 0), self.path)
                index_path(self.path).unlink()
                sync_folder(self.path.parent)
        else:
            write_index(self.path, ShardIndex(is_complete=True, num_shards=self._num_shards))
        self._is_closed = True

    def _go_on(self) -> None:
        if not self.path.exists() and read_index(self.path).is_complete is False:
            while shard_path(self.path, self._num_shards).exists():
                self._num_shards += 1
            if self._num_shards:
                self._pattern = open_trace(self.path).read(0, 0)
            return
        raise ArtifactError(f"{self.path} is complete; there is nothing to go on with, record to another file")

    def _require_open(self) -> None:
        if self._is_closed:
            raise InputError(f"the writer of {self.path} is closed; open another one")
