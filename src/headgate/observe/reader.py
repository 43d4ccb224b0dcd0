"""Read a trace by memory map: opening looks at headers and sequences alone, and what is selected is read then."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from headgate.errors import ArtifactError
from headgate.observe.container import map_container
from headgate.observe.pieces import (
    concatenate,
    metadata_of_layers,
    recount,
    resolve_layers,
    resolve_tokens,
    take_tokens,
    widen,
)
from headgate.observe.shards import (
    DEFAULT_NAME,
    INDEX_SUFFIX,
    index_path,
    read_index,
    shard_path,
)
from headgate.observe.trace import (
    ARRAYS,
    Phase,
    RoutingTrace,
    TraceSizes,
    check_layout,
    decode_metadata,
    from_arrays,
)
from headgate.observe.views import TraceViews
from headgate.wording import number_of

CHUNK_BYTES = 64 * 2**20
"""A chunk of a trace takes about so much memory."""

SHARD_KEY = "shard"
"""The metadata of a shard: its number, and whether its first sequence goes on with the last one of the shard before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Shard:
    """One file of a trace, mapped.

    Attributes:
        path: of the file.
        arrays: by name, read-only.
        metadata: of the file.
        sizes: lengths of its axes.
        continues: whether its first sequence goes on with the last one of the shard before.
    """

    path: Path
    arrays: Mapping[str, NDArray[Any]]
    metadata: Mapping[str, Any]
    sizes: TraceSizes
    continues: bool

    def decode(self, rows: NDArray[np.int64] | slice, tokens: NDArray[np.int64] | slice) -> RoutingTrace:
        """Read some rows and tokens. `seq_offsets` says one sequence, and `counts` are the whole shard's.

        Raises:
            ArtifactError: an expert id that there is no expert for.
        """
        taken = {
            name: _take(array, ARRAYS[name].axes, rows, tokens)
            for name, array in self.arrays.items()
            if name in ARRAYS and name != "seq_offsets"
        }
        taken["seq_offsets"] = np.array([0, taken["topk_ids"].shape[1]], dtype=np.int64)
        return from_arrays(taken, self.metadata, path=self.path)


def open_trace(path: Path | str) -> TraceFile:
    """Open a trace: a `.safetensors` file, the first name or index of a sharded one, or a folder with either.

    Raises:
        ArtifactError: there is no trace, or it is damaged or of a later version; the message says which.

    Example:
        >>> import tempfile, headgate
        >>> layer = headgate.MoE(8, 16, num_experts=4, top_k=2)
        >>> with headgate.tap(layer) as tape:
        ...     _ = layer(torch.randn(3, 8))
        >>> trace = headgate.trace_of(layer, tape, token_ids=torch.arange(3))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     headgate.save_trace(f"{folder}/a.safetensors", trace)
        ...     headgate.open_trace(f"{folder}/a.safetensors").select(layers=[0]).topk_ids.shape
        torch.Size([1, 3, 2])
    """
    name = Path(path)
    if name.is_dir():
        name = name / DEFAULT_NAME
    if name.name.endswith(INDEX_SUFFIX):
        name = name.with_name(name.name.removesuffix(INDEX_SUFFIX))
    if name.exists() or not index_path(name).exists():
        return TraceFile(path=name, shards=[_open_shard(name)], is_complete=True)
    return _open_shards(name)


def load_trace(path: Path | str) -> RoutingTrace:
    """Read a whole trace into memory.

    Raises:
        ArtifactError: as `open_trace`, or an expert id that there is no expert for.
    """
    return open_trace(path).load()


def _open_shard(path: Path) -> Shard:
    arrays, texts = map_container(path)
    metadata = decode_metadata(texts, path=path)
    sizes = check_layout(arrays, path=path)
    layers = metadata.get("layers")
    if layers is not None and len(layers) != sizes.L:
        raise ArtifactError(f"{path}: the metadata has {len(layers)} layers, and the arrays {sizes.L}; record it again")
    shard = metadata.pop(SHARD_KEY, {})
    return Shard(
        path=path,
        arrays=arrays,
        metadata=metadata,
        sizes=sizes,
        continues=isinstance(shard, dict) and shard.get("continues") is True,
    )


def _open_shards(path: Path) -> TraceFile:
    index = read_index(path)
    shards: list[Shard] = []
    while (file := shard_path(path, len(shards))).exists():
        shards.append(_open_shard(file))
    if index.num_shards is None and not shards:
        raise ArtifactError(
            f"{path} holds nothing yet: its writer is still at work, or was killed before it first flushed; wait, or "
            "record it again (of a copy: copy its shards, too)"
        )
    if index.num_shards is not None and len(shards) != index.num_shards:
        raise ArtifactError(
            f"{index_path(path)} speaks of {number_of(index.num_shards, 'shard')}, and there are {len(shards)} in a "
            f"row; {file.name} is missing, copy all of them"
        )
    for shard in shards[1:]:
        _require_same_layout(shards[0], shard)
    return TraceFile(path=path, shards=shards, is_complete=index.is_complete)


