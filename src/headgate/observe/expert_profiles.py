"""What each expert does: the tokens that it favours, the experts that it goes with, its load over the trace.

Everything here is measured on the same sample of tokens (all of them, where there are few), and each figure stands
beside what chance gives. A page can show these values as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headgate.flow import NO_EXPERT
from headgate.observe.agreement import overlap_at_k
from headgate.observe.align import TraceSource
from headgate.observe.intervals import Interval, SequenceSums
from headgate.observe.pieces import resolve_layers
from headgate.observe.sample import MAX_TOKENS, TokenSample, sample_tokens
from headgate.observe.specialisation import (
    FavouredToken,
    Specialisation,
    favoured_kinds,
    kind_table,
    kinds_of_tokens,
    least_deviation,
    poisson_deviations,
    specialisation,
)
from headgate.observe.structure import chance_coactivation, chance_overlap, coactivation, token_overlaps


@dataclass(frozen=True, slots=True, kw_only=True)
class Pair:
    """Two experts that tokens choose together more often than chance gives.

    Attributes:
        first, second: their ids, the lower one first; of an expert's partners, itself first.
        num_tokens: that chose both.
        lift: num_tokens / what `chance_coactivation` gives.
        deviations: how far above chance, about a standard normal deviate; see `poisson_deviations`.
    """

    first: int
    second: int
    num_tokens: int
    lift: float
    deviations: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Persistence:
    """How much of a choice is made again by the next token of the sequence, or by the same token in the next layer.

    Attributes:
        overlap: mean overlap@K.
        chance: what loads as they are give if choices do not depend on each other.
        interval: 95 %, of the overlap; None with fewer than two sequences, or without scipy.
    """

    overlap: float
    chance: float
    interval: Interval | None


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertProfile:
    """One expert of one layer.

    Attributes:
        expert: its id.
        num_choices: tokens of the sample that chose it, whether or not it was full.
        share: num_choices / all choices of the layer in the sample.
        tokens: those that it favours, farthest from chance first; empty where the trace has no token ids.
        partners: the experts that it goes with, farthest from chance first.
        share_over_time: its share in each of the equal parts of the sample, in the order of the trace.
    """

    expert: int
    num_choices: int
    share: float
    tokens: tuple[FavouredToken, ...]
    partners: tuple[Pair, ...]
    share_over_time: tuple[float, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerProfile:
    """One layer. None where the trace lacks what it takes.

    Attributes:
        layer: decoder layer.
        specialisation: what token ids say about experts.
        token_persistence: from a token to the next one.
        layer_persistence: from this layer to the next one of the trace. Experts of different layers have nothing to do
            with each other; far more than chance shows that layers share a router, or that ids were mixed up.
        pairs: the experts that go together, farthest from chance first.
        experts: one for each.
    """

    layer: int
    specialisation: Specialisation | None
    token_persistence: Persistence | None
    layer_persistence: Persistence | None
    pairs: tuple[Pair, ...]
    experts: tuple[ExpertProfile, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceProfile:
    """The layers of a trace.

    Attributes:
        num_tokens: of the trace, without padding.
        num_sampled: of these, what was looked at.
        layers: one for each.
    """

    num_tokens: int
    num_sampled: int
    layers: tuple[LayerProfile, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def profile_trace(
    trace: TraceSource,
    *,
    layers: Collection[int] | None = None,
    num_tokens: int = 8,
    num_partners: int = 5,
    num_bins: int = 24,
    max_tokens: int = MAX_TOKENS,
) -> TraceProfile:
    """Find what each expert of a trace does, in bounded memory.

    Args:
        trace: of tokens.
        layers: decoder layers, as in `layer_index`; None = all.
        num_tokens: favoured tokens to name, at most.
        num_partners: partners of an expert, and pairs of a layer, to name, at most.
        num_bins: parts of the sample for the load over time, at most.
        max_tokens: see `sample_tokens`.

    Raises:
        InputError: a trace of counts alone, or a layer that it lacks.
        ArtifactError: an expert id that there is no expert for.

    Example:
        >>> import headgate
        >>> layer = headgate.MoE(8, 16, num_experts=4, top_k=2)
        >>> with headgate.tap(layer) as tape:
        ...     _ = layer(torch.randn(5, 8))
        >>> found = profile_trace(headgate.trace_of(layer, tape, token_ids=torch.arange(5)))
        >>> sum(expert.num_choices for expert in found.layers[0].experts)
        10
    """
    rows = resolve_layers(trace.layer_index, layers).tolist()
    sample = sample_tokens(trace, max_tokens=max_tokens)
    strings = trace.metadata.get("token_strings", {})
    return TraceProfile(
        num_tokens=sample.num_tokens,
        num_sampled=sample.num_sampled,
        layers=tuple(
            LayerProfile(
                layer=int(trace.layer_index[row]),
                specialisation=_specialisation(sample, row),
                token_persistence=_token_persistence(sample, row),
                layer_persistence=_layer_persistence(sample, row),
                **_experts(sample, row, strings, num_tokens, num_partners, num_bins),
            )
            for row in rows
        ),
    )


def _ids(sample: TokenSample, row: int) -> Int[Tensor, "n K"]:
    return sample.topk_ids[row].long()


def _counts(ids: Int[Tensor, "n K"], num_experts: int) -> Int[Tensor, " E"]:
    return torch.bincount(ids[ids != NO_EXPERT], minlength=num_experts)


def _specialisation(sample: TokenSample, row: int) -> Specialisation | None:
    ids = _ids(sample, row)
    if sample.token_ids is None or not (ids != NO_EXPERT).any():
        return None
    return specialisation(ids, sample.token_ids, num_experts=sample.num_experts[row], sequence=sample.sequence)


def _token_persistence(sample: TokenSample, row: int) -> Persistence | None:
    ids = _ids(sample, row)
    overlaps, tokens = token_overlaps(ids, sample.seq_offsets)
    counts = _counts(ids, sample.num_experts[row])
    return _persistence(overlaps, sample.sequence[tokens], chance_overlap(counts, counts, len(ids)))


def _layer_persistence(sample: TokenSample, row: int) -> Persistence | None:
    if row + 1 == len(sample.topk_ids):
        return None
    ids, following = _ids(sample, row), _ids(sample, row + 1)
    widest = max(sample.num_experts)
    counts = (_counts(ids, widest), _counts(following, widest))
    return _persistence(overlap_at_k(ids, following), sample.sequence, chance_overlap(*counts, len(ids)))


def _persistence(overlaps: Float[Tensor, " N"], sequence: Int[Tensor, " N"], chance: float) -> Persistence | None:
    if not len(overlaps):
        return None
    sums = SequenceSums(())
    sums.add_tokens(sequence, overlaps, torch.ones_like(overlaps))
    return Persistence(overlap=float(overlaps.mean()), chance=chance, interval=sums.interval())


def _experts(
    sample: TokenSample, row: int, strings: Mapping[str, str], num_tokens: int, num_partners: int, num_bins: int
) -> dict[str, Any]:
    """The fields `pairs` and `experts` of a layer."""
    ids = _ids(sample, row)
    num_experts = sample.num_experts[row]
    counts = _counts(ids, num_experts)
    partners = _pairs(coactivation(ids, num_experts=num_experts))
    favoured = _favoured(sample, ids, num_experts, strings, num_tokens)
    over_time = _shares_over_time(ids, num_experts, min(num_bins, len(ids)))
    shares = counts.double() / max(1, int(counts.sum()))
    each = sorted((pair for of in partners for pair in of if pair.first < pair.second), key=_by_deviations)
    return {
        "pairs": tuple(each[:num_partners]),
        "experts": tuple(
            ExpertProfile(
                expert=expert,
                num_choices=int(counts[expert]),
                share=float(shares[expert]),
                tokens=favoured[expert],
                partners=tuple(partners[expert][:num_partners]),
                share_over_time=tuple(over_time[:, expert].tolist()),
            )
            for expert in range(num_experts)
        ),
    }


def _by_deviations(pair: Pair) -> tuple[float, int, int]:
    return -pair.deviations, pair.first, pair.second


def _pairs(together: Int[Tensor, "E E"]) -> list[list[Pair]]:
    """Each expert's partners, of those beyond what any pair of the layer reaches by chance; farthest first."""
    chance = chance_coactivation(together)
    deviations = poisson_deviations(together, chance).fill_diagonal_(0.0)
    num_experts = len(together)
    least = least_deviation(num_experts * (num_experts - 1) // 2)
    found: list[list[Pair]] = [[] for _ in range(num_experts)]
    for first, second in (deviations >= least).nonzero().tolist():
        found[first].append(
            Pair(
                first=first,
                second=second,
                num_tokens=int(together[first, second]),
                lift=float(together[first, second] / chance[first, second]),
                deviations=float(deviations[first, second]),
            )
        )
    return [sorted(pairs, key=_by_deviations) for pairs in found]


def _favoured(
    sample: TokenSample, ids: Int[Tensor, "n K"], num_experts: int, strings: Mapping[str, str], most: int
) -> list[tuple[FavouredToken, ...]]:
    if sample.token_ids is None:
        return [()] * num_experts
    kinds, token_ids = kinds_of_tokens(sample.token_ids, num_experts=num_experts)
    table = kind_table(ids, kinds, num_experts=num_experts)
    return [
        tuple(
            FavouredToken(
                token_id=int(token_ids[kind]),
                text=strings.get(str(int(token_ids[kind]))),
                num_rows=rows,
                lift=lift,
                deviations=deviations,
            )
            for kind, rows, lift, deviations in favourites
            if token_ids[kind] >= 0
        )
        for favourites in favoured_kinds(table, torch.bincount(kinds), most=most)
    ]


def _shares_over_time(ids: Int[Tensor, "n K"], num_experts: int, num_bins: int) -> Float[Tensor, "bins E"]:
    time = torch.arange(len(ids)) * num_bins // len(ids)
    table = kind_table(ids, time, num_experts=num_experts).double()
    shares: Tensor = table / table.sum(1, keepdim=True).clamp(min=1.0)
    return shares
