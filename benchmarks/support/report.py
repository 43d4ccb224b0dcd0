"""A table for people, a JSON file for later, and the machine, commit and versions in both."""

from __future__ import annotations

import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

RESULTS = Path(__file__).parents[1] / "results"


def describe_setting(*packages: str) -> dict[str, Any]:
    """Machine, threads, commit and versions, also those of `packages`."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **{package: version(package) for package in packages},
        "commit": _commit(),
    }


def publish(name: str, title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], **facts: Any) -> None:
    """Print the table, and write it with the setting to benchmarks/results/NAME.json."""
    setting = describe_setting()
    print_table(title, columns, rows, setting)
    write_results(name, setting, [dict(zip(columns, row, strict=True)) for row in rows], **facts)


def print_table(
    title: str, columns: Sequence[str], rows: Sequence[Sequence[object]], setting: Mapping[str, Any]
) -> None:
    """Print a table with the setting under it."""
    table = Table(title=title, caption=", ".join(f"{key} {value}" for key, value in setting.items()))
    for column in columns:
        table.add_column(column, justify="right")
    for row in rows:
        table.add_row(*[f"{cell:.4g}" if isinstance(cell, float) else str(cell) for cell in row])
    Console(width=None if sys.stdout.isatty() else 140).print(table)


def write_results(name: str, setting: Mapping[str, Any], records: Sequence[Mapping[str, Any]], **facts: Any) -> None:
    """Write records with the setting to benchmarks/results/NAME.json."""
    RESULTS.mkdir(exist_ok=True)
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
