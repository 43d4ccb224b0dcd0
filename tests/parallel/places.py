"""What ranks run in the tests of how a layer is set up, and of how its experts move."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor.parallel import parallelize_module

from headgate.errors import InputError
from headgate.layout import ExpertLayout, deal_experts
from headgate.parallel import ExpertParallel, measure_traffic, relayout
from parallel.layers import Case, spread, to_local
from parallel.manners import own


def set_up_with(case: Case, change: dict[str, Any], rank: int) -> str:
    """What a rank is told where one of them builds the case with a change; both ranks must be told."""
    mine = replace(case, **change) if dist.get_rank() == rank else case
    try:
        spread(mine)
    except InputError as error:
        return str(error)
    return ""


def mesh() -> Any:
    return dist.init_device_mesh("cpu", (dist.get_world_size(),), mesh_dim_names=("ep",))["ep"]


def apply_wrongly(case: Case) -> dict[str, str]:
    """What is said of each way to apply the style, or to move experts, that can't be."""
    two_rows = deal_experts(2, case.num_experts, num_devices=2)
    layer, style = spread(case), ExpertParallel(two_rows)
    for _ in range(2):
        parallelize_module(case.make_layer(), mesh(), style)
    with_gradients = spread(case)
    with_gradients(own(case, case.make_tokens())).sum().backward()
    attempts = {
        "not a layer": lambda: parallelize_module(nn.Linear(2, 2), mesh(), ExpertParallel()),
        "twice": lambda: parallelize_module(layer, mesh(), ExpertParallel()),
        "other experts": lambda: parallelize_module(
            case.make_layer(), mesh(), ExpertParallel(deal_experts(1, 4, num_devices=2))
        ),
        "other ranks": lambda: parallelize_module(
            case.make_layer(), mesh(), ExpertParallel(deal_experts(1, case.num_experts, num_devices=3))
        ),
        "a third layer of two": lambda: parallelize_module(case.make_layer(), mesh(), style),
        "nothing to move": lambda: relayout(case.make_layer(), two_rows),
        "rows for two, one layer": lambda: relayout(layer, two_rows),
        "gradients": lambda: relayout(with_gradients, deal_experts(1, case.num_experts, num_devices=2)),
        "nothing to measure": lambda: measure_traffic(case.make_layer()).__enter__(),
    }
    return {name: _message_of(attempt) for name, attempt in attempts.items()}


def _message_of(attempt: Any) -> str:
    try:
        attempt()
    except InputError as error:
        return str(error)
    return ""


def make_optimizer(layer: nn.Module) -> torch.optim.Optimizer:
    """Two moments per number and a count of steps; eps keeps a step from being the quotient of two roundings."""
    return torch.optim.AdamW(layer.parameters(), lr=0.1, eps=1.0)


def train_and_move(case: Case, places: list[list[list[int]]]) -> tuple[list[Tensor], dict[int, Tensor]]:
    """Outputs of a step at each place in turn, and this rank's weights at the end, by expert."""
    layer = spread(case)
    optimizer = make_optimizer(layer)
    ys = [step(layer, optimizer, own(case, case.make_tokens()), own(case, case.make_targets()))]
    for slots in places:
        layout = ExpertLayout(device_experts=np.array([slots], dtype=np.int64), num_experts=case.num_experts)
        relayout(layer, layout, optimizer)
        assert layer.experts.local_experts == tuple(e for e in slots[dist.get_rank()] if e >= 0)
        ys.append(step(layer, optimizer, own(case, case.make_tokens()), own(case, case.make_targets())))
    weights = zip(layer.experts.local_experts, to_local(layer.experts.down_proj.detach()), strict=True)
    return ys, dict(weights)


def train_whole(case: Case, num_steps: int) -> tuple[list[Tensor], Tensor]:
    """The same on one process, and all the weights."""
    layer = case.make_layer()
    optimizer, target = make_optimizer(layer), case.make_targets() / case.num_ranks
    ys = [step(layer, optimizer, case.make_tokens(), target) for _ in range(num_steps)]
    return ys, layer.experts.down_proj.detach()


def step(layer: nn.Module, optimizer: torch.optim.Optimizer, x: Tensor, target: Tensor) -> Tensor:
    """One step on the mean over ranks of sum(y * target); the router's gradient is averaged over them here."""
    y = layer(x)
    (y * target).sum().backward()
    if dist.is_initialized():
        for parameter in layer.router.parameters():
            dist.all_reduce(parameter.grad)
            parameter.grad /= dist.get_world_size()
    optimizer.step()
    optimizer.zero_grad()
    return y.detach()
