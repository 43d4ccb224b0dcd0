"""What if: fewer choices, a capacity, another drop rule, another selection bias; answered from a trace alone."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from headgate.dispatch import drop_over_capacity, find_drops
from headgate.errors import InputError, SpecError
from headgate.flow import NO_EXPERT, DropReason
from headgate.nn.routing import Batch, RouterState, route
from headgate.observe.agreement import overlap_at_k
from headgate.observe.align import TraceSource, real_tokens
from headgate.observe.metrics import load_ratio
from headgate.observe.pieces import count_rows
from headgate.observe.trace import RoutingTrace
from headgate.scores import compute_scores
from headgate.spec import RouterSpec

_BATCH_TOKENS = 4096

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
    trace: TraceSource,
    *,
    top_k: int | None = None,
    capacity: float | None = None,
    drop_rule: DropRule = "position",
    bias: Float[Tensor, "L E"] | None = None,
) -> tuple[LayerOutcome, ...]:
    """Answer what routing would have been, in memory for some thousands of tokens, or for the largest forward pass.

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
        ArtifactError: an expert id that there is no expert for.

    Example:
        >>> ids = torch.tensor([[[0, 1], [0, 2]]])
        >>> fields = {"layer_index": torch.tensor([3]), "seq_offsets": torch.tensor([0, 2]), "metadata": {}}
        >>> trace = RoutingTrace(topk_ids=ids, counts=torch.tensor([[2, 1, 1]]), **fields)
        >>> (layer,) = what_if(trace, top_k=1, capacity=1.5)
        >>> layer.load_ratio, layer.drop_fraction, layer.overlap
        ((1.5, 3.0), (0.0, 0.5), 0.5)
    """
    tokens = real_tokens(trace)
    if not len(tokens):
        raise InputError("the trace has no tokens, so nothing can be replayed; record the choices themselves")
    _check(trace.take(tokens[:1]), top_k, capacity, drop_rule, bias)
    question = _Question(top_k=top_k, capacity=capacity, drop_rule=drop_rule, bias=bias)
    sums = [_LayerSums(layer, trace.num_experts) for layer in trace.layer_index.tolist()]
    for places, group in _batches(trace, tokens, by_group=capacity is not None):
        part = trace.take(places)
        for row, of_layer in enumerate(sums):
            of_layer.add(_answer(part, row, question, group))
    return tuple(of_layer.finish() for of_layer in sums)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Question:
    """The settings of `what_if`."""

    top_k: int | None
    capacity: float | None
    drop_rule: DropRule
    bias: Tensor | None


def _batches(
    trace: TraceSource, tokens: NDArray[np.int64], *, by_group: bool
) -> Iterator[tuple[NDArray[np.int64], Int[Tensor, " n"]]]:
    """Some tokens at a time, with the number of each one's group; groups, which compete for capacity, stay whole."""
    if not by_group:
        for begin in range(0, len(tokens), _BATCH_TOKENS):
            places = tokens[begin : begin + _BATCH_TOKENS]
            yield places, torch.zeros(len(places), dtype=torch.int64)
        return
    passes = trace.of_tokens("forward_id")
    if passes is None:
        group = np.searchsorted(trace.seq_offsets.numpy(), tokens, side="right")
    else:
        group = passes.numpy()[tokens]
    order = np.argsort(group, kind="stable")
    tokens, group = tokens[order], group[order]
    ends = np.append(np.flatnonzero(np.diff(group)) + 1, len(tokens))
    begin = 0
    while begin < len(tokens):
        # The last end that leaves the batch small enough, or else the next one.
        fitting = np.searchsorted(ends, begin + _BATCH_TOKENS, side="right")
        end = int(ends[fitting - 1]) if fitting and ends[fitting - 1] > begin else int(ends[fitting])
        yield tokens[begin:end], torch.from_numpy(group[begin:end].astype(np.int64))
        begin = end


def _check(trace: RoutingTrace, top_k: int | None, capacity: float | None, drop_rule: str, bias: Tensor | None) -> None:
    width = trace.topk_ids.shape[2]
    if top_k is not None and not 1 <= top_k <= width:
        raise InputError(
            f"top_k (={top_k}) must be between 1 and the choices that were recorded (={width}); ask for fewer"
        )
    if top_k is not None and top_k < width and trace.metadata.get("is_ordered", True) is False:
        raise InputError(f"top_k (={top_k}) needs choices in order, and the trace says it has none; keep all {width}")
    if capacity is not None and not (capacity > 0 and math.isfinite(capacity)):
        raise InputError(f"capacity (={capacity}) must be positive and finite; 1.25 is a common choice")
    if capacity is not None and drop_rule in ("score", "batch_prioritised") and trace.topk_weights is None:
        raise InputError(f"drop (={drop_rule!r}) goes by weights, and the trace has none; drop by position")
    if bias is not None and trace.router_logits is None:
        raise InputError(
            "bias needs router_logits to choose from, and the trace has none; record them (headgate trace --logits)"
        )
    if bias is not None and tuple(bias.shape) != tuple(trace.counts.shape):
        raise InputError(
            f"bias.shape (={tuple(bias.shape)}) must be [L, E] (={tuple(trace.counts.shape)}); give one row per layer "
            "and one number per expert"
        )
    if bias is not None and not bias.isfinite().all():
        raise InputError("bias holds NaN or infinite numbers, which rank nothing; give finite ones")


