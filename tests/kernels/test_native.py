import ctypes
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from headgate.kernels import native

ROOT = Path(__file__).parents[2]

needs_library = pytest.mark.skipif(native.why_missing() is not None, reason=f"native library: {native.why_missing()}")
needs_compiler = pytest.mark.skipif(shutil.which("cc") is None, reason="no C compiler on PATH")


def compile_library(source: str, folder: Path) -> Path:
    (folder / "stub.c").write_text(source)
    command = ["cc", "-shared", "-fPIC", "-o", str(folder / native.LIBRARY_NAME), str(folder / "stub.c")]
    subprocess.run(command, check=True, capture_output=True)
    return folder


def test_the_header_and_the_loader_agree_on_the_abi_version():
    header = (ROOT / "csrc" / "headgate.h").read_text()
    match = re.search(r"#define HEADGATE_ABI_VERSION (\d+)", header)
    assert match is not None
    assert int(match[1]) == native.ABI_VERSION


@needs_library
def test_the_installed_library_loads():
    found = native.native_library()
    assert isinstance(found.library, ctypes.CDLL)
    assert found.path is not None
    assert found.path.is_file()
    assert native.library() is found.library
    assert found.library.headgate_abi_version() == native.ABI_VERSION


@needs_library
def test_only_the_c_abi_is_exported():
    found = native.native_library()
    assert found.library is not None
    with pytest.raises(AttributeError):
        found.library.bucket_of  # noqa: B018


@needs_library
@pytest.mark.parametrize(("num_slots", "num_buckets"), [(-1, 3), (3, -1)])
def test_the_library_refuses_a_negative_size(num_slots, num_buckets):
    library = native.library()
    assert library is not None
    assert library.headgate_sort_slots(None, num_slots, num_buckets, None, None) == 2


@needs_library
def test_the_library_reports_that_memory_is_out():
    library = native.library()
    assert library is not None
    assert library.headgate_sort_slots(None, 0, 2**61, None, None) == 1


def test_a_folder_without_the_library_says_where_it_looked(tmp_path):
    found = native.load_library([tmp_path / "one", tmp_path / "two"])
    assert found.library is None
    assert found.path is None
    assert found.why_missing == (
        f"{native.LIBRARY_NAME} was not built (searched {tmp_path / 'one'}, {tmp_path / 'two'})"
    )


def test_no_folder_at_all_is_said_too():
    assert native.load_library([]).why_missing == (f"{native.LIBRARY_NAME} was not built (searched no folder at all)")


def test_a_file_that_is_no_library_is_reported(tmp_path):
    (tmp_path / native.LIBRARY_NAME).write_text("not a library")
    found = native.load_library([tmp_path])
    assert found.library is None
    assert found.why_missing is not None
    assert found.why_missing.startswith(f"{tmp_path / native.LIBRARY_NAME} does not load: ")


@needs_compiler
@pytest.mark.skipif(sys.platform == "win32", reason="the stub is built with cc")
def test_a_library_of_another_abi_version_is_refused(tmp_path):
    found = native.load_library([compile_library("int headgate_abi_version(void) { return 999; }", tmp_path)])
    assert found.library is None
    assert found.why_missing == (
        f"{tmp_path / native.LIBRARY_NAME} has ABI version 999 and this Headgate needs {native.ABI_VERSION}"
    )


@needs_compiler
@pytest.mark.skipif(sys.platform == "win32", reason="the stub is built with cc")
def test_a_library_without_the_version_function_is_refused(tmp_path):
    found = native.load_library([compile_library("int other(void) { return 1; }", tmp_path)])
    assert found.library is None
    assert found.why_missing is not None
    assert "does not load: " in found.why_missing


@needs_library
def test_the_first_folder_that_has_the_library_wins(tmp_path):
    path = native.native_library().path
    assert path is not None
    found = native.load_library([tmp_path, path.parent])
    assert found.path == path
