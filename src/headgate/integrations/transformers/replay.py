"""`replay`: make a transformers model route as recorded, on whatever backend its experts run."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headgate.errors import InputError
from headgate.integrations.transformers.sites import Site
from headgate.integrations.transformers.tap import positional, require_sites
from headgate.integrations.transformers.wires import Choice, Wire, find_router, wire_of
from headgate.nn.tape import is_compiled, is_recomputing
from headgate.observe.trace import RoutingTrace


@contextmanager
def replay(model: nn.Module, trace: RoutingTrace, *, keep_own_weights: bool = False) -> Iterator[None]:
    """Make every recorded layer choose what the trace says, for as long as the context lasts.

    Call the model with the same batches, in the same order, as when the trace was recorded. Its router still runs;
    what it decided is replaced where it is applied, so the kernel that runs the experts is the same.

    Args:
        model: the model that was recorded, or one of the same shape.
        trace: of a tap of this model, or read from a file.
        keep_own_weights: where the model itself chooses the recorded experts in the recorded order, keep the weights
            that it gives them, with their gradients. Else every weight is the recorded one, a constant.

    Raises:
        InputError: a recorded layer is not in the model, can't carry another decision, or the model is called with
            other numbers of tokens than were recorded.
    """
    stance = torch.compiler.set_stance("force_eager") if any(map(is_compiled, model.modules())) else nullcontext()
    model = getattr(model, "_orig_mod", model)
    sites = {site.path: site for site in require_sites(model)}
    recorded = [layer["path"] for layer in trace.metadata.get("layers", [])]
    missing = sorted(set(recorded) - sites.keys())
    if missing or not recorded:
        names = ", ".join(missing) or "no layer by its path"
        raise InputError(f"the trace names {names}, which the model (={type(model).__name__}) lacks; replay its own")
    with ExitStack() as stack:
        stack.enter_context(stance)
        for row, path in enumerate(recorded):
            reel = _Reel(path, trace, row, keep_own_weights=keep_own_weights)
            stack.enter_context(_replaced(model, sites[path], reel))
        yield


class _Reel:
    """One layer's recorded decisions, handed out pass by pass."""

    def __init__(self, path: str, trace: RoutingTrace, row: int, *, keep_own_weights: bool) -> None:
        if trace.topk_weights is None:
            raise InputError("topk_weights (=None) must be in a trace that is replayed; record the weights too")
        self.path, self.keep_own_weights = path, keep_own_weights
        self.ids, self.weights = trace.topk_ids[row], trace.topk_weights[row]
        one_pass = torch.zeros(self.ids.shape[0], dtype=torch.int32)
        self.forward_id = one_pass if trace.forward_id is None else trace.forward_id
        self.next_pass = 0

    def replace(self, own: Choice) -> Choice:
        """The recorded decision of the next pass, in the form of the model's own."""
        # Activation checkpointing repeats, inside the backward, the pass that was last.
        in_pass = self.forward_id == (self.next_pass - 1 if is_recomputing() else self.next_pass)
        num_tokens, width = own.expert_ids.shape
        if int(in_pass.sum()) != num_tokens:
            raise InputError(
                f"{self.path} was called with {num_tokens} tokens in pass {self.next_pass}, and {int(in_pass.sum())} "
                "were recorded; call the model with the same batches in the same order"
            )
        self.next_pass += not is_recomputing()
        ids = self.ids[in_pass][:, :width].to(own.expert_ids)
        weights = self.weights[in_pass][:, :width].to(own.combine_weights)
        return Choice(expert_ids=ids, combine_weights=self._weights(own, ids, weights))

    def _weights(self, own: Choice, ids: Int[Tensor, "T K"], weights: Float[Tensor, "T K"]) -> Float[Tensor, "T K"]:
        if not self.keep_own_weights:
            return weights
        agrees = (own.expert_ids == ids).all(dim=1, keepdim=True)
        return own.combine_weights.where(agrees, weights)


@contextmanager
def _replaced(model: nn.Module, site: Site, reel: _Reel) -> Iterator[None]:
    wire = wire_of(site)
    if wire.write is None:
        raise InputError(
            f"{site.path} (={site.class_name}) decides inside its own forward, where no other decision can be put; "
            "leave it out of the trace"
        )
    handle = _hook_router(model, site, wire, reel) if wire.at_router else _hook_experts(site, wire, reel)
    try:
        yield
    finally:
        handle.remove()


def _hook_router(model: nn.Module, site: Site, wire: Wire, reel: _Reel) -> Any:
    router = find_router(model, site)
    assert router is not None  # Only classes with a router have such a wire.
    assert wire.write is not None  # The caller has refused the others.
    write = wire.write

    def swap(module: nn.Module, args: Any, result: Any) -> Any:
        return write(site.module, result, reel.replace(wire.read(site.module, result)))

    return router[1].register_forward_hook(swap)


def _hook_experts(site: Site, wire: Wire, reel: _Reel) -> Any:
    assert wire.write is not None  # The caller has refused the others.
    write = wire.write

    def swap(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        values = positional(module, args, kwargs)
        return write(site.module, values, reel.replace(wire.read(site.module, values))), {}

    return site.module.register_forward_pre_hook(swap, with_kwargs=True)
