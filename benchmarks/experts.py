"""Claim: the experts' function runs near what the machine allows, and faster than transformers on the same weights.

x [T, D], expert ids and weights [T, K], gate and up [E, 2F, D], down [E, D, F] -> y [T, D], on the CPU. The floor of a
case is the larger of (bytes of the distinct experts' weights) / bandwidth and operations / peak; both are measured in
the same rounds as the contenders, by probes that do nothing else. With --train it is the operations of forward and
backward alone, three times those of the forward pass.

Every result is compared with float64 before anything is timed. The default of transformers is `grouped_mm`.
"""

from __future__ import annotations

import gc
import itertools
import math
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from support.case import Limits, Probes, WrongResultError, check_case, time_case
from support.contenders import DEFAULT_RIVAL, rival_names
from support.floor import geometric_mean, scratch_bound_bytes
from support.ggml import ggml_contender
from support.memory import measure_in_fresh_process
from support.problem import DTYPES, ROUTINGS, SHAPES, make_problem, make_weights
from support.report import describe_setting, print_table, write_results

from headgate.kernels.probe import make_read_buffer, peak_pass_size

TOKENS = (1, 4, 16, 64, 256, 1024, 4096)
MEAN_OVER_TOKENS = (1, 256)
QUICK = {"shapes": ["olmoe"], "tokens": [1, 16, 256], "routings": ["uniform"]}
# Mixtral's gradients are as large as its weights: 2.8 GB more in bfloat16, and as much again for the rivals' copies.
TRAINED = {"shapes": ["olmoe", "qwen3"], "tokens": [1024], "routings": ["uniform"]}
ALL = {"shapes": list(SHAPES), "tokens": list(TOKENS), "routings": list(ROUTINGS)}

ShapeName = StrEnum("ShapeName", {name: name for name in SHAPES})
RoutingName = StrEnum("RoutingName", {name: name for name in ROUTINGS})
DtypeName = StrEnum("DtypeName", {name: name for name in DTYPES})


def run_cases(
    choice: dict[str, list[Any]], dtype: str, limits: Limits, *, is_trained: bool, name: str, ggml: Path | None
) -> list[dict[str, Any]]:
    """Check and time every case; results are written after each, so that an interruption loses one."""
    probes = Probes(buffer=make_read_buffer(), num_multiplies=peak_pass_size(DTYPES[dtype]))
    setting = describe_setting("transformers")
    records: list[dict[str, Any]] = []
    for shape in choice["shapes"]:
        weights = make_weights(SHAPES[shape], DTYPES[dtype], is_trained=is_trained)
        for routing, num_tokens in itertools.product(choice["routings"], choice["tokens"]):
            print(f"{shape}, {routing}, T = {num_tokens}, {dtype}")
            problem = make_problem(SHAPES[shape], weights, num_tokens=num_tokens, routing=routing)
            others = [] if ggml is None else [ggml_contender(problem, ggml)]
            checked = check_case(problem, is_trained=is_trained, patience_s=limits.patience_s, others=others)
            facts = {"shape": shape, "routing": routing, "tokens": num_tokens, "dtype": dtype}
            timed = time_case(problem, checked, probes, limits, is_trained=is_trained)
            records += [facts | record for record in timed]
            means = summarise(records)
            write_results(name, setting, records, geometric_mean_default_over_headgate=means)
        del weights, problem, checked
        gc.collect()
    return records


def summarise(records: list[dict[str, Any]]) -> dict[str, dict[str, float | None]]:
    """The geometric mean of default / headgate over T = 1 to 256: shape -> routing -> mean."""
    least, most = MEAN_OVER_TOKENS
    rivals = [r for r in records if r["contender"] == DEFAULT_RIVAL and least <= r["tokens"] <= most]
    means: dict[str, dict[str, float | None]] = {}
    for record in rivals:
        of_shape = [r for r in rivals if r["shape"] == record["shape"]]
        of_routing = [r["time_of_headgate"] for r in of_shape if r["routing"] == record["routing"]]
        entry = means.setdefault(record["shape"], {})
        entry[record["routing"]] = geometric_mean(of_routing)
        entry["all"] = geometric_mean([r["time_of_headgate"] for r in of_shape])
    return means


def show(records: list[dict[str, Any]], *, is_trained: bool) -> None:
    """One table per shape and routing, one line per case and contender."""
    columns = ["T", "experts", "floor ms", "contender", "ms", "quartiles", "of floor", "/ headgate", "error"]
    columns += ["forward ms", "backward ms"] if is_trained else []
    columns += ["GB/s", "GFLOP/s"]
    setting = describe_setting("transformers")
    groups = itertools.groupby(records, key=lambda r: (r["shape"], r["routing"], r["dtype"]))
    for (shape, routing, dtype), group in groups:
        passes = "forward + backward" if is_trained else "forward"
        print_table(f"{shape}, {routing}, {dtype}, {passes}", columns, [_line(r) for r in group], setting)
    for shape, means in summarise(records).items():
        text = ", ".join(f"{routing} {mean:.2f}" for routing, mean in means.items() if mean is not None)
        print(f"{shape}: geometric mean of {DEFAULT_RIVAL} / headgate over T = 1 to 256: {text}")


