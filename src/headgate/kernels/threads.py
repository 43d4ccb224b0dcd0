"""Which threads the C++ kernels work with: PyTorch's own pool, so that the two never compete for the cores."""

from __future__ import annotations

import ctypes
import functools
import os
from pathlib import Path

import torch


class Threads(ctypes.Structure):
    """`headgate_threads` of `csrc/headgate.h`."""

    _fields_ = (("parallel_for", ctypes.c_void_p), ("num_threads", ctypes.c_int))


def current_threads() -> Threads:
    """Return PyTorch's parallel loop and its number of threads, as `torch.set_num_threads` last set it."""
    address, num_threads = thread_pool()
    return Threads(parallel_for=address or None, num_threads=num_threads)


def thread_pool() -> tuple[int, int]:
    """Return the address of PyTorch's parallel loop, 0 where this process has none, and its number of threads."""
    pool = _torch_parallel_for()
    return (pool.address or 0) if pool.owner == os.getpid() else 0, torch.get_num_threads()


class _Pool:
    """The address of PyTorch's parallel loop, None where this PyTorch has none, and the process it was found in."""

    def __init__(self) -> None:
        self.owner = os.getpid()
        self.address: int | None = None
        path = Path(torch.__file__).parent / "lib" / "libtorch_cpu.so"
        try:
            function = ctypes.CDLL(str(path)).torch_parallel_for
        except (OSError, AttributeError):
            return
        self.address = ctypes.cast(function, ctypes.c_void_p).value


@functools.cache
def _torch_parallel_for() -> _Pool:
    return _Pool()
