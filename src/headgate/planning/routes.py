"""Where the tokens of each routed layer go: uniformly, or as a trace shows it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from headgate.errors import InputError
from headgate.planning.parameters import ModelShape, RoutedLayer
from headgate.planning.touch import LayerTouch, distinct_ranks, measured_ranks, measured_touch, uniform_touch


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """What the tokens of each routed layer touch.

    Attributes:
        step: of each layer, for the tokens of a decoding step.
        token: of each layer, for single tokens, as in a prompt.
        ranks: of each layer, on how many ranks a token's experts lie.
        source: "uniform", or the trace.
    """

    step: tuple[LayerTouch, ...]
    token: tuple[LayerTouch, ...]
    ranks: tuple[float, ...]
    source: str


def measured_routes(
    shape: ModelShape,
    topk_ids: Int[Tensor, "L T K"],
    sequences: Sequence[tuple[int, int]],
    *,
    source: str,
    span: int = 1,
    num_ranks: int = 1,
) -> Routes:
    """What recorded tokens touch.

    Args:
        shape: the model, which may be a larger or smaller one than was recorded only if its routing is the same.
        topk_ids: [L, T, K], one row for each routed layer in order; -1 for no expert.
        sequences: half-open ranges over T.
        source: what to call the trace.
        span: tokens of a sequence in a step: 1 + drafts.
        num_ranks: that share the experts out, in id order.

    Raises:
        InputError: the trace has another number of layers or experts than the model, or shorter sequences than `span`.
    """
    if len(topk_ids) != len(shape.routed):
        raise InputError(
            f"trace (={source}) has {len(topk_ids)} layers, and the model {len(shape.routed)} with experts; "
            "use a trace of this model"
        )
    if not topk_ids.shape[1]:
        raise InputError(f"trace (={source}) holds counts alone; use one with tokens, as `headgate trace` writes it")
    step, token, ranks = [], [], []
    for layer, recorded in zip(shape.routed, topk_ids, strict=True):
        ids = _known_ids(layer, recorded.long(), source)
        step.append(measured_touch(ids, sequences, num_experts=layer.num_experts, span=span))
        token.append(measured_touch(ids, sequences, num_experts=layer.num_experts))
        ranks.append(measured_ranks(ids, num_experts=layer.num_experts, num_ranks=num_ranks))
    return Routes(step=tuple(step), token=tuple(token), ranks=tuple(ranks), source=source)


def _known_ids(layer: RoutedLayer, ids: Int[Tensor, "T K"], source: str) -> Int[Tensor, "T K"]:
    """Ids of experts that have weights; -1 for zero-compute experts, which come after them."""
    num_choices = layer.num_experts + layer.num_zero_experts
    if ids.numel() and int(ids.max()) >= num_choices:
        raise InputError(
            f"trace (={source}) chooses expert {int(ids.max())} in layer {layer.layer_index}, and the model has "
            f"{num_choices} there; use a trace of this model"
        )
    return torch.where(ids < layer.num_experts, ids, -1)


def uniform_routes(shape: ModelShape, *, span: int = 1, num_ranks: int = 1) -> Routes:
    """What uniform, independent routing touches in each layer.

    Args:
        shape: the model.
        span: tokens of a sequence in a step: 1 + drafts.
        num_ranks: that share the experts out.
    """
    return Routes(
        step=tuple(uniform_touch(layer, span=span) for layer in shape.routed),
        token=tuple(uniform_touch(layer) for layer in shape.routed),
        ranks=tuple(_uniform_ranks(layer, num_ranks) for layer in shape.routed),
        source="uniform",
    )


def _uniform_ranks(layer: RoutedLayer, num_ranks: int) -> float:
    """Distinct ranks of a token that enters the layer; the mean over a choice of zero experts is taken as linear."""
    low = int(layer.top_k * layer.num_experts / (layer.num_experts + layer.num_zero_experts))
    part = layer.top_k * layer.num_experts / (layer.num_experts + layer.num_zero_experts) - low
    least, most = (
        distinct_ranks(num_experts=layer.num_experts, top_k=min(k, layer.num_experts), num_ranks=num_ranks)
        for k in (low, low + 1)
    )
    return least + part * (most - least)
