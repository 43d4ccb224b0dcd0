"""Find and load the C++ library. `csrc/headgate.h` is the contract; nothing is loaded at import."""

from __future__ import annotations

import ctypes
import functools
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from headgate.kernels.threads import Threads

ABI_VERSION = 5
"""The `HEADGATE_ABI_VERSION` of `csrc/headgate.h` that this module calls."""

OUT_OF_MEMORY = 1
"""`HEADGATE_OUT_OF_MEMORY`, of the statuses that a function returns; 0 is success."""

LIBRARY_NAME = "libheadgate.dll" if sys.platform == "win32" else "libheadgate.so"

# pip keeps the wheel it built without a compiler, so a plain reinstall would bring the same one back.
HOW_TO_GET = (
    "install a C++17 compiler, then run "
    "`pip install --force-reinstall --no-deps --no-cache-dir headgate` (or `pip install -e .` in a checkout)"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NativeLibrary:
    """The outcome of the search: a loaded library and its path, or the reason why there is none."""

    library: ctypes.CDLL | None = None
    path: Path | None = None
    why_missing: str | None = None


def load_library(directories: Iterable[str | Path]) -> NativeLibrary:
    """Load the library from the first of `directories` that holds it, and check its ABI version.

    Args:
        directories: where to look, in order.

    Returns:
        The library, or one sentence that says why it is missing.
    """
    searched = [Path(directory) for directory in directories]
    path = next((d / LIBRARY_NAME for d in searched if (d / LIBRARY_NAME).is_file()), None)
    if path is None:
        places = ", ".join(str(directory) for directory in searched) or "no folder at all"
        return NativeLibrary(why_missing=f"{LIBRARY_NAME} was not built (searched {places})")
    try:
        library = ctypes.CDLL(str(path))
        abi_version = library.headgate_abi_version()
    except (OSError, AttributeError) as error:
        return NativeLibrary(why_missing=f"{path} does not load: {error}")
    if abi_version != ABI_VERSION:
        return NativeLibrary(why_missing=f"{path} has ABI version {abi_version} and this Headgate needs {ABI_VERSION}")
    _declare(library)
    return NativeLibrary(library=library, path=path)


@functools.cache
def native_library() -> NativeLibrary:
    """Load the installed library, once per process.

    An editable install keeps the Python files and the library in two folders; both are on the package's path.
    """
    from headgate import kernels

    return load_library(kernels.__path__)


def library() -> ctypes.CDLL | None:
    """Return the loaded library, or None where it is missing (see `why_missing`)."""
    return native_library().library


def why_missing() -> str | None:
    """Return one sentence that says why the library is missing, or None where it is loaded."""
    return native_library().why_missing


def _declare(library: ctypes.CDLL) -> None:
    """Give each function its C signature, so that ctypes converts and checks the arguments."""
    library.headgate_abi_version.argtypes = []
    library.headgate_abi_version.restype = ctypes.c_int
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    library.headgate_sort_slots.argtypes = [pointer, size, size, pointer, pointer]
    library.headgate_sort_slots.restype = ctypes.c_int
    library.headgate_best_isa.argtypes = []
    library.headgate_best_isa.restype = ctypes.c_int
    library.headgate_experts_forward.argtypes = [pointer, pointer, pointer]
    library.headgate_experts_forward.restype = ctypes.c_int
    library.headgate_experts_on_choice.argtypes = [pointer, pointer, pointer]
    library.headgate_experts_on_choice.restype = ctypes.c_int
    library.headgate_layer_forward.argtypes = [pointer, pointer, pointer, pointer]
    library.headgate_layer_forward.restype = ctypes.c_int
    library.headgate_experts_backward.argtypes = [pointer, pointer]
    library.headgate_experts_backward.restype = ctypes.c_int
    threads = ctypes.POINTER(Threads)
    library.headgate_probe_read.argtypes = [pointer, size, ctypes.c_int, threads, ctypes.POINTER(ctypes.c_uint64)]
    library.headgate_probe_read.restype = ctypes.c_int
    done = ctypes.POINTER(ctypes.c_int64)
    library.headgate_probe_multiply.argtypes = [size, ctypes.c_int, ctypes.c_int, threads, done]
    library.headgate_probe_multiply.restype = ctypes.c_int
    library.headgate_route.argtypes = [pointer, pointer, pointer, pointer, ctypes.c_int]
    library.headgate_route.restype = ctypes.c_int
