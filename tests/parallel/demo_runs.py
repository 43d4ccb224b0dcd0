"""What the ranks of the demo tests run: a tiny demo in a folder that they share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import tiny_demo
from headgate.demo.config import DemoConfig
from headgate.demo.export import export_mixtral
from headgate.demo.run import run_training
from headgate.parallel import on_first_rank
from headgate.parallel.checkpoint import latest_checkpoint


def run(out: str, config: DemoConfig, *, resume: bool = False, stop_at: int | None = None) -> Any:
    prepared = on_first_rank(lambda: tiny_demo.prepared(Path(out), config, resume=resume))
    show, should_stop = tiny_demo.stop_after(stop_at or config.training.steps + 1)
    return run_training(prepared, show, should_stop=should_stop)


def train(out: str, config: DemoConfig) -> float:
    """Run to the end; the held-out loss, which every rank is given."""
    return run(out, config).evaluation.loss


def train_in_two_parts(out: str, config: DemoConfig, stop_at: int) -> int:
    """Stop after some steps and go on; where it stopped."""
    stopped = run(out, config, stop_at=stop_at)
    run(out, config, resume=True)
    return stopped.step


def export(out: str, target: str) -> str:
    assert latest_checkpoint(Path(out) / "checkpoints") is not None
    return str(export_mixtral(Path(out), Path(target)))


def go_on(out: str, config: DemoConfig) -> None:
    run(out, config, resume=True)
