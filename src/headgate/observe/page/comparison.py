"""What a page says of two traces of the same tokens."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from headgate.flow import NO_EXPERT
from headgate.observe.differences import LayerDiff, TraceDiff
from headgate.observe.trace import RoutingTrace
from headgate.wording import number_of

MOST_CHANGED = 500


def comparison_entry(found: TraceDiff, first: RoutingTrace, second: RoutingTrace) -> dict[str, Any]:
    """The header's `comparison`.

    Args:
        found: over all tokens that the traces share.
        first: the tokens on the page, as the first trace has them.
        second: the same tokens, in the same order, as the second has them.
    """
    common = count_common(first.topk_ids, second.topk_ids)
    places = np.arange(first.num_tokens, dtype=np.int32)
    return {
        "sentence": _sentence(found),
        "pairs": np.stack([places, places], axis=1),
        "overlap": common.numpy().astype(np.uint8),
        "layers": [_layer_entry(layer) for layer in found.layers],
        "most_changed": _most_changed(first.topk_ids, second.topk_ids, common),
    }


def count_common(first: Int[Tensor, "L T K"], second: Int[Tensor, "L T J"]) -> Int[Tensor, "L T"]:
    """Count the experts that are among both choices.

    Example:
        >>> count_common(torch.tensor([[[3, 1], [0, -1]]]), torch.tensor([[[1, 2], [5, -1]]])).tolist()
        [[1, 0]]
    """
    is_common = (first[..., :, None] == second[..., None, :]).any(-1) & (first != NO_EXPERT)
    return is_common.sum(-1)


def _most_changed(
    first: Int[Tensor, "L T K"], second: Int[Tensor, "L T J"], common: Int[Tensor, "L T"]
) -> np.ndarray[Any, np.dtype[np.int32]]:
    """The tokens with a changed set of experts, those that lost most of it first; ties in the order of the text."""
    lost = torch.maximum((first != NO_EXPERT).sum(-1), (second != NO_EXPERT).sum(-1)) - common
    per_token = lost.sum(0)
    order = per_token.argsort(descending=True, stable=True)[:MOST_CHANGED]
    return order[per_token[order] > 0].numpy().astype(np.int32)


def _layer_entry(layer: LayerDiff) -> dict[str, float]:
    return {
        "overlap": layer.agreement.overlap,
        "flips": layer.agreement.flipped_fraction,
        "jaccard": layer.agreement.jaccard,
        "js_distance": layer.load_distance,
    }


def _sentence(found: TraceDiff) -> str:
    overall, tokens = found.agreement, number_of(found.num_tokens, "token")
    said = [
        f"On the {tokens} that both traces have, overlap@{found.k} is {overall.overlap:.4f}, and "
        f"{overall.flipped_fraction:.2%} of the choices changed."
    ]
    if found.buckets and overall.flipped_fraction:
        said.append(
            f"{found.buckets[0].share_of_flips:.0%} of the changes are in the fifth of the tokens in which the first "
            "trace was least sure."
        )
    if any(found.num_unmatched):
        said.append(
            f"Without a partner, and left out: {number_of(found.num_unmatched[0], 'sequence')} of the first, "
            f"{found.num_unmatched[1]:,} of the second."
        )
    if not found.is_checked:
        said.append("The traces have no token ids: that their tokens are the same was said, and is not checked.")
    return " ".join(said)
