"""Add up what changed between two traces, chunk by chunk."""

from __future__ import annotations

import heapq

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from headgate.observe.agreement import jaccard, load_distance, overlap_at_k, rank_correlation, weight_moved
from headgate.observe.align import Alignment, TraceSource
from headgate.observe.differences import Agreement, ChangedToken, LayerDiff, MarginBucket, TraceDiff
from headgate.observe.intervals import Interval, SequenceSums, one_interval
from headgate.observe.pieces import count_rows
from headgate.observe.trace import RoutingTrace

NUM_BUCKETS = 5
"""Tokens are sorted into so many equal buckets by the reference's margin, in each layer."""

MOST_CHANGED = 10
_SHIFTED_EXPERTS = 3


class Tally:
    """Sums over the tokens that two traces share.

    Args:
        first: the reference.
        alignment: of the traces.
        thresholds: [L, buckets - 1] margins that split the tokens, or None.
        k: of overlap@k.
        with_order: whether the choices of both are in order.
    """

    def __init__(
        self, first: TraceSource, alignment: Alignment, thresholds: Tensor | None, k: int, *, with_order: bool
    ) -> None:
        self._first, self._alignment, self._thresholds, self._k = first, alignment, thresholds, k
        self._with_order = with_order
        num_layers = len(first.layer_index)
        self._sums: dict[str, Tensor] = {}
        self._rows = torch.zeros(2, num_layers, first.num_experts, dtype=torch.int64)
        self._overlap, self._flips = SequenceSums((num_layers,)), SequenceSums((NUM_BUCKETS,))
        self._all = SequenceSums((2,))
        # Tokens, margins, overlap, flips.
        self._buckets = torch.zeros(4, NUM_BUCKETS, dtype=torch.float64)
        self._changed: list[tuple[float, int, int]] = []

    def add(self, a: RoutingTrace, b: RoutingTrace, part: slice) -> None:
        """Add the tokens `part` of the alignment, as both traces have them."""
        ids_a, ids_b = a.topk_ids[..., : self._k], b.topk_ids[..., : self._k]
        overlap = overlap_at_k(ids_a, ids_b)
        flipped = overlap < 1.0
        self._sum("tokens", torch.ones_like(overlap))
        self._sum("overlap", overlap)
        self._sum("flipped", flipped.double())
        self._sum("jaccard", jaccard(ids_a, ids_b))
        if self._with_order:
            self._sum_known("tau", rank_correlation(ids_a, ids_b))
        if a.topk_weights is not None and b.topk_weights is not None:
            self._sum_known(
                "moved", weight_moved(a.topk_ids, a.topk_weights.float(), b.topk_ids, b.topk_weights.float())
            )
        for side, trace in enumerate((a, b)):
            self._rows[side] += count_rows(trace.topk_ids, num_experts=self._rows.shape[2], is_dropped=trace.is_dropped)
        sequence = torch.from_numpy(self._alignment.sequence[part])
        self._overlap.add_tokens(sequence, overlap, torch.ones_like(overlap))
        overall = torch.stack([overlap.sum(0), flipped.double().sum(0)])
        self._all.add_tokens(sequence, overall, torch.full_like(overall, len(overlap)))
        self._add_buckets(a, overlap, flipped, sequence)
        self._keep_most_changed(overlap.mean(0), flipped.sum(0), part.start)

    def _sum(self, name: str, values: Float[Tensor, "L T"]) -> None:
        self._sums[name] = self._sums.get(name, torch.zeros(len(values), dtype=torch.float64)) + values.sum(1)

    def _sum_known(self, name: str, values: Float[Tensor, "L T"]) -> None:
        self._sum(name, values.nan_to_num(nan=0.0))
        self._sum(f"{name} known", (~values.isnan()).double())

    def _add_buckets(
        self, a: RoutingTrace, overlap: Float[Tensor, "L T"], flipped: Bool[Tensor, "L T"], sequence: Int[Tensor, " T"]
    ) -> None:
        if self._thresholds is None or a.select_margin is None:
            return
        margins = a.select_margin.float()
        bucket = (margins[..., None] > self._thresholds[:, None]).sum(-1)
        is_in = torch.nn.functional.one_hot(bucket, NUM_BUCKETS).permute(2, 0, 1)
        self._flips.add_tokens(sequence, (is_in * flipped).sum(1).double(), is_in.sum(1).double())
        finite = margins.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
        for row, values in enumerate((torch.ones_like(overlap), finite.double(), overlap, flipped.double())):
            self._buckets[row] += torch.bincount(bucket.flatten(), weights=values.flatten(), minlength=NUM_BUCKETS)

    def _keep_most_changed(self, overlap: Float[Tensor, " T"], changed: Int[Tensor, " T"], begin: int) -> None:
        order = overlap.argsort(stable=True)[:MOST_CHANGED].tolist()
        found = [(overlap[token].item(), begin + token, int(changed[token])) for token in order]
        self._changed = heapq.nsmallest(MOST_CHANGED, [*self._changed, *(item for item in found if item[2])])

    def finish(self, matching: Tensor | None) -> TraceDiff:
        """Divide, and put everything together."""
        layers = self._first.layer_index.tolist()
        overall = self._all.intervals()
        return TraceDiff(
            k=self._k,
            num_tokens=len(self._alignment.first),
            num_unmatched=self._alignment.num_unmatched,
            is_checked=self._alignment.is_checked,
            agreement=self._agreement(slice(None)),
            overlap_interval=_column(overall, 0),
            flipped_interval=_column(overall, 1),
            layers=self._layers(layers, matching),
            buckets=self._margin_buckets(),
            tokens=tuple(self._changed_token(*item) for item in self._changed),
        )

    def _agreement(self, rows: slice) -> Agreement:
        total = self._sums["tokens"][rows].sum().item()

        def mean(name: str) -> float:
            return self._sums[name][rows].sum().item() / total

        def mean_known(name: str) -> float | None:
            known = self._sums[f"{name} known"][rows].sum().item() if name in self._sums else 0.0
            return self._sums[name][rows].sum().item() / known if known else None

        return Agreement(
            overlap=mean("overlap"),
            jaccard=mean("jaccard"),
            rank_correlation=mean_known("tau"),
            weight_moved=mean_known("moved"),
            flipped_fraction=mean("flipped"),
        )

    def _layers(self, layers: list[int], matching: Tensor | None) -> tuple[LayerDiff, ...]:
        intervals = self._overlap.intervals()
        return tuple(self._layer(row, layer, matching, _column(intervals, row)) for row, layer in enumerate(layers))

    def _layer(self, row: int, layer: int, matching: Tensor | None, interval: Interval | None) -> LayerDiff:
        shares = self._rows[:, row].double() / self._rows[:, row].double().sum(1, keepdim=True)
        change = (shares[1] - shares[0]).nan_to_num(nan=0.0)
        order = change.argsort(stable=True).tolist()
        gained = [(expert, change[expert].item()) for expert in reversed(order[-_SHIFTED_EXPERTS:])]
        lost = [(expert, change[expert].item()) for expert in order[:_SHIFTED_EXPERTS]]
        return LayerDiff(
            layer=layer,
            agreement=self._agreement(slice(row, row + 1)),
            overlap_interval=interval,
            load_distance=load_distance(self._rows[0, row], self._rows[1, row]).item(),
            gained=tuple(item for item in gained if item[1] > 0),
            lost=tuple(item for item in lost if item[1] < 0),
            matched=None if matching is None else tuple(matching[row].tolist()),
        )

    def _margin_buckets(self) -> tuple[MarginBucket, ...]:
        tokens, margins, overlap, flips = self._buckets.tolist()
        total, intervals = sum(flips), self._flips.intervals()
        return tuple(
            MarginBucket(
                mean_margin=margins[bucket] / tokens[bucket],
                overlap=overlap[bucket] / tokens[bucket],
                flipped_fraction=flips[bucket] / tokens[bucket],
                flipped_interval=_column(intervals, bucket),
                share_of_flips=flips[bucket] / total if total else 0.0,
            )
            for bucket in range(NUM_BUCKETS)
            if tokens[bucket]
        )

    def _changed_token(self, overlap: float, place: int, changed: int) -> ChangedToken:
        token = int(self._alignment.first[place])
        offsets = self._first.seq_offsets
        sequence = int(torch.searchsorted(offsets, token, right=True)) - 1
        token_ids = self._first.of_tokens("token_ids")
        strings = self._first.metadata.get("token_strings", {})
        return ChangedToken(
            token=token,
            sequence=sequence,
            position=token - int(offsets[sequence]),
            text=None if token_ids is None else strings.get(str(int(token_ids[token]))),
            changed_layers=changed,
            overlap=overlap,
        )


def _column(intervals: NDArray[np.float64] | None, place: int) -> Interval | None:
    return one_interval(None if intervals is None else intervals[:, place])
