"""Payloads as docs/page-data.md lays them out, of made-up traces in which every number can be recomputed."""

from __future__ import annotations

import base64
import json
import zlib
from pathlib import Path
from typing import Any

import numpy as np

TEMPLATE = Path(__file__).parents[1] / "src" / "headgate" / "observe" / "page" / "template.html"
SLOT = '<script type="text/plain" id="headgate-data">'
DTYPES = {"uint8": "u8", "uint16": "u16", "uint32": "u32", "int32": "i32", "float16": "f16", "float32": "f32"}
DTYPES["float64"] = "f64"
ALIGNMENT = 8


def pack(header: dict[str, Any]) -> bytes:
    """A header whose arrays are numpy's into the payload's bytes."""
    arrays: list[np.ndarray] = []
    sizes: list[int] = []

    def place(value: Any) -> Any:
        if isinstance(value, np.ndarray):
            arrays.append(np.ascontiguousarray(value))
            sizes.append(-(-arrays[-1].nbytes // ALIGNMENT) * ALIGNMENT)
            # Offsets count from the end of the header, whose length is not known yet; ten digits keep it.
            return {"dtype": DTYPES[value.dtype.name], "shape": list(value.shape), "offset": sum(sizes[:-1])}
        if isinstance(value, dict):
            return {key: place(entry) for key, entry in value.items()}
        return [place(entry) for entry in value] if isinstance(value, list | tuple) else value

    placed = place(header)
    room = len(json.dumps(placed).encode()) + 10 * len(arrays)
    start = -(-(4 + room) // ALIGNMENT) * ALIGNMENT
    text = json.dumps(_shift(placed, start)).encode().ljust(start - 4)
    body = b"".join(array.tobytes().ljust(size, b"\0") for array, size in zip(arrays, sizes, strict=True))
    return len(text).to_bytes(4, "little") + text + body


def _shift(value: Any, start: int) -> Any:
    if isinstance(value, dict):
        if set(value) == {"dtype", "shape", "offset"}:
            return {**value, "offset": value["offset"] + start}
        return {key: _shift(entry, start) for key, entry in value.items()}
    return [_shift(entry, start) for entry in value] if isinstance(value, list) else value


def write_page(path: Path, header: dict[str, Any]) -> Path:
    """A page with this payload, from the template that ships."""
    data = base64.b64encode(zlib.compress(pack(header), 6)).decode()
    template = TEMPLATE.read_text(encoding="utf-8")
    assert template.count(SLOT) == 1
    path.write_text(template.replace(SLOT, SLOT + data), encoding="utf-8")
    return path
