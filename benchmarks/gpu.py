"""Claim: on a GPU, Headgate is exact, deterministic, never waits, and is as fast as the best that could be installed.

`--check` compares with float64 and looks at bits, graphs and waiting; `--time` compares the experts' function, from
expert ids to output, with every rival at hand in interleaved rounds with cold caches, and with the floor: bytes of the
distinct experts' weights (in training, also of gradients) over the bandwidth of a copy, or operations over the peak of
a large product, both measured here. The least important cases go first where `--budget` is short; results are written
after each case. `--dry-run` does all of it with tiny sizes on a CPU, where the times mean nothing.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Annotated, Any

import torch
import typer
from support.device_clock import FLUSH_BYTES, DeviceClock
from support.floor import Work, geometric_mean
from support.gpu_cases import GPU_SHAPES, TINY_SHAPES, GpuCase, fit_shape, order_cases, time_case
from support.gpu_checks import Check, Sizes, list_checks
from support.report import describe_setting, write_results

OURS = ("headgate", "headgate, graph")
DEFAULT_RIVAL = "grouped_mm"
TINY = [Sizes(tokens=tokens, d_model=24, d_ff=16, num_experts=4, top_k=2) for tokens in (0, 5)]
REAL = [
    Sizes(tokens=1, d_model=512, d_ff=256, num_experts=64, top_k=8),
    Sizes(tokens=0, d_model=64, d_ff=64, num_experts=8, top_k=2),
    Sizes(tokens=67, d_model=131, d_ff=89, num_experts=8, top_k=2),
    Sizes(tokens=3000, d_model=256, d_ff=256, num_experts=64, top_k=8),
]
CHECKS_SHARE = 0.4  # of the budget
DTYPES = [torch.float32, torch.float16, torch.bfloat16]


class Run:
    """What has been found so far, written after each step."""

    def __init__(self, name: str, clock: DeviceClock, budget_s: float) -> None:
        self.name, self.budget_s, self.begin = name, budget_s, time.perf_counter()
        self.checks: list[Check] = []
        self.cases: list[dict[str, Any]] = []
        self.dropped: list[GpuCase] = []
        self.num_unchecked = 0
        self.slow: dict[str, str] = {}
        self.setting = describe_setting() | {"device": clock.name, "triton": _version("triton")}
        self.setting |= {"transformers": _version("transformers"), "flushed_bytes": FLUSH_BYTES}

    @property
    def left_s(self) -> float:
        """Of the budget."""
        return self.budget_s - (time.perf_counter() - self.begin)

    def write(self) -> None:
        """All of it, to benchmarks/results."""
        checks, dropped = ([asdict(item) for item in items] for items in (self.checks, self.dropped))
        write_results(self.name, self.setting, self.cases, checks=checks, dropped=dropped)


def run_checks(run: Run, device: torch.device, *, is_tiny: bool) -> None:
    """Every check, as far as its share of the budget goes."""
    checks = list_checks(device, TINY if is_tiny else REAL, DTYPES)
    for index, check in enumerate(checks):
        if run.left_s < (1 - CHECKS_SHARE) * run.budget_s:
            run.num_unchecked = len(checks) - index
            break
        run.checks.append(check())
        run.write()


def run_times(run: Run, clock: DeviceClock, *, is_tiny: bool) -> None:
    """Every case that the budget allows, by importance; a case is begun only if the longest so far would fit."""
    shapes, dtype = (TINY_SHAPES if is_tiny else GPU_SHAPES), torch.bfloat16
    memory = torch.cuda.get_device_properties(clock.device).total_memory if clock.is_gpu else 1 << 30
    bandwidth, peak = clock.measure_bandwidth(), clock.measure_peak(dtype)
    run.setting |= {"copy_bytes_per_s": bandwidth, "matrix_flop_per_s": peak}
    cases = order_cases(list(shapes), is_tiny=is_tiny)
    longest_s = 0.0
    for index, case in enumerate(cases):
        if run.left_s < longest_s:
            run.dropped = cases[index:]
            break
        begin = time.perf_counter()
        shape = fit_shape(shapes[case.shape], dtype, memory, is_trained=case.is_trained)
        record = time_case(case, shape, clock, run.slow, dtype=dtype, seconds=0.1 if is_tiny else 1.5)
        floor_s = Work(num_bytes=record["bytes"], flops=record["flops"]).floor_s(bandwidth, peak)
        run.cases.append(record | {"floor_ms": floor_s * 1e3} | compare(record["median_ms"]))
        longest_s = max(longest_s, time.perf_counter() - begin)
        run.write()
        if clock.is_gpu:
            torch.cuda.empty_cache()
    run.write()


def compare(median_ms: dict[str, float]) -> dict[str, Any]:
    """The best of the rivals, and its time and the default's over Headgate's (without a graph)."""
    rivals = {name: value for name, value in median_ms.items() if name not in OURS}
    best = min(rivals, key=lambda name: rivals[name])
    ours = median_ms["headgate"]
    return {
        "best_rival": best,
        "best_over_ours": rivals[best] / ours,
        "default_over_ours": rivals[DEFAULT_RIVAL] / ours,
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
    if run.dropped:
        print(f"dropped, for the budget of {run.budget_s:.0f} s is spent: {_name_cases(run.dropped)}")


def show_times(run: Run) -> None:
    """A line for each case, and the means that the project aims at."""
    bandwidth, peak = run.setting["copy_bytes_per_s"], run.setting["matrix_flop_per_s"]
    print(f"copy {bandwidth / 1e9:.0f} GB/s, product {peak / 1e12:.1f} TFLOP/s; bf16; medians; caches flushed")
    print("shape E routing pass T: ours ms, of floor (as graph ms, of floor); best rival / ours; default / ours; MiB")
    for case in run.cases:
        times, floor = case["median_ms"], case["floor_ms"]
        graph = times.get("headgate, graph")
        as_graph = "" if graph is None else f" ({graph:.4g}, {floor / graph:.0%})"
        memory = case["peak_memory_bytes"]["headgate"]
        passes = "train" if case["is_trained"] else "infer"
        print(
            f"{case['shape']} {case['experts']} {case['routing']} {passes} {case['tokens']}: {times['headgate']:.4g}, "
            f"{floor / times['headgate']:.0%}{as_graph}; {case['best_rival']} {case['best_over_ours']:.2f}; "
            f"{case['default_over_ours']:.2f}; {'-' if memory is None else round(memory / 2**20)}"
            f"{'' if case['is_right'] else ' WRONG'}"
        )
    for name, key in (("best rival", "best_over_ours"), ("transformers' default", "default_over_ours")):
        print(f"geometric mean of {name} / ours: {geometric_mean([case[key] for case in run.cases]):.2f}")


def find_device(*, is_dry: bool) -> torch.device | None:
    """What is checked and timed; None where there is nothing."""
    if is_dry:
        return torch.device("cpu")
    return torch.device("cuda") if torch.cuda.is_available() else None


def _name_cases(cases: Sequence[GpuCase]) -> str:
    return ", ".join(f"{c.shape} {c.routing} {'train' if c.is_trained else 'infer'} {c.tokens}" for c in cases)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def main(
    check: Annotated[bool, typer.Option("--check", help="Compare with float64; bits, graphs, waiting.")] = False,
    time_: Annotated[bool, typer.Option("--time", help="Compare with every rival at hand.")] = False,
    budget: Annotated[float, typer.Option(help="Seconds; the least important cases are left out.")] = 500.0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Tiny sizes, on a CPU.")] = False,
    name: Annotated[str, typer.Option(help="Name of the file in benchmarks/results.")] = "gpu",
) -> None:
    """Check and time Headgate on this machine's GPU."""
    if not (check or time_):
        raise typer.BadParameter("nothing to do; pass --check, --time, or both")
    device = find_device(is_dry=dry_run)
    if device is None:
        print("nothing to measure: PyTorch sees no CUDA device; --dry-run goes through it all on the CPU")
        return
    torch.manual_seed(0)
    clock = DeviceClock(device)
    run = Run(name, clock, budget)
    if check:
        run_checks(run, clock.device, is_tiny=dry_run)
    if time_:
        run_times(run, clock, is_tiny=dry_run)
    show(run)
    is_sound = all(item.holds is not False for item in run.checks) and all(case["is_right"] for case in run.cases)
    if not is_sound:
        raise typer.Exit(1)


if __name__ == "__main__":
    typer.run(main)
