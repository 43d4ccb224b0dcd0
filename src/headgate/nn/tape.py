"""`tap`: see every routing decision from outside, at no cost when absent."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import nn

from headgate.errors import InputError
from headgate.flow import Routing
from headgate.nn.router import Router

Tape = dict[str, list[Routing]]
"""Each routed layer's decisions, one `Routing` per forward pass, by module path, in model order."""


@contextmanager
def tap(model: nn.Module) -> Iterator[Tape]:
    """Record the routing of every Headgate layer in a model, for as long as the context lasts.

    A layer is named by its module path ("" for a bare `MoE`). Values are detached. A forward pass that activation
    checkpointing repeats is recorded once. A compiled model runs uncompiled inside the context, since compiled code
    does not call hooks.

    Args:
        model: any module that holds `MoE`, `MixtureOfDepths` or `Router` modules.

    Raises:
        InputError: the model holds none.

    Example:
        >>> import torch, headgate
        >>> layer = headgate.MoE(8, 16, num_experts=4, top_k=2)
        >>> with headgate.tap(layer) as tape:
        ...     _ = layer(torch.randn(3, 8))
        >>> tape[""][0].choice.expert_ids.shape
        torch.Size([3, 2])
    """
    routers = find_routers(model)
    if not routers:
        raise InputError(f"model (={type(model).__name__}) holds no routed layer; put a headgate.MoE in it")
    tape: Tape = {path: [] for path in routers}
    with ExitStack() as stack:
        if any(is_compiled(module) for module in model.modules()):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for path, router in routers.items():
            stack.enter_context(_hooked(router, tape[path]))
        yield tape


def find_routers(model: nn.Module) -> dict[str, Router]:
    """Every router in the model by the path of the layer that it serves, in model order."""
    routers = {}
    for path, module in model.named_modules():
        if isinstance(module, Router):
            clean = path.replace("_orig_mod.", "")
            routers[clean.removesuffix("router").removesuffix(".")] = module
    return routers


@contextmanager
def _hooked(router: Router, record: list[Routing]) -> Iterator[None]:
    def keep(module: nn.Module, args: Any, routing: Routing) -> None:
        if not is_recomputing():
            record.append(routing.detach())

    handle = router.register_forward_hook(keep)
    try:
        yield
    finally:
        handle.remove()


def is_recomputing() -> bool:
    """Whether this forward pass runs inside a backward pass; what torch.utils.checkpoint itself asks."""
    return bool(torch._C._current_graph_task_id() != -1)


def is_compiled(module: nn.Module) -> bool:
    """Whether calling this module runs compiled code."""
    return module._compiled_call_impl is not None or hasattr(module, "_orig_mod")
