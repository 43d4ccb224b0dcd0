"""What tests/kernels/test_memory.py measures, in a process of its own where nothing else takes memory meanwhile."""

from __future__ import annotations

import ctypes
import itertools
import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from support.memory import peak_growth_bytes
from torch import Tensor

from expert_problems import SPECS, Problem, arguments_of, make_problem
from headgate.kernels.experts import experts, experts_for_training, experts_gradients
from headgate.kernels.experts_call import DTYPES

SHAPES = {
    # T, D, F, E, K
    "many rows per expert": (1024, 512, 768, 8, 4),
    "a few rows per expert": (60, 512, 768, 24, 2),
    "wide tokens": (2048, 1536, 64, 8, 2),
    "wide experts": (512, 64, 2048, 8, 2),
    "many choices": (512, 512, 384, 16, 12),
}
MOST_SECONDS = 60  # A process that waits for longer is ended, so that its test fails.


def measure_calls() -> None:
    """Print a JSON list: of each case its name, how far a call raised the resident memory, and what was called."""
    warm_up()
    results: list[tuple[str, int, dict[str, int]]] = [("1e7 ones", measure(lambda: torch.ones(10**7)), {})]
    for (name, shape), dtype in itertools.product(SHAPES.items(), DTYPES):
        problem = make_problem(shape, SPECS["swiglu"], dtype)
        sizes = {"R": problem.ids.numel(), "most": int(problem.ids.flatten().bincount().max())}
        sizes |= dict(zip("TDFEK", shape, strict=True))
        arguments = arguments_of(problem)
        results.append((f"{name}, {dtype}", measure(lambda a=arguments: experts(*a)), sizes))
        if dtype == torch.float32:
            results.append((f"{name}, gradients", measure(gradients_call(problem)), sizes))
    print(json.dumps(results))


def warm_up() -> None:
    """Start the threads and load what is loaded on first use."""
    for dtype in DTYPES:
        call = gradients_call(make_problem((60, 64, 64, 4, 2), SPECS["swiglu"], dtype))
        measure(call)
    torch.ones(10**6)


def measure(call: Callable[[], object]) -> int:
    """The growth during a call, into memory that no earlier one has left behind."""
    ctypes.CDLL(None).malloc_trim(0)
    return peak_growth_bytes(call)


def gradients_call(problem: Problem) -> Callable[[], object]:
    """The gradients of tokens and combine weights alone: those of the weights are outputs as large as these."""
    arguments = arguments_of(problem)
    y, up_rows = experts_for_training(*arguments)
    wanted = [True, True, False, False, False, False]
    return lambda: experts_gradients(y, up_rows, *arguments, wanted)


KEYS = ("float32", "float32 transposed", "bfloat16", "bfloat16 transposed")
NUM_EXPERTS, D_MODEL, D_FF = 16, 512, 256


def write_checkpoint(path: str) -> None:
    """Up and down of each kind, the transposed ones stored as [E, D, 2F] and [E, F, D]."""
    tensors = {}
    for key in KEYS:
        dtype, is_transposed = getattr(torch, key.split()[0]), key.endswith("transposed")
        for name, rows, columns in (("up", 2 * D_FF, D_MODEL), ("down", D_MODEL, D_FF)):
            shape = (columns, rows) if is_transposed else (rows, columns)
            tensors[f"{key} {name}"] = (torch.randn(NUM_EXPERTS, *shape) / 16).to(dtype)
    save_file(tensors, path)


def problem_from(file: object, key: str) -> Problem:
    weights: dict[str, Tensor] = {}
    for name in ("up", "down"):
        stored = file.get_tensor(f"{key} {name}")  # type: ignore[attr-defined]
        weights[name] = stored.transpose(1, 2) if key.endswith("transposed") else stored
    ids = (torch.arange(64)[:, None] + torch.arange(4)) % NUM_EXPERTS
    x = torch.linspace(-1, 1, 64 * D_MODEL).view(64, D_MODEL).to(weights["up"].dtype)
    combine_weights = torch.full((64, 4), 0.25)
    return Problem(x, ids, combine_weights, **weights, up_bias=None, down_bias=None, spec=SPECS["swiglu"])


def rollup(*keys: str) -> int:
    """Bytes of these kinds among this process's memory."""
    lines = Path("/proc/self/smaps_rollup").read_text(encoding="ascii").splitlines()[1:]
    sizes = {line.split(":")[0]: int(line.split()[1]) * 1024 for line in lines}
    return sum(sizes[key] for key in keys)


def shared_bytes() -> int:
    return rollup("Shared_Clean", "Shared_Dirty")


def own_bytes() -> int:
    # Not Private_Dirty, which also counts pages of a file that was just written, and of any in a file system in memory.
    return rollup("Anonymous")


def compare_processes(path: str) -> None:
    """Print a JSON list: of each of two processes, its own memory by kind of weights, and how much it shares."""
    write_checkpoint(path)
    warm_up()
    pipes = []
    for _ in range(2):
        from_child, to_parent = os.pipe()
        from_parent, to_child = os.pipe()
        if os.fork() == 0:
            signal.alarm(MOST_SECONDS)
            report(path, from_parent, to_parent)
            os._exit(0)
        # Only the child has these ends now: if it fails, reading from it ends.
        os.close(from_parent)
        os.close(to_parent)
        pipes.append((from_child, to_child))
    # Both have touched all of the weights when either counts what they share.
    results = [json.loads(os.read(from_child, 4096)) for from_child, _ in pipes]
    for result, (from_child, to_child) in zip(results, pipes, strict=True):
        os.write(to_child, b"1")
        result["shared"] = json.loads(os.read(from_child, 4096))
    for _, to_child in pipes:
        os.write(to_child, b"2")
    print(json.dumps(results))


def report(path: str, from_parent: int, to_parent: int) -> None:
    """Run the experts on weights in the file, as it is mapped; write what that took, and then what is shared."""
    own, shared_before = {}, shared_bytes()
    with safe_open(path, framework="pt") as file:
        problems = {key: problem_from(file, key) for key in KEYS}
        for key, problem in problems.items():
            before = own_bytes()
            y = experts(*arguments_of(problem))
            own[key] = own_bytes() - before
            assert y.isfinite().all()
        torch.set_num_threads(
            1
        )  # PyTorch's own operations can't use the pool of the process that this one was forked from
        before = own_bytes()
        copy = problems[KEYS[0]].up.clone()
        own["a copy"] = own_bytes() - before
        del copy
        os.write(to_parent, json.dumps(own).encode())
        os.read(from_parent, 1)
        os.write(to_parent, json.dumps(shared_bytes() - shared_before).encode())
        os.read(from_parent, 1)  # the other may still count


if __name__ == "__main__":
    measure_calls() if len(sys.argv) == 1 else compare_processes(sys.argv[1])
