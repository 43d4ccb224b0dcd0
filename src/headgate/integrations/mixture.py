"""A model that holds layers of Headgate among those of transformers: one trace of both, and its replay."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from headgate.flow import Routing
from headgate.nn.replay import replay_choices
from headgate.nn.routing import RecordedChoice
from headgate.nn.tape import Tape, find_routers
from headgate.observe.pieces import take_rows, take_tokens
from headgate.observe.record import choice_per_token, decoder_layers, shared_counts
from headgate.observe.replay import require_same_tokens
from headgate.observe.trace import RoutingTrace
from headgate.spec import RouterSpec

if TYPE_CHECKING:
    from headgate.integrations.transformers import Decision
    from headgate.integrations.transformers import Tape as TheirTape

__all__ = ["join_tapes", "replay_choices", "require_same_tokens", "split_trace"]


def join_tapes(model: nn.Module, ours: Tape, theirs: TheirTape) -> tuple[TheirTape, dict[str, RouterSpec | None]]:
    """Write the decisions of Headgate's layers as transformers' are, in model order.

    Returns:
        One tape of all layers, and each layer's router.
    """
    from headgate.integrations.transformers.recording import known_specs
    from headgate.integrations.transformers.tap import LayerTape

    routers, shared = find_routers(model), shared_counts(model)
    layers = dict(theirs.layers)
    for path, index in zip(ours, decoder_layers(list(ours)), strict=True):
        spec, bias = routers[path].spec, routers[path].selection_bias
        layers[path] = LayerTape(
            path=path,
            class_name=type(model.get_submodule(path)).__name__,
            layer_index=index,
            router_path=f"{path}.router",
            num_experts=spec.num_choices,
            num_shared=shared.get(path),
            selection_bias=None if bias is None else bias.detach().clone(),
            decisions=_decisions(ours[path]),
        )
    order = {path: place for place, (path, _) in enumerate(model.named_modules())}
    joined = replace(theirs, layers={path: layers[path] for path in sorted(layers, key=order.__getitem__)})
    return joined, {**known_specs(theirs), **{path: routers[path].spec for path in ours}}


def _decisions(routings: Sequence[Routing]) -> list[Decision]:
    from headgate.integrations.transformers.tap import Decision

    found = []
    for forward_id, routing in enumerate(routings):
        ids, weights, is_dropped = choice_per_token(routing)
        one = {"expert_ids": ids, "combine_weights": weights, "logits": routing.logits, "is_dropped": is_dropped}
        found.append(Decision(forward_id=forward_id, **one))
    return found


def split_trace(trace: RoutingTrace, paths: Sequence[str]) -> tuple[RoutingTrace, dict[str, RecordedChoice]]:
    """Part a trace of both kinds.

    Args:
        trace: that names its layers by their paths.
        paths: of the layers of Headgate.

    Returns:
        The trace of the other layers, and the choices of Headgate's, in the order in which passes had the tokens.
    """
    named = [layer.get("path") for layer in trace.metadata.get("layers") or []]
    ours = {path: row for row, path in enumerate(named) if path in paths}
    rest = np.array([row for row in range(len(named)) if row not in ours.values()], dtype=np.int64)
    forward_ids = torch.zeros(trace.num_tokens) if trace.forward_id is None else trace.forward_id
    in_order = take_tokens(trace, forward_ids.argsort(stable=True).numpy())
    choices = {
        path: RecordedChoice(
            expert_ids=in_order.topk_ids[row],
            is_dropped=None if in_order.is_dropped is None else in_order.is_dropped[row],
        )
        for path, row in ours.items()
    }
    return take_rows(trace, rest), choices
