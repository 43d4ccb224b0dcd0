"""Read untrusted JSON, `.npy`, base64 and `.pt` files: errors say what is wrong, and nothing is ever executed."""

from __future__ import annotations

import base64
import binascii
import csv
import json
import math
import pickle
import re
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from headgate.errors import ArtifactError
from headgate.files import explain_os_errors

_ID_KINDS = "iu"

# numpy's own reader evaluates the header as Python; this one takes what numpy writes, and nothing else.
_NPY_START = re.compile(rb"\x93NUMPY(?:\x01\x00(..)|\x02\x00(....))", re.DOTALL)
_NPY_HEADER = re.compile(
    rb"\{'descr': '([<>|][biuf][1248])', 'fortran_order': (True|False), "
    rb"'shape': \((|\d{1,15},|\d{1,15}(?:, \d{1,15}){1,7})\), \} *\n"
)

# What torch.load raises for a file that is damaged or hostile.
_DAMAGED = (
    pickle.UnpicklingError,
    struct.error,
    RuntimeError,
    EOFError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    OverflowError,
    MemoryError,
    AssertionError,
)


def read_json(path: Path) -> Any:
    """Read a JSON file.

    Raises:
        ArtifactError: it can't be read, or is no JSON.
    """
    with explain_os_errors("read", path):
        text = path.read_bytes()
    return parse_json(text, path)


def read_json_lines(path: Path) -> Iterator[Any]:
    """Read a file with one JSON value per line; empty lines are skipped.

    Raises:
        ArtifactError: it can't be read, or a line is no JSON.
    """
    with explain_os_errors("read", path), path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            if line.strip():
                yield parse_json(line, path, where=f"line {number}")


def read_number_rows(path: Path, columns: tuple[str, ...]) -> Iterator[tuple[int, ...]]:
    """Read a CSV file of whole numbers, with or without a line of names.

    Raises:
        ArtifactError: it can't be read, or a line is something else.
    """
    with explain_os_errors("read", path), path.open(encoding="utf-8", errors="replace", newline="") as file:
        try:
            for number, row in enumerate(csv.reader(file), start=1):
                if number == 1 and tuple(row) == columns:
                    continue
                values = [value.strip(" ") for value in row]
                if len(row) != len(columns) or not all(value.isdecimal() and len(value) <= 15 for value in values):
                    raise ArtifactError(f"{path}: line {number} is not {','.join(columns)}; export it again")
                yield tuple(int(value) for value in values)
        except csv.Error as error:
            raise ArtifactError(f"{path} is no CSV ({error}); export it again") from error


def parse_json(text: bytes, path: Path, *, where: str = "it") -> Any:
    """Parse JSON.

    Raises:
        ArtifactError: it is none.
    """
    try:
        return json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}: {where} is no JSON ({type(error).__name__}); export it again") from error


def decode_base64(text: str, path: Path) -> bytes:
    """Decode strict base64.

    Raises:
        ArtifactError: it is none.
    """
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, binascii.Error) as error:
        raise ArtifactError(f"{path}: the routing is no base64 ({error}); export it again") from error


def parse_npy(content: bytes, path: Path) -> NDArray[Any]:
    """Parse an array of integers in the `.npy` format, without trusting its header.

    Raises:
        ArtifactError: it is none, or its header does not fit its bytes.
    """
    head = _NPY_START.match(content)
    length = 0 if head is None else int.from_bytes(head[1] or head[2], "little")
    begin = 0 if head is None else head.end() + length
    header = None if head is None else _NPY_HEADER.fullmatch(content, head.end(), begin)
    if header is None:
        raise ArtifactError(f"{path}: the routing is no .npy array of numbers; export it again")
    dtype = np.dtype(header[1].decode())
    shape = tuple(int(size) for size in header[3].split(b",") if size.strip())
    left = len(content) - begin
    if dtype.kind not in _ID_KINDS:
        raise ArtifactError(f"{path}: the routing has dtype {dtype}, not integers; export it again")
    if math.prod(shape) * dtype.itemsize != left:
        raise ArtifactError(f"{path}: the routing claims the shape {shape} and has {left} bytes; export it again")
    flat = np.frombuffer(content, dtype, offset=begin)
    return flat.reshape(shape, order="F" if header[2] == b"True" else "C")


def nested_ids(values: Any, path: Path) -> NDArray[np.int64]:
    """Turn nested lists into ids [tokens, layers, k].

    Raises:
        ArtifactError: not three regular levels of integers.
    """
    try:
        array = np.array(values)
    except (ValueError, RecursionError, OverflowError) as error:
        raise ArtifactError(f"{path}: the routing's lists are of different lengths; export it again") from error
    if array.size == 0:
        return np.zeros((0, *array.shape[1:]) if array.ndim == 3 else (0, 0, 0), dtype=np.int64)
    if array.ndim != 3 or array.dtype.kind not in _ID_KINDS:
        raise ArtifactError(f"{path}: the routing is not [tokens, layers, k] lists of integers; export it again")
    return array.astype(np.int64)


def load_pickled_tensors(path: Path) -> Any:
    """Read a `.pt` file by torch's restricted loader, which makes tensors and plain values and calls nothing else.

    Raises:
        ArtifactError: it can't be read, or holds something else.
    """
    with explain_os_errors("read", path):
        if not path.is_file():
            raise ArtifactError(f"there is no file {path}; check the path")
        try:
            return torch.load(path, map_location="cpu", weights_only=True)
        except OSError:
            raise
        except _DAMAGED as error:
            raise ArtifactError(
                f"{path} is not a file of tensors and plain values ({type(error).__name__}); "
                "it is damaged, or holds code, which is never run"
            ) from error
