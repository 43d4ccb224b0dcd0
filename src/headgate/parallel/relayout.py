"""`relayout`: give a running model's experts other places, weights, optimizer state and all."""

from __future__ import annotations

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, Shard

from headgate.errors import InputError
from headgate.layout import ExpertLayout
from headgate.parallel.agree import check_agreement
from headgate.parallel.routes import Placement
from headgate.parallel.spread import Spread, keep_spread, require_spread, set_local
from headgate.parallel.style import check_fit


def relayout(model: nn.Module, layout: ExpertLayout, optimizer: torch.optim.Optimizer | None = None) -> None:
    """Move the experts of a model to the places that a layout gives them.

    A rank keeps what it holds, and gets each other expert from one rank that has it, parameter by parameter. The model
    then computes what it did before. Parameters become new objects, which the optimizer is given in place of the old.
    Among one device there is nothing to move.

    Args:
        model: with `ExpertParallel` layers; every rank of theirs must call this.
        layout: as for `ExpertParallel`: one layer for all, or one for each in model order.
        optimizer: of the model, to move its state, too; without, an optimizer made before steps the old parameters.

    Raises:
        InputError: on all ranks, with nothing moved: ranks disagree on the layout, it does not fit, experts have
            gradients that would be lost, or FSDP holds the experts.

    Example:
        >>> import numpy as np, headgate
        >>> layer = headgate.MoE(8, 16, num_experts=2, top_k=1)
        >>> relayout(layer, ExpertLayout(device_experts=np.array([[[1, 0]]]), num_experts=2))
    """
    if layout.num_devices == 1:
        return
    layers = require_spread(model)
    num_rows = len(layout.device_experts)
    for path, (experts, spread) in layers.items():
        check_agreement({"layout": layout.device_experts.tolist()}, spread.ranks.get_group())
        check_fit(layout, spread.num_experts, spread.ranks)
        if num_rows not in (1, len(layers)):
            raise InputError(
                f"layout (={num_rows} layers) must have one, or one for each sharded layer (={len(layers)}); plan it "
                "for this model"
            )
        _check_movable(path, experts, spread)
    for number, (experts, spread) in enumerate(layers.values()):
        _move(experts, spread, Placement.of_layer(layout, number if num_rows > 1 else 0), optimizer)


def _check_movable(path: str, experts: nn.Module, spread: Spread) -> None:
    for name in spread.weights:
        parameter = experts.get_parameter(name)
        if parameter.grad is not None:
            raise InputError(
                f"{path}.{name}.grad (={tuple(parameter.grad.shape)}) must be None, or it would be lost; "
                "call relayout after optimizer.step() and optimizer.zero_grad()"
            )
        assert isinstance(parameter, DTensor)  # `set_local` makes no others.
        if parameter.placements != (Shard(0),):
            raise InputError(
                f"{path}.{name} (={parameter.placements}) must be sharded over experts alone to move; "
                "save a checkpoint, and load it into a model with the new layout"
            )


def _move(experts: nn.Module, old: Spread, placement: Placement, optimizer: torch.optim.Optimizer | None) -> None:
    new = old.moved_to(placement)
    keep_spread(experts, new)
    for name in old.weights:
        weight = experts.get_parameter(name)
        set_local(experts, name, _move_rows(weight, old.placement, placement), requires_grad=weight.requires_grad)
        if optimizer is not None:
            _replace(optimizer, weight, experts.get_parameter(name), old, new)


def _replace(optimizer: torch.optim.Optimizer, weight: Tensor, new_weight: Tensor, old: Spread, new: Spread) -> None:
    """Let an optimizer step a new weight as it did the old one, with what it has kept of it."""
    for group in optimizer.param_groups:
        group["params"] = [new_weight if parameter is weight else parameter for parameter in group["params"]]
    if weight not in optimizer.state:
        return
    state = optimizer.state.pop(weight)
    for name, value in state.items():
        # One entry per expert, as momentum has; what is of the whole parameter, as its step count, stays.
        if isinstance(value, DTensor) and value.placements == (Shard(0),):
            state[name] = new.shard(_move_rows(value, old.placement, new.placement))
    optimizer.state[new_weight] = state


@torch.no_grad()
def _move_rows(sharded: Tensor, old: Placement, new: Placement) -> Shaped[Tensor, "N ..."]:
    """This rank's part of a parameter under the new placement."""
    assert isinstance(sharded, DTensor)
    mesh = sharded.device_mesh
    rank, local = mesh.get_local_rank(), sharded.to_local()
    # sends[r] are this rank's rows for rank r; takes[r] the new places of what comes from rank r.
    moves = [_find_sources(old, new, to) for to in range(mesh.size())]
    sends = [[old.rank_experts[rank].index(expert) for expert in moves[to][rank]] for to in range(mesh.size())]
    takes = [[new.rank_experts[rank].index(expert) for expert in experts] for experts in moves[rank]]
    leaving = local.index_select(0, _flatten(sends, local.device))
    arriving = local.new_empty(sum(map(len, takes)), *local.shape[1:])
    dist.all_to_all_single(arriving, leaving, list(map(len, takes)), list(map(len, sends)), group=mesh.get_group())
    return torch.empty_like(arriving).index_copy_(0, _flatten(takes, local.device), arriving)


def _find_sources(old: Placement, new: Placement, to: int) -> list[list[int]]:
    """For each rank, the experts that it gives to rank `to`: its own to itself, the others' from holders in turn."""
    sources: list[list[int]] = [[] for _ in old.rank_experts]
    for expert in new.rank_experts[to]:
        holders = [rank for rank, held in enumerate(old.rank_experts) if expert in held]
        sources[to if to in holders else holders[to % len(holders)]].append(expert)
    return sources


def _flatten(lists: list[list[int]], device: torch.device) -> Tensor:
    return torch.tensor([number for each in lists for number in each], dtype=torch.int64, device=device)