@dataclass(frozen=True, slots=True, kw_only=True)
class _Answer:
    """One layer's choices of some tokens.

    Attributes:
        before, after: [T, K] and [T, J], recorded and asked for.
        dropped, lost: which of these found their expert full.
        weights: [T, K] as recorded, or None.
    """

    before: Int[Tensor, "T K"]
    dropped: Bool[Tensor, "T K"]
    after: Int[Tensor, "T J"]
    lost: Bool[Tensor, "T J"]
    weights: Float[Tensor, "T K"] | None


def _answer(trace: RoutingTrace, row: int, question: _Question, group: Int[Tensor, " T"]) -> _Answer:
    before = trace.topk_ids[row]
    weights = None if trace.topk_weights is None else trace.topk_weights[row].float()
    after, scores = before, weights
    if question.bias is not None:
        after, scores = _choose_again(trace, row, question.bias[row])
    after = after[:, : question.top_k]
    ranked = torch.zeros_like(after, dtype=torch.float32) if scores is None else scores[:, : after.shape[1]]
    return _Answer(
        before=before,
        dropped=torch.zeros_like(before, dtype=torch.bool) if trace.is_dropped is None else trace.is_dropped[row],
        after=after,
        lost=_drop(after, ranked, question, group, num_experts=trace.num_experts),
        weights=weights,
    )


class _LayerSums:
    """Sums over the batches of a layer."""

    def __init__(self, layer: int, num_experts: int) -> None:
        self._layer = layer
        self._counts = torch.zeros(2, num_experts, dtype=torch.int64)
        # Choices and drops, before and after.
        self._slots = torch.zeros(2, 2, dtype=torch.int64)
        self._weight: list[float] | None = [0.0, 0.0]
        self._overlap, self._tokens = 0.0, 0

    def add(self, answer: _Answer) -> None:
        for side, (ids, gone) in enumerate(((answer.before, answer.dropped), (answer.after, answer.lost))):
            self._counts[side] += count_rows(ids[None], num_experts=self._counts.shape[1], is_dropped=gone[None])[0]
            self._slots[side] += torch.stack([(ids != NO_EXPERT).sum(), gone.sum()])
        self._overlap += float(overlap_at_k(answer.before, answer.after).sum())
        self._tokens += len(answer.before)
        if answer.weights is None:
            self._weight = None
        elif self._weight is not None:
            rows = answer.after.masked_fill(answer.lost, NO_EXPERT)
            is_kept = (answer.before[:, :, None] == rows[:, None, :]).any(-1) & (answer.before != NO_EXPERT)
            self._weight[0] += float((answer.weights * is_kept).sum())
            self._weight[1] += float(answer.weights.sum())

    def finish(self) -> LayerOutcome:
        ratios, fractions = load_ratio(self._counts), self._slots[:, 1] / self._slots[:, 0].clamp(min=1)
        kept = None if self._weight is None else self._weight[0] / self._weight[1] if self._weight[1] else 1.0
        return LayerOutcome(
            layer=self._layer,
            load_ratio=(ratios[0].item(), ratios[1].item()),
            drop_fraction=(fractions[0].item(), fractions[1].item()),
            weight_kept=kept,
            overlap=self._overlap / self._tokens,
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
    ids: Int[Tensor, "T K"],
    scores: Float[Tensor, "T K"],
    question: _Question,
    group: Int[Tensor, " T"],
    *,
    num_experts: int,
) -> Bool[Tensor, "T K"]:
    """Which choices would find their expert full."""
    lost = torch.zeros_like(ids, dtype=torch.bool)
    if question.capacity is None:
        return lost
    for number in group.unique(sorted=True):  # type: ignore[no-untyped-call]
        tokens = (group == number).nonzero()[:, 0]
        slots = ids.shape[1] * len(tokens)
        found = drop_over_capacity(
            ids[tokens],
            scores[tokens],
            find_drops(ids[tokens], None),
            num_experts=num_experts,
            capacity=min(len(tokens), math.ceil(question.capacity * slots / num_experts)),
            sequence_length=len(tokens),
            drop_rule=question.drop_rule,
        )
        lost[tokens] = found == DropReason.CAPACITY
    return lost
