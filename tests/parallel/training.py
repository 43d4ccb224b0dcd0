"""What each rank of the tests of training runs."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
import torch.distributed as dist
from support.parallel_run import (
    RECIPES,
    Arrangement,
    E,
    Recipe,
    arrange,
    loss_of,
    loss_of_part,
    make_model,
    make_tokens,
    train_on_rank,
)
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

import headgate
from headgate.layout import ExpertLayout
from headgate.parallel import clip_grad_norm_, group_by_mesh

STEPS = 4


def train_twice(recipe: Recipe, arrangement: Arrangement) -> tuple[list[float], list[float]]:
    """The losses of two runs."""
    first, second = (train_on_rank(recipe, arrangement, steps=STEPS, dtype=torch.float32) for _ in range(2))
    return first, second


def own_tokens(num_batches: int = 1) -> list[Tensor]:
    """This rank's part of each batch of the first step."""
    parts = make_tokens(0).chunk(num_batches)
    return [part.tensor_split(dist.get_world_size())[dist.get_rank()] for part in parts]


def arranged(name: str, arrangement: Arrangement, dtype: torch.dtype = torch.float32) -> nn.Module:
    return arrange(make_model(RECIPES[name], dtype), arrangement)


def whole_gradients(model: nn.Module) -> dict[str, Tensor]:
    """Of all experts, and of all else as every rank has it."""
    found = {}
    for name, parameter in model.named_parameters():
        gradient = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        found[name.removeprefix("module.")] = gradient.full_tensor() if isinstance(gradient, DTensor) else gradient
    return found


def recompute(name: str, arrangement: Arrangement) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Gradients as they are, and where each layer's activations are computed again in the backward pass."""
    plain, recomputed = (arranged(name, arrangement) for _ in range(2))
    for layer in getattr(recomputed, "module", recomputed).layers:
        layer.forward = _with_checkpoint(layer.forward)
    for model in (plain, recomputed):
        loss_of(model, own_tokens()[0]).backward()
    return whole_gradients(plain), whole_gradients(recomputed)


def _with_checkpoint(forward):
    return lambda x: checkpoint(forward, x, use_reentrant=False)


def accumulate(name: str, arrangement: Arrangement, num_batches: int) -> dict[str, Tensor]:
    """Gradients of several batches, one after the other."""
    model = arranged(name, arrangement)
    headgate.set_balance_scale(model, 1 / num_batches)
    for ids in own_tokens(num_batches):
        (loss_of(model, ids) / num_batches).backward()
    return whole_gradients(model)


def evaluate(name: str) -> float:
    """The mean loss outside training."""
    model = arranged(name, "ddp").eval()
    with torch.no_grad():
        loss = loss_of(model, own_tokens()[0]) / dist.get_world_size()
    dist.all_reduce(loss)
    return loss.item()


def autocast(name: str) -> tuple[float, bool]:
    """The mean loss under autocast, and whether all gradients are finite."""
    model = arranged(name, "fsdp")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = loss_of(model, own_tokens()[0])
    loss.backward()
    mean = loss.detach() / dist.get_world_size()
    dist.all_reduce(mean)
    return mean.item(), all(bool(g.isfinite().all()) for g in whole_gradients(model).values())


def clip(
    arrangement: Arrangement, norm_type: float, limit: float, slots: Sequence[Sequence[int]] | None = None
) -> tuple[float, float]:
    """The norm of all gradients, and what clipping left of it; experts where `slots` [W][S] has them, None = dealt."""
    layout = None
    if slots is not None:
        layout = ExpertLayout(device_experts=np.array([slots], dtype=np.int64), num_experts=E)
    model = arrange(make_model(RECIPES["top-2"], torch.float32), arrangement, layout)
    loss_of_part(model, own_tokens()[0], dist.get_world_size()).backward()
    norms = [clip_grad_norm_(model, limit, norm_type=norm_type).item() for _ in range(2)]
    return norms[0], norms[1]


def step_in_groups(arrangement: Arrangement, kind: str) -> tuple[int, float]:
    """Groups of parameters, and the largest difference of a fast step from a plain one."""
    models = []
    for options in ({"foreach": False}, {kind: True}):
        model = arranged("top-2", arrangement)
        loss_of(model, own_tokens()[0]).backward()
        groups = group_by_mesh(model.parameters())
        torch.optim.AdamW([{"params": group} for group in groups], lr=1e-2, **options).step()
        models.append(model)
    pairs = zip(*(model.parameters() for model in models), strict=True)
    return len(groups), max((_local(a) - _local(b)).abs().max().item() for a, b in pairs)


def _local(parameter: Tensor) -> Tensor:
    return parameter.detach().to_local() if isinstance(parameter, DTensor) else parameter.detach()


def scale_gradients(spoiled: bool) -> tuple[float, float]:
    """The scale after a step under a gradient scaler, and the largest change of a parameter of this rank."""
    model = arranged("top-2", "fsdp")
    before = [_local(parameter).clone() for parameter in model.parameters()]
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    headgate.set_balance_scale(model, scaler.get_scale())
    scaler.scale(loss_of(model, own_tokens()[0])).backward()
    if spoiled and dist.get_rank() == 0:
        # In one expert of one rank: all ranks must leave the step out.
        model.layers[0].moe.experts.down_proj.grad.to_local().view(-1)[0] = float("inf")
    scaler.step(optimizer)
    scaler.update()
    after = [_local(parameter) for parameter in model.parameters()]
    return scaler.get_scale(), max((a - b).abs().max().item() for a, b in zip(after, before, strict=True))
