"""The safetensors container: read by memory map with every claim of its header checked, written to the byte.

A file of `N` (u64), a JSON header of N bytes, and the arrays. Whoever made the file is not trusted: what the header
says must fit the file exactly before any array is looked at.
"""

from __future__ import annotations

import json
import math
import mmap
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from headgate.errors import ArtifactError
from headgate.files import explain_os_errors

MAX_HEADER_BYTES = 100_000_000
"""The limit of the safetensors library itself: a longer header is an attack or an accident."""

_LENGTH_BYTES = 8
_MAX_AXES = 32
_MAX_SIZE = 2**56
"""numpy multiplies sizes in 64 bits, also those of an array that a single 0 leaves empty."""

_ALIGNMENT = 8
_DTYPES = {
    "BOOL": np.dtype(np.bool_),
    "U8": np.dtype(np.uint8),
    "I8": np.dtype(np.int8),
    "U16": np.dtype("<u2"),
    "I16": np.dtype("<i2"),
    "F16": np.dtype("<f2"),
    "U32": np.dtype("<u4"),
    "I32": np.dtype("<i4"),
    "F32": np.dtype("<f4"),
    "U64": np.dtype("<u8"),
    "I64": np.dtype("<i8"),
    "F64": np.dtype("<f8"),
}
_NAME_OF_DTYPE = {dtype: name for name, dtype in _DTYPES.items()}
_METADATA = "__metadata__"


@dataclass(frozen=True, slots=True, kw_only=True)
class ArraySpec:
    """What an array is, before it exists.

    Attributes:
        dtype: of its values.
        shape: its axes.
    """

    dtype: np.dtype[Any]
    shape: tuple[int, ...]

    @property
    def num_bytes(self) -> int:
        """Its size in the file."""
        return math.prod(self.shape) * self.dtype.itemsize


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    name: str
    dtype_name: str
    shape: tuple[int, ...]
    start: int
    stop: int


def map_container(path: Path) -> tuple[dict[str, NDArray[Any]], dict[str, str]]:
    """Map a safetensors file into memory, read-only; nothing but the header is read.

    Arrays of a dtype that numpy lacks (bfloat16, 8-bit floats) are left out.

    Args:
        path: of the file. It must not shrink while its arrays are in use.

    Returns:
        The arrays by name, and the header's `__metadata__`.

    Raises:
        ArtifactError: there is no such file, or it is not a complete safetensors file; it says which claim is wrong.
    """
    if not path.is_file():
        raise ArtifactError(f"there is no file {path}; check the path")
    with explain_os_errors("read", path), path.open("rb") as file:
        num_bytes = os.fstat(file.fileno()).st_size
        header, begin = _read_header(path, file, num_bytes)
        # The map keeps the file open by itself, for as long as an array looks at it.
        memory = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    entries, metadata = _parse_header(path, header)
    _check_extents(path, entries, num_bytes - begin)
    arrays = {
        entry.name: np.ndarray(entry.shape, _DTYPES[entry.dtype_name], buffer=memory, offset=begin + entry.start)
        if entry.start < entry.stop
        else np.zeros(entry.shape, _DTYPES[entry.dtype_name])
        for entry in entries
        if entry.dtype_name in _DTYPES
    }
    return arrays, metadata


def _refuse(path: Path, reason: str) -> ArtifactError:
    return ArtifactError(f"{path} is not a complete safetensors file: {reason}; copy or record it again")


def _read_header(path: Path, file: BinaryIO, num_bytes: int) -> tuple[bytes, int]:
    """Return the header's bytes, and where the arrays begin."""
    if num_bytes < _LENGTH_BYTES:
        raise _refuse(path, f"it has {num_bytes} bytes, and {_LENGTH_BYTES} alone say how long its header is")
    length = int.from_bytes(file.read(_LENGTH_BYTES), "little")
    if length > MAX_HEADER_BYTES:
        raise _refuse(path, f"its header claims {length} bytes, and {MAX_HEADER_BYTES} is the limit")
    if length > num_bytes - _LENGTH_BYTES:
        raise _refuse(path, f"its header claims {length} bytes, and {num_bytes - _LENGTH_BYTES} are left")
    return file.read(length), _LENGTH_BYTES + length


