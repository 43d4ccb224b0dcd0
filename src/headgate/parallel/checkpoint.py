"""Checkpoints by torch.distributed.checkpoint that do not depend on how many ranks wrote them, or in which layout.

    FOLDER/step-00000100/
        .metadata, __R_0.distcp     the tensors: one file per rank; experts as [E, ...], each written once
        state.json                  step, the optimizer's settings, the caller's values

A folder appears complete, under its name, or not at all, whenever a process is killed and whenever the disk is full.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import Metadata, TensorStorageMetadata
from torch.distributed.checkpoint.planner import SavePlan, SavePlanner
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save
from torch.distributed.checkpoint.storage import WriteResult
from torch.futures import Future

from headgate.errors import ArtifactError
from headgate.files import explain_os_errors, sync_folder, write_synced
from headgate.parallel.launch import num_ranks, on_first_rank, rank
from headgate.parallel.state import (
    optimizer_settings,
    random_states,
    set_optimizer_settings,
    set_random_states,
    tensors_of,
)

_FORMAT = "headgate-parallel-checkpoint"
_FORMAT_VERSION = 1
_PREFIX = "step-"
_STATE = "state.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Resumed:
    """Where a run stood when its checkpoint was written.

    Attributes:
        step: optimizer steps done.
        values: what the caller saved with it.
    """

    step: int
    values: Mapping[str, Any]


def save_checkpoint(
    folder: Path | str,
    model: nn.Module,
    optimizer: torch.optim.Optimizer | None = None,
    *,
    step: int,
    values: Mapping[str, Any] | None = None,
) -> Path:
    """Write a checkpoint beside the previous one, put it in place in one step, then remove the previous one.

    All ranks call it. Each writes what it holds; experts are written once, and no rank gathers them. Works without
    torch.distributed, too, as one rank. A complete checkpoint of the same step is left as it is.

    Args:
        folder: holds the checkpoints, on a disk that all ranks see; made if need be.
        model: its parameters and buffers are saved; any mix of expert parallelism, FSDP2 and plain tensors.
        optimizer: its state is saved.
        step: optimizer steps done; the checkpoint's name.
        values: anything else, as JSON holds it; those of rank 0 count.

    Returns:
        The checkpoint's own folder.

    Raises:
        ArtifactError: on all ranks alike: it can't be written, on which rank, and why; the previous one is untouched.

    Example:
        >>> import tempfile, headgate
        >>> layer = headgate.MoE(8, 16, num_experts=4, top_k=2)
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     path = save_checkpoint(folder, layer, step=3, values={"seed": 1})
        ...     latest_checkpoint(folder) == path, load_checkpoint(path, layer)
        (True, Resumed(step=3, values={'seed': 1}))
    """
    final, partial = checkpoint_paths(Path(folder), step)
    if on_first_rank(final.exists):
        return final
    tensors = {**tensors_of(model, optimizer), **random_states(rank())}
    state = {
        "format": _FORMAT,
        "version": _FORMAT_VERSION,
        "step": step,
        "num_ranks": num_ranks(),
        "optimizer": None if optimizer is None else optimizer_settings(model, optimizer),
        "values": dict(values or {}),
    }
    text = json.dumps(state, indent=1, sort_keys=True)
    on_first_rank(lambda: _make_empty(partial))
    try:
        _write_tensors(partial, final, tensors)
        on_first_rank(lambda: _put_in_place(partial, final, text))
    except ArtifactError:
        # On all ranks alike. None leaves before it is gone, so that whoever makes room finds the room that there is.
        on_first_rank(lambda: shutil.rmtree(partial, ignore_errors=True))
        raise
    return final


def checkpoint_paths(folder: Path, step: int) -> tuple[Path, Path]:
    """Where a checkpoint goes, and where it lies until it is complete."""
    final = folder / f"{_PREFIX}{step:08d}"
    return final, final.with_name(f".{final.name}.partial")


def remove_older(final: Path) -> None:
    """Remove what a complete checkpoint has made useless; what can't be removed does no harm, for the newest counts."""
    for path in [*final.parent.glob(f"{_PREFIX}*"), *final.parent.glob(f".{_PREFIX}*")]:
        if path != final:
            shutil.rmtree(path, ignore_errors=True)


def latest_checkpoint(folder: Path | str) -> Path | None:
    """The newest complete checkpoint in a folder, or None."""
    found = sorted(Path(folder).glob(f"{_PREFIX}*"))
    return found[-1] if found else None


