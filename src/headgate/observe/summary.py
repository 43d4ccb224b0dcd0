"""What a trace holds and how its layers do, in one pass over the file and bounded memory."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from headgate.flow import NO_EXPERT
from headgate.observe.align import TraceSource
from headgate.observe.halves import half_histogram, half_quantiles
from headgate.observe.metrics import load_ratio, load_variation, normalised_entropy
from headgate.observe.trace import Phase

MARGIN_FRACTIONS = (0.01, 0.1, 0.5)
PASS_FRACTIONS = (0.5, 0.9, 0.99)
PASS_BYTES = 128 * 2**20
"""Loads of single forward passes are kept up to so many bytes; of the passes after that, none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerSummary:
    """One layer. None where the trace lacks what it takes.

    Attributes:
        layer: decoder layer.
        expert_counts: rows per expert.
        load_ratio, load_variation, normalised_entropy: of the total load; None without rows.
        pass_load_ratio: percentiles 50, 90 and 99 of the load ratio of single forward passes.
        margin: percentiles 1, 10 and 50 of the selection margin.
        tie_fraction: tokens whose margin is exactly 0.
        router_entropy: mean, nats.
        weight_mass: mean sum of a token's combine weights.
        drop_fraction: of the choices, those dropped because the expert was full.
        num_nan: weights, margins and entropies that are NaN.
    """

    layer: int
    expert_counts: tuple[int, ...]
    load_ratio: float | None
    load_variation: float | None
    normalised_entropy: float | None
    pass_load_ratio: tuple[float, ...] | None
    margin: tuple[float, ...] | None
    tie_fraction: float | None
    router_entropy: float | None
    weight_mass: float | None
    drop_fraction: float | None
    num_nan: int


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSummary:
    """A trace.

    Attributes:
        num_layers, num_tokens, num_sequences, num_experts, top_k: its sizes.
        phases: tokens of each phase; empty where the trace has none.
        num_passes: forward passes that single loads were measured on; those after `PASS_BYTES` are not.
        layers: one for each.
    """

    num_layers: int
    num_tokens: int
    num_sequences: int
    num_experts: int
    top_k: int
    phases: dict[str, int]
    num_passes: int
    layers: tuple[LayerSummary, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def summarise_trace(trace: TraceSource) -> TraceSummary:
    """Read a trace once and summarise it.

    Raises:
        ArtifactError: an expert id that there is no expert for.

    Example:
        >>> import headgate
        >>> layer = headgate.MoE(8, 16, num_experts=4, top_k=2)
        >>> with headgate.tap(layer) as tape:
        ...     _ = layer(torch.randn(5, 8))
        >>> summary = summarise_trace(headgate.trace_of(layer, tape, token_ids=torch.arange(5)))
        >>> summary.num_tokens, sum(summary.layers[0].expert_counts)
        (5, 10)
    """
    sums = _Sums(len(trace.layer_index), trace.num_experts)
    top_k = 0
    for chunk in trace.chunks():
        top_k = chunk.topk_ids.shape[2]
        is_choice = chunk.topk_ids != NO_EXPERT
        sums.add("tokens", torch.full((len(is_choice),), chunk.num_tokens))
        sums.add("choices", is_choice.sum((1, 2)))
        if chunk.is_dropped is not None:
            sums.add("dropped", chunk.is_dropped.sum((1, 2)))
        if chunk.topk_weights is not None:
            sums.add_values("mass", chunk.topk_weights.double().sum(2))
        if chunk.router_entropy is not None:
            sums.add_values("entropy", chunk.router_entropy.double())
        if chunk.select_margin is not None:
            sums.add_margins(chunk.select_margin)
        if chunk.forward_id is not None:
            sums.add_passes(chunk.topk_ids, chunk.forward_id)
    phase = trace.of_tokens("phase")
    return TraceSummary(
        num_layers=len(trace.layer_index),
        num_tokens=trace.num_tokens,
        num_sequences=len(trace.seq_offsets) - 1,
        num_experts=trace.num_experts,
        top_k=top_k,
        phases={} if phase is None else _count_phases(phase),
        num_passes=0 if sums.passes is None else int(sums.passes[0].any(1).sum()),
        layers=tuple(sums.layer(row, layer, trace.counts[row]) for row, layer in enumerate(trace.layer_index.tolist())),
    )


def _count_phases(phase: Tensor) -> dict[str, int]:
    counts = torch.bincount(phase.long(), minlength=len(Phase)).tolist()
    return {kind.name.lower(): counts[kind] for kind in Phase if counts[kind]}


class _Sums:
    """Sums over the chunks, per layer."""

    def __init__(self, num_layers: int, num_experts: int) -> None:
        self._num_layers, self._num_experts = num_layers, num_experts
        self._sums: dict[str, Tensor] = {}
        self._margins: Tensor | None = None
        self.passes: Tensor | None = None

    def add(self, name: str, values: Tensor) -> None:
        self._sums[name] = self._sums.get(name, torch.zeros(self._num_layers, dtype=torch.float64)) + values.double()

    def add_values(self, name: str, values: Tensor) -> None:
        self.add(name, values.nan_to_num(nan=0.0).sum(1))
        self.add(f"{name} known", (~values.isnan()).sum(1))
        self.add("nan", values.isnan().sum(1))

    def add_margins(self, margins: Tensor) -> None:
        self.add("ties", (margins == 0).sum(1))
        self.add("nan", margins.isnan().sum(1))
        found = half_histogram(margins)
        self._margins = found if self._margins is None else self._margins + found

    def add_passes(self, topk_ids: Tensor, forward_id: Tensor) -> None:
        """Count the rows of each pass, for as many passes as memory is set aside for."""
        if self.passes is None:
            room = PASS_BYTES // (4 * self._num_layers * self._num_experts)
            self.passes = torch.zeros(self._num_layers, max(1, room), self._num_experts, dtype=torch.int32)
        is_kept = (forward_id >= 0) & (forward_id < self.passes.shape[1])
        if not is_kept.any():
            return
        passes, ids = forward_id[is_kept].long(), topk_ids[:, is_kept]
        # Neighbouring tokens are of a few passes, so only these are counted and added.
        low, high = int(passes.min()), int(passes.max()) + 1
        counted = high - low
        for row in range(self._num_layers):
            buckets = ((passes - low)[:, None] * self._num_experts + ids[row])[ids[row] != NO_EXPERT]
            found = torch.bincount(buckets, minlength=counted * self._num_experts)
            self.passes[row, low:high] += found.view(counted, self._num_experts).int()

    def _mean(self, name: str, row: int, of: str) -> float | None:
        if name not in self._sums or not self._sums[of][row]:
            return None
        return float(self._sums[name][row] / self._sums[of][row])

    def layer(self, row: int, layer: int, counts: Tensor) -> LayerSummary:
        has_rows = bool(counts.sum() > 0)
        margin = None if self._margins is None else half_quantiles(self._margins[row : row + 1], MARGIN_FRACTIONS)
        return LayerSummary(
            layer=layer,
            expert_counts=tuple(counts.tolist()),
            load_ratio=load_ratio(counts).item() if has_rows else None,
            load_variation=load_variation(counts).item() if has_rows else None,
            normalised_entropy=normalised_entropy(counts).item() if has_rows and len(counts) > 1 else None,
            pass_load_ratio=self._pass_ratios(row),
            margin=None if margin is None else tuple(margin[0].tolist()),
            tie_fraction=self._mean("ties", row, "tokens"),
            router_entropy=self._mean("entropy", row, "entropy known"),
            weight_mass=self._mean("mass", row, "mass known"),
            drop_fraction=self._mean("dropped", row, "choices"),
            num_nan=int(self._sums["nan"][row]) if "nan" in self._sums else 0,
        )

    def _pass_ratios(self, row: int) -> tuple[float, ...] | None:
        if self.passes is None:
            return None
        used = self.passes[row][self.passes[row].any(1)]
        if not len(used):
            return None
        fractions = torch.tensor(PASS_FRACTIONS, dtype=torch.float64)
        return tuple(torch.quantile(load_ratio(used), fractions).tolist())
