"""Read a run's metrics while they are written, and keep what a page shows of them in bounded memory."""

from __future__ import annotations

import json
import math
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headgate.errors import ArtifactError
from headgate.files import explain_os_errors
from headgate.observe.health import judge_load
from headgate.observe.metrics import load_ratio
from headgate.observe.utilisation import utilisation

METRICS = "metrics.jsonl"
MAX_POINTS = 1000
"""A curve has at most so many points; of a longer run each stands for several steps."""

_RECENT_STEPS = 20
_READ_BYTES = 8 * 2**20
"""So much of the file is read at a time, whatever has been written since."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One line of the file.

    Attributes:
        step: its number, from 1.
        loss: nats per token; None where it isn't finite.
        num_tokens: in the batch.
        duration_s: wall time.
        expert_counts: rows per expert of each routed layer; empty for a dense model.
    """

    step: int
    loss: float | None
    num_tokens: int
    duration_s: float
    expert_counts: tuple[tuple[int, ...], ...]

    @classmethod
    def from_line(cls, line: bytes) -> Step:
        """Read a line.

        Raises:
            ValueError: it is no such line.
        """
        try:
            values = json.loads(line)
            return cls(
                step=int(values["step"]),
                loss=loss if math.isfinite(loss := float(values["loss"])) else None,
                num_tokens=int(values["num_tokens"]),
                duration_s=float(values["duration_s"]),
                expert_counts=tuple(tuple(map(int, counts)) for counts in values["expert_counts"]),
            )
        except (KeyError, TypeError, OverflowError) as error:
            raise ValueError(f"no metrics: {error}") from error


class Progress:
    """What is known of a run, up to the last complete line of its file."""

    def __init__(self, run: Path) -> None:
        """Look for the run.

        Raises:
            ArtifactError: there is none.
        """
        self._path = run / METRICS if run.is_dir() else run
        self._name = run.resolve().name
        if not self._path.is_file():
            raise ArtifactError(f"{run} holds no {METRICS}; name the folder of a training run, as headgate demo makes")
        self._num_steps = _planned_steps(self._path.parent)
        self._forget()

    def _forget(self) -> None:
        self._offset = 0
        self._rest = b""
        self._num_unreadable = 0
        self._recent: deque[Step] = deque(maxlen=_RECENT_STEPS)
        self._points: list[tuple[int, float | None, float | None]] = []
        self._stride = 1
        self._num_seen = 0

    def read(self) -> bool:
        """Read what was written since; return whether there was anything.

        Raises:
            ArtifactError: the file can't be read.
        """
        with explain_os_errors("read", self._path), self._path.open("rb") as file:
            if file.seek(0, 2) < self._offset:
                # A run that goes on after an interruption cuts off what it did after its last checkpoint.
                self._forget()
            file.seek(self._offset)
            found = file.read(_READ_BYTES)
        self._offset += len(found)
        *lines, self._rest = (self._rest + found).split(b"\n")
        for line in lines:
            self._add(line)
        if len(self._rest) > _READ_BYTES:
            self._rest, self._num_unreadable = b"", self._num_unreadable + 1
        return bool(found)

    def _add(self, line: bytes) -> None:
        try:
            step = Step.from_line(line)
        except ValueError:
            self._num_unreadable += 1
            return
        self._recent.append(step)
        if self._num_seen % self._stride == 0:
            self._points.append((step.step, step.loss, _worst_ratio(step.expert_counts)))
        self._num_seen += 1
        if len(self._points) > MAX_POINTS:
            self._points = self._points[::2]
            self._stride *= 2

    def state(self) -> dict[str, Any]:
        """Everything that the page shows, as plain values.

        `points` are [step, loss, busiest expert of the worst layer as a multiple of an even share]; `layers` are of
        the last 20 steps together.
        """
        recent = list(self._recent)
        losses = [step.loss for step in recent if step.loss is not None]
        return {
            "name": self._name,
            "num_steps": self._num_steps,
            "step": recent[-1].step if recent else 0,
            "loss": sum(losses) / len(losses) if losses else None,
            "tokens_per_s": _speed(recent),
            "recent_steps": len(recent),
            "points": [list(point) for point in self._points],
            "layers": _layers(recent),
            "num_unreadable": self._num_unreadable,
        }


def _planned_steps(folder: Path) -> int | None:
    """How many steps the run is to take, where its config says so."""
    try:
        steps = json.loads((folder / "config.json").read_text(encoding="utf-8"))["training"]["steps"]
    except (OSError, ValueError, KeyError, TypeError):
        return None
    return steps if isinstance(steps, int) else None


def _worst_ratio(expert_counts: Sequence[Sequence[int]]) -> float | None:
    ratios = [load_ratio(torch.tensor(counts)).item() for counts in expert_counts if sum(counts)]
    return max(ratios, default=None)


def _speed(recent: Sequence[Step]) -> float | None:
    duration_s = sum(step.duration_s for step in recent)
    return sum(step.num_tokens for step in recent) / duration_s if duration_s else None


def _layers(recent: Sequence[Step]) -> list[dict[str, Any]]:
    """Load and verdict of each layer."""
    if not recent or not recent[-1].expert_counts:
        return []
    alike = [step for step in recent if _shape(step) == _shape(recent[-1])]
    found: list[dict[str, Any]] = []
    for row in range(len(recent[-1].expert_counts)):
        counts = torch.tensor([step.expert_counts[row] for step in alike]).sum(0)
        # Dropped choices are not in the file, and K can't be told from counts: one expert at least.
        health = judge_load(counts, top_k=1, capacity_drop_fraction=0.0) if counts.any() else None
        found.append(
            {
                "load": utilisation(counts).tolist() if health else [0.0] * len(counts),
                "status": health.verdict if health else "unknown",
                "sentence": health.sentence if health else "no row reached an expert",
            }
        )
    return found


def _shape(step: Step) -> tuple[int, ...]:
    return tuple(map(len, step.expert_counts))
