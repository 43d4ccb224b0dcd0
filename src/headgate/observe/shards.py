"""Where the parts of a trace that is written in pieces lie: `name-00000.safetensors`, ..., and an index beside them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from headgate.errors import ArtifactError
from headgate.files import explain_os_errors, replace_file
from headgate.observe.trace import FORMAT, FORMAT_VERSION

INDEX_SUFFIX = ".index.json"
DEFAULT_NAME = "routing.safetensors"
"""The trace in a folder that is named instead of a file."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ShardIndex:
    """What the index file says.

    Attributes:
        is_complete: whether the writer was closed; if not, its shards so far are the whole trace's beginning.
        num_shards: how many there are; None until then.
    """

    is_complete: bool
    num_shards: int | None


def shard_path(path: Path, number: int) -> Path:
    """The file of a shard of the trace that is called `path`."""
    return path.with_name(f"{path.stem}-{number:05d}{path.suffix}")


def index_path(path: Path) -> Path:
    """The index file of the trace that is called `path`."""
    return path.with_name(path.name + INDEX_SUFFIX)


def existing_files(path: Path) -> list[Path]:
    """Every file there is of the trace that is called `path`: itself, its index, its shards in order."""
    files = [file for file in (path, index_path(path)) if file.exists()]
    number = 0
    while (shard := shard_path(path, number)).exists():
        files.append(shard)
        number += 1
    return files


def write_index(path: Path, index: ShardIndex) -> None:
    """Write the index of the trace that is called `path`, in one step.

    Raises:
        ArtifactError: the file can't be written.
    """
    value = {"format": FORMAT, "version": FORMAT_VERSION, **asdict(index)}
    replace_file(index_path(path), (json.dumps(value) + "\n").encode())


def read_index(path: Path) -> ShardIndex:
    """Read the index of the trace that is called `path`.

    Raises:
        ArtifactError: the file can't be read, or is no index.
    """
    file = index_path(path)
    with explain_os_errors("read", file):
        text = file.read_bytes()
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        value = None
    if not isinstance(value, dict) or value.get("format") != FORMAT:
        raise ArtifactError(f"{file} is not the index of a routing trace; name one of the shards instead")
    if value.get("version") != FORMAT_VERSION:
        raise ArtifactError(
            f"{file} has trace version {ascii(value.get('version'))[:20]}, this Headgate reads {FORMAT_VERSION}; "
            "use the Headgate that wrote it, or record it again"
        )
    is_complete, num_shards = value.get("is_complete"), value.get("num_shards")
    if type(is_complete) is not bool or type(num_shards) is not (int if is_complete else type(None)):
        raise ArtifactError(f"{file} does not say how many shards there are; name one of the shards instead")
    return ShardIndex(is_complete=is_complete, num_shards=num_shards)
