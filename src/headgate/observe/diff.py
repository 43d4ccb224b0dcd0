"""Compare the routing of two models on the same tokens: how much changed, where, and whether it matters."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from headgate.errors import InputError
from headgate.flow import NO_EXPERT
from headgate.observe.align import Alignment, TraceSource, align
from headgate.observe.differences import TraceDiff
from headgate.observe.halves import half_histogram, half_quantiles
from headgate.observe.matching import match_counts
from headgate.observe.tally import NUM_BUCKETS, Tally
from headgate.observe.trace import RoutingTrace

_CHUNK_TOKENS = 4096


def diff_traces(
    first: TraceSource,
    second: TraceSource,
    *,
    k: int | None = None,
    match_experts: bool = False,
    assume_aligned: bool = False,
) -> TraceDiff:
    """Compare two traces, in bounded memory.

    Args:
        first: the reference.
        second: what is compared with it.
        k: compare the best k choices; None = all.
        match_experts: first find which expert of the second corresponds to which of the first, layer by layer, by
            the assignment with the most tokens in common: for models whose experts were permuted.
        assume_aligned: see `align`.

    Raises:
        InputError: the traces do not hold the same tokens, layers and experts, or k makes no sense for them.
        BackendError: experts are to be matched, and scipy is not installed.

    Example:
        >>> ids = torch.tensor([[[0, 1], [2, 3]]])
        >>> def trace(ids):
        ...     fields = {"layer_index": torch.tensor([0]), "seq_offsets": torch.tensor([0, 2]), "metadata": {}}
        ...     return RoutingTrace(topk_ids=ids, counts=torch.zeros(1, 4, dtype=torch.int64), **fields)
        >>> diff_traces(trace(ids), trace(ids.clamp(max=2)[..., :1]), assume_aligned=True).agreement.overlap
        0.5
    """
    if first.num_experts != second.num_experts:
        raise InputError(
            f"the traces have {first.num_experts} and {second.num_experts} experts; compare models of one shape"
        )
    alignment = align(first, second, assume_aligned=assume_aligned)
    width = first.take(alignment.first[:1]).topk_ids.shape[2]
    _check_k(k, width, first, second)
    matching = _match(first, second, alignment) if match_experts else None
    thresholds = _margin_thresholds(first, alignment)
    tally = Tally(first, alignment, thresholds, k or width, with_order=_is_ordered(first) and _is_ordered(second))
    for begin in range(0, len(alignment.first), _CHUNK_TOKENS):
        part = slice(begin, begin + _CHUNK_TOKENS)
        a, b = first.take(alignment.first[part]), second.take(alignment.second[part])
        tally.add(a, b if matching is None else _rename(b, matching), part)
    return tally.finish(matching)


def _margin_thresholds(trace: TraceSource, alignment: Alignment) -> Tensor | None:
    """[L, buckets - 1]: the margins that split each layer's tokens into equal buckets; None without margins."""
    histogram: Tensor | None = None
    for begin in range(0, len(alignment.first), _CHUNK_TOKENS):
        margins = trace.take(alignment.first[begin : begin + _CHUNK_TOKENS]).select_margin
        if margins is None:
            return None
        found = half_histogram(margins)
        histogram = found if histogram is None else histogram + found
    assert histogram is not None  # An alignment has tokens.
    return half_quantiles(histogram, [bucket / NUM_BUCKETS for bucket in range(1, NUM_BUCKETS)])


def _is_ordered(trace: TraceSource) -> bool:
    return trace.metadata.get("is_ordered", True) is not False


def _check_k(k: int | None, width: int, first: TraceSource, second: TraceSource) -> None:
    if k is None:
        return
    if not 1 <= k <= width:
        raise InputError(f"k (={k}) must be between 1 and the choices that were recorded (={width})")
    if k < width and not (_is_ordered(first) and _is_ordered(second)):
        raise InputError(f"k (={k}) needs choices in order, and a trace says that it has none; compare all {width}")


def _match(first: TraceSource, second: TraceSource, alignment: Alignment) -> Tensor:
    """[L, E]: for each expert of the second trace, that of the first with which it shares most tokens."""
    num_experts = first.num_experts
    totals: list[Tensor] = []
    for begin in range(0, len(alignment.first), _CHUNK_TOKENS):
        part = slice(begin, begin + _CHUNK_TOKENS)
        a, b = first.take(alignment.first[part]).topk_ids, second.take(alignment.second[part]).topk_ids
        found = _one_hot(b, num_experts).transpose(1, 2) @ _one_hot(a, num_experts)
        totals = [found.long()] if not totals else [totals[0] + found.long()]
    return match_counts(totals[0])


def _one_hot(topk_ids: Tensor, num_experts: int) -> Tensor:
    chosen = torch.zeros(*topk_ids.shape[:2], num_experts + 1)
    return chosen.scatter_(2, topk_ids.where(topk_ids != NO_EXPERT, num_experts), 1.0)[..., :num_experts]


def _rename(trace: RoutingTrace, matching: Tensor) -> RoutingTrace:
    flat = trace.topk_ids.flatten(1)
    renamed = matching.gather(1, flat.clamp(min=0)).where(flat != NO_EXPERT, NO_EXPERT)
    return replace(trace, topk_ids=renamed.view_as(trace.topk_ids))
