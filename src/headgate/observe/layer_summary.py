"""What one layer of a trace does, added up piece by piece."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headgate.flow import NO_EXPERT
from headgate.observe.halves import half_histogram, half_quantiles
from headgate.observe.intervals import CONFIDENCE, Interval, SequenceSums
from headgate.observe.metrics import (
    LEAST_SHARE,
    DeadExperts,
    dead_experts,
    load_ratio,
    load_variation,
    normalised_entropy,
)
from headgate.observe.pieces import count_groups
from headgate.observe.utilisation import balancedness, expert_diversity, max_share

MARGIN_FRACTIONS = (0.01, 0.1, 0.5)
PASS_FRACTIONS = (0.5, 0.9, 0.99)


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSummary:
    """One layer, without padding. None where the trace lacks what it takes.

    Intervals are at 95 %, with sequences as what is independent (`headgate.observe.intervals`); None with fewer than
    two sequences, or without scipy.

    Attributes:
        layer: decoder layer.
        expert_counts: rows per expert.
        share_intervals: of each expert's part of the rows.
        load_ratio, load_variation, normalised_entropy, expert_diversity, max_share: of the total load; None without
            rows.
        max_share_interval: of the busiest expert's share, whichever it is: all experts' intervals hold at once
            (Bonferroni).
        load_ratio_interval: the same, in even shares.
        dead: the experts without rows, and whether the sample can show it.
        dead_bound: what the liveliest of these may have at most, in even shares, at 95 %; None where none is dead.
        balancedness: mean / max over devices with equally many experts each, in id order; None without devices.
        pass_load_ratio: percentiles 50, 90 and 99 of the load ratio of single forward passes, drops included.
        margin: percentiles 1, 10 and 50 of the selection margin.
        tie_fraction: tokens whose margin is exactly 0.
        router_entropy: mean, nats.
        weight_mass: mean sum of a token's combine weights.
        drop_fraction: of the choices, those dropped because the expert was full.
        drop_interval: of that fraction.
        empty_fraction: of the slots, those in which nothing was chosen.
        num_nan: weights, margins and entropies that are NaN; a layer of which no margin is known has no margins.
    """

    layer: int
    expert_counts: tuple[int, ...]
    share_intervals: tuple[Interval, ...] | None
    load_ratio: float | None
    load_ratio_interval: Interval | None
    load_variation: float | None
    normalised_entropy: float | None
    expert_diversity: float | None
    max_share: float | None
    max_share_interval: Interval | None
    dead: DeadExperts
    dead_bound: float | None
    balancedness: float | None
    pass_load_ratio: tuple[float, ...] | None
    margin: tuple[float, ...] | None
    tie_fraction: float | None
    router_entropy: float | None
    weight_mass: float | None
    drop_fraction: float | None
    drop_interval: Interval | None
    empty_fraction: float | None
    num_nan: int

    @property
    def dead_expert_fraction(self) -> float:
        """The part of the experts without rows."""
        return self.dead.count / len(self.expert_counts)

    @property
    def active_fraction(self) -> float:
        """The part of the experts with rows."""
        return 1.0 - self.dead_expert_fraction

    @property
    def is_death_shown(self) -> bool:
        """Whether the sample is large enough to call the experts without rows dead."""
        is_bounded = self.dead_bound is None or self.dead_bound <= LEAST_SHARE
        return self.dead.count > 0 and self.dead.is_sample_sufficient and is_bounded

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        fractions = {"dead_expert_fraction": self.dead_expert_fraction, "active_fraction": self.active_fraction}
        return {**asdict(self), **fractions, "is_death_shown": self.is_death_shown}


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerPiece:
    """Some neighbouring tokens of one layer, without padding; see `RoutingTrace` for the arrays.

    Attributes:
        topk_ids: [T, K].
        sequences: [S] the sequences that the tokens are of, rising.
        sequence: [T] which of these each token is of, from 0.
        is_dropped: [T, K], or None.
        weights: [T, K], or None.
        margin: [T], or None.
        entropy: [T], or None.
        forward_id: [T], or None.
    """

    topk_ids: Int[Tensor, "T K"]
    sequences: Int[Tensor, " S"]
    sequence: Int[Tensor, " T"]
    is_dropped: Bool[Tensor, "T K"] | None
    weights: Float[Tensor, "T K"] | None
    margin: Float[Tensor, " T"] | None
    entropy: Float[Tensor, " T"] | None
    forward_id: Int[Tensor, " T"] | None


class LayerSums:
    """Sums over the pieces of a layer.

    Args:
        layer: decoder layer.
        num_experts: E.
        pass_bytes: what the loads of single forward passes may take; of the passes after that, none is kept.
    """

    def __init__(self, *, layer: int, num_experts: int, pass_bytes: int) -> None:
        self._layer, self._num_experts = layer, num_experts
        self._pass_room = max(1, pass_bytes // (4 * num_experts))
        self._sums: dict[str, float] = {}
        self._shares, self._drops = SequenceSums((num_experts,)), SequenceSums(())
        self._margins: Tensor | None = None
        self._passes: Tensor | None = None

    @property
    def num_passes(self) -> int:
        """Forward passes whose loads are kept."""
        return 0 if self._passes is None else int(self._passes.any(1).sum())

    def add(self, piece: LayerPiece) -> None:
        """Add the next tokens."""
        rows = piece.topk_ids
        if piece.is_dropped is not None:
            rows = rows.masked_fill(piece.is_dropped, NO_EXPERT)
            self._add_drops(piece, piece.is_dropped)
        counts = self._count(rows, piece.sequence, len(piece.sequences))
        self._shares.add(piece.sequences, counts, counts.sum(1, keepdim=True))
        self._add("slots", rows.numel())
        self._add("choices", float((piece.topk_ids != NO_EXPERT).sum()))
        if piece.weights is not None:
            self._add_values("mass", piece.weights.double().sum(1))
        if piece.entropy is not None:
            self._add_values("entropy", piece.entropy)
        if piece.margin is not None:
            self._add_values("margin", piece.margin)
            self._add("ties", float((piece.margin == 0).sum()))
            found = half_histogram(piece.margin[None])
            self._margins = found if self._margins is None else self._margins + found
        if piece.forward_id is not None:
            self._add_passes(piece.topk_ids, piece.forward_id)

    def _count(self, ids: Int[Tensor, "T K"], group: Int[Tensor, " T"], num_groups: int) -> Int[Tensor, "G E"]:
        return count_groups(ids, group, num_groups=num_groups, num_experts=self._num_experts)

    def _add(self, name: str, value: float | int) -> None:
        self._sums[name] = self._sums.get(name, 0.0) + value

    def _add_values(self, name: str, values: Float[Tensor, " T"]) -> None:
        num_nan = int(values.isnan().sum())
        self._add(name, float(values.double().nansum()))
        self._add(f"{name} known", len(values) - num_nan)
        self._add(f"{name} nan", num_nan)

    def _add_drops(self, piece: LayerPiece, is_dropped: Bool[Tensor, "T K"]) -> None:
        choices = (piece.topk_ids != NO_EXPERT).sum(1)
        self._drops.add_tokens(piece.sequences[piece.sequence], is_dropped.sum(1).double(), choices.double())
        self._add("dropped", float(is_dropped.sum()))

    def _add_passes(self, topk_ids: Int[Tensor, "T K"], forward_id: Int[Tensor, " T"]) -> None:
        """Count the choices of each pass, for as many passes as there is room for."""
        if self._passes is None:
            self._passes = torch.zeros(self._pass_room, self._num_experts, dtype=torch.int32)
        is_kept = (forward_id >= 0) & (forward_id < self._pass_room)
        if not is_kept.all():
            topk_ids, forward_id = topk_ids[is_kept], forward_id[is_kept]
        if len(forward_id):
            # Neighbouring tokens are of a few passes, so only these are counted and added.
            low, high = int(forward_id.min()), int(forward_id.max()) + 1
            self._passes[low:high] += self._count(topk_ids, forward_id.long() - low, high - low).int()

    def finish(self, counts: Int[Tensor, " E"], num_devices: int | None) -> LayerSummary:
        """Divide, and put everything together.

        Args:
            counts: rows per expert, as the file says.
            num_devices: for `balancedness`, or None.
        """
        is_loaded = bool(counts.sum() > 0)
        slots = self._sums.get("slots")
        return LayerSummary(
            layer=self._layer,
            expert_counts=tuple(counts.tolist()),
            load_ratio=load_ratio(counts).item() if is_loaded else None,
            load_variation=load_variation(counts).item() if is_loaded else None,
            normalised_entropy=normalised_entropy(counts).item() if is_loaded and len(counts) > 1 else None,
            expert_diversity=expert_diversity(counts).item() if is_loaded else None,
            max_share=max_share(counts).item() if is_loaded else None,
            dead=dead_experts(counts),
            balancedness=balancedness(counts, num_devices=num_devices).item() if num_devices and is_loaded else None,
            pass_load_ratio=self._pass_ratios(),
            margin=self._margin_quantiles(),
            tie_fraction=self._fraction("ties", "margin known"),
            router_entropy=self._fraction("entropy", "entropy known"),
            weight_mass=self._fraction("mass", "mass known"),
            drop_fraction=self._fraction("dropped", "choices"),
            drop_interval=self._drops.interval(),
            empty_fraction=1 - self._sums["choices"] / slots if slots else None,
            num_nan=self._num_nan(),
            **self._intervals(counts),
        )

    def _intervals(self, counts: Int[Tensor, " E"]) -> dict[str, Any]:
        """The intervals of the load."""
        shares = self._shares.intervals()
        at_once = self._shares.intervals(confidence=1 - (1 - CONFIDENCE) / self._num_experts)
        names = ("share_intervals", "max_share_interval", "load_ratio_interval", "dead_bound")
        if shares is None or at_once is None or torch.from_numpy(shares).isnan().any():
            return dict.fromkeys(names)
        low, high = (float(bounds.max()) for bounds in at_once)
        is_dead = counts.numpy() == 0
        bound = float(shares[1][is_dead].max()) * self._num_experts if is_dead.any() else None
        each = tuple((float(lowest), float(highest)) for lowest, highest in shares.T)
        ratios = (low * self._num_experts, high * self._num_experts)
        return dict(zip(names, (each, (low, high), ratios, bound), strict=True))

    def _fraction(self, name: str, of: str) -> float | None:
        return self._sums[name] / self._sums[of] if name in self._sums and self._sums[of] else None

    def _margin_quantiles(self) -> tuple[float, ...] | None:
        if self._margins is None or not self._sums["margin known"]:
            return None
        return tuple(half_quantiles(self._margins, MARGIN_FRACTIONS)[0].tolist())

    def _num_nan(self) -> int:
        """NaN weights, and NaN among margins and entropies of which others are known: without a formula, none is."""
        known = [name for name in ("entropy", "margin") if self._sums.get(f"{name} known")]
        return int(sum(self._sums.get(f"{name} nan", 0) for name in ("mass", *known)))

    def _pass_ratios(self) -> tuple[float, ...] | None:
        used = None if self._passes is None else self._passes[self._passes.any(1)]
        if used is None or not len(used):
            return None
        fractions = torch.tensor(PASS_FRACTIONS, dtype=torch.float64)
        return tuple(torch.quantile(load_ratio(used), fractions).tolist())
