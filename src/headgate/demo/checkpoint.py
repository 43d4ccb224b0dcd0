"""Checkpoints that survive a kill at any moment: a folder appears complete, under its name, or not at all.

Runs on several ranks write those of `headgate.parallel.checkpoint`, under the same names. A run of one process writes
safetensors, and either goes on from the other's:

checkpoints/step-00000100/
model.safetensors
optimizer.safetensors
state.json                step, random-number state, config, optimizer options
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load as decode
from safetensors.torch import save as encode
from torch import Tensor, nn

from headgate.demo.config import DemoConfig, differing_fields
from headgate.demo.model import DemoModel
from headgate.demo.train import make_optimizer
from headgate.errors import ArtifactError
from headgate.files import explain_os_errors, sync_folder, write_synced
from headgate.parallel.checkpoint import checkpoint_paths, remove_older
from headgate.parallel.checkpoint import load_checkpoint as load_parallel
from headgate.parallel.checkpoint import save_checkpoint as save_parallel
from headgate.parallel.launch import num_ranks
from headgate.parallel.logical import LogicalExperts
from headgate.parallel.state import optimizer_settings, set_optimizer_settings, tensors_of

_FORMAT = "headgate-demo-checkpoint"
_FORMAT_VERSION = 1
_OF_RANKS = ".metadata"
"""The file that only torch.distributed.checkpoint writes."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingState:
    """Where a run stands, besides its tensors.

    Attributes:
        step: optimizer steps done, and batches read.
        config: `DemoConfig.to_dict()` of the run.
    """

    step: int
    config: Mapping[str, Any]


def save_checkpoint(folder: Path, model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState) -> Path:
    """Write a checkpoint beside the previous one, put it in place in one step, then remove the previous one.

    A complete checkpoint of the same step is of the same run, so it is left as it is.

    Args:
        folder: holds the checkpoints; made if need be.
        model: its parameters and buffers are saved.
        optimizer: its state is saved.
        state: the rest; torch's random-number states are added.

    Returns:
        The checkpoint's own folder.

    Raises:
        ArtifactError: it can't be written; the previous checkpoint is untouched.
    """
    if num_ranks() > 1:
        return save_parallel(folder, model, optimizer, step=state.step, values={"config": state.config})
    final, partial = checkpoint_paths(folder, state.step)
    with explain_os_errors("write checkpoint", final):
        folder.mkdir(parents=True, exist_ok=True)
        shutil.rmtree(partial, ignore_errors=True)
        try:
            partial.mkdir()
            for name, content in _contents(model, optimizer, state).items():
                write_synced(partial / name, content)
            sync_folder(partial)
            if not final.exists():
                os.rename(partial, final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
        sync_folder(folder)
    remove_older(final)
    return final


def load_checkpoint(
    path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, *, config: Mapping[str, Any]
) -> int:
    """Put a checkpoint into a model, an optimizer and torch's random-number generators.

    Args:
        path: the checkpoint's own folder.
        model: of the same config as the checkpoint's.
        optimizer: of that model.
        config: `DemoConfig.to_dict()` of the run that goes on.

    Returns:
        The number of steps done.

    Raises:
        ArtifactError: it is of another config, or can't be read.
    """
    if (path / _OF_RANKS).exists():
        resumed = load_parallel(path, model, optimizer)
        require_same_config(path, resumed.values["config"], config)
        return resumed.step
    if num_ranks() > 1:
        return _load_share(path, model, optimizer, config)
    return _load_whole(path, model, optimizer, config)


def load_model(path: Path, model: nn.Module) -> None:
    """Put a checkpoint's model into one that holds all experts, on this process alone.

    Raises:
        ArtifactError: it can't be read.
    """
    if (path / _OF_RANKS).exists():
        load_parallel(path, model, alone=True)
    else:
        model.load_state_dict(_read(path)[1])


def _load_whole(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, config: Mapping[str, Any]) -> int:
    """Put one process's checkpoint into one process's model; return the steps done."""
    state, model_tensors, optimizer_tensors = _read(path)
    require_same_config(path, state["config"], config)
    model.load_state_dict(model_tensors)
    optimizer.load_state_dict(_join_optimizer_state(optimizer_tensors, state["param_groups"]))
    _set_random_states(optimizer_tensors)
    step: int = state["step"]
    return step


def _load_share(path: Path, model: nn.Module, optimizer: torch.optim.Optimizer, config: Mapping[str, Any]) -> int:
    """Take this rank's part of one process's checkpoint; its random numbers go on as they were."""
    of_run = DemoConfig.from_dict(config)
    with torch.random.fork_rng():
        whole = DemoModel(of_run.model).to(of_run.training.device)
        its_optimizer = make_optimizer(whole, of_run.training)
        step = _load_whole(path, whole, its_optimizer, config)
    with torch.no_grad():
        source = tensors_of(whole, its_optimizer)
        for name, tensor in tensors_of(model, optimizer).items():
            (tensor.fill if isinstance(tensor, LogicalExperts) else tensor.copy_)(source[name])
    set_optimizer_settings(model, optimizer, optimizer_settings(whole, its_optimizer))
    return step


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor], dict[str, Tensor]]:
    """The state of one process's checkpoint, and the tensors of its model and of its optimizer."""
    with explain_os_errors("read checkpoint", path):
        try:
            state = json.loads((path / "state.json").read_text(encoding="utf-8"))
            model_tensors = decode((path / "model.safetensors").read_bytes())
            optimizer_tensors = decode((path / "optimizer.safetensors").read_bytes())
        except (json.JSONDecodeError, SafetensorError) as error:
            raise ArtifactError(f"{path} is damaged ({error}); start the run again in another folder") from error
    if (state.get("format"), state.get("version")) != (_FORMAT, _FORMAT_VERSION):
        raise ArtifactError(f"{path} is not a checkpoint of this version of the demo; use the Headgate that wrote it")
    return state, model_tensors, optimizer_tensors


