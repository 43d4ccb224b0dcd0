"""A table for people, a JSON file for later, and the machine, commit and versions in both."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parents[1] / "results"


def describe_setting() -> dict[str, Any]:
    """Machine, threads, commit and versions."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        "commit": _commit(),
    }


def publish(name: str, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], **facts: Any) -> None:
    """Print the table, and write it with the setting to benchmarks/results/NAME.json."""
    setting = describe_setting()
    table = Table(title=title, caption=", ".join(f"{key} {value}" for key, value in setting.items()))
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row])
    Console(width=None if sys.stdout.isatty() else 140).print(table)
    RESULTS.mkdir(exist_ok=True)
    records = [dict(zip(columns, row, strict=True)) for row in rows]
    content = {"benchmark": name, "setting": setting, **facts, "rows": records}
    (RESULTS / f"{name}.json").write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _commit() -> str:
    command = ["git", "-C", str(RESULTS.parent), "describe", "--always", "--dirty"]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return result.stdout.strip() or "unknown"
