"""What a page holds of every expert: the tokens that it favours, its partners, its share over time."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headgate.observe.align import TraceSource
from headgate.observe.expert_profiles import ExpertProfile, LayerProfile, profile_trace
from headgate.observe.noted import NotedLayer
from headgate.observe.page.tokens import UNKNOWN, StringTable

_MOST_TOKENS, _MOST_PARTNERS, _MOST_BINS = 10, 6, 24
_TOKEN_BYTES, _PARTNER_BYTES, _BIN_BYTES = 12, 6, 4
_NO_PARTNER = np.iinfo(np.uint16).max


def expert_arrays(
    trace: TraceSource, layers: Sequence[NotedLayer], table: StringTable, *, expert_bytes: int
) -> dict[str, NDArray[Any] | None]:
    """The arrays with an axis of experts, of the whole trace; nothing for a trace of counts alone.

    Args:
        trace: read in bounded memory.
        layers: of the trace.
        table: is given the strings of the favoured tokens.
        expert_bytes: that the arrays may take: where there are many experts, less is said of each.
    """
    is_real = trace.num_tokens > 0 and bool(trace.counts.any())
    if not is_real:
        return {}
    width = trace.num_experts
    whole = _MOST_TOKENS * _TOKEN_BYTES + _MOST_PARTNERS * _PARTNER_BYTES + _MOST_BINS * _BIN_BYTES
    scale = min(1.0, expert_bytes / (len(layers) * width * whole))
    num_tokens, num_partners, num_bins = (
        max(1, int(scale * most)) for most in (_MOST_TOKENS, _MOST_PARTNERS, _MOST_BINS)
    )
    profile = profile_trace(trace, num_tokens=num_tokens, num_partners=num_partners, num_bins=num_bins)
    found = [_layer_arrays(layer, table, width, num_tokens, num_partners) for layer in profile.layers]
    arrays: dict[str, NDArray[Any] | None] = {name: np.stack([part[name] for part in found]) for name in found[0]}
    if trace.of_tokens("token_ids") is None:
        arrays |= dict.fromkeys(("top_tokens", "top_token_counts", "top_token_lift"))
    return {**arrays, **_specialisation(profile.layers)}


def _layer_arrays(
    layer: LayerProfile, table: StringTable, width: int, num_tokens: int, num_partners: int
) -> dict[str, NDArray[Any]]:
    num_bins = len(layer.experts[0].share_over_time)
    arrays: dict[str, NDArray[Any]] = {
        "top_tokens": np.full((width, num_tokens), UNKNOWN, dtype=np.int32),
        "top_token_counts": np.zeros((width, num_tokens), dtype=np.uint32),
        "top_token_lift": np.zeros((width, num_tokens), dtype=np.float32),
        "partners": np.full((width, num_partners), _NO_PARTNER, dtype=np.uint16),
        "partner_lift": np.zeros((width, num_partners), dtype=np.float32),
        "load_bins": np.zeros((width, num_bins), dtype=np.float32),
    }
    for expert in layer.experts:
        _fill(arrays, expert, table)
    return arrays


def _fill(arrays: dict[str, NDArray[Any]], expert: ExpertProfile, table: StringTable) -> None:
    # A token without a string can't be shown.
    tokens = [token for token in expert.tokens if token.text is not None]
    arrays["top_tokens"][expert.expert, : len(tokens)] = table.look_up([token.token_id for token in tokens])
    arrays["top_token_counts"][expert.expert, : len(tokens)] = [token.num_rows for token in tokens]
    arrays["top_token_lift"][expert.expert, : len(tokens)] = [token.lift for token in tokens]
    arrays["partners"][expert.expert, : len(expert.partners)] = [pair.second for pair in expert.partners]
    arrays["partner_lift"][expert.expert, : len(expert.partners)] = [pair.lift for pair in expert.partners]
    arrays["load_bins"][expert.expert] = expert.share_over_time


def _specialisation(layers: Sequence[LayerProfile]) -> dict[str, NDArray[np.float32] | None]:
    found = [layer.specialisation for layer in layers]
    known = [item for item in found if item is not None]
    if len(known) < len(found):
        return {"specialisation": None, "specialisation_baseline": None}
    return {
        "specialisation": np.array([item.information for item in known], dtype=np.float32),
        "specialisation_baseline": np.array([item.baseline for item in known], dtype=np.float32),
    }
