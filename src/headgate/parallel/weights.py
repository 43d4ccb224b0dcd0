"""One `.safetensors` file that all ranks write and read together, each the tensors that it has."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from headgate.errors import ArtifactError, InputError
from headgate.files import explain_os_errors, sync_folder
from headgate.parallel.launch import gather_from_ranks, on_first_rank, rank
from headgate.parallel.logical import LogicalExperts

_NAME_OF_DTYPE = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_ALIGNMENT = 8
"""The header is padded so that tensors begin at a multiple of it, as the safetensors library does."""


def write_safetensors(
    path: Path | str, tensors: Mapping[str, Tensor], *, metadata: Mapping[str, str] | None = None
) -> None:
    """Write one file of the tensors of all ranks, each rank its own at their place in the file; no rank gathers any.

    A name that several ranks bring is written by the first of them; of stacked experts, `LogicalExperts`, each row is.
    The file appears complete, under its name, or not at all: its room is taken before a byte is written, and an older
    file stays until all ranks are done.

    Args:
        path: of the file, on a disk that all ranks see.
        tensors: this rank's, by their name in the file; views are fine, and one at a time is copied.
        metadata: text to go with it; that of rank 0 counts.

    Raises:
        InputError: on all ranks: a dtype that safetensors has not.
        ArtifactError: on all ranks: the file can't be written, on which rank, and why.

    Example:
        >>> import tempfile
        >>> from safetensors.torch import load_file
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_safetensors(f"{folder}/a.safetensors", {"experts.0": torch.ones(2)})
        ...     load_file(f"{folder}/a.safetensors")
        {'experts.0': tensor([1., 1.])}
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.partial")
    outlines = gather_from_ranks({name: _outline(tensor) for name, tensor in tensors.items()})
    header, places = _lay_out(outlines, dict(metadata or {}))
    try:
        num_bytes = sum(place.num_bytes for place in places.values())
        on_first_rank(lambda: _take_room(temporary, path, header, num_bytes))
        problem = None
        try:
            with explain_os_errors(f"write, on rank {rank()},", path), temporary.open("rb+") as file:
                _write_mine(file, tensors, places, len(header))
        except ArtifactError as error:
            problem = error
        problems = [found for found in gather_from_ranks(problem) if found is not None]
        if problems:
            raise problems[0]
        on_first_rank(lambda: _put_in_place(temporary, path))
    except ArtifactError:
        on_first_rank(lambda: temporary.unlink(missing_ok=True))
        raise


@torch.no_grad()
def read_safetensors(path: Path | str, tensors: Mapping[str, Tensor]) -> None:
    """Read this rank's tensors from a file, by memory map: nothing of the others' is read.

    Args:
        path: of the file.
        tensors: where to put what, by its name in the file; views are written through.

    Raises:
        ArtifactError: the file can't be read, or has no tensor of that name and shape.

    Example:
        >>> import tempfile
        >>> layer, weights = torch.zeros(2, 3), torch.ones(3)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     write_safetensors(f"{folder}/a.safetensors", {"experts.1": weights})
        ...     read_safetensors(f"{folder}/a.safetensors", {"experts.1": layer[1]})
        >>> layer.sum(1).tolist()
        [0.0, 3.0]
    """
    with explain_os_errors("read", Path(path)):
        try:
            with safe_open(str(path), framework="pt") as file:
                there = set(file.keys())
                for name, tensor in tensors.items():
                    shape = tuple(file.get_slice(name).get_shape()) if name in there else None
                    if shape != tuple(tensor.shape):
                        raise ArtifactError(
                            f"{path} has {name} with shape {shape} (None = missing), and the model has "
                            f"{tuple(tensor.shape)}; read the checkpoint of this model"
                        )
                    if isinstance(tensor, LogicalExperts):
                        tensor.fill(file.get_slice(name))
                    else:
                        tensor.copy_(file.get_tensor(name))
        except SafetensorError as error:
            raise ArtifactError(f"{path} can't be read ({error}); write it again") from error


_Outline = tuple[torch.dtype, tuple[int, ...], tuple[int, ...] | None]
"""A tensor's dtype and shape, and the rows that a rank has of it; None = all."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Place:
    """Where a tensor lies in the file, and who writes it.

    Attributes:
        begin: in bytes, after the header.
        num_bytes: of the tensor.
        writers: the rank by row; of a tensor that is written whole, under None.
    """

    begin: int
    num_bytes: int
    writers: dict[int | None, int]


def _outline(tensor: Tensor) -> _Outline:
    rows = tuple(tensor.row_of_expert) if isinstance(tensor, LogicalExperts) else None
    return tensor.dtype, tuple(tensor.shape), rows


def _lay_out(
    outlines: Sequence[Mapping[str, _Outline]], metadata: Mapping[str, str]
) -> tuple[bytes, dict[str, _Place]]:
    """The header of a file with the tensors of all ranks, and the place of each."""
    entries: dict[str, Any] = {"__metadata__": metadata} if metadata else {}
    places: dict[str, _Place] = {}
    end = 0
    for writer, outline in enumerate(outlines):
        for name, (dtype, shape, rows) in outline.items():
            if name not in places:
                if dtype not in _NAME_OF_DTYPE:
                    raise InputError(f"{name} (={dtype}) must have a dtype of safetensors; convert it first")
                begin, end = end, end + torch.Size(shape).numel() * dtype.itemsize
                entries[name] = {"dtype": _NAME_OF_DTYPE[dtype], "shape": shape, "data_offsets": [begin, end]}
                places[name] = _Place(begin=begin, num_bytes=end - begin, writers={})
            for row in (None,) if rows is None else rows:
                places[name].writers.setdefault(row, writer)
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text, places


def _take_room(temporary: Path, path: Path, header: bytes, num_bytes: int) -> None:
    with explain_os_errors("write", path), temporary.open("wb") as file:
        file.write(header)
        file.flush()
        if hasattr(os, "posix_fallocate"):
            os.posix_fallocate(file.fileno(), 0, len(header) + num_bytes)
        else:  # macOS and Windows find out while they write.
            file.truncate(len(header) + num_bytes)


def _write_mine(file: BinaryIO, tensors: Mapping[str, Tensor], places: Mapping[str, _Place], start: int) -> None:
    for name, tensor in tensors.items():
        place = places[name]
        for row, begin, part in _pieces(tensor, place):
            if place.writers[row] == rank():
                file.seek(start + begin)
                file.write(part.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    file.flush()
    os.fsync(file.fileno())


def _pieces(tensor: Tensor, place: _Place) -> Iterator[tuple[int | None, int, Tensor]]:
    """What this rank has of a tensor: the row, or None for all of it; where that begins; its values."""
    if isinstance(tensor, LogicalExperts):
        size = place.num_bytes // tensor.shape[0]
        for expert, row in tensor.row_of_expert.items():
            yield expert, place.begin + expert * size, tensor.rows[row]
    else:
        yield None, place.begin, tensor


def _put_in_place(temporary: Path, path: Path) -> None:
    with explain_os_errors("write", path):
        os.replace(temporary, path)
        sync_folder(path.parent)
