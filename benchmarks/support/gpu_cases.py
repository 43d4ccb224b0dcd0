"""The timed cases of a GPU in order of importance, and how one is timed."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from typing import Any

import torch
from torch import Tensor

from headgate.experts import ExpertWeights, is_one_call, run_choice, run_experts
from headgate.integrations.transformers.backend import plan_all
from headgate.kernels.function import ExpertFunction
from support.case import make_output_gradient, train_once, work_of
from support.contenders import DEFAULT_RIVAL, Contender, rival_names
from support.device_clock import DeviceClock
from support.exact import choose_tokens, error_bound, exact_output, relative_error
from support.floor import Work
from support.gpu_checks import capture
from support.problem import SHAPES, Problem, Shape, make_problem, make_weights
from support.rivals import RIVALS, count_copies, find_rival

# The experts' function of DeepSeek-V3 is Qwen3's; so is the class of transformers that computes it.
GPU_SHAPES = {
    **SHAPES,
    "deepseek": Shape(family="qwen3_moe", d_model=7168, d_ff=2048, num_experts=256, top_k=8),
}
NEVER_LEFT_OUT = ("headgate", DEFAULT_RIVAL)
TINY_SHAPES = {"tiny": Shape(family="olmoe", d_model=32, d_ff=16, num_experts=8, top_k=2)}
MEMORY_SHARE = 0.4
"""Of the device for weights, their copies in rivals' layouts and, in training, gradients; the rest is for the calls."""

PATIENCE_S = 60.0
"""A rival whose first calls, with what they compile, take longer in all is left out from then on."""

GRAPH_TOKENS = 64
"""Up to here a CUDA graph of Headgate's call is timed as well: what a decoding engine would run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class GpuCase:
    """A shape, a routing, T, and whether the backward pass counts."""

    shape: str
    routing: str
    tokens: int
    is_trained: bool

    def __str__(self) -> str:
        return f"{self.shape} {self.routing} {'train' if self.is_trained else 'infer'} {self.tokens}"


class DeviceLostError(RuntimeError):
    """A contender has left the device unusable."""


@dataclass(kw_only=True)
class Roster:
    """Who takes part.

    Attributes:
        left_out: by name, those who never do, and why.
        spent_s: by name, how long the first calls of those who do took.
    """

    left_out: dict[str, str] = field(default_factory=dict)
    spent_s: dict[str, float] = field(default_factory=dict)

    def count_first_call(self, name: str, seconds: float) -> None:
        """Add a first call's time, and leave out from the next case on who has used up our patience."""
        self.spent_s[name] = self.spent_s.get(name, 0.0) + seconds
        if self.spent_s[name] > PATIENCE_S and name not in NEVER_LEFT_OUT:
            self.left_out[name] = f"slow: {self.spent_s[name]:.0f} s of first calls in all"


def order_cases(shapes: list[str], *, is_tiny: bool) -> list[GpuCase]:
    """All cases, the most important first: the ends and the middle of T, then training, then what lies between."""
    if is_tiny:
        kinds = [("uniform", False, (1, 4)), ("uniform", True, (4,)), ("zipf", False, (4,))]
    else:
        kinds = [
            ("uniform", False, (1, 64, 4096)),
            ("uniform", True, (4096,)),
            ("uniform", False, (16, 1024, 16384)),
            ("zipf", False, (64, 4096)),
            ("uniform", True, (1024, 16384)),
            ("uniform", False, (4, 256)),
            ("zipf", False, (16, 16384)),
            ("zipf", True, (4096,)),
        ]
    return [
        GpuCase(shape=shape, routing=routing, tokens=tokens, is_trained=is_trained)
        for routing, is_trained, counts in kinds
        for shape, tokens in itertools.product(shapes, counts)
    ]


def fit_shape(shape: Shape, dtype: torch.dtype, memory_bytes: int, *, is_trained: bool) -> Shape:
    """The shape with half the experts, and half of those, until weights (and gradients) fit their share of memory."""
    size = (2 if is_trained else 1) * (1 + count_copies()) * shape.weights_per_expert * dtype.itemsize
    num_experts = shape.num_experts
    while num_experts > 2 * shape.top_k and num_experts * size > MEMORY_SHARE * memory_bytes:
        num_experts //= 2
    return Shape(**asdict(shape) | {"num_experts": num_experts})


def planning_contender(problem: Problem) -> Contender:
    """Headgate from ids to output, as its backend of transformers: the plan is made in each call, as rivals do."""
    weights = ExpertWeights(up=problem.gate_up, down=problem.down)
    combine_weights = problem.combine_weights.clone().requires_grad_(problem.x.requires_grad)

    def run() -> Tensor:
        choice = (problem.x, problem.expert_ids, combine_weights, weights)
        if is_one_call(*choice):
            return run_choice(*choice, ExpertFunction())
        plan = plan_all(problem.expert_ids, problem.shape.num_experts)
        return run_experts(problem.x, plan, combine_weights, weights, ExpertFunction())

    return Contender(name="headgate", run=run, leaves=(problem.x, problem.gate_up, problem.down, combine_weights))