def require_same_config(path: Path, saved: Mapping[str, Any], wanted: Mapping[str, Any]) -> None:
    """Raise `ArtifactError` where a run would go on with another config than it began with.

    Raises:
        ArtifactError: names each field that differs.
    """
    differences = differing_fields(saved, wanted)
    if differences:
        raise ArtifactError(
            f"{path} is of another run: {', '.join(differences)}; leave these options out to go on with it, "
            "or start a new run with another --out"
        )


def _contents(model: nn.Module, optimizer: torch.optim.Optimizer, state: TrainingState) -> dict[str, bytes]:
    tensors, param_groups = _split_optimizer_state(optimizer.state_dict())
    values = {
        "format": _FORMAT,
        "version": _FORMAT_VERSION,
        "step": state.step,
        "config": state.config,
        "param_groups": param_groups,
    }
    return {
        "model.safetensors": encode(_packed(model.state_dict())),
        "optimizer.safetensors": encode(_packed({**tensors, **_random_states()})),
        "state.json": json.dumps(values, indent=1, sort_keys=True).encode(),
    }


def _packed(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Bring tensors to where safetensors can write them: on the CPU, contiguous, none sharing memory."""
    return {
        name: tensor.detach().cpu().clone(memory_format=torch.contiguous_format) for name, tensor in tensors.items()
    }


def _split_optimizer_state(state: Mapping[str, Any]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    tensors = {
        f"parameter.{index}.{name}": torch.as_tensor(value)
        for index, values in state["state"].items()
        for name, value in values.items()
    }
    return tensors, state["param_groups"]


def _join_optimizer_state(tensors: Mapping[str, Tensor], param_groups: list[dict[str, Any]]) -> dict[str, Any]:
    state: dict[int, dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        kind, _, rest = key.partition(".")
        if kind == "parameter":
            index, _, name = rest.partition(".")
            state.setdefault(int(index), {})[name] = tensor
    return {"state": state, "param_groups": param_groups}


def _random_states() -> dict[str, Tensor]:
    states = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["random.cuda"] = torch.cuda.get_rng_state()
    return states


def _set_random_states(tensors: Mapping[str, Tensor]) -> None:
    torch.set_rng_state(tensors["random.cpu"])
    if "random.cuda" in tensors and torch.cuda.is_available():
        torch.cuda.set_rng_state(tensors["random.cuda"])
