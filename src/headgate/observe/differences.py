"""What a comparison of two traces finds, as frozen values."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from headgate.observe.intervals import Interval


@dataclass(frozen=True, slots=True, kw_only=True)
class Agreement:
    """Means over some tokens and layers; see `headgate.observe.agreement`. None where a trace lacks what it takes.

    Attributes:
        overlap: overlap@k.
        jaccard: of the sets.
        rank_correlation: over the tokens where it exists; None where it exists for none, or choices have no order.
        weight_moved: as the traces' f16 weights say.
        flipped_fraction: tokens (in a layer) whose set of experts changed.
    """

    overlap: float
    jaccard: float
    rank_correlation: float | None
    weight_moved: float | None
    flipped_fraction: float


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerDiff:
    """One layer's part.

    Attributes:
        layer: decoder layer.
        agreement: its means.
        overlap_interval: 95 %, of the overlap, as in `TraceDiff`.
        load_distance: Jensen-Shannon distance of the loads on the shared tokens.
        gained: the experts that gained most, with the change of their part of the rows.
        lost: those that lost most.
        matched: where experts were matched: for each expert of the second trace, that of the first; else None.
    """

    layer: int
    agreement: Agreement
    overlap_interval: Interval | None
    load_distance: float
    gained: tuple[tuple[int, float], ...]
    lost: tuple[tuple[int, float], ...]
    matched: tuple[int, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MarginBucket:
    """The tokens of one fifth of the margins, over all layers; bucket 0 is where the reference was least sure.

    Attributes:
        mean_margin: of the reference.
        overlap: overlap@k.
        flipped_fraction: tokens whose set of experts changed.
        flipped_interval: 95 %, of that fraction, as in `TraceDiff`.
        share_of_flips: of all that changed, the part in this bucket.
    """

    mean_margin: float
    overlap: float
    flipped_fraction: float
    flipped_interval: Interval | None
    share_of_flips: float


@dataclass(frozen=True, slots=True, kw_only=True)
class ChangedToken:
    """A token whose routing changed much.

    Attributes:
        token: its index in the first trace.
        sequence, position: where it is.
        text: its string, None where the trace has none. It may hold anything: show it escaped.
        changed_layers: layers in which its set of experts changed.
        overlap: mean over the layers.
    """

    token: int
    sequence: int
    position: int
    text: str | None
    changed_layers: int
    overlap: float


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceDiff:
    """What changed between two traces.

    Attributes:
        k: of overlap@k.
        num_tokens: that both share.
        num_unmatched: sequences that only the first, or only the second, has.
        is_checked: whether token ids say that the tokens are the same.
        agreement: over all tokens and layers.
        overlap_interval, flipped_interval: 95 %, of the overall means, with sequences as what is independent (see
            `headgate.observe.intervals`); None with fewer than two, or without scipy.
        layers: one for each.
        buckets: by margin; empty where the first trace has none.
        tokens: those that changed most.
    """

    k: int
    num_tokens: int
    num_unmatched: tuple[int, int]
    is_checked: bool
    agreement: Agreement
    overlap_interval: Interval | None
    flipped_interval: Interval | None
    layers: tuple[LayerDiff, ...]
    buckets: tuple[MarginBucket, ...]
    tokens: tuple[ChangedToken, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)

    def similarities(self) -> dict[str, float | None]:
        """The overall figures of which more is better, by the names that a gate takes."""
        overall = self.agreement
        return {
            f"overlap@{self.k}": overall.overlap,
            "overlap@k": overall.overlap,
            "jaccard": overall.jaccard,
            "rank_correlation": overall.rank_correlation,
        }

    def distances(self) -> dict[str, float | None]:
        """The overall figures of which less is better; the load's is that of the worst layer."""
        return {
            "weight_moved": self.agreement.weight_moved,
            "flipped_fraction": self.agreement.flipped_fraction,
            "load_distance": max(layer.load_distance for layer in self.layers),
        }
