"""A small language model trained on one process, and on several with its experts spread over them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh, init_device_mesh
from torch.distributed.fsdp import fully_shard
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import parallelize_module

import headgate
from headgate import Balance, Capacity
from headgate.demo.model import Attention
from headgate.layout import ExpertLayout
from headgate.parallel import ExpertParallel

V, D, WIDTH, E, B, S = 64, 32, 24, 8, 8, 16
"""Token ids, model, hidden width of an expert, experts, sequences of a step, tokens of a sequence."""

Arrangement = Literal["ddp", "fsdp", "fsdp_2d"]
ARRANGEMENTS: tuple[Arrangement, ...] = ("ddp", "fsdp", "fsdp_2d")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recipe:
    """A router and its balance."""

    router: headgate.RouterSpec
    balance: Balance


RECIPES = {
    "top-2": Recipe(router=headgate.RouterSpec(num_experts=E, top_k=2), balance=Balance(switch=0.01, z=0.001)),
    "switch": Recipe(
        # Jitter is drawn on each rank from its own generator, so it is left out.
        router=headgate.preset("switch", num_experts=E, jitter=0.0, capacity=Capacity(factor=1.0)),
        balance=Balance(switch=0.01),
    ),
    "deepseek_v3": Recipe(
        router=headgate.preset(
            "deepseek_v3", num_experts=E, top_k=2, group_limit=headgate.GroupLimit(num_groups=4, num_kept=2)
        ),
        balance=Balance(sequence=0.0001, bias_rate=0.001),
    ),
    "expert_choice": Recipe(
        router=headgate.preset("expert_choice", num_experts=E, top_k=2, capacity=Capacity(factor=1.0)),
        balance=Balance(z=0.001),
    ),
}


class Layer(nn.Module):
    """Attention and a routed layer, each beside the residual stream."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.attention = Attention(D, 2, num_layers=2)
        self.moe = headgate.MoE(D, WIDTH, router=recipe.router, balance=recipe.balance)

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attention(F.rms_norm(x, (D,)))
        return x + self.moe(F.rms_norm(x, (D,)))


class Model(nn.Module):
    """Token ids [B, S] to logits [B, S, V]."""

    def __init__(self, recipe: Recipe) -> None:
        super().__init__()
        self.embedding = nn.Embedding(V, D)
        self.layers = nn.ModuleList(Layer(recipe) for _ in range(2))
        self.head = nn.Linear(D, V, bias=False)

    def forward(self, token_ids: Tensor) -> Tensor:
        x = self.embedding(token_ids)
        for layer in self.layers:
            x = layer(x)
        return self.head(F.rms_norm(x, (D,)))


def make_model(recipe: Recipe, dtype: torch.dtype) -> Model:
    torch.manual_seed(0)
    return Model(recipe).to(dtype)


def make_tokens(step: int) -> Tensor:
    """[B, S + 1] ids of which each follows from the one before, but for one in eight."""
    generator = torch.Generator().manual_seed(step)
    ids = torch.randint(V, (B, S + 1), generator=generator)
    is_drawn = torch.rand(B, S + 1, generator=generator) < 1 / 8
    for at in range(1, S + 1):
        ids[:, at] = ids[:, at].where(is_drawn[:, at], (5 * ids[:, at - 1] + 3) % V)
    return ids


def loss_of(model: nn.Module, ids: Tensor) -> Tensor:
    """Mean cross entropy of the next tokens."""
    return F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten())


def loss_of_part(model: nn.Module, ids: Tensor, num_ranks: int) -> Tensor:
    """A rank's part of the mean over all sequences of a step, times W, for ranks may have more and fewer of them."""
    total = F.cross_entropy(model(ids[:, :-1]).flatten(0, 1), ids[:, 1:].flatten(), reduction="sum")
    return total * num_ranks / (B * S)


def make_optimizer(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.AdamW(model.parameters(), lr=3e-3)


def train_whole(recipe: Recipe, *, steps: int, num_batches: int = 1, dtype: torch.dtype) -> list[float]:
    """The loss of each step on one process, each step's sequences taken as so many batches, one after the other."""
    model = make_model(recipe, dtype)
    optimizer = make_optimizer(model)
    headgate.attach_balance(model, optimizer)
    headgate.set_balance_scale(model, 1 / num_batches)
    losses = []
    for step in range(steps):
        parts = [loss_of(model, ids) / num_batches for ids in make_tokens(step).chunk(num_batches)]
        total = torch.stack(parts).sum()
        total.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(total.item())
    return losses


def train_on_rank(recipe: Recipe, arrangement: Arrangement, *, steps: int, dtype: torch.dtype) -> list[float]:
    """The same on this rank of several, of which each takes its part of the sequences: the mean over the ranks."""
    rank, num_ranks = dist.get_rank(), dist.get_world_size()
    model = arrange(make_model(recipe, dtype), arrangement)
    optimizer = make_optimizer(model)
    headgate.attach_balance(model, optimizer)
    losses = []
    for step in range(steps):
        loss = loss_of_part(model, make_tokens(step).tensor_split(num_ranks)[rank], num_ranks)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        mean = loss.detach() / num_ranks
        dist.all_reduce(mean)
        losses.append(mean.item())
    return losses


def arrange(model: Model, arrangement: Arrangement, layout: ExpertLayout | None = None) -> nn.Module:
    """Spread the experts over the ranks, and average the other gradients as the arrangement does."""
    num_ranks = dist.get_world_size()
    if arrangement == "fsdp_2d":
        mesh = init_device_mesh("cpu", (2, num_ranks // 2), mesh_dim_names=("dp", "ep"))
        spread_experts(model, mesh["ep"], layout)
        for layer in model.layers:
            fully_shard(layer.moe.experts, mesh=mesh["dp"])
        return fully_shard(model, mesh=mesh._flatten("all"))
    mesh = init_device_mesh("cpu", (num_ranks,), mesh_dim_names=("ep",))
    spread_experts(model, mesh["ep"], layout)
    if arrangement == "fsdp":
        return fully_shard(model, mesh=mesh, ignored_params=set(expert_parameters(model).values()))
    nn.parallel.DistributedDataParallel._set_params_and_buffers_to_ignore_for_model(
        model, list(expert_parameters(model))
    )
    return nn.parallel.DistributedDataParallel(model)


def spread_experts(model: nn.Module, mesh: DeviceMesh, layout: ExpertLayout | None) -> None:
    parallelize_module(model, mesh, {"layers.*.moe": ExpertParallel(layout)})


def expert_parameters(model: nn.Module) -> dict[str, nn.Parameter]:
    """Those that are spread over the ranks already."""
    return {name: parameter for name, parameter in model.named_parameters() if isinstance(parameter.data, DTensor)}
