import errno
import os
from pathlib import Path

import pytest

from headgate import files
from headgate.errors import ArtifactError


def test_a_file_is_replaced(tmp_path):
    path = tmp_path / "a.json"
    files.replace_file(path, b"old")
    files.replace_file(path, b"new")
    assert path.read_bytes() == b"new"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.parametrize(
    ("number", "said"),
    [
        (errno.ENOSPC, "No space left on device; free some space or choose another folder"),
        (errno.EROFS, "Read-only file system; choose a folder that you may write to"),
        (errno.EIO, "Input/output error; check the path and the disk"),
    ],
)
def test_a_failed_write_leaves_the_old_content(tmp_path, monkeypatch, number, said):
    path = tmp_path / "a.json"
    files.replace_file(path, b"old")

    def fail(descriptor):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(ArtifactError) as caught:
        files.replace_file(path, b"new")
    assert str(caught.value) == f"can't write {path}: {said}"
    assert path.read_bytes() == b"old"
    assert os.listdir(tmp_path) == ["a.json"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full, a device that is always full")
def test_a_disk_that_is_really_full():
    with (
        pytest.raises(ArtifactError, match=r"^can't write /dev/full: No space left on device; free some space"),
        files.explain_os_errors("write", Path("/dev/full")),
    ):
        files.write_synced(Path("/dev/full"), b"x")


def test_an_error_without_a_number_keeps_its_words():
    with (
        pytest.raises(ArtifactError, match=r"^can't read a: odd; check the path and the disk$"),
        files.explain_os_errors("read", Path("a")),
    ):
        raise OSError("odd")