def _parse_header(path: Path, text: bytes) -> tuple[list[_Entry], dict[str, str]]:
    try:
        header = json.loads(text.decode())
    except (ValueError, RecursionError) as error:
        raise _refuse(path, f"its header is no JSON ({type(error).__name__})") from error
    if not isinstance(header, dict):
        raise _refuse(path, "its header is no JSON object")
    metadata = header.pop(_METADATA, {})
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise _refuse(path, f"its {_METADATA} is not a map of strings")
    return [_parse_entry(path, name, value) for name, value in header.items()], metadata


def _parse_entry(path: Path, name: str, value: Any) -> _Entry:
    shown = ascii(name[:80])
    if not isinstance(value, dict):
        raise _refuse(path, f"the entry of array {shown} is no JSON object")
    dtype: Any = value.get("dtype")
    shape: Any = value.get("shape")
    offsets: Any = value.get("data_offsets")
    if not isinstance(dtype, str):
        raise _refuse(path, f"array {shown} has no dtype")
    if not _are_sizes(shape) or len(shape) > _MAX_AXES:
        raise _refuse(path, f"the shape of array {shown} is not a list of at most {_MAX_AXES} sizes")
    if not _are_sizes(offsets) or len(offsets) != 2 or offsets[0] > offsets[1]:
        raise _refuse(path, f"the data_offsets of array {shown} are not a start and a stop")
    if math.prod(size for size in shape if size) > _MAX_SIZE:
        raise _refuse(path, f"the shape of array {shown} is larger than any memory")
    entry = _Entry(name=name, dtype_name=dtype, shape=tuple(shape), start=offsets[0], stop=offsets[1])
    if dtype in _DTYPES:
        needed = math.prod(entry.shape) * _DTYPES[dtype].itemsize
        if needed != entry.stop - entry.start:
            raise _refuse(path, f"array {shown} needs {needed} bytes and has {entry.stop - entry.start}")
    return entry


def _are_sizes(values: Any) -> bool:
    return isinstance(values, list) and all(type(value) is int and value >= 0 for value in values)


def _check_extents(path: Path, entries: list[_Entry], num_bytes: int) -> None:
    """Require that the arrays fill what follows the header, without gap, overlap or remainder."""
    reached = 0
    for entry in sorted(entries, key=lambda entry: (entry.start, entry.stop)):
        if entry.start != reached:
            raise _refuse(path, f"array {entry.name[:80]!a} begins at byte {entry.start} instead of {reached}")
        reached = entry.stop
    if reached != num_bytes:
        raise _refuse(path, f"its arrays take {reached} bytes, and {num_bytes} follow the header")


def encode_header(specs: Mapping[str, ArraySpec], metadata: Mapping[str, str]) -> tuple[bytes, dict[str, int]]:
    """Lay out a file: wide values first, then by name. Each array is aligned, and equal content gives equal bytes.

    Args:
        specs: the arrays by name.
        metadata: for `__metadata__`.

    Returns:
        The bytes up to the first array, and where in the file each array begins.
    """
    header: dict[str, Any] = {_METADATA: dict(sorted(metadata.items()))} if metadata else {}
    starts, reached = {}, 0
    for name in sorted(specs, key=lambda name: (-specs[name].dtype.itemsize, name)):
        spec = specs[name]
        stop = reached + spec.num_bytes
        header[name] = {
            "dtype": _NAME_OF_DTYPE[spec.dtype],
            "shape": list(spec.shape),
            "data_offsets": [reached, stop],
        }
        starts[name], reached = reached, stop
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    begin = _LENGTH_BYTES + len(text)
    return len(text).to_bytes(_LENGTH_BYTES, "little") + text, {name: begin + start for name, start in starts.items()}


def write_arrays(file: BinaryIO, arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, str]) -> None:
    """Write a whole container from where the file stands.

    Raises:
        OSError: as the system reports it.
    """
    specs = {name: ArraySpec(dtype=array.dtype, shape=array.shape) for name, array in arrays.items()}
    head, starts = encode_header(specs, metadata)
    file.write(head)
    for name in sorted(starts, key=lambda name: starts[name]):
        if arrays[name].size:
            # A view of the bytes: no second copy of what may be most of the memory.
            file.write(np.ascontiguousarray(arrays[name]).reshape(-1).view(np.uint8).data)
