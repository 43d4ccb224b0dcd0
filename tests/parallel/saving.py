"""What the ranks of the checkpoint tests run: a small model that trains, is saved, and goes on."""

from __future__ import annotations

import resource
from collections.abc import Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import parallelize_module

import headgate
from headgate.layout import ExpertLayout
from headgate.parallel import (
    ExpertParallel,
    average_gradients,
    clip_grad_norm_,
    group_by_mesh,
    load_checkpoint,
    save_checkpoint,
)

D, F, E = 8, 12, 5
Slots = Sequence[Sequence[int]]


class SmallModel(nn.Module):
    def __init__(self, d_ff: int) -> None:
        super().__init__()
        self.first = nn.Linear(D, D)
        self.moe = headgate.MoE(D, d_ff, num_experts=E, top_k=2, balance="bias")

    def forward(self, x: Tensor) -> Tensor:
        return self.moe(self.first(x))


def make_model(slots: Slots | None, *, d_ff: int = F, seed: int = 0) -> tuple[nn.Module, torch.optim.Optimizer]:
    """The model, with its experts where `slots` [W][S] has them; None = no ranks."""
    torch.manual_seed(seed)
    model = SmallModel(d_ff)
    if slots is not None:
        layout = ExpertLayout(device_experts=np.array([slots], dtype=np.int64), num_experts=E)
        mesh = dist.init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("ep",))
        parallelize_module(model, mesh["ep"], {"moe": ExpertParallel(layout)})
    groups = [{"params": parameters} for parameters in group_by_mesh(model.parameters())]
    groups.append({"params": []})  # What splitting by kind leaves, where a kind has none.
    optimizer = torch.optim.AdamW(groups, lr=0.01, weight_decay=0.1)
    headgate.attach_balance(model, optimizer)
    return model, optimizer


def train(model: nn.Module, optimizer: torch.optim.Optimizer, steps: range) -> list[float]:
    """This rank's losses; every step has its tokens, and dropout-like noise from torch's own generator."""
    losses = []
    for step in steps:
        generator = torch.Generator().manual_seed(100 * step + dist.get_rank())
        x = torch.randn(6, D, generator=generator)
        loss = (model(x + 0.1 * torch.randn(6, D)) - x.flip(-1)).square().mean()
        loss.backward()
        average_gradients(model)
        clip_grad_norm_(model, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        losses.append(loss.item())
    return losses


def values_of(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    """Everything that a checkpoint should bring back; of spread experts, {expert: row} of this rank's."""
    found: dict[str, Any] = {}
    for name, parameter in model.named_parameters():
        state = optimizer.state.get(parameter, {})
        tensors = {"": parameter, **{key: value for key, value in state.items() if value.dim()}}
        for key, tensor in tensors.items():
            found[f"{name} {key}"] = rows_of(model, tensor.detach())
    found["bias"] = model.moe.router.selection_bias.clone()
    found["steps"] = sorted(float(state["step"]) for state in optimizer.state.values())
    return found


def rows_of(model: nn.Module, tensor: Tensor) -> Tensor | dict[int, Tensor]:
    if not isinstance(tensor, DTensor):
        return tensor.clone()
    return {e: row.clone() for e, row in zip(model.moe.experts.local_experts, tensor.to_local(), strict=True)}


def train_and_save(folder: str, slots: Slots) -> dict[str, Any]:
    model, optimizer = make_model(slots)
    train(model, optimizer, range(2))
    save_checkpoint(folder, model, optimizer, step=2, values={"seed": 0})
    return values_of(model, optimizer)


def load_on_ranks(path: str, slots: Slots) -> dict[str, Any]:
    model, optimizer = make_model(slots, seed=1)
    load_checkpoint(path, model, optimizer)
    return values_of(model, optimizer)


def go_on_twice(folder: str, slots: Slots) -> tuple[list[float], list[float]]:
    """Losses after step 2, without a break and after loading what was saved there."""
    model, optimizer = make_model(slots)
    torch.manual_seed(dist.get_rank())
    train(model, optimizer, range(2))
    path = save_checkpoint(folder, model, optimizer, step=2)
    unbroken = train(model, optimizer, range(2, 5))
    model, optimizer = make_model(slots, seed=1)
    load_checkpoint(path, model, optimizer)
    return unbroken, train(model, optimizer, range(2, 5))


def save_on_a_full_disk(folder: str, slots: Slots) -> str:
    """Save twice; the second time rank 1 can write no more than a kilobyte. Returns the error."""
    model, optimizer = make_model(slots)
    save_checkpoint(folder, model, optimizer, step=1)
    train(model, optimizer, range(1))
    try:
        with at_most(1000 if dist.get_rank() == 1 else None):
            save_checkpoint(folder, model, optimizer, step=2)
    except headgate.ArtifactError as error:
        return f"{error} | {sorted(path.name for path in Path(folder).iterdir())}"
    return "no error"


@contextmanager
def at_most(num_bytes: int | None):
    """Let this process write no file longer than that."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    if num_bytes is not None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (num_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def load_another_model(path: str, slots: Slots) -> str:
    model, optimizer = make_model(slots, d_ff=F + 1)
    try:
        load_checkpoint(path, model, optimizer)
    except headgate.ArtifactError as error:
        return str(error)
    return "no error"


def make_fully_sharded(seed: int) -> nn.Module:
    """Experts over one dimension of a 2-D mesh and FSDP over both: rank (d, e) has the d-th part of e's experts."""
    torch.manual_seed(seed)
    model = SmallModel(F)
    mesh = dist.init_device_mesh("cpu", (2, 2), mesh_dim_names=("dp", "ep"))
    layout = ExpertLayout(device_experts=np.array([[[4, 0, 2], [1, 3, -1]]], dtype=np.int64), num_experts=E)
    parallelize_module(model, mesh["ep"], {"moe": ExpertParallel(layout)})
    fully_shard(model.moe.experts, mesh=mesh["dp"])
    fully_shard(model, mesh=mesh["dp", "ep"]._flatten("all"))
    return model


def save_fully_sharded(folder: str, read_from: str | None = None) -> None:
    """Save a model of seed 0, or one of seed 1 into which a checkpoint was read."""
    model = make_fully_sharded(0 if read_from is None else 1)
    if read_from is not None:
        load_checkpoint(read_from, model)
    save_checkpoint(folder, model, step=0)
