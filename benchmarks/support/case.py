"""One case of the experts' benchmark: check every contender, then time them and the machine in the same rounds."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from headgate.kernels.probe import multiply_add, read_memory
from support.contenders import (
    DEFAULT_RIVAL,
    MOST_TOKENS_BATCHED,
    Contender,
    batched_copy_bytes,
    list_contenders,
)
from support.exact import (
    choose_tokens,
    error_bound,
    exact_input_gradient,
    exact_output,
    exact_weight_gradients,
    relative_error,
)
from support.floor import Work, forward_work, training_work
from support.problem import Problem
from support.timing import Timing, time_interleaved

FEWEST_ROUNDS = 3
STEADY = 1.25  # a wider spread than this between a probe's quartiles is said
IMPOSSIBLE_SHARE = 1.05  # medians of rounds scatter by a few per cent
READ, MULTIPLY, FORWARD = "read probe", "multiply probe", "forward only: "


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """How long a case may take: rounds, seconds for all of them, and seconds for a contender's first call."""

    rounds: int
    seconds: float
    patience_s: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Probes:
    """What the machine is measured with: memory to read, and how many multiply-adds to do."""

    buffer: Tensor
    num_multiplies: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Checked:
    """A contender's errors (relative RMS, by what was compared), and how long its first call took."""

    contender: Contender
    errors: Mapping[str, float]
    first_call_s: float

    @property
    def error(self) -> float:
        """The largest."""
        return max(self.errors.values())


class WrongResultError(RuntimeError):
    """Headgate's result is too far from the exact one for its time to mean anything."""


def check_case(
    problem: Problem, *, is_trained: bool, patience_s: float, others: Sequence[Contender] = ()
) -> list[Checked]:
    """Run each contender once, compare it with float64, and say what came out.

    Args:
        problem: the case.
        is_trained: whether gradients are compared, too.
        patience_s: see below.
        others: contenders besides headgate and transformers.

    Returns:
        Those that are worth timing: a rival that is slower than `patience_s` is left out with a line that says so.
    """
    tokens = choose_tokens(problem)
    exact: dict[str, Tensor] = {"y": exact_output(problem, tokens)}
    grad_y = make_output_gradient(problem)
    expert = least_busy_expert(problem)
    if is_trained:
        exact["x gradient"] = exact_input_gradient(problem, tokens, grad_y)
        exact["gate and up gradient"], exact["down gradient"] = exact_weight_gradients(problem, expert, grad_y)
    checked = []
    contenders = [*list_contenders(problem), *others]
    num_tokens, dtype = problem.x.shape[0], problem.x.dtype
    if num_tokens <= MOST_TOKENS_BATCHED and "batched_mm" not in [c.name for c in contenders]:
        copied = batched_copy_bytes(problem.shape, num_tokens, dtype)
        print(f"  batched_mm: left out, for it would copy {copied / 1e9:.1f} GB of weights")
    for contender in contenders:
        begin = time.perf_counter()
        found = _run_once(contender, problem, tokens, expert, grad_y if is_trained else None)
        took = time.perf_counter() - begin
        errors = {name: relative_error(found[name], exact[name]) for name in exact}
        result = Checked(contender=contender, errors=errors, first_call_s=took)
        del found
        contender.clear()
        print(f"  {contender.name}: " + ", ".join(f"{name} error {error:.2e}" for name, error in errors.items()))
        if contender.name == "headgate" and not result.error <= error_bound(problem):
            raise WrongResultError(f"headgate's error (={result.error:.3g}) must be below {error_bound(problem):.3g}")
        if took > patience_s and contender.name not in ("headgate", DEFAULT_RIVAL):
            print(f"  {contender.name}: not timed, for its first call took {took:.0f} s")
            continue
        checked.append(result)
    return checked


