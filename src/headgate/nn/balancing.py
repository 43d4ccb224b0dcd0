"""What a training loop calls: the selection bias's step, and the scale of the balance gradients."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from headgate.balance import reduce_counts, step_selection_bias
from headgate.errors import InputError
from headgate.nn.router import Router
from headgate.nn.tape import find_routers


@dataclass(frozen=True, slots=True)
class BalanceHandle:
    """Undoes `attach_balance`."""

    routers: tuple[Router, ...]
    hook: Any

    def remove(self) -> None:
        """Stop stepping the biases; they keep their values."""
        self.hook.remove()
        for router in self.routers:
            router.tally = None


def attach_balance(
    model: nn.Module, optimizer: torch.optim.Optimizer, *, group: dist.ProcessGroup | None = None
) -> BalanceHandle:
    """Step every selection bias once per optimizer step: the one line that a training loop needs.

    Counts come from the backward passes since the last step: micro-batches add up, recomputed forward passes count
    once, evaluation never. Under torch.distributed they are added over the group, so all ranks step alike. Layers
    without a bias rate are left alone; balance losses need no hook.

    Args:
        model: holds the routed layers, on the device where they will train.
        optimizer: any; its `step` triggers the update.
        group: data-parallel group; None = all ranks.

    Returns:
        A handle whose `remove()` undoes it.

    Raises:
        InputError: the model holds no routed layer.

    References:
        Wang et al., "Auxiliary-Loss-Free Load Balancing", 2024, https://arxiv.org/abs/2408.15664.
    """
    found = find_routers(model)
    if not found:
        raise InputError(f"model (={type(model).__name__}) holds no routed layer; put a headgate.MoE in it")
    routers = tuple(router for router in found.values() if router.balance.bias_rate > 0)
    for router in routers:
        router.tally = _empty_tally(router)

    def step(*_: Any) -> None:
        for router in routers:
            _step_bias(router, group)

    return BalanceHandle(routers, optimizer.register_step_post_hook(step))


def set_balance_scale(model: nn.Module, scale: float) -> None:
    """Multiply the gradients of all balance losses in a model by `scale` from the next forward pass on.

    A layer adds its losses' gradients itself and can't see by what you multiply the training loss before
    `backward()`. Tell it: 1 / A where the loss is divided by A accumulation steps, `scaler.get_scale()` under a
    gradient scaler.

    Args:
        model: holds the routed layers.
        scale: finite, at least 0.

    Raises:
        InputError: the model holds no routed layer, or the scale is negative or not finite.
    """
    found = find_routers(model)
    if not found:
        raise InputError(f"model (={type(model).__name__}) holds no routed layer; put a headgate.MoE in it")
    if not 0 <= scale < float("inf"):
        raise InputError(f"scale (={scale}) must be finite and at least 0; pass 1 / accumulation_steps, say")
    for router in found.values():
        router.balance_scale.fill_(scale)


def _empty_tally(router: Router) -> Tensor:
    return torch.zeros(router.spec.num_choices, dtype=torch.int64, device=router.balance_scale.device)


@torch.no_grad()
def _step_bias(router: Router, group: dist.ProcessGroup | None) -> None:
    assert router.tally is not None  # Both come with a bias rate.
    assert router.selection_bias is not None
    counts = reduce_counts(router.tally, group)
    router.selection_bias.copy_(step_selection_bias(router.selection_bias, counts, rate=router.balance.bias_rate))
    router.tally.zero_()
