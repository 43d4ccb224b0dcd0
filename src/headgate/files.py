"""Write files so that a crash at any moment leaves either the old content or the new one, never a part of it."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from headgate.errors import ArtifactError

_REMEDIES = {
    errno.ENOSPC: "free some space or choose another folder",
    errno.EDQUOT: "free some space or choose another folder",
    errno.EACCES: "choose a folder that you may write to",
    errno.EPERM: "choose a folder that you may write to",
    errno.EROFS: "choose a folder that you may write to",
    errno.ENOTDIR: "choose a path whose parents are folders",
    errno.EFBIG: "raise the limit on the size of a file or choose another disk",
    errno.EISDIR: "choose a path that is not a folder",
    errno.EEXIST: "choose a path that is not taken by a file",
}


@contextmanager
def explain_os_errors(action: str, path: Path) -> Iterator[None]:
    """Turn an `OSError` within the block into an `ArtifactError` that names the path and the remedy.

    Args:
        action: what the block does, as in "write".
        path: what it does it to.

    Raises:
        ArtifactError: the block raised an `OSError`.
    """
    try:
        yield
    except OSError as error:
        reason = os.strerror(error.errno) if error.errno else str(error)
        remedy = _REMEDIES.get(error.errno or 0, "check the path and the disk")
        raise ArtifactError(f"can't {action} {path}: {reason}; {remedy}") from error


def replace_file(path: Path, content: bytes) -> None:
    """Put `content` into the file at `path`, in one step: readers see the old content or the new one.

    Raises:
        ArtifactError: the file can't be written; the old one, if any, is untouched.
    """
    with replacing(path) as temporary, temporary.open("wb") as file:
        file.write(content)


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a temporary path to write to; at the end of the block that file takes the place of `path`, in one step.

    Raises:
        ArtifactError: the block, or the replacement, raised an `OSError`; the old file, if any, is untouched.
    """
    temporary = path.with_name(f".{path.name}.partial")
    with explain_os_errors("write", path):
        try:
            yield temporary
            sync_file(temporary)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)
        sync_folder(path.parent)


def write_synced(path: Path, content: bytes) -> None:
    """Write a file and wait until it is on the disk.

    Raises:
        OSError: as the system reports it.
    """
    path.write_bytes(content)
    sync_file(path)


def sync_file(path: Path) -> None:
    """Wait until a file's content is on the disk.

    Raises:
        OSError: as the system reports it.
    """
    with path.open("rb+") as file:
        os.fsync(file.fileno())


def sync_folder(path: Path) -> None:
    """Wait until the names of the files in a folder are on the disk.

    Raises:
        OSError: as the system reports it.
    """
    if os.name == "nt":  # Windows can't open a folder, and writes its names at once.
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
