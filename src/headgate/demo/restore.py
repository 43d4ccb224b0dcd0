"""Take a trained model out of the folder of a run."""

from __future__ import annotations

from pathlib import Path

import torch

from headgate.demo import folder
from headgate.demo.checkpoint import load_checkpoint
from headgate.demo.model import DemoModel
from headgate.demo.run import Prepared, prepare
from headgate.demo.train import make_optimizer
from headgate.errors import ArtifactError
from headgate.parallel.checkpoint import latest_checkpoint


def is_run(path: Path) -> bool:
    """Whether a folder holds a run of the demo."""
    return (path / folder.CONFIG).is_file() and (path / folder.CHECKPOINTS).is_dir()


def load_run(out: Path) -> tuple[Prepared, DemoModel]:
    """Read a run's text, tokenizer and newest model, which is left in evaluation mode.

    Raises:
        ArtifactError: there is no run with a checkpoint, or a file can't be read.
    """
    config = folder.reopen_run(out, {})
    prepared = prepare(out, config, resume=True)
    saved = latest_checkpoint(out / folder.CHECKPOINTS)
    if saved is None:
        raise ArtifactError(f"{out} holds no checkpoint yet; let the run save one first")
    # Reading a checkpoint sets torch's random numbers, which are the caller's.
    with torch.random.fork_rng():
        model = DemoModel(config.model).to(config.training.device)
        load_checkpoint(saved, model, make_optimizer(model, config.training), config=config.to_dict())
    return prepared, model.eval()
