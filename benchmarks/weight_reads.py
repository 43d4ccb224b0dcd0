"""Claim: what one token's experts lack of the memory's bandwidth is mostly what any reading of their matrices loses.

A token runs K experts of two matrices each, 3 to 8 MB in size and anywhere in memory. All cores read just these, one
matrix after the other, and compute nothing; then the experts' function reads them as it multiplies. Each round takes
other experts, so that no cache has their weights.
"""

from __future__ import annotations

import dataclasses
import itertools
from collections.abc import Callable, Iterator

import torch
from support.contenders import headgate_contender
from support.problem import SHAPES, Problem, make_problem, make_weights
from support.report import publish
from support.timing import time_interleaved
from torch import Tensor

from headgate.kernels import native
from headgate.kernels.probe import make_read_buffer, read_memory

ROUNDS = 24


def main() -> None:
    """Time the reads of OLMoE's and Qwen3's experts."""
    if native.library() is None:
        print(f"nothing to measure: {native.why_missing()}")
        return
    rows = [row for name in ("olmoe", "qwen3") for row in time_reads(name)]
    columns = ["model", "what", "MB", "ms", "GB/s", "of one long read"]
    publish("weight_reads", f"One token's weights, bfloat16; medians of {ROUNDS} interleaved rounds", columns, rows)


def time_reads(name: str) -> Iterator[list[object]]:
    """One long read, one of each matrix, and the experts' function."""
    problems = list(one_token_problems(name))
    buffer = make_read_buffer()
    calls = {
        "one long read": lambda: read_memory(buffer),
        "its matrices": in_turn([read_of(matrices_of(problem)) for problem in problems]),
        "the experts' function": in_turn([headgate_contender(problem).run for problem in problems]),
    }
    num_bytes = 2 * SHAPES[name].top_k * SHAPES[name].weights_per_expert
    sizes = dict.fromkeys(calls, num_bytes) | {"one long read": buffer.nbytes}
    times = time_interleaved(calls, rounds=ROUNDS)
    speeds = {what: sizes[what] / timing.median_s for what, timing in times.items()}
    for what, speed in speeds.items():
        share = speed / speeds["one long read"]
        yield [name, what, sizes[what] / 1e6, times[what].median_s * 1e3, speed / 1e9, share]


def one_token_problems(name: str) -> Iterator[Problem]:
    """One token for each K experts in a row, in an order in which none follows itself soon."""
    shape = SHAPES[name]
    first = make_problem(shape, make_weights(shape, torch.bfloat16, is_trained=False), num_tokens=1, routing="uniform")
    shuffled = torch.randperm(shape.num_experts, generator=torch.Generator().manual_seed(0))
    for ids in shuffled.view(-1, 1, shape.top_k):
        yield dataclasses.replace(first, expert_ids=ids)


def matrices_of(problem: Problem) -> list[Tensor]:
    """Each chosen expert's two matrices, in the order in which they are used, as 64-bit words."""
    ids = problem.expert_ids.flatten().tolist()
    stacks = (problem.gate_up.detach(), problem.down.detach())
    return [stack[expert].flatten().view(torch.int64) for stack in stacks for expert in ids]


def read_of(matrices: list[Tensor]) -> Callable[[], None]:
    """Read each, with all threads."""

    def read() -> None:
        for matrix in matrices:
            read_memory(matrix)

    return read


def in_turn(calls: list[Callable[[], object]]) -> Callable[[], object]:
    """The next of the calls, each time."""
    following = itertools.cycle(calls)
    return lambda: next(following)()


if __name__ == "__main__":
    main()
