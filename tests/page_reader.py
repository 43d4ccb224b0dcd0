"""Read a page's payload by its specification, in as few lines as that takes, without the code that writes it."""

import base64
import json
import zlib

import numpy as np

DTYPES = {"u8": "u1", "u16": "<u2", "u32": "<u4", "i32": "<i4", "f16": "<f2", "f32": "<f4", "f64": "<f8"}


def read_payload(payload: bytes) -> dict:
    """The header, with each array in its place."""
    length = int.from_bytes(payload[:4], "little")
    assert (4 + length) % 8 == 0

    def restore(value: dict) -> object:
        if value.keys() != {"dtype", "shape", "offset"}:
            return value
        assert value["offset"] % 8 == 0
        count = int(np.prod(value["shape"], dtype=np.int64))
        found = np.frombuffer(payload, DTYPES[value["dtype"]], count, value["offset"])
        return found.reshape(value["shape"])

    return json.loads(payload[4 : 4 + length].decode("utf-8"), object_hook=restore)


def read_page(html: bytes) -> dict:
    """The payload of a page."""
    opening = b'<script type="text/plain" id="headgate-data">'
    begin = html.index(opening) + len(opening)
    data = html[begin : html.index(b"</script>", begin)]
    return read_payload(zlib.decompress(base64.b64decode(data, validate=True)))
