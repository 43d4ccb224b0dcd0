"""PyTorch's grouped product against our own: both are timed once for each size on each machine, and the faster stays.

`torch.nn.functional.grouped_mm` is CUTLASS, in which one warp group loads by TMA while others multiply; here every warp
does both. It gathers nothing and fuses nothing, so a row costs some 2D + 4F more numbers of traffic. Which weighs more
is for the clock to say, and only where rows are many enough for arithmetic to bind.
"""

from __future__ import annotations

import functools
import hashlib
import json
from collections.abc import Callable, Mapping

import torch
import torch.nn.functional as F
import triton
from torch import Tensor
from triton.runtime import driver
from triton.runtime.cache import get_cache_manager

from headgate.kernels.triton.ops import Problem
from headgate.kernels.triton.schedule import bucket_of

_FILE = "headgate_contest.json"


def takes_grouped_mm(problem: Problem, matrix: Tensor, ways: Mapping[str, Callable[[], object]]) -> bool:
    """Whether PyTorch's grouped product is at hand for the problem's rows, and faster.

    Args:
        problem: whose rows they are.
        matrix: [E, O, I].
        ways: "grouped_mm" and the other, both to compute the same; called where no answer is remembered. Rows per
            expert count by their power of 2.
    """
    if torch.are_deterministic_algorithms_enabled() or not offers_grouped_mm(problem.x, matrix, problem.num_rows):
        return False
    rows_per_expert = triton.next_power_of_2(problem.num_rows // matrix.shape[0])
    options = (problem.function, problem.up_bias is None, problem.weighs_input)
    return find_fastest((*matrix.shape, matrix.stride(2), rows_per_expert, *options), ways) == "grouped_mm"


def offers_grouped_mm(x: Tensor, matrix: Tensor, num_rows: int) -> bool:
    """Whether PyTorch's grouped product can be asked: bfloat16, Hopper or Blackwell, many rows, aligned sizes."""
    if x.device.type != "cuda" or x.dtype != torch.bfloat16 or bucket_of(num_rows, matrix.shape[0]) != "many":
        return False
    # 16 bytes of alignment are what its TMA loads ask for.
    is_aligned = matrix.data_ptr() % 16 == 0 and all(size % 8 == 0 for size in matrix.shape[1:])
    return is_aligned and torch.cuda.get_device_capability(x.device)[0] in (9, 10)


def grouped_mm(problem: Problem, rows: Tensor, matrix: Tensor) -> Tensor:
    """PyTorch's product of rows [R, I] and their expert's matrix [E, O, I]: [R, O]."""
    ends = problem.expert_offsets[1 : matrix.shape[0] + 1].to(torch.int32)
    return F.grouped_mm(rows, matrix.transpose(1, 2), offs=ends)


def find_fastest(size: tuple[object, ...], ways: Mapping[str, Callable[[], object]]) -> str:
    """The name of the fastest way: timed where Triton's cache on disk has no answer for the size on this device."""
    setting = (torch.__version__, triton.__version__, torch.cuda.get_device_name(), *ways)
    key = hashlib.sha256(repr((setting, size)).encode()).hexdigest()
    found = _recall(key)
    if found is None:
        measure = driver.active.get_benchmarker()
        found = {name: measure(way, quantiles=(0.5, 0.2, 0.8))[0] for name, way in ways.items()}
        get_cache_manager(key).put(json.dumps(found), _FILE, binary=False)
        _recall.cache_clear()
    return min(found, key=lambda name: found[name])


@functools.cache
def _recall(key: str) -> dict[str, float] | None:
    """Milliseconds of each way, as they were measured."""
    path = get_cache_manager(key).get_file(_FILE)
    if path is None:
        return None
    with open(path, encoding="utf-8") as file:
        times: dict[str, float] = json.load(file)
    return times