def _require_same_layout(first: Shard, other: Shard) -> None:
    mine, theirs = (sorted(set(shard.arrays) & set(ARRAYS)) for shard in (first, other))
    is_same = mine == theirs and (first.sizes.L, first.sizes.E) == (other.sizes.L, other.sizes.E)
    if not is_same or not np.array_equal(first.arrays["layer_index"], other.arrays["layer_index"]):
        raise ArtifactError(f"{other.path} is no shard of the same trace as {first.path}; keep each trace's own shards")


class TraceFile(TraceViews):
    """A trace on the disk.

    Attributes:
        path: what it is called.
        shards: its files.
        is_complete: False where its writer was killed or is still at work; it then holds what was written so far.
    """

    def __init__(self, *, path: Path, shards: list[Shard], is_complete: bool) -> None:
        self.path, self.shards, self.is_complete = path, shards, is_complete

    @cached_property
    def sizes(self) -> TraceSizes:
        """Lengths of the axes, over all shards."""
        return TraceSizes(
            L=self.shards[0].sizes.L,
            T=sum(shard.sizes.T for shard in self.shards),
            K=max(shard.sizes.K for shard in self.shards),
            E=self.shards[0].sizes.E,
            S=len(self.seq_offsets) - 1,
        )

    @property
    def num_tokens(self) -> int:
        """T."""
        return self.sizes.T

    @property
    def num_experts(self) -> int:
        """E, of the layer that has most."""
        return self.sizes.E

    @cached_property
    def metadata(self) -> Mapping[str, Any]:
        """Of the first shard, with the token strings of all."""
        strings: dict[str, str] = {}
        for shard in self.shards:
            strings.update(shard.metadata.get("token_strings", {}))
        return {**self.shards[0].metadata, **({"token_strings": strings} if strings else {})}

    @cached_property
    def layer_index(self) -> Int[Tensor, " L"]:
        """[L] int32."""
        return torch.from_numpy(self.shards[0].arrays["layer_index"].copy())

    @cached_property
    def seq_offsets(self) -> Int[Tensor, " S_plus_1"]:
        """[S + 1] int64."""
        joined = [0]
        for shard in self.shards:
            begin = joined[-1] if len(joined) > 1 or not shard.continues else 0
            if shard.continues and len(joined) > 1:
                joined.pop()
            joined += (shard.arrays["seq_offsets"][1:] + begin).tolist()
        return torch.tensor(joined, dtype=torch.int64)

    @cached_property
    def counts(self) -> Int[Tensor, "L E"]:
        """[L, E] int64, as the files say it, over all shards."""
        total = sum((shard.arrays["counts"] for shard in self.shards), np.zeros((self.sizes.L, self.sizes.E), np.int64))
        return torch.from_numpy(np.asarray(total))

    @property
    def select_bias(self) -> Tensor | None:
        """[L, E] float32, or None."""
        bias = self.shards[0].arrays.get("select_bias")
        return None if bias is None else torch.from_numpy(bias.copy())

    def has(self, name: str) -> bool:
        """Whether the trace has one of the format's arrays."""
        return name in self.shards[0].arrays

    def of_tokens(self, name: str) -> Tensor | None:
        """Read an array with the single axis T, or None where it isn't there."""
        if not self.has(name):
            return None
        return torch.from_numpy(np.concatenate([shard.arrays[name] for shard in self.shards]))

    def load(self) -> RoutingTrace:
        """Read everything into memory.

        Raises:
            ArtifactError: an expert id that there is no expert for.
        """
        parts = [_whole(shard) for shard in self.shards]
        return concatenate(parts, continues=[shard.continues for shard in self.shards])

    def select(
        self,
        *,
        layers: Collection[int] | None = None,
        sequences: Collection[int] | None = None,
        phases: Collection[Phase] | None = None,
    ) -> RoutingTrace:
        """Read some layers, sequences and phases; the counts are those of what is read.

        Args:
            layers: decoder layers, as in `layer_index`; None = all.
            sequences: from 0, in the order wanted; None = all.
            phases: kinds of tokens; None = all.

        Raises:
            InputError: something that the trace lacks.
            ArtifactError: an expert id that there is no expert for.
        """
        rows = resolve_layers(self.layer_index, layers)
        phase: UInt8[Tensor, " T"] | None = self.of_tokens("phase")
        tokens, offsets = resolve_tokens(self.seq_offsets, phase, sequences=sequences, phases=phases)
        metadata = metadata_of_layers(self.metadata, rows)
        part = replace(self._gather(rows, tokens), seq_offsets=offsets, metadata=metadata)
        return replace(part, counts=recount(part))

    def take(self, tokens: NDArray[np.int64]) -> RoutingTrace:
        """Read some tokens, in the order given, as one sequence; the counts are not those of what is read.

        Raises:
            ArtifactError: an expert id that there is no expert for.
        """
        return self._gather(np.arange(self.sizes.L), tokens)

    def _gather(self, rows: NDArray[np.int64], tokens: NDArray[np.int64]) -> RoutingTrace:
        begins = np.cumsum([0, *(shard.sizes.T for shard in self.shards)])
        parts, places = [], []
        for shard, begin in zip(self.shards, begins[:-1], strict=True):
            is_here = (tokens >= begin) & (tokens < begin + shard.sizes.T)
            if is_here.any() or not len(tokens):
                parts.append(shard.decode(rows, tokens[is_here] - begin))
                places.append(is_here.nonzero()[0])
        # Back from the order of the shards to the order wanted.
        return widen(take_tokens(concatenate(parts), np.argsort(np.concatenate(places))), self.sizes.K)

    def read(self, begin: int, stop: int) -> RoutingTrace:
        """Read the tokens from `begin` to `stop`; sequences are cut there, and the counts are those of what is read.

        Raises:
            ArtifactError: an expert id that there is no expert for.
        """
        part = self._read(begin, stop)
        return replace(part, counts=recount(part))

    def _read(self, begin: int, stop: int) -> RoutingTrace:
        parts, start = [], 0
        for shard in self.shards:
            low, high = max(begin, start), min(stop, start + shard.sizes.T)
            if low < high:
                parts.append(shard.decode(slice(None), slice(low - start, high - start)))
            start += shard.sizes.T
        if not parts:
            parts = [self.shards[0].decode(slice(None), slice(0, 0))]
        joined = widen(concatenate(parts), self.sizes.K)
        offsets = torch.unique_consecutive(self.seq_offsets.clamp(begin, stop) - begin)
        return replace(joined, seq_offsets=offsets, metadata=self.metadata)

    def chunks(self, *, chunk_bytes: int = CHUNK_BYTES) -> Iterator[RoutingTrace]:
        """Read the trace piece by piece, in the order of its tokens, each about `chunk_bytes` in memory.

        A sequence may be cut between two pieces.

        Raises:
            ArtifactError: an expert id that there is no expert for.
        """
        for part in self.uncounted_chunks(chunk_bytes=chunk_bytes):
            yield replace(part, counts=recount(part))

    def uncounted_chunks(self, *, chunk_bytes: int = CHUNK_BYTES) -> Iterator[RoutingTrace]:
        """Read the trace as `chunks`, for those who count themselves: the counts are not those of the piece.

        Raises:
            ArtifactError: an expert id that there is no expert for.
        """
        size = max(1, chunk_bytes // max(1, *map(_bytes_per_token, self.shards)))
        for begin in range(0, self.num_tokens, size):
            yield self._read(begin, min(begin + size, self.num_tokens))


def _whole(shard: Shard) -> RoutingTrace:
    known = {name: array for name, array in shard.arrays.items() if name in ARRAYS}
    return from_arrays(known, shard.metadata, path=shard.path)


def _bytes_per_token(shard: Shard) -> int:
    """What a decoded token takes: ids grow to eight bytes, and the bits of drops to one each."""
    sizes = shard.sizes
    lengths = {("L", "T"): 1, ("L", "T", "K"): sizes.K, ("L", "T", "E"): sizes.E, ("L", "T", "B"): sizes.K}
    grown = {"topk_ids": 8, "dropped": 1}
    arrays = {name: array for name, array in shard.arrays.items() if name in ARRAYS and ARRAYS[name].axes in lengths}
    return sizes.L * sum(
        lengths[ARRAYS[name].axes] * grown.get(name, array.dtype.itemsize) for name, array in arrays.items()
    )


def _take(
    array: NDArray[Any], axes: tuple[str, ...], rows: NDArray[np.int64] | slice, tokens: NDArray[np.int64] | slice
) -> NDArray[Any]:
    """Index the axes L and T of an array; slices first, so that nothing is copied that isn't wanted."""
    if axes[0] == "T":
        return array[tokens]
    if axes[0] != "L":
        return array
    if "T" not in axes:
        return array[rows]
    if isinstance(tokens, slice):
        return array[:, tokens][rows]
    return array[rows][:, tokens] if isinstance(rows, slice) else array[np.ix_(rows, tokens)]