def time_case(
    problem: Problem, checked: list[Checked], probes: Probes, limits: Limits, *, is_trained: bool
) -> list[dict[str, Any]]:
    """Time the contenders and the probes in turn.

    The read probe runs before each call: it clears the caches, as the other layers of a model would.

    Returns:
        A record for each contender.
    """
    calls: dict[str, Callable[[], object]] = {}
    grad_y = make_output_gradient(problem)
    for result in checked:
        contender = result.contender
        if is_trained:
            calls[FORWARD + contender.name] = contender.run
            calls[contender.name] = functools.partial(train_once, contender, grad_y)
        else:
            calls[contender.name] = contender.run
    dtype = problem.x.dtype
    calls[MULTIPLY] = functools.partial(multiply_add, probes.num_multiplies, dtype)
    round_s = sum(result.first_call_s for result in checked) * (2 if is_trained else 1)
    rounds = max(FEWEST_ROUNDS, min(limits.rounds, int(limits.seconds / round_s)))
    between = {READ: functools.partial(read_memory, probes.buffer)}
    with torch.set_grad_enabled(is_trained):
        times = time_interleaved(calls, rounds=rounds, warm_up=1, between=between)
    # The probes' own counts, outside the timing.
    bandwidth = probes.buffer.nbytes / times[READ].median_s
    peak = 2 * multiply_add(probes.num_multiplies, dtype) / times[MULTIPLY].median_s
    records = _make_records(problem, checked, times, bandwidth, peak, is_trained=is_trained)
    rates = {READ: ("bandwidth", bandwidth), MULTIPLY: ("peak", peak)}
    spreads = {name: _rate_quartiles(rate, times[probe]) for probe, (name, rate) in rates.items()}
    for name, (lower, upper) in spreads.items():
        if upper > STEADY * lower:
            print(f"  {name}: quartiles {lower / 1e9:.0f} to {upper / 1e9:.0f} G/s, so the floor is uncertain")
    for record in records:
        record["probe_multiplies"], record["probe_bytes"] = probes.num_multiplies, probes.buffer.nbytes
        record |= {f"{name}_quartiles": quartiles for name, quartiles in spreads.items()}
        if record["share_of_floor"] > IMPOSSIBLE_SHARE:
            name, share = record["contender"], record["share_of_floor"]
            print(f"  {name}: {share:.0%} of the floor is not possible; something held up the probes: run it again")
    return records


def work_of(problem: Problem, *, is_trained: bool) -> Work:
    """The bytes and operations of a case."""
    num_tokens = problem.x.shape[0]
    if is_trained:
        return training_work(problem.shape, num_tokens=num_tokens)
    item_bytes = problem.x.element_size()
    return forward_work(problem.shape, num_tokens=num_tokens, num_distinct=problem.num_distinct, item_bytes=item_bytes)


def train_once(contender: Contender, grad_y: Tensor) -> None:
    """Forward and backward; the gradients are dropped, so that each call allocates its own."""
    contender.run().backward(grad_y)
    contender.clear()


def make_output_gradient(problem: Problem) -> Tensor:
    """The gradient of y that training starts from: [T, D]."""
    generator = torch.Generator().manual_seed(2)
    return torch.randn(problem.x.shape, generator=generator).to(problem.x.detach())


def least_busy_expert(problem: Problem) -> int:
    """Of the experts that have rows, the first with the fewest: the cheapest one to check."""
    experts, counts = problem.expert_ids.unique(return_counts=True)
    return int(experts[counts.argmin()])


def _run_once(
    contender: Contender, problem: Problem, tokens: Tensor, expert: int, grad_y: Tensor | None
) -> dict[str, Tensor]:
    """What is compared with the exact values, under the same names."""
    if grad_y is None:
        with torch.no_grad():
            return {"y": contender.run()[tokens]}
    y = contender.run()
    y.backward(grad_y)
    gradients = {"x gradient": problem.x, "gate and up gradient": problem.gate_up, "down gradient": problem.down}
    found = {"y": y.detach()[tokens]}
    for name, leaf in gradients.items():
        assert leaf.grad is not None
        found[name] = leaf.grad[tokens if leaf is problem.x else expert].clone()
    return found


def _rate_quartiles(rate: float, timing: Timing) -> tuple[float, float]:
    """The quartiles of a probe's rate, given that at its median time."""
    return rate * timing.median_s / timing.upper_s, rate * timing.median_s / timing.lower_s


def _make_records(
    problem: Problem,
    checked: list[Checked],
    times: Mapping[str, Timing],
    bandwidth: float,
    peak: float,
    *,
    is_trained: bool,
) -> list[dict[str, Any]]:
    work = work_of(problem, is_trained=is_trained)
    floor_s = work.floor_s(bandwidth, peak)
    records = []
    for result in checked:
        name = result.contender.name
        timing = times[name]
        record = {
            "contender": name,
            "median_ms": timing.median_s * 1e3,
            "lower_ms": timing.lower_s * 1e3,
            "upper_ms": timing.upper_s * 1e3,
            "rounds": timing.rounds,
            "share_of_floor": floor_s / timing.median_s,
            "time_of_headgate": timing.median_s / times["headgate"].median_s,
            "errors": dict(result.errors),
            "floor_ms": floor_s * 1e3,
            "bound": work.bound(bandwidth, peak),
            "bytes": work.num_bytes,
            "flops": work.flops,
            "distinct_experts": problem.num_distinct,
            "bandwidth_bytes_per_s": bandwidth,
            "peak_flop_per_s": peak,
        }
        if is_trained:
            forward = times[FORWARD + name]
            record["forward_ms"] = forward.median_s * 1e3
            record["forward_share_of_floor"] = floor_s / 3 / forward.median_s
            record["backward_ms"] = (timing.median_s - forward.median_s) * 1e3
            record["backward_share_of_floor"] = floor_s * 2 / 3 / (timing.median_s - forward.median_s)
        records.append(record)
    return records
