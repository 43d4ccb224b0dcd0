"""A demo that trains in a moment: a small text, a small model, few steps."""

import functools
import json
import random
from pathlib import Path
from unittest import mock

from headgate.demo import folder
from headgate.demo.config import DemoConfig
from headgate.demo.data import Document
from headgate.demo.run import Prepared, prepare, run_training

TEXT = "the gate lets water into channels that carry it while an expert waits for tokens of its own"

TINY = {
    "num_layers": 2,
    "d_model": 16,
    "num_heads": 2,
    "active_width": 16,
    "num_experts": 4,
    "vocab_size": 280,
    "steps": 12,
    "batch_size": 2,
    "sequence_length": 16,
    "warmup_steps": 2,
    "checkpoint_steps": 5,
}


@functools.cache
def documents() -> list[Document]:
    """Forty documents of made-up prose, always the same, some of them held out."""
    rng = random.Random(0)
    return [
        Document(name=f"topic {number}", text="\n\n".join(" ".join(rng.choices(TEXT.split(), k=40)) for _ in range(3)))
        for number in range(40, 80)
    ]


def tiny_config(**options: object) -> DemoConfig:
    return DemoConfig().with_options({**TINY, **options})


def prepared(out: Path, config: DemoConfig, *, resume: bool = False) -> Prepared:
    if not resume:
        folder.start_run(out, config)
    with mock.patch("headgate.demo.run.read_documents", documents):
        return prepare(out, config, resume=resume)


def stop_after(step: int):
    """What keeps the steps, and the question whether the run should stop."""
    seen = []
    return seen.append, lambda: seen[-1].step >= step


def run(out: Path, config: DemoConfig, *, resume: bool = False, stop_at: int | None = None):
    show, should_stop = stop_after(stop_at or config.training.steps + 1)
    return run_training(prepared(out, config, resume=resume), show, should_stop=should_stop)


def losses(out: Path) -> list[float]:
    lines = (out / folder.METRICS).read_text(encoding="utf-8").splitlines()
    steps = [json.loads(line) for line in lines]
    assert [step["step"] for step in steps] == list(range(1, len(steps) + 1))
    return [step["loss"] for step in steps]
