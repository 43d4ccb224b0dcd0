"""What the experts' kernel takes of memory: a few times its activations, and no copy of a memory-mapped weight."""

import json
import os
import sys
from pathlib import Path

import pytest

from headgate.kernels import native
from kernel_memory import D_FF, D_MODEL, KEYS, NUM_EXPERTS

pytestmark = [
    pytest.mark.skipif(native.library() is None, reason=f"no native library: {native.why_missing()}"),
    pytest.mark.skipif(sys.platform != "linux", reason="reads /proc/self"),
]

TESTS = Path(__file__).parents[1]
MEGABYTE = 2**20
# Fresh memory from the system for every large block, and back to it at once.
ENVIRONMENT = {
    "PYTHONPATH": os.pathsep.join([str(TESTS), str(TESTS.parent / "benchmarks")]),
    "MALLOC_MMAP_THRESHOLD_": "131072",
}


def run_script(run_fresh, *arguments):
    path = str(TESTS / "kernel_memory.py")
    source = f"import runpy, sys; sys.argv = {[path, *arguments]!r}; runpy.run_path({path!r}, run_name='__main__')"
    return json.loads(run_fresh(source, **ENVIRONMENT))


def test_a_call_takes_little_more_than_its_activations(run_fresh):
    (_, ones, num_ones), *cases = run_script(run_fresh)
    # The measurement itself: float32 ones take 4 bytes each. The system counts a thread's pages in batches of 64.
    assert abs(ones - 4 * num_ones) < MEGABYTE
    assert len(cases) == 20
    for name, growth, size in cases:
        # csrc/headgate.h: 8 bytes per number and 8 MiB of working memory; the output has 4 bytes per number at most.
        # The gradients: 12 bytes, what one expert's rows need (little without the weights' gradients), and 12 MiB. The
        # last megabyte is for the threads' stacks, up to 256 KiB each (csrc/experts/project.h holds sums and staged
        # weights there), and the tensors' Python objects.
        multiple, constant = (16, 12) if name.endswith("gradients") else (12, 8)
        allowed = multiple * size + (constant + 1) * MEGABYTE
        assert growth < allowed, f"{name}: {growth / MEGABYTE:.1f} MiB, allowed {allowed / MEGABYTE:.1f}"
        assert growth > size // 2, f"{name}: {growth / MEGABYTE:.1f} MiB is less than its hidden units take"


def test_memory_mapped_weights_are_used_where_they_lie(run_fresh, tmp_path):
    path = tmp_path / "weights.safetensors"
    processes = run_script(run_fresh, str(path))
    assert len(processes) == 2
    up_bytes = 4 * NUM_EXPERTS * 2 * D_FF * D_MODEL
    for own in processes:
        # The working memory is given back, but for what the allocator keeps: less than 8 MiB even if all of it stayed,
        # and far below any of the weights, of which the smallest are 12 MiB.
        for key in KEYS:
            assert own[key] < MEGABYTE, f"{key}: {own[key]} bytes"
        assert own["a copy"] >= up_bytes
        assert own["shared"] >= 0.95 * path.stat().st_size
