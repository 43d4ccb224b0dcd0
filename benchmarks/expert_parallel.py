"""Claims: a token's row is sent once to each rank, however many of its experts are there; and what a step then takes.

A layer's experts over W = 1, 2, 4 processes of this machine (gloo), the same tokens and experts at every W, one thread
each; K = 2 and 8 of E experts, chosen at random by a new router. A step is forward and backward. "exchange" is the same
messages with experts that return their input: finding the routes, packing, sending, adding up. Where processes share
the cores, as four do on two, times do not fall with W; bytes are exact anywhere.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from support.report import describe_setting, print_table, write_results
from support.spread import Setting

SCRIPT = Path(__file__).parent / "support" / "spread.py"
SIZES = {"d_model": 512, "d_ff": 256, "num_experts": 32, "num_tokens": 1024}


def run_ranks(num_ranks: int, setting: Setting) -> dict[str, Any]:
    """Measure on so many processes."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={num_ranks}"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    subprocess.run([*torchrun, str(SCRIPT), setting.to_json()], check=True, env=environment)
    found: dict[str, Any] = json.loads(Path(setting.results).read_text(encoding="utf-8"))
    return found


def main(
    ranks: Annotated[list[int] | None, typer.Option(min=1, help="W; again for more. Default: 1, 2 and 4.")] = None,
    top_k: Annotated[list[int] | None, typer.Option(min=1, help="K; again for more. Default: 2 and 8.")] = None,
    rounds: Annotated[int, typer.Option(min=2, help="Timed rounds of a case.")] = 9,
) -> None:
    """Time a step over ranks, and count its bytes."""
    records, lines = [], []
    setting = describe_setting()
    with tempfile.TemporaryDirectory() as folder:
        results = f"{folder}/results.json"
        for k in top_k or (2, 8):
            for num_ranks in ranks or (1, 2, 4):
                case = Setting(**SIZES, top_k=k, rounds=rounds, results=results)
                found = run_ranks(num_ranks, case)
                records.append({"ranks": num_ranks, "top_k": k, **SIZES, **found})
                lines.append(_line(num_ranks, k, found))
                write_results("expert_parallel", setting, records)
    columns = ["K", "W", "step ms", "quartiles", "exchange ms", "of step", "rows MB", "copies MB", "saved", "labels MB"]
    sizes = ", ".join(f"{name} {value}" for name, value in SIZES.items())
    print_table(f"Experts over ranks, float32: {sizes}", columns, lines, setting)
    print("MB sent by all ranks in one forward pass: rows out, once per rank or once per choice; ids and weights.")


def _line(num_ranks: int, top_k: int, found: dict[str, Any]) -> list[object]:
    lower, upper = found["step_s_quartiles"]
    line = [top_k, num_ranks, f"{found['step_s'] * 1e3:.1f}", f"{lower * 1e3:.1f}-{upper * 1e3:.1f}"]
    if "exchange_s" not in found:  # one process sends nothing
        return line
    rows, copies = found["rows_bytes"], found["copies_bytes"]
    line += [f"{found['exchange_s'] * 1e3:.1f}", f"{found['exchange_s'] / found['step_s']:.0%}"]
    sizes = [f"{size / 1e6:.3f}" for size in (rows, copies, found["message_bytes"])]
    return [*line, *sizes[:2], f"{1 - rows / copies:.0%}", sizes[2]]


if __name__ == "__main__":
    typer.run(main)
