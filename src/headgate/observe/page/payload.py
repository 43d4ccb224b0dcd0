"""The bytes that a page reads: a JSON header and typed arrays, little-endian, each at a multiple of 8.

`docs/page-data.md` is the specification.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

_NAMES = {
    "uint8": "u8",
    "uint16": "u16",
    "uint32": "u32",
    "int32": "i32",
    "float16": "f16",
    "float32": "f32",
    "float64": "f64",
}
_ALIGNMENT = 8
_LENGTH_BYTES = 4
_LONGEST_OFFSET = 2**32 - 1


def encode_payload(page: Mapping[str, Any]) -> bytes:
    """Write a page's data: JSON values, in which numpy arrays may stand anywhere.

    Numbers that JSON can't say (NaN, infinities) become null; arrays keep them.

    Example:
        >>> payload = encode_payload({"counts": np.array([1, 2], dtype=np.uint16)})
        >>> payload[4 : 4 + int.from_bytes(payload[:4], "little")].rstrip().decode()
        '{"counts": {"dtype": "u16", "shape": [2], "offset": 72}}'
    """
    arrays: list[tuple[dict[str, Any], NDArray[Any]]] = []
    tree = _plain(page, arrays)
    # Room for the longest offsets, since the header's own length decides them.
    begin = _round_up(_LENGTH_BYTES + len(_dump(tree)))
    length = begin - _LENGTH_BYTES
    for descriptor, array in arrays:
        descriptor["offset"] = begin
        begin += _round_up(array.nbytes)
    parts = [length.to_bytes(_LENGTH_BYTES, "little"), _dump(tree).ljust(length)]
    parts += [array.tobytes().ljust(_round_up(array.nbytes), b"\0") for _, array in arrays]
    return b"".join(parts)


def _plain(value: Any, arrays: list[tuple[dict[str, Any], NDArray[Any]]]) -> Any:
    """The value with a descriptor in the place of each array, which is added to `arrays`."""
    if isinstance(value, np.ndarray):
        little = np.ascontiguousarray(value).astype(value.dtype.newbyteorder("<"), copy=False)
        descriptor = {"dtype": _NAMES[value.dtype.name], "shape": list(value.shape), "offset": _LONGEST_OFFSET}
        arrays.append((descriptor, little))
        return descriptor
    if isinstance(value, Mapping):
        return {name: _plain(item, arrays) for name, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item, arrays) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def _dump(tree: Any) -> bytes:
    # ASCII alone: half a surrogate pair, which a tokenizer of bytes may hold, has no UTF-8; JSON has an escape for it.
    return json.dumps(tree, allow_nan=False).encode("ascii")


def _round_up(size: int) -> int:
    return -(-size // _ALIGNMENT) * _ALIGNMENT