def _line(record: dict[str, Any]) -> list[object]:
    cells: list[object] = [""] * 3
    if record["contender"] == "headgate":
        cells = [record["tokens"], record["distinct_experts"], f"{record['floor_ms']:.4g} {record['bound']}"]
    spread = f"{record['lower_ms']:.4g}-{record['upper_ms']:.4g}"
    cells += [record["contender"], record["median_ms"], spread, f"{record['share_of_floor']:.0%}"]
    cells += [f"{record['time_of_headgate']:.2f}", f"{max(record['errors'].values()):.1e}"]
    if "forward_ms" in record:
        cells += [f"{record[k + '_ms']:.4g} ({record[k + '_share_of_floor']:.0%})" for k in ("forward", "backward")]
    return [*cells, record["bandwidth_bytes_per_s"] / 1e9, record["peak_flop_per_s"] / 1e9]


def run_memory(choice: dict[str, list[Any]], dtype: str, name: str) -> None:
    """Measure how far one forward call raises the resident size, each in a fresh process."""
    setting = describe_setting("transformers")
    records, lines = [], []
    for shape, routing, num_tokens in itertools.product(choice["shapes"], choice["routings"], choice["tokens"]):
        bound = scratch_bound_bytes(SHAPES[shape], num_tokens=num_tokens)
        for contender in ["headgate", *rival_names(SHAPES[shape], num_tokens, DTYPES[dtype])]:
            case = {"num_tokens": num_tokens, "routing": routing, "dtype": dtype, "contender": contender}
            growth = measure_in_fresh_process(shape, **case)
            print(f"{shape}, {routing}, T = {num_tokens}, {contender}: {growth / 1e6:.1f} MB")
            lines.append([shape, routing, num_tokens, contender, growth / 1e6, bound / 1e6, growth / bound])
            sizes = {"growth_bytes": growth, "bound_bytes": bound}
            records.append({"shape": shape, "tokens": num_tokens, **case, **sizes})
            write_results(name, setting, records)
    columns = ["shape", "routing", "T", "contender", "growth MB", "3 (R F + T D) float32, MB", "ratio"]
    print_table(f"growth of the peak resident size in one forward call, {dtype}", columns, lines, setting)


def main(
    shape: Annotated[list[ShapeName] | None, typer.Option(help="Model; again for more. Default: all.")] = None,
    tokens: Annotated[list[int] | None, typer.Option(min=1, help="T; again for more. Default: 1 to 4096.")] = None,
    routing: Annotated[list[RoutingName] | None, typer.Option(help="Again for more. Default: all.")] = None,
    dtype: Annotated[DtypeName, typer.Option(help="Of weights and tokens.")] = DtypeName.bfloat16,
    rounds: Annotated[int, typer.Option(min=3, help="Timed rounds of a case.")] = 9,
    seconds: Annotated[float, typer.Option(help="Fewer rounds, down to 3, where a case takes longer.")] = 30.0,
    patience: Annotated[float, typer.Option(help="Leave out a rival whose first call takes this many seconds.")] = 20.0,
    quick: Annotated[bool, typer.Option("--quick", help="A few cases, about a minute.")] = False,
    train: Annotated[bool, typer.Option("--train", help="Forward and backward, T = 1024.")] = False,
    memory: Annotated[bool, typer.Option("--memory", help="Peak resident memory instead of time.")] = False,
    ggml: Annotated[
        Path | None, typer.Option(help="Folder of libggml-base.so and libggml-cpu.so: compare with llama.cpp, too.")
    ] = None,
    name: Annotated[str | None, typer.Option(help="Name of the file in benchmarks/results.")] = None,
) -> None:
    """Compare headgate's experts with transformers' and with the floor."""
    torch.manual_seed(0)
    defaults = QUICK if quick else TRAINED if train else ALL
    asked = {"shapes": shape, "tokens": tokens, "routings": routing}
    choice = {key: [*map(str, value)] if value else list(defaults[key]) for key, value in asked.items()}
    choice["tokens"] = [int(value) for value in choice["tokens"]]
    if memory:
        run_memory(choice, dtype, name or "experts_memory")
        return
    limits = Limits(rounds=rounds, seconds=seconds if seconds > 0 else math.inf, patience_s=patience)
    try:
        file = name or ("experts_training" if train else "experts")
        records = run_cases(choice, dtype, limits, is_trained=train, name=file, ggml=ggml)
    except WrongResultError as error:
        print(f"wrong: {error}; nothing is timed")
        raise typer.Exit(1) from error
    show(records, is_trained=train)


if __name__ == "__main__":
    typer.run(main)