def list_contenders(problem: Problem, left_out: dict[str, str]) -> Iterator[Contender]:
    """Headgate, transformers' implementations, and the rivals that are there; why others are not goes to `left_out`."""
    yield planning_contender(problem)
    for name in [*rival_names(problem.shape, problem.x.shape[0], problem.x.dtype), *RIVALS]:
        if name in left_out:
            continue
        found = find_rival(name, problem)
        if isinstance(found, str):
            left_out[name] = found
        else:
            yield found


def time_case(
    case: GpuCase, shape: Shape, clock: DeviceClock, roster: Roster, *, dtype: torch.dtype, seconds: float
) -> dict[str, Any]:
    """Compare every contender's output with float64, time those that are right, and say what was found.

    Args:
        case, shape, dtype: what to compute.
        clock: of the device.
        roster: who takes part; changed where one takes too long.
        seconds: for the rounds.

    Returns:
        The record; `left_out` names the rivals without a time, and why.

    Raises:
        DeviceLostError: a contender has left the device unusable.
    """
    weights = make_weights(shape, dtype, is_trained=case.is_trained, device=clock.device)
    problem = make_problem(shape, weights, num_tokens=case.tokens, routing=case.routing)
    with torch.set_grad_enabled(case.is_trained):
        calls, found = _try_all(problem, clock, roster, is_trained=case.is_trained)
        if clock.is_gpu and not case.is_trained and case.tokens <= GRAPH_TOKENS:
            calls["headgate, graph"] = _as_graph(problem)
        times = clock.time_all(calls, seconds=seconds, most=31)
    work, bound = count_work(problem, is_trained=case.is_trained), error_bound(problem)
    return {
        **asdict(case),
        **found,
        "experts": shape.num_experts,
        "is_right": found["errors"]["headgate"] <= bound,
        "error_bound": bound,
        "bytes": work.num_bytes,
        "flops": work.flops,
        "median_ms": {name: timing.median_s * 1e3 for name, timing in times.items()},
        "quartiles_ms": {name: (timing.lower_s * 1e3, timing.upper_s * 1e3) for name, timing in times.items()},
        "rounds": min(timing.rounds for timing in times.values()),
    }


def count_work(problem: Problem, *, is_trained: bool) -> Work:
    """Bytes and operations of a case. In training, weights are read once each way, and all their gradients written.

    A GPU has so much arithmetic that with few rows per expert these bytes bound training, too.
    """
    work = work_of(problem, is_trained=is_trained)
    if not is_trained:
        return work
    read = work_of(problem, is_trained=False).num_bytes
    written = problem.gate_up.nbytes + problem.down.nbytes
    return Work(num_bytes=2 * read + written, flops=work.flops)


def _try_all(
    problem: Problem, clock: DeviceClock, roster: Roster, *, is_trained: bool
) -> tuple[dict[str, Callable[[], object]], dict[str, dict[str, Any]]]:
    """The calls that are worth timing, and of all contenders: errors, memory, and why some are left out."""
    calls: dict[str, Callable[[], object]] = {}
    found: dict[str, dict[str, Any]] = {"errors": {}, "peak_memory_bytes": {}, "left_out": dict(roster.left_out)}
    grad_y = make_output_gradient(problem)
    for contender in list_contenders(problem, found["left_out"]):
        name = contender.name
        call = functools.partial(train_once, contender, grad_y) if is_trained else contender.run
        begin = time.perf_counter()
        why = _try(contender, call, problem, clock, found)
        roster.count_first_call(name, time.perf_counter() - begin)
        if why is None:
            calls[name] = call
        else:
            found["left_out"][name] = why
    return calls, found


def _try(
    contender: Contender,
    call: Callable[[], object],
    problem: Problem,
    clock: DeviceClock,
    found: dict[str, dict[str, Any]],
) -> str | None:
    """Call a contender for its error and its memory; why it is not worth a time, or None."""
    name, tokens = contender.name, choose_tokens(problem)
    try:
        error = relative_error(contender.run()[tokens], exact_output(problem, tokens))
        call()
        found["peak_memory_bytes"][name] = clock.peak_memory_bytes(call)
    # Others' packages fail in ways of their own, or need more memory than there is: that is a finding.
    except Exception as error:
        if clock.is_lost():
            raise DeviceLostError(f"{name}: {_say(error)}; run again with --resume --without {name}") from error
        if name == "headgate":
            raise
        return f"fails: {_say(error)}"
    found["errors"][name] = error
    if not error <= error_bound(problem) and name not in NEVER_LEFT_OUT:
        return f"wrong by {error:.1e}, more than {error_bound(problem):.1e}"
    return None


def _say(error: Exception) -> str:
    return f"{type(error).__name__}: {str(error)[:80]}"


def _as_graph(problem: Problem) -> Callable[[], Tensor]:
    contender = planning_contender(problem)
    replay, _ = capture(lambda _: contender.run(), problem.x)
    return replay
