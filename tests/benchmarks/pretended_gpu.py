"""Run `benchmarks/gpu.py` on a GPU that is the CPU: what it asks `torch.cuda` for is answered, its sizes are tiny.

Headgate's kernels run in Triton's interpreter, at once and in order, so streams and events have nothing to do. A graph
records the operations that it captured and runs them again, into the same memory; like a real one it refuses whatever
would read a value on the host.
"""

from __future__ import annotations

import contextlib
import sys
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import gpu
import numpy as np
import torch
from support import device_clock, gpu_cases, gpu_checks
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from headgate.kernels import backends, plan, route
from headgate.kernels.triton import ops
from headgate.nn import moe

WAITING = ("_local_scalar_dense", "nonzero", "item")


class Event:
    """A point in time."""

    def __init__(self, *, enable_timing: bool) -> None:
        assert enable_timing

    def record(self) -> None:
        """Now."""
        self.at = time.perf_counter()

    def synchronize(self) -> None:
        """What was recorded has happened."""

    def elapsed_time(self, end: Event) -> float:
        """Milliseconds."""
        return max((end.at - self.at) * 1e3, 1e-6)


class Stream:
    """One of them is as good as another."""

    def wait_stream(self, other: Stream) -> None:
        """All have waited."""


class NoWaiting(TorchDispatchMode):
    """Raises for an operation that would have the host wait."""

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if any(name in str(func) for name in WAITING):
            raise RuntimeError(f"called a synchronizing CUDA operation: {func}")
        return self.see(func, args, kwargs or {})

    def see(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run it."""
        return func(*args, **kwargs)


class Graph(NoWaiting):
    """Records operations."""

    def __init__(self) -> None:
        super().__init__()
        self.steps: list[tuple[Any, Any, Any, Any]] = []

    def see(self, func: Any, args: Any, kwargs: Any) -> Any:
        """Run it and remember where its results are."""
        found = func(*args, **kwargs)
        self.steps.append((func, args, kwargs, found))
        return found

    @torch.no_grad()
    def replay(self) -> None:
        """Run all again, into the same memory."""
        for func, args, kwargs, kept in self.steps:
            for old, new in zip(tree_leaves(kept), tree_leaves(func(*args, **kwargs)), strict=True):
                if isinstance(old, torch.Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def pretend() -> None:
    """Answer for `torch.cuda`."""
    waits: dict[str, NoWaiting] = {}

    def set_sync_debug_mode(mode: str) -> None:
        if mode == "error":
            waits["now"] = NoWaiting()
            waits["now"].__enter__()
        else:
            waits.pop("now").__exit__(None, None, None)

    @contextlib.contextmanager
    def graph(recorder: Graph) -> Iterator[None]:
        with recorder:
            yield

    answers = {
        "Event": Event,
        "Stream": Stream,
        "CUDAGraph": Graph,
        "graph": graph,
        "stream": lambda _: contextlib.nullcontext(),
        "current_stream": Stream,
        "synchronize": lambda: None,
        "empty_cache": lambda: None,
        "memory_allocated": lambda: 0,
        "max_memory_allocated": lambda: 1 << 20,
        "reset_peak_memory_stats": lambda: None,
        "get_device_name": lambda _: "a pretended GPU",
        "get_device_properties": lambda _: SimpleNamespace(total_memory=1 << 30, multi_processor_count=132),
        "set_sync_debug_mode": set_sync_debug_mode,
    }
    for name, answer in answers.items():
        setattr(torch.cuda, name, answer)


def take_triton() -> None:
    """Have the CPU's tensors run where a GPU's do."""
    choose = backends.choose_backend

    def choose_for_gpu(op: backends.Op, *, device_type: str, **options: Any) -> backends.BackendChoice:
        return choose(op, device_type="cuda", **options)

    for module in (route, plan, ops):
        module.choose_backend = choose_for_gpu
    route._route_now = route.route_on_gpu
    moe.run_at_once = lambda *_: None  # what is one call on a CPU


def shrink() -> None:
    """Sizes and cases for an interpreter: one in inference, whose call is captured as well, and one in training."""
    gpu.REAL, gpu.DTYPES, gpu.GPU_SHAPES = gpu.TINY, [torch.bfloat16], gpu.TINY_SHAPES
    kinds = [gpu_cases.GpuCase(shape="tiny", routing="zipf", tokens=3, is_trained=train) for train in (False, True)]
    gpu.order_cases = lambda *_, **__: kinds
    device_clock.FLUSH_BYTES, device_clock._COPY_BYTES, device_clock._MATRIX = 1, 1 << 20, 64
    device_clock.is_gpu = gpu_checks.is_gpu = lambda _: True
    gpu.find_device = lambda **_: torch.device("cpu")


if __name__ == "__main__":
    pretend()
    take_triton()
    shrink()
    with np.errstate(all="ignore"):  # the interpreter computes with numpy, which warns of infinity
        options = {"resume": False, "shape": None, "without": None, "dry_run": False}
        gpu.main(check=True, time_=True, budget=600.0, name=sys.argv[1], **options)
