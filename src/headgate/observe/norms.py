"""The arrays of norms of a trace, from what was measured in each pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn.functional import pad

from headgate.errors import InputError
from headgate.flow import NO_EXPERT, Routing, TokenChoice

if TYPE_CHECKING:
    from headgate.observe.record import RecordedLayer


def norm_arrays(
    layers: Sequence[RecordedLayer], expert_ids: Sequence[Int[Tensor, "T _"]], num_slots: int
) -> dict[str, Tensor]:
    """Make the arrays of norms and `sum_error`; NaN in layers that were not measured.

    Args:
        layers: of the trace.
        expert_ids: of each layer, [T, K of the layer].
        num_slots: K of the trace.

    Returns:
        The arrays by name; none where no layer was measured.

    Raises:
        InputError: norms of other passes than those that were recorded.
    """
    if all(layer.norms is None for layer in layers):
        return {}
    rows = [_layer_norms(layer, ids) for layer, ids in zip(layers, expert_ids, strict=True)]
    contributions, shared, outputs, errors = zip(*rows, strict=True)
    return {
        "contribution_norms": torch.stack([pad(row, (0, num_slots - row.shape[1])) for row in contributions]).half(),
        "shared_norms": torch.stack(shared).half(),
        "output_norms": torch.stack(outputs).half(),
        "sum_error": torch.stack(errors),
    }


def _layer_norms(
    layer: RecordedLayer, ids: Int[Tensor, "T K"]
) -> tuple[Float[Tensor, "T K"], Float[Tensor, " T"], Float[Tensor, " T"], Float[Tensor, " T"]]:
    if layer.norms is None:
        unknown = torch.full(ids.shape, float("nan"))
        return unknown.masked_fill(ids == NO_EXPERT, 0.0), unknown[:, 0], unknown[:, 0], unknown[:, 0]
    if len(layer.norms) != len(layer.routings):
        raise InputError(
            f"norms of {layer.path or 'the layer'} (={len(layer.norms)} passes) must be of the passes that the tap saw "
            f"(={len(layer.routings)}); open tap and measure_norms around the same calls"
        )
    passes: Sequence[Tensor] = torch.split(ids, [routing.plan.num_tokens for routing in layer.routings])
    contributions = [
        _in_order(routing, norms.contributions.cpu(), part)
        for routing, norms, part in zip(layer.routings, layer.norms, passes, strict=True)
    ]
    shared, outputs, errors = (
        torch.cat([getattr(one, name) for one in layer.norms]).cpu() for name in ("shared", "output", "sum_error")
    )
    return torch.cat(contributions), shared, outputs, errors


def _in_order(routing: Routing, norms: Float[Tensor, "A B"], ids: Int[Tensor, "T K"]) -> Float[Tensor, "T K"]:
    """Norms in the shape of the choice, as norms of each token's experts."""
    if isinstance(routing.choice, TokenChoice):
        return pad(norms, (0, ids.shape[1] - norms.shape[1]))
    token_ids = routing.choice.token_ids.cpu()
    experts, slots = (token_ids != NO_EXPERT).nonzero(as_tuple=True)
    table = torch.zeros(len(ids), routing.plan.num_experts)
    table[token_ids[experts, slots], experts] = norms[experts, slots]
    return table.gather(1, ids.clamp(min=0)).masked_fill(ids == NO_EXPERT, 0.0)
