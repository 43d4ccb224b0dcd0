"""What a run on a GPU has found: written after each step, and read again by a run that goes on with it."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from support import report
from support.device_clock import FLUSH_BYTES, DeviceClock
from support.gpu_cases import GpuCase
from support.gpu_checks import Check

SAME = ("device", "torch", "triton", "transformers", "commit")
"""What must not have changed where a run goes on."""


class Run:
    """What has been found so far.

    Args:
        name: of the file in benchmarks/results.
        clock: of the device.
        budget_s: seconds that it may take.

    Attributes:
        checks: those that were looked at.
        cases: a record of each that was timed.
        failures: cases that could not be timed, and why.
        dropped: cases for which no time was left.
        num_unchecked: checks, likewise.
    """

    def __init__(self, name: str, clock: DeviceClock, budget_s: float) -> None:
        self.name, self.budget_s, self.begin = name, budget_s, time.perf_counter()
        self.checks: list[Check] = []
        self.cases: list[dict[str, Any]] = []
        self.failures: dict[str, str] = {}
        self.dropped: list[GpuCase] = []
        self.num_unchecked = 0
        self.setting = report.describe_setting() | {"device": clock.name, "flushed_bytes": FLUSH_BYTES}
        self.setting |= {package: _version(package) for package in ("triton", "transformers")}

    @property
    def left_s(self) -> float:
        """Of the budget."""
        return self.budget_s - (time.perf_counter() - self.begin)

    @property
    def is_sound(self) -> bool:
        """Whether nothing that was looked at is wrong."""
        has_right_checks = all(check.holds is not False for check in self.checks)
        return has_right_checks and all(case["is_right"] for case in self.cases) and not self.failures

    def write(self) -> None:
        """All of it, to benchmarks/results."""
        checks, dropped = ([asdict(item) for item in items] for items in (self.checks, self.dropped))
        report.write_results(
            self.name, self.setting, self.cases, checks=checks, failures=self.failures, dropped=dropped
        )

    def resume(self) -> None:
        """Take over what an earlier run of this name has found; what failed is tried again.

        Raises:
            ValueError: there is none, or it ran on another device, with other versions, or at another commit.
        """
        path = report.RESULTS / f"{self.name}.json"
        if not path.exists():
            raise ValueError(f"{path} does not exist: there is nothing to go on with; leave out --resume")
        found = json.loads(path.read_text(encoding="utf-8"))
        changed = [key for key in SAME if found["setting"].get(key) != self.setting[key]]
        if changed:
            was = ", ".join(f"{key} {found['setting'].get(key)} (now {self.setting[key]})" for key in changed)
            raise ValueError(f"{path} is of {was}; its figures can't be mixed with new ones: leave out --resume")
        self.checks = [Check(**check) for check in found["checks"]]
        self.cases = found["rows"]

    def has(self, case: GpuCase) -> bool:
        """Whether the case has been timed."""
        wanted = asdict(case)
        return any(all(record[key] == value for key, value in wanted.items()) for record in self.cases)


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"
