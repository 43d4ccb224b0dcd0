"""Probe the machine: how fast all threads together read memory, and how fast they multiply and add.

These are the two ceilings of every kernel here. A floor for its time is the larger of bytes / bandwidth and
operations / peak. On a shared machine both drift: take them in the same rounds as what they are compared with.
"""

from __future__ import annotations

import ctypes
import mmap
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from headgate.errors import BackendError, InputError
from headgate.kernels import native
from headgate.kernels.threads import current_threads

BEST_ISA = -1
"""`HEADGATE_ISA_BEST` of `csrc/headgate.h`: the best instruction set that the processor has."""

FAR_BEYOND_CACHES_BYTES = 1 << 29
"""512 MiB: a reading pass finds little of it in a cache that a server processor has today."""

_DTYPE_CODES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_BAD_ARGUMENT = 2
_REPETITIONS = 5
_SHORTEST_PASS_S = 0.01  # hundreds of times what it takes to start a parallel region


def make_read_buffer(num_bytes: int = FAR_BEYOND_CACHES_BYTES) -> Tensor:
    """Allocate memory to read: written once, and in huge pages where the system gives them on request.

    Args:
        num_bytes: a positive multiple of 8.

    Returns:
        [num_bytes / 8] int64, every entry 1.

    Raises:
        InputError: `num_bytes` is not a positive multiple of 8.

    Example:
        >>> make_read_buffer(32).tolist()
        [1, 1, 1, 1]
    """
    if num_bytes < 8 or num_bytes % 8:
        raise InputError(f"num_bytes (={num_bytes}) must be a positive multiple of 8; pass a power of two")
    memory = mmap.mmap(-1, num_bytes)
    if hasattr(mmap, "MADV_HUGEPAGE"):
        memory.madvise(mmap.MADV_HUGEPAGE)
    return torch.frombuffer(memory, dtype=torch.int64).fill_(1)


def read_memory(data: Tensor, *, isa: int = BEST_ISA) -> int:
    """Read all of `data` once with PyTorch's threads, each a contiguous part.

    Args:
        data: contiguous int64 on the CPU.
        isa: a `headgate_isa` of `csrc/headgate.h`.

    Returns:
        The sum of the entries as unsigned integers, modulo 2^64.

    Raises:
        InputError: `data` is not contiguous int64 on the CPU, or the processor lacks the instruction set.
        BackendError: the native library is missing.

    Example:
        >>> import torch
        >>> read_memory(torch.arange(5))
        10
    """
    if data.device.type != "cpu" or data.dtype != torch.int64 or not data.is_contiguous():
        found = f"{data.dtype} on {data.device}, contiguous: {data.is_contiguous()}"
        raise InputError(f"data (={found}) must be contiguous int64 on the CPU; use `make_read_buffer`")
    checksum = ctypes.c_uint64()
    threads = current_threads()
    probe = _library().headgate_probe_read
    _check(probe(data.data_ptr(), data.numel() * 8, isa, ctypes.byref(threads), ctypes.byref(checksum)), isa)
    return checksum.value


def multiply_add(num_multiplies: int, dtype: torch.dtype, *, isa: int = BEST_ISA) -> int:
    """Do multiply-adds in registers with PyTorch's threads, in chains that do not wait for each other.

    Args:
        num_multiplies: how many at least, 0 or more.
        dtype: of the operands: float32, float16 or bfloat16. Pair products of bfloat16 are used where the processor
            has them; elsewhere both narrow types are widened to float32, as kernels have to.
        isa: a `headgate_isa` of `csrc/headgate.h`.

    Returns:
        How many multiply-adds there were; each is two floating-point operations.

    Raises:
        InputError: a negative number, another dtype, or an instruction set that the processor lacks.
        BackendError: the native library is missing.

    Example:
        >>> import torch
        >>> multiply_add(10**6, torch.float32) >= 10**6
        True
    """
    if num_multiplies < 0:
        raise InputError(f"num_multiplies (={num_multiplies}) must not be negative; pass about 10**9")
    if dtype not in _DTYPE_CODES:
        raise InputError(f"dtype (={dtype}) must be float32, float16 or bfloat16; pass what the kernel reads")
    num_done = ctypes.c_int64()
    threads = current_threads()
    probe = _library().headgate_probe_multiply
    _check(probe(num_multiplies, _DTYPE_CODES[dtype], isa, ctypes.byref(threads), ctypes.byref(num_done)), isa)
    return num_done.value


def measure_bandwidth(buffer: Tensor | None = None) -> float:
    """Measure how many bytes per second all threads together read: the median of five passes over `buffer`.

    Args:
        buffer: from `make_read_buffer`, which makes one of 512 MiB if this is None.

    Returns:
        Bytes per second.

    Raises:
        InputError, BackendError: as `read_memory`.

    Example:
        >>> measure_bandwidth(make_read_buffer(1 << 20)) > 0
        True
    """
    data = make_read_buffer() if buffer is None else buffer

    def read() -> int:
        read_memory(data)
        return data.numel() * 8

    return _median_rate(read)


def measure_peak(dtype: torch.dtype) -> float:
    """Measure how many floating-point operations per second all threads together do: the median of five passes.

    Args:
        dtype: of the operands, as in `multiply_add`. A multiply-add is two operations.

    Returns:
        FLOP/s.

    Raises:
        InputError, BackendError: as `multiply_add`.

    Example:
        >>> import torch
        >>> measure_peak(torch.bfloat16) > 0
        True
    """
    num_multiplies = peak_pass_size(dtype)
    return 2 * _median_rate(lambda: multiply_add(num_multiplies, dtype))


def peak_pass_size(dtype: torch.dtype) -> int:
    """Find how many multiply-adds take at least ten milliseconds, so that starting the threads does not count.

    The fastest of several calls decides: a call that something else held up says nothing about the size.

    Args:
        dtype: as in `multiply_add`.

    Returns:
        A number to pass to `multiply_add`.

    Raises:
        InputError, BackendError: as `multiply_add`.
    """
    num_multiplies = 1 << 20
    while min(_seconds(num_multiplies, dtype) for _ in range(_REPETITIONS)) < _SHORTEST_PASS_S:
        num_multiplies *= 2
    return num_multiplies


def _seconds(num_multiplies: int, dtype: torch.dtype) -> float:
    begin = time.perf_counter()
    multiply_add(num_multiplies, dtype)
    return time.perf_counter() - begin


def _median_rate(work: Callable[[], int]) -> float:
    """The median over repetitions of what `work` says that it did, per second."""
    rates = []
    for _ in range(_REPETITIONS):
        begin = time.perf_counter()
        done = work()
        rates.append(done / (time.perf_counter() - begin))
    return statistics.median(rates)


def _library() -> ctypes.CDLL:
    library = native.library()
    if library is None:
        raise BackendError(f"the probes are not available: {native.why_missing()}; to get them, {native.HOW_TO_GET}")
    return library


def _check(status: int, isa: int) -> None:
    """Raise for what the arguments' own checks can't know."""
    if status == _BAD_ARGUMENT:
        raise InputError(f"isa (={isa}) must be an instruction set that this processor has; pass {BEST_ISA}, the best")
    if status != 0:
        raise MemoryError(f"no memory to share the work among threads (status {status})")
