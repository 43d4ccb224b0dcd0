"""Time on a device: CUDA events on a GPU, the processor's clock elsewhere; and what the device can do at most."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Mapping

import torch

from support.timing import Timing, summarise

FLUSH_BYTES = 1 << 28
"""Written before each timed call: 256 MiB is five times the L2 cache of an H100 or H200 (50 MB)."""

_COPY_BYTES, _MATRIX = 1 << 31, 8192
_PROBES = 5


def is_gpu(device: torch.device) -> bool:
    """Whether streams, events and graphs are there."""
    return device.type == "cuda"


class DeviceClock:
    """Times calls on one device, in interleaved rounds with cold caches.

    On a GPU a call's kernels are timed by events around them, so time that the host takes to launch counts where the
    device waits for it; the flush before each call gives the host a start of about 0.1 ms.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.is_gpu = is_gpu(device)
        self._flushed = torch.empty(FLUSH_BYTES if self.is_gpu else 1, dtype=torch.uint8, device=device)

    def time_once(self, call: Callable[[], object]) -> float:
        """Seconds of one call, after a flush of the caches."""
        self._flushed.zero_()
        if not self.is_gpu:
            begin = time.perf_counter()
            call()
            return time.perf_counter() - begin
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        start.record()
        call()
        end.record()
        end.synchronize()
        return start.elapsed_time(end) * 1e-3

    def time_all(self, calls: Mapping[str, Callable[[], object]], *, seconds: float, most: int) -> dict[str, Timing]:
        """Medians and quartiles over rounds in which every call runs once: as many as fit into `seconds`, from 3."""
        samples: dict[str, list[float]] = {name: [] for name in calls}
        begin = time.perf_counter()
        rounds = 0
        while rounds < 3 or (rounds < most and time.perf_counter() - begin < seconds):
            for name, call in calls.items():
                samples[name].append(self.time_once(call))
            rounds += 1
        return {name: summarise(values) for name, values in samples.items()}

    def measure_bandwidth(self) -> float:
        """Bytes per second of a copy, read and written bytes together: the median of five."""
        size = _COPY_BYTES if self.is_gpu else 1 << 24
        source, target = (torch.empty(size, dtype=torch.uint8, device=self.device) for _ in range(2))
        return 2 * size / self._median(lambda: target.copy_(source))

    def measure_peak(self, dtype: torch.dtype) -> float:
        """FLOP/s of a large square product by PyTorch's own library: the median of five."""
        size = _MATRIX if self.is_gpu else 128
        a = torch.randn(size, size, device=self.device, dtype=dtype)
        return 2 * size**3 / self._median(lambda: a @ a)

    def _median(self, call: Callable[[], object]) -> float:
        call()
        return statistics.median(self.time_once(call) for _ in range(_PROBES))

    def peak_memory_bytes(self, call: Callable[[], object]) -> int | None:
        """How far one call raises the allocated memory; None where there is no GPU."""
        if not self.is_gpu:
            return None
        torch.cuda.synchronize()
        before = torch.cuda.memory_allocated()
        torch.cuda.reset_peak_memory_stats()
        call()
        torch.cuda.synchronize()
        return torch.cuda.max_memory_allocated() - before

    @property
    def memory_bytes(self) -> int:
        """Of the device; elsewhere a gibibyte."""
        return int(torch.cuda.get_device_properties(self.device).total_memory) if self.is_gpu else 1 << 30

    def free(self) -> None:
        """Give back memory that nothing holds any more."""
        if self.is_gpu:
            torch.cuda.empty_cache()

    def is_lost(self) -> bool:
        """Whether the device answers nothing any more, as after a kernel's illegal access."""
        try:
            if self.is_gpu:
                torch.cuda.synchronize()
        except RuntimeError:
            return True
        return False

    @property
    def name(self) -> str:
        """The card, or what else runs."""
        return torch.cuda.get_device_name(self.device) if self.is_gpu else "no GPU: a dry run, whose times mean nothing"
