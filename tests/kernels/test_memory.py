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


def forward_bytes(T: int, D: int, F: int, R: int, **_: int) -> int:
    """The output, and the working memory that csrc/headgate.h allows, in elements of 4 bytes."""
    return 4 * T * D + 4 * (R * F + 768 * D) + 256 * R + 16 * MEGABYTE


def backward_bytes(T: int, D: int, F: int, R: int, most: int, **_: int) -> int:
    """Likewise, for the gradients of tokens and row weights; `most` rows go to one expert."""
    outputs, rows = 4 * (T * D + R), (3 * D + 6 * F) * most
    return outputs + 4 * (R * 2 * F + rows) + R * (F // 32 + 256) + 16 * MEGABYTE


def test_a_call_takes_no_more_than_the_contract_says(run_fresh):
    (_, ones, _), *cases = run_script(run_fresh)
    # The measurement itself: float32 ones take 4 bytes each. The system counts a thread's pages in batches of 64.
    assert abs(ones - 4 * 10**7) < MEGABYTE
    assert len(cases) == 20
    for name, growth, sizes in cases:
        is_forward = not name.endswith("gradients")
        allowed = forward_bytes(**sizes) if is_forward else backward_bytes(**sizes)
        # For the threads' stacks, up to 256 KiB each (csrc/experts/project.h holds sums and staged weights there), and
        # the tensors' Python objects.
        allowed += MEGABYTE
        activations = sizes["R"] * sizes["F"] + sizes["T"] * sizes["D"]
        if is_forward:  # And in any case, whatever the shape: three times the activations in float32.
            allowed = min(allowed, 12 * activations + 17 * MEGABYTE)
        assert growth < allowed, f"{name}: {growth / MEGABYTE:.1f} MiB, allowed {allowed / MEGABYTE:.1f}"
        assert growth > activations // 2, f"{name}: {growth / MEGABYTE:.1f} MiB is less than the hidden units take"


def test_memory_mapped_weights_are_used_where_they_lie(run_fresh, tmp_path):
    path = tmp_path / "weights.safetensors"
    processes = run_script(run_fresh, str(path))
    assert len(processes) == 2
    up_bytes = 4 * NUM_EXPERTS * 2 * D_FF * D_MODEL
    for own in processes:
        # The working memory is given back; the smallest weights are 12 MiB.
        for key in KEYS:
            assert own[key] < MEGABYTE, f"{key}: {own[key]} bytes"
        assert own["a copy"] >= up_bytes
        assert own["shared"] >= 0.95 * path.stat().st_size
