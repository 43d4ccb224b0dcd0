"""`RoutingMonitor`: what trainers' callbacks share. It watches a model and sums up between two logging steps."""

from __future__ import annotations

from contextlib import ExitStack
from dataclasses import replace
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import torch
import torch.distributed as dist
from torch import Tensor, nn

from headgate.errors import InputError
from headgate.flow import DropReason, Routing, TokenChoice
from headgate.integrations.any_model import Tape, tap
from headgate.nn.router import Router
from headgate.nn.tape import find_routers, is_compiled
from headgate.observe.metrics import select_margin
from headgate.observe.record import selection_scores
from headgate.observe.tallies import LayerTally, count_choices, describe_tallies, tally

if TYPE_CHECKING:
    from headgate.integrations.transformers import ForwardPass, LayerTape
    from headgate.integrations.transformers import Tape as TheirTape


def routing_values(model: nn.Module, tape: Tape, *, per_layer: bool = False) -> dict[str, float]:
    """Describe what a tape recorded by a bounded set of numbers; see `describe_tallies` for the keys.

    Args:
        model: that the tap was on.
        tape: of `headgate.tap`.
        per_layer: whether to add each layer's own numbers.

    Example:
        >>> import torch, headgate
        >>> layer = headgate.MoE(8, 16, num_experts=4, top_k=4)
        >>> with headgate.tap(layer) as tape:
        ...     _ = layer(torch.randn(3, 8))
        >>> routing_values(layer, tape)["routing/max_over_mean"]
        1.0
    """
    return describe_tallies(tally_tape(model, tape), per_layer=per_layer)


def tally_tape(model: nn.Module, tape: Tape) -> dict[str, LayerTally]:
    """Sum up each layer's passes, on the model's device and without waiting for it; layers without a pass are left out.

    Args:
        model: that the tap was on.
        tape: of `headgate.tap`.
    """
    routers = find_routers(model) if tape.ours else {}
    found = {path: [_tally_routing(routers[path], one) for one in passes] for path, passes in tape.ours.items()}
    if tape.theirs is not None:
        found |= _tally_theirs(tape.theirs)
    return {path: sum(parts[1:], start=parts[0]) for path, parts in found.items() if parts}


class RoutingMonitor:
    """Watches a model while it trains.

    Between two readings it holds a few numbers per expert on the model's device, and the decisions since the last
    `fold`. Only `read` waits for the device; in distributed training it adds up the ranks, so all must call it.

    Args:
        model: with layers of Headgate, experts of transformers, or both.
        per_layer: whether `read` gives each layer's own numbers too.

    Raises:
        InputError: the model has no routed layer, or is compiled.
    """

    def __init__(self, model: nn.Module, *, per_layer: bool = False) -> None:
        if any(map(is_compiled, model.modules())):
            raise InputError(
                f"model (={type(model).__name__}) is compiled, and compiled code can't be watched without running "
                "uncompiled; train without this callback, or without torch.compile"
            )
        self._model, self._per_layer = model, per_layer
        self._tallies: dict[str, LayerTally] = {}
        self._stack = ExitStack()
        self._tape = self._stack.enter_context(tap(model))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def fold(self) -> None:
        """Add up what was decided since the last call, and let go of it: once per forward pass of training."""
        for path, new in tally_tape(self._model, self._tape).items():
            self._tallies[path] = self._tallies[path] + new if path in self._tallies else new
        self.discard()

    def discard(self) -> None:
        """Let go of what was decided since the last `fold`: after a pass that is not training."""
        for passes in self._tape.values():
            passes.clear()
        if self._tape.theirs is not None:
            self._tape.theirs.passes.clear()

    def read(self) -> dict[str, float]:
        """Describe the routing since the last reading, over all ranks; see `describe_tallies` for the keys."""
        tallies = {path: _add_ranks(layer) for path, layer in self._tallies.items()}
        self._tallies = {}
        return describe_tallies(tallies, per_layer=self._per_layer)

    def close(self) -> None:
        """Stop watching."""
        self._stack.close()


def _add_ranks(layer: LayerTally) -> LayerTally:
    if not (dist.is_available() and dist.is_initialized()):
        return layer
    numbers = (layer.num_dropped, layer.num_margins)
    integers = torch.cat([layer.expert_counts, torch.stack(numbers)])
    margin_sum = layer.margin_sum.clone()
    dist.all_reduce(integers)
    dist.all_reduce(margin_sum)
    counts, (num_dropped, num_margins) = integers[:-2], integers[-2:].unbind()
    return replace(layer, expert_counts=counts, num_dropped=num_dropped, num_margins=num_margins, margin_sum=margin_sum)


def _tally_routing(router: Router, routing: Routing) -> LayerTally:
    choice, margins = routing.choice, None
    # Where experts choose tokens, no token's choice has a margin.
    if isinstance(choice, TokenChoice) and choice.expert_ids.shape[1] < router.spec.num_choices:
        ranked = selection_scores(routing, spec=router.spec, selection_bias=router.selection_bias)
        margins = select_margin(ranked, choice.expert_ids)
    return tally(
        routing.expert_counts,
        is_dropped=routing.plan.drop_reason == DropReason.CAPACITY,
        margins=margins,
        is_padding=routing.is_padding,
    )


def _tally_theirs(tape: TheirTape) -> dict[str, list[LayerTally]]:
    from headgate.integrations.transformers.recording import known_specs

    specs = known_specs(tape)
    return {path: _tally_layer(layer, specs[path], tape.passes) for path, layer in tape.layers.items()}


def _tally_layer(layer: LayerTape, spec: Any, passes: list[ForwardPass]) -> list[LayerTally]:
    from headgate.integrations.transformers.recording import rank

    tallies = []
    for one in layer.decisions:
        padding = passes[one.forward_id].is_padding if one.forward_id < len(passes) else None
        # An encoder's tokens are others than those that the model was called with.
        is_padding = padding.flatten() if padding is not None and padding.numel() == len(one.expert_ids) else None
        margins: Tensor | None = None
        if spec is not None and one.logits is not None:
            _, ranked = rank(one.logits, spec, layer.selection_bias)
            margins = select_margin(ranked, one.expert_ids)
        counts = count_choices(one.expert_ids, num_experts=layer.num_experts, is_padding=is_padding)
        tallies.append(tally(counts, margins=margins, is_padding=is_padding))
    return tallies
