"""A layer, and a batch whose sequences lie on several ranks: what each rank makes of it, and what one process does."""

from __future__ import annotations

import copy
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import DTensor
from torch.distributed.tensor.parallel import parallelize_module

import headgate
from headgate.balance import Balance
from headgate.errors import InputError
from headgate.flow import Routing
from headgate.parallel import ExpertParallel, share_batch
from headgate.parallel.batch import GroupPeers

D, F, E, S = 8, 12, 6, 5


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """A layer, and sequences of S tokens.

    Attributes:
        router: its spec.
        balance: its losses.
        num_sequences: on each rank.
        num_padded: on each rank, how many tokens at the end of each sequence are padding; None = it names no padding.
        training: else in `eval()`.
        average_gradients: else they are added.
        spreads_experts: else every rank has all.
    """

    router: headgate.RouterSpec
    balance: Balance
    num_sequences: tuple[int, ...]
    num_padded: tuple[int | None, ...]
    training: bool = True
    average_gradients: bool = True
    spreads_experts: bool = False

    @property
    def num_tokens(self) -> int:
        return S * sum(self.num_sequences)

    def tokens(self) -> list[Tensor]:
        """Of each rank: [B, S, D]."""
        generator = torch.Generator().manual_seed(7)
        x = torch.randn(sum(self.num_sequences), S, D, dtype=torch.float64, generator=generator)
        return list(x.split(self.num_sequences))

    def masks(self) -> list[Tensor | None]:
        """Of each rank: [B, S], True = padding, or None."""
        numbers = zip(self.num_sequences, self.num_padded, strict=True)
        return [None if padded is None else _mask(size, padded) for size, padded in numbers]

    def whole_mask(self) -> Tensor | None:
        """Of all ranks' tokens."""
        if all(padded is None for padded in self.num_padded):
            return None
        numbers = zip(self.num_sequences, self.num_padded, strict=True)
        return torch.cat([_mask(size, padded or 0) for size, padded in numbers])


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What one process saw: its tokens' outputs and routing, and the parameters' gradients."""

    y: Tensor
    routing: Routing
    gradients: dict[str, Tensor]


def run_problem(problem: Problem) -> Outcome:
    """This rank's part; the gradients as DDP averages them, or added."""
    rank, num_ranks = dist.get_rank(), dist.get_world_size()
    layer = _make_layer(problem)
    if problem.spreads_experts:
        mesh = init_device_mesh("cpu", (num_ranks,), mesh_dim_names=("ep",))
        parallelize_module(layer, mesh, ExpertParallel(average_gradients=problem.average_gradients))
    else:
        share_batch(layer, average_gradients=problem.average_gradients)
    divisor = num_ranks if problem.average_gradients else 1
    outcome = _run(layer, problem.tokens()[rank], problem.masks()[rank], loss_scale=divisor)
    for name, gradient in outcome.gradients.items():
        if isinstance(gradient, DTensor):
            outcome.gradients[name] = gradient.full_tensor()
        else:
            dist.all_reduce(gradient)
            gradient /= divisor
    return outcome


def run_whole(problem: Problem) -> Outcome:
    """All ranks' tokens, one after the other, on this process."""
    return _run(_make_layer(problem), torch.cat(problem.tokens()), problem.whole_mask(), loss_scale=1)


def copy_a_sharing_layer() -> bool:
    layer = headgate.MoE(D, F, num_experts=E)
    share_batch(layer)
    return copy.deepcopy(layer).router.peers is layer.router.peers


def gather_odd_values() -> list[torch.Tensor]:
    rank = dist.get_rank()
    flags = torch.tensor([True, False, True])[:rank]
    doubles = torch.arange(2.0, dtype=torch.float64).expand(rank, 2)
    (all_flags, all_doubles), own = GroupPeers(None, average_gradients=True).gather(flags, doubles)
    assert torch.equal(all_flags[own], flags)
    return [all_flags, all_doubles]


def refuse_a_stranger() -> str:
    group = dist.new_group([0])
    layer = headgate.MoE(D, F, num_experts=E)
    try:
        share_batch(layer, group)
    except InputError as error:
        return str(error)
    return ""


def _make_layer(problem: Problem) -> headgate.MoE:
    torch.manual_seed(0)
    layer = headgate.MoE(D, F, router=problem.router, balance=problem.balance, dtype=torch.float64)
    return layer.train(problem.training)


def _run(layer: headgate.MoE, x: Tensor, mask: Tensor | None, *, loss_scale: int) -> Outcome:
    with headgate.tap(layer) as tape, torch.set_grad_enabled(layer.training):
        y = layer(x, padding_mask=mask)
    if layer.training:
        # A sum over tokens, in which every entry of the output weighs differently.
        (loss_scale * (y * (1.0 + x)).sum()).backward()
    blank = {name: torch.zeros_like(parameter) for name, parameter in layer.named_parameters()}
    found = {name: parameter.grad for name, parameter in layer.named_parameters() if parameter.grad is not None}
    return Outcome(y=y.detach(), routing=tape[""][0], gradients={**blank, **found})


def _mask(num_sequences: int, num_padded: int) -> Tensor:
    return (torch.arange(S) >= S - num_padded).expand(num_sequences, S)