def load_checkpoint(
    path: Path | str, model: nn.Module, optimizer: torch.optim.Optimizer | None = None, *, alone: bool = False
) -> Resumed:
    """Put a checkpoint into a model and its optimizer, whatever number of ranks and layout either has.

    Each rank reads the experts that it holds. Random numbers go on as they did where a rank of that number wrote the
    checkpoint, so a run with as many ranks goes on with the same bits; other ranks keep theirs. Only load
    checkpoints that you trust: torch.distributed.checkpoint's `.metadata` is a pickle.

    Args:
        path: the checkpoint's own folder, of `save_checkpoint`.
        model: of the same architecture; its parameters are written where they lie.
        optimizer: of that model and the same kind; None = leave its state in the checkpoint.
        alone: this rank alone reads, into a model that holds all experts, and its random numbers stay as they are;
            without, all ranks read together.

    Raises:
        ArtifactError: on all ranks alike: the checkpoint can't be read, or is of another model, and what differs.
    """
    path = Path(path)
    is_alone = alone or not dist.is_initialized()
    state, saved = _read_outline(path) if is_alone else on_first_rank(lambda: _read_outline(path))
    with torch.no_grad():
        tensors = tensors_of(model, optimizer)
        _require_same_tensors(path, saved, tensors, with_optimizer=optimizer is not None)
        random = {} if alone else {name: value for name, value in random_states(rank()).items() if name in saved}
        _read_tensors(path, {**tensors, **random}, no_dist=is_alone)
    set_random_states(random)
    if optimizer is not None:
        set_optimizer_settings(model, optimizer, state["optimizer"])
    return Resumed(step=state["step"], values=state["values"])


class _Writer(FileSystemWriter):
    """torch's writer, whose errors say what the system said: torch.save hides a full disk behind an offset."""

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        try:
            return super().write_data(plan, planner)
        except RuntimeError as error:
            if isinstance(error.__context__, OSError):
                raise error.__context__ from error
            raise


def _write_tensors(partial: Path, final: Path, tensors: Mapping[str, Tensor]) -> None:
    try:
        with _without_hint():
            save(dict(tensors), storage_writer=_Writer(partial), no_dist=not dist.is_initialized())
    except CheckpointException as error:
        raise _explained("write", final, error) from error


def _read_tensors(path: Path, tensors: Mapping[str, Tensor], *, no_dist: bool) -> None:
    try:
        with _without_hint():
            load(dict(tensors), storage_reader=FileSystemReader(path), no_dist=no_dist)
    except CheckpointException as error:
        raise _explained("read", path, error) from error


@contextmanager
def _without_hint() -> Iterator[None]:
    """Without torch's warning that it works in one process: that was asked for."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="torch.distributed is disabled, unavailable or uninitialized")
        yield


def _explained(action: str, path: Path, failed: CheckpointException) -> ArtifactError:
    """What went wrong first, with the rank that it went wrong on."""
    where, (error, _) = min(failed.failures.items())
    try:
        with explain_os_errors(f"{action} checkpoint, on rank {where},", path):
            raise error
    except ArtifactError as explained:
        return explained
    except (RuntimeError, ValueError, EOFError, KeyError) as other:
        return ArtifactError(
            f"can't {action} checkpoint {path} on rank {where}: {str(other).splitlines()[0]}; "
            "it is damaged: take an older one"
        )


def _make_empty(folder: Path) -> None:
    with explain_os_errors("write checkpoint", folder):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)


def _put_in_place(partial: Path, final: Path, state: str) -> None:
    with explain_os_errors("write checkpoint", final):
        write_synced(partial / _STATE, state.encode())
        sync_folder(partial)
        os.rename(partial, final)
        sync_folder(final.parent)
    remove_older(final)


def _read_outline(path: Path) -> tuple[dict[str, Any], dict[str, torch.Size]]:
    """What `state.json` holds, and the shape of every tensor."""
    return _read_state(path), _read_shapes(path)


def _read_state(path: Path) -> dict[str, Any]:
    with explain_os_errors("read checkpoint", path):
        text = (path / _STATE).read_text(encoding="utf-8")
    try:
        state: dict[str, Any] = json.loads(text)
    except json.JSONDecodeError as error:
        raise ArtifactError(f"{path / _STATE} is damaged ({error}); take an older checkpoint") from error
    if (state.get("format"), state.get("version")) != (_FORMAT, _FORMAT_VERSION):
        raise ArtifactError(f"{path} is not a checkpoint of this version; use the Headgate that wrote it")
    return state


def _read_shapes(path: Path) -> dict[str, torch.Size]:
    """The shape of every tensor in a checkpoint."""
    with explain_os_errors("read checkpoint", path):
        try:
            metadata: Metadata = FileSystemReader(path).read_metadata()
        except (pickle.UnpicklingError, EOFError) as error:
            raise ArtifactError(f"{path}/.metadata is damaged ({error}); take an older checkpoint") from error
    entries = metadata.state_dict_metadata.items()
    return {name: entry.size for name, entry in entries if isinstance(entry, TensorStorageMetadata)}


def _require_same_tensors(
    path: Path, saved: Mapping[str, torch.Size], wanted: Mapping[str, Tensor], *, with_optimizer: bool
) -> None:
    """Refuse another model: torch.distributed.checkpoint would leave out what it is not asked for, and say nothing."""
    parts = ("model.", "optimizer.") if with_optimizer else ("model.",)
    there = {name: tuple(size) for name, size in saved.items() if name.startswith(parts)}
    here = {name: tuple(tensor.shape) for name, tensor in wanted.items()}
    differing = sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))
    if differing:
        name = differing[0]
        raise ArtifactError(
            f"{path} is of another model or optimizer: {name} has shape {there.get(name)} there, {here.get(name)} here "
            f"({len(differing)} tensors differ; None = missing); build the model as it was when this was written"
        )
