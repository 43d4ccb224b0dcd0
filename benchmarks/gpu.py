"""Claim: on a GPU, Headgate is exact, deterministic, never waits, and is as fast as the best that could be installed.

`--check` compares with float64 and looks at bits, graphs and waiting; `--time` compares the experts' function, from
expert ids to output, with every rival at hand in interleaved rounds with cold caches, and with the floor: bytes of the
distinct experts' weights (in training, also of gradients) over the bandwidth of a copy, or operations over the peak of
a large product, both measured here.

What is most important comes first, results are written after each step, and what `--budget` leaves no time for is
named: `--resume` goes on with it. `--shape` and `--without` take a part. `--dry-run` does all of it with tiny sizes on
a CPU, where the times mean nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Annotated, Any

import torch
import typer
from support.contenders import DEFAULT_RIVAL
from support.device_clock import DeviceClock
from support.floor import Work, geometric_mean
from support.gpu_cases import (
    GPU_SHAPES,
    TINY_SHAPES,
    DeviceLostError,
    GpuCase,
    Roster,
    fit_shape,
    order_cases,
    time_case,
)
from support.gpu_checks import Sizes, list_checks
from support.gpu_run import Run
from support.problem import Shape

OURS = ("headgate", "headgate, graph")
TINY = [Sizes(tokens=tokens, d_model=24, d_ff=16, num_experts=4, top_k=2) for tokens in (0, 5)]
REAL = [
    Sizes(tokens=1, d_model=512, d_ff=256, num_experts=64, top_k=8),
    Sizes(tokens=0, d_model=64, d_ff=64, num_experts=8, top_k=2),
    Sizes(tokens=67, d_model=131, d_ff=89, num_experts=8, top_k=2),
    Sizes(tokens=3000, d_model=256, d_ff=256, num_experts=64, top_k=8),
]
CHECKS_SHARE = 0.4  # of the budget
DTYPE = torch.bfloat16  # of the times
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


def run_checks(run: Run, device: torch.device, *, is_tiny: bool) -> None:
    """Every check that has not been looked at, as far as its share of the budget goes."""
    checks = list_checks(device, TINY if is_tiny else REAL, DTYPES)
    for index in range(len(run.checks), len(checks)):
        if run.left_s < (1 - CHECKS_SHARE) * run.budget_s:
            run.num_unchecked = len(checks) - index
            break
        run.checks.append(checks[index]())
        run.write()


def run_times(run: Run, clock: DeviceClock, shapes: dict[str, Shape], without: Sequence[str], *, is_tiny: bool) -> None:
    """Every case that the budget allows, by importance; a case is begun only if the longest so far would fit."""
    run.setting |= {"copy_bytes_per_s": clock.measure_bandwidth(), "matrix_flop_per_s": clock.measure_peak(DTYPE)}
    cases = [case for case in order_cases(list(shapes), is_tiny=is_tiny) if not run.has(case)]
    roster, longest_s = Roster(left_out=dict.fromkeys(without, "left out, as asked")), 0.0
    for index, case in enumerate(cases):
        if run.left_s < longest_s:
            run.dropped = cases[index:]
            break
        begin = time.perf_counter()
        try:
            run.cases.append(time_one(run, case, shapes[case.shape], clock, roster, is_tiny=is_tiny))
        except DeviceLostError as error:
            run.failures[str(case)], run.dropped = str(error), cases[index + 1 :]
            break
        # A case that fails, for want of memory or otherwise, is a finding, and the others go on.
        except Exception as error:  # noqa: BLE001
            run.failures[str(case)] = f"{type(error).__name__}: {str(error)[:200]}"
        clock.free()
        longest_s = max(longest_s, time.perf_counter() - begin)
        run.write()
    run.write()


def time_one(
    run: Run, case: GpuCase, shape: Shape, clock: DeviceClock, roster: Roster, *, is_tiny: bool
) -> dict[str, Any]:
    """The record of a case, with its floor, and how Headgate compares."""
    shape = fit_shape(shape, DTYPE, clock.memory_bytes, is_trained=case.is_trained)
    record = time_case(case, shape, clock, roster, dtype=DTYPE, seconds=0.1 if is_tiny else 1.5)
    floor_s = Work(num_bytes=record["bytes"], flops=record["flops"]).floor_s(
        run.setting["copy_bytes_per_s"], run.setting["matrix_flop_per_s"]
    )
    return record | {"floor_ms": floor_s * 1e3} | compare(record["median_ms"])


def compare(median_ms: dict[str, float]) -> dict[str, Any]:
    """Each rival's time over Headgate's (without a graph), the best's and the default's; None where none ran."""
    over = {name: value / median_ms["headgate"] for name, value in median_ms.items() if name not in OURS}
    best = min(over, key=lambda name: over[name], default=None)
    return {
        "over_ours": over,
        "best_rival": best,
        "best_over_ours": None if best is None else over[best],
        "default_over_ours": over.get(DEFAULT_RIVAL),
    }


def show(run: Run) -> None:
    """The findings, short: a line for each failure and each case."""
    looked = [check for check in run.checks if check.holds is not None]
    failed = [check for check in looked if not check.holds]
    print(f"{run.setting['device']}; torch {run.setting['torch']}, triton {run.setting['triton']}, ", end="")
    print(f"transformers {run.setting['transformers']}, commit {run.setting['commit']}")
    if run.checks:
        print(f"checks: {len(looked) - len(failed)} of {len(looked)} hold")
        for check in [*failed[:20], *(check for check in run.checks if check.holds is None)]:
            print(f"  {'FAILS' if check.holds is False else 'not looked at'}: {check.name}: {check.detail}")
    if run.num_unchecked:
        print(f"  {run.num_unchecked} more checks were left out: their share of the budget is spent")
    if run.cases:
        for name, why in dict.fromkeys(item for case in run.cases for item in case["left_out"].items()):
            print(f"  {name}: {why}")
        show_times(run)
    for case, why in run.failures.items():
        print(f"  FAILS: {case}: {why}")
    if run.dropped:
        print(f"left over by a budget of {run.budget_s:.0f} s, for --resume: {', '.join(map(str, run.dropped))}")


def show_times(run: Run) -> None:
    """A line for each case, and the means that the project aims at."""
    bandwidth, peak = run.setting["copy_bytes_per_s"], run.setting["matrix_flop_per_s"]
    print(f"copy {bandwidth / 1e9:.0f} GB/s, product {peak / 1e12:.1f} TFLOP/s; bf16; medians; caches flushed")
    print("shape E routing pass T: ours ms, of floor (as graph ms, of floor); best rival / ours; default / ours; MiB")
    for case in run.cases:
        print(_describe(case))
    for name, key in (("best rival", "best_over_ours"), ("transformers' default", "default_over_ours")):
        ratios = [case[key] for case in run.cases if case[key] is not None]
        print(f"geometric mean of {name} / ours: {_ratio(geometric_mean(ratios))}")


def _describe(case: dict[str, Any]) -> str:
    times, floor = case["median_ms"], case["floor_ms"]
    ours, graph, memory = times["headgate"], times.get("headgate, graph"), case["peak_memory_bytes"]["headgate"]
    parts = [
        f"{ours:.4g}, {floor / ours:.0%}" + ("" if graph is None else f" ({graph:.4g}, {floor / graph:.0%})"),
        f"{case['best_rival']} {_ratio(case['best_over_ours'])}",
        _ratio(case["default_over_ours"]),
        "-" if memory is None else str(round(memory / 2**20)),
    ]
    way = "train" if case["is_trained"] else "infer"
    title = f"{case['shape']} {case['experts']} {case['routing']} {way} {case['tokens']}"
    return f"{title}: {'; '.join(parts)}{'' if case['is_right'] else ' WRONG'}"


def _ratio(value: float | None) -> str:
    return "-" if value is None else f"{value:.2f}"


def find_device(*, is_dry: bool) -> torch.device | None:
    """What is checked and timed; None where there is nothing."""
    if is_dry:
        return torch.device("cpu")
    return torch.device("cuda") if torch.cuda.is_available() else None


def choose_shapes(names: Sequence[str], *, is_tiny: bool) -> dict[str, Shape]:
    """The shapes of these names; all, where there is none."""
    shapes = TINY_SHAPES if is_tiny else GPU_SHAPES
    for name in names:
        if name not in shapes:
            raise typer.BadParameter(f"shape (={name}) must be one of {', '.join(shapes)}")
    return {name: shape for name, shape in shapes.items() if not names or name in names}


def take_up(run: Run) -> None:
    """Go on with an earlier run."""
    try:
        run.resume()
    except ValueError as error:
        raise typer.BadParameter(str(error)) from error


def main(
    check: Annotated[bool, typer.Option("--check", help="Compare with float64; bits, graphs, waiting.")] = False,
    time_: Annotated[bool, typer.Option("--time", help="Compare with every rival at hand.")] = False,
    budget: Annotated[float, typer.Option(help="Seconds; what is least important is left for --resume.")] = 500.0,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with what the last run left.")] = False,
    shape: Annotated[list[str] | None, typer.Option(help="Time this one only; may be repeated.")] = None,
    without: Annotated[list[str] | None, typer.Option(help="A rival to leave out; may be repeated.")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tiny sizes, on a CPU.")] = False,
    name: Annotated[str, typer.Option(help="Name of the file in benchmarks/results.")] = "gpu",
) -> None:
    """Check and time Headgate on this machine's GPU."""
    if not (check or time_):
        raise typer.BadParameter("nothing to do; pass --check, --time, or both")
    shapes = choose_shapes(shape or [], is_tiny=dry_run)
    device = find_device(is_dry=dry_run)
    if device is None:
        print("nothing to measure: PyTorch sees no CUDA device; --dry-run goes through it all on the CPU")
        return
    torch.manual_seed(0)
    clock = DeviceClock(device)
    run = Run(name, clock, budget)
    if resume:
        take_up(run)
    if check:
        run_checks(run, clock.device, is_tiny=dry_run)
    if time_:
        run_times(run, clock, shapes, without or [], is_tiny=dry_run)
    show(run)
    if not run.is_sound:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
