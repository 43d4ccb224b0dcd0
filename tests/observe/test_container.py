"""The container: agrees with the safetensors library both ways, and believes no header."""

import json
import struct

import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import save, save_file

from headgate.errors import ArtifactError
from headgate.observe.container import MAX_HEADER_BYTES, map_container, write_arrays

ARRAYS = {
    "bytes": np.arange(5, dtype=np.uint8),
    "flags": np.array([[True], [False]]),
    "half": np.linspace(0, 1, 6, dtype=np.float16).reshape(2, 3),
    "long": np.array([-(2**40), 7], dtype=np.int64),
    "nothing": np.zeros((3, 0, 2), dtype=np.float32),
    "scalar": np.array(3.5),
}


def header(entries, data=b"", *, pad=0):
    text = (entries if isinstance(entries, bytes) else json.dumps(entries).encode()) + b" " * pad
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="U8", shape=(2,), offsets=(0, 2)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def test_the_bytes_are_those_of_the_safetensors_library(tmp_path):
    with (tmp_path / "ours").open("wb") as file:
        write_arrays(file, ARRAYS, {"b": "1", "a": "caf\u00e9"})
    with safe_open(tmp_path / "ours", framework="numpy") as file:
        assert file.metadata() == {"a": "caf\u00e9", "b": "1"}
        for name, array in ARRAYS.items():
            np.testing.assert_array_equal(file.get_tensor(name), array)
            assert file.get_tensor(name).dtype == array.dtype
    assert (tmp_path / "ours").stat().st_size == len(save(ARRAYS, {"b": "1", "a": "caf\u00e9"}))


def test_what_the_safetensors_library_wrote_is_read(tmp_path):
    save_file(ARRAYS, tmp_path / "theirs", {"a": "b"})
    arrays, metadata = map_container(tmp_path / "theirs")
    assert metadata == {"a": "b"}
    assert set(arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        np.testing.assert_array_equal(arrays[name], array)
        assert not arrays[name].flags.writeable or not array.size


def test_a_dtype_that_numpy_lacks_is_left_out(tmp_path):
    (tmp_path / "f").write_bytes(
        header({"a": entry("BF16", (1,), (0, 2)), "b": entry("U8", (1,), (2, 3))}, b"\x00\x00\x07")
    )
    arrays, _ = map_container(tmp_path / "f")
    assert {name: array.tolist() for name, array in arrays.items()} == {"b": [7]}


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "it has 0 bytes, and 8 alone say how long its header is"),
        (b"1234567", "it has 7 bytes, and 8 alone say how long its header is"),
        (struct.pack("<Q", MAX_HEADER_BYTES + 1), "its header claims 100000001 bytes, and 100000000 is the limit"),
        (struct.pack("<Q", 2**64 - 1), "its header claims 18446744073709551615 bytes, and 100000000 is the limit"),
        (struct.pack("<Q", 9) + b"{}", "its header claims 9 bytes, and 2 are left"),
        (header(b"{"), r"its header is no JSON \(JSONDecodeError\)"),
        (header(b"\xff\xfe"), r"its header is no JSON \(UnicodeDecodeError\)"),
        (header(b"[" * 200_000), r"its header is no JSON \(RecursionError\)"),
        (header(b"[]"), "its header is no JSON object"),
        (header({"__metadata__": {"a": 1}}), "its __metadata__ is not a map of strings"),
        (header({"__metadata__": 1}), "its __metadata__ is not a map of strings"),
        (header({"a": 1}), "the entry of array 'a' is no JSON object"),
        (header({"a\x1b": {"dtype": 3}}), r"array 'a\\x1b' has no dtype"),
        (header({"a": entry(shape=(-1,))}), "the shape of array 'a' is not a list of at most 32 sizes"),
        (header({"a": entry(shape=(True,))}), "the shape of array 'a' is not a list of at most 32 sizes"),
        (header({"a": entry(shape=(1,) * 33)}), "the shape of array 'a' is not a list of at most 32 sizes"),
        (header({"a": entry(offsets=(0, 1.5))}), "the data_offsets of array 'a' are not a start and a stop"),
        (header({"a": entry(offsets=(2, 0))}), "the data_offsets of array 'a' are not a start and a stop"),
        (header({"a": entry(offsets=(0, 1, 2))}), "the data_offsets of array 'a' are not a start and a stop"),
        (header({"a": entry(shape=(0, 2**60), offsets=(0, 0))}), "the shape of array 'a' is larger than any memory"),
        (header({"a": entry(shape=(3,))}, b"12"), "array 'a' needs 3 bytes and has 2"),
        (header({"a": entry(shape=(2**40, 2**10), offsets=(0, 2))}, b"12"), "array 'a' needs 1125899906842624 bytes"),
        (header({"a": entry(offsets=(1, 3))}, b"123"), "array 'a' begins at byte 1 instead of 0"),
        (header({"a": entry(), "b": entry()}, b"12"), "array 'b' begins at byte 0 instead of 2"),
        (header({"a": entry()}, b"1"), "its arrays take 2 bytes, and 1 follow the header"),
        (header({"a": entry()}, b"123"), "its arrays take 2 bytes, and 3 follow the header"),
    ],
)
def test_a_claim_that_does_not_fit_the_file_is_refused(tmp_path, content, reason):
    path = tmp_path / "f"
    path.write_bytes(content)
    with pytest.raises(ArtifactError, match=rf"f is not a complete safetensors file: {reason}.*; copy or record it"):
        map_container(path)


def test_a_file_that_is_not_there(tmp_path):
    with pytest.raises(ArtifactError, match=r"^there is no file .*nowhere; check the path$"):
        map_container(tmp_path / "nowhere")


def test_every_truncation_of_a_file_is_refused(tmp_path):
    with (tmp_path / "whole").open("wb") as file:
        write_arrays(file, ARRAYS, {"a": "b"})
    whole = (tmp_path / "whole").read_bytes()
    for length in range(len(whole)):
        (tmp_path / "part").write_bytes(whole[:length])
        with pytest.raises(ArtifactError, match="part is not a complete safetensors file"):
            map_container(tmp_path / "part")
