"""What if: fewer choices, a capacity, another drop rule, another selection bias; answered from a trace alone."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headgate.dispatch import drop_over_capacity, find_drops
from headgate.errors import InputError, SpecError
from headgate.flow import NO_EXPERT, DropReason
from headgate.nn.routing import Batch, RouterState, route
from headgate.observe.agreement import overlap_at_k
from headgate.observe.metrics import load_ratio
from headgate.observe.pieces import count_rows, select
from headgate.observe.trace import Phase, RoutingTrace
from headgate.scores import compute_scores
from headgate.spec import RouterSpec

DropRule = Literal["position", "choice_position", "score", "batch_prioritised"]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerOutcome:
    """One layer, as it was and as it would be.

    Attributes:
        layer: decoder layer.
        load_ratio: busiest expert / even share, of the rows: (before, after).
        drop_fraction: of the choices that are left, those that would find their expert full: (before, after).
        weight_kept: the part of the recorded combine weight whose choices would become rows; None without weights.
        overlap: of the choices before and after (overlap@K); a choice that is dropped counts as made.
    """

    layer: int
    load_ratio: tuple[float, float]
    drop_fraction: tuple[float, float]
    weight_kept: float | None
    overlap: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def what_if(
    trace: RoutingTrace,
    *,
    top_k: int | None = None,
    capacity: float | None = None,
    drop_rule: DropRule = "position",
    bias: Float[Tensor, "L E"] | None = None,
) -> tuple[LayerOutcome, ...]:
    """Answer what routing would have been.

    Fewer choices are the best of those recorded. A capacity drops within each forward pass, or, where the trace does
    not know passes, within each sequence; scores for the rules that go by them are the combine weights. A bias chooses
    again from recorded logits.

    Args:
        trace: of tokens; padding is left out.
        top_k: choices to keep; None = all.
        capacity: rows that an expert takes at most, as a multiple of an even share; None = no limit.
        drop_rule: who gets in first; see `Capacity.drop_rule`.
        bias: [L, E] selection bias instead of the recorded one; zeros for none.

    Raises:
        InputError: what the trace does not record, or sizes that make no sense.

    Example:
        >>> ids = torch.tensor([[[0, 1], [0, 2]]])
        >>> fields = {"layer_index": torch.tensor([3]), "seq_offsets": torch.tensor([0, 2]), "metadata": {}}
        >>> trace = RoutingTrace(topk_ids=ids, counts=torch.tensor([[2, 1, 1]]), **fields)
        >>> (layer,) = what_if(trace, top_k=1, capacity=1.5)
        >>> layer.load_ratio, layer.drop_fraction, layer.overlap
        ((1.5, 3.0), (0.0, 0.5), 0.5)
    """
    if trace.num_tokens == 0:
        raise InputError("the trace has no tokens, so nothing can be replayed; record the choices themselves")
    if trace.phase is not None and (trace.phase == Phase.PADDING).any():
        trace = select(trace, phases=[phase for phase in Phase if phase != Phase.PADDING])
    _check(trace, top_k, capacity, drop_rule, bias)
    return tuple(_layer(trace, row, top_k, capacity, drop_rule, bias) for row in range(len(trace.layer_index)))


def _check(trace: RoutingTrace, top_k: int | None, capacity: float | None, drop_rule: str, bias: Tensor | None) -> None:
    width = trace.topk_ids.shape[2]
    if top_k is not None and not 1 <= top_k <= width:
        raise InputError(f"top_k (={top_k}) must be between 1 and the choices that were recorded (={width})")
    if top_k is not None and top_k < width and trace.metadata.get("is_ordered", True) is False:
        raise InputError(f"top_k (={top_k}) needs choices in order, and the trace says it has none; keep all {width}")
    if capacity is not None and not (capacity > 0 and math.isfinite(capacity)):
        raise InputError(f"capacity (={capacity}) must be positive and finite; 1.25 is a common choice")
    if capacity is not None and drop_rule in ("score", "batch_prioritised") and trace.topk_weights is None:
        raise InputError(f"drop (={drop_rule!r}) goes by weights, and the trace has none; drop by position")
    if bias is not None and trace.router_logits is None:
        raise InputError("bias needs router_logits to choose from, and the trace has none; record them")
    if bias is not None and tuple(bias.shape) != tuple(trace.counts.shape):
        raise InputError(f"bias.shape (={tuple(bias.shape)}) must be [L, E] (={tuple(trace.counts.shape)})")


def _layer(
    trace: RoutingTrace,
    row: int,
    top_k: int | None,
    capacity: float | None,
    drop_rule: DropRule,
    bias: Tensor | None,
) -> LayerOutcome:
    before = trace.topk_ids[row]
    dropped = torch.zeros_like(before, dtype=torch.bool) if trace.is_dropped is None else trace.is_dropped[row]
    weights = None if trace.topk_weights is None else trace.topk_weights[row].float()
    after, scores = before, weights
    if bias is not None:
        after, scores = _choose_again(trace, row, bias[row])
    after = after[:, :top_k]
    ranked = torch.zeros_like(after, dtype=torch.float32) if scores is None else scores[:, : after.shape[1]]
    lost = _drop(trace, after, ranked, capacity, drop_rule)
    counts = [
        count_rows(ids[None], num_experts=trace.num_experts, is_dropped=gone[None])[0]
        for ids, gone in ((before, dropped), (after, lost))
    ]
    return LayerOutcome(
        layer=int(trace.layer_index[row]),
        load_ratio=(load_ratio(counts[0]).item(), load_ratio(counts[1]).item()),
        drop_fraction=(_fraction(dropped, before), _fraction(lost, after)),
        weight_kept=None if weights is None else _weight_kept(before, weights, after.masked_fill(lost, NO_EXPERT)),
        overlap=overlap_at_k(before, after).mean().item(),
    )


def _choose_again(trace: RoutingTrace, row: int, bias: Float[Tensor, " E"]) -> tuple[Tensor, Tensor]:
    assert trace.router_logits is not None  # `_check` looked.
    layers = trace.metadata.get("layers") or []
    noted: Mapping[str, Any] | None = layers[row].get("router") if layers else None
    if not noted:
        raise InputError("bias needs to know the router, and the trace does not note it; record it with Headgate")
    try:
        spec = RouterSpec.from_dict({**noted, "selection_bias": True, "capacity": None})
    except (SpecError, TypeError) as error:
        raise InputError(f"bias can't be added to this router: {error}") from error
    logits = trace.router_logits[row, :, : spec.num_choices].float()
    scores = compute_scores(logits, score=spec.score, score_dtype="float32", model_dtype=torch.float32)
    state = RouterState(selection_bias=bias[: spec.num_choices].float())
    choice, _ = route(spec, logits, scores, Batch(sequence_length=len(logits), training=False), state)
    return choice.expert_ids, choice.combine_weights  # type: ignore[union-attr]  # A bias means token choice.


def _drop(
    trace: RoutingTrace,
    ids: Int[Tensor, "T K"],
    scores: Float[Tensor, "T K"],
    capacity: float | None,
    drop_rule: DropRule,
) -> Tensor:
    """[T, K] which choices would find their expert full."""
    lost = torch.zeros_like(ids, dtype=torch.bool)
    if capacity is None:
        return lost
    group = trace.forward_id
    if group is None:
        group = torch.arange(len(trace.seq_offsets) - 1).repeat_interleave(trace.seq_offsets.diff())
    for number in group.unique(sorted=True):  # type: ignore[no-untyped-call]
        tokens = (group == number).nonzero()[:, 0]
        slots = ids.shape[1] * len(tokens)
        found = drop_over_capacity(
            ids[tokens],
            scores[tokens],
            find_drops(ids[tokens], None),
            num_experts=trace.num_experts,
            capacity=min(len(tokens), math.ceil(capacity * slots / trace.num_experts)),
            sequence_length=len(tokens),
            drop_rule=drop_rule,
        )
        lost[tokens] = found == DropReason.CAPACITY
    return lost


def _fraction(dropped: Tensor, ids: Int[Tensor, "T K"]) -> float:
    chosen = int((ids != NO_EXPERT).sum())
    return int(dropped.sum()) / chosen if chosen else 0.0


def _weight_kept(before: Int[Tensor, "T K"], weights: Float[Tensor, "T K"], after: Int[Tensor, "T J"]) -> float:
    is_kept = (before[:, :, None] == after[:, None, :]).any(-1) & (before != NO_EXPERT)
    total = weights.sum().item()
    return (weights * is_kept).sum().item() / total if total else 1.0
