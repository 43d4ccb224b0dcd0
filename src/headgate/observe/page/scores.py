"""The scores of all experts, computed again from recorded logits by the recorded router, as selection ranked them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from headgate.nn.routing import rank_scores
from headgate.observe.noted import NotedLayer
from headgate.observe.trace import RoutingTrace
from headgate.scores import compute_scores
from headgate.selection import select_top_k
from headgate.spec import RouterSpec

_BYTES_PER_SCORE = 2 + 4 + 4
"""The logit, the score, and what selection ranked."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PageScores:
    """The scores of some tokens.

    Attributes:
        router_logits: [L, N, E] float16, as recorded.
        router_scores: [L, N, E] float32, after the score function; NaN where the router is not known. None where it
            is known of no layer.
        select_scores: [L, N, E] float32, with selection bias, -inf where groups mask. None where all layers rank
            `router_scores` themselves.
        num_decided: choices (tokens in a layer) that the scores alone decide.
        num_same: of these, those that follow from the recorded logits as they were recorded; rounding to float16 moves
            the others.
    """

    router_logits: Float[Tensor, "L N E"]
    router_scores: Float[Tensor, "L N E"] | None
    select_scores: Float[Tensor, "L N E"] | None
    num_decided: int
    num_same: int

    def arrays(self) -> dict[str, NDArray[Any] | None]:
        """By the names of the page's arrays."""
        named = {"router_scores": self.router_scores, "select_scores": self.select_scores}
        plain: dict[str, NDArray[Any] | None] = {
            name: None if value is None else value.numpy() for name, value in named.items()
        }
        # The leading tokens are those that have scores.
        scored = torch.arange(self.router_logits.shape[1], dtype=torch.int32)
        return {"scored_tokens": scored.numpy(), "router_logits": self.router_logits.half().numpy(), **plain}


def count_scored(part: RoutingTrace, *, score_bytes: int) -> int:
    """How many of the leading tokens a budget of bytes has room for."""
    num_layers, num_tokens, _ = part.topk_ids.shape
    return min(num_tokens, score_bytes // (_BYTES_PER_SCORE * num_layers * part.num_experts))


def score_again(part: RoutingTrace, layers: Sequence[NotedLayer]) -> PageScores | None:
    """Compute scores from logits; None where no logits were recorded.

    Args:
        part: the tokens to score.
        layers: of the trace.
    """
    if part.router_logits is None:
        return None
    logits = part.router_logits.float()
    scores = torch.full_like(logits, torch.nan)
    ranked = torch.full_like(logits, torch.nan)
    is_same: list[Tensor] = []
    for row, layer in enumerate(layers):
        if layer.spec is None:
            continue
        width = layer.num_choices
        bias = None if part.select_bias is None or not layer.spec.selection_bias else part.select_bias[row, :width]
        scores[row, :, :width], ranked[row, :, :width] = _score_layer(
            layer.spec, logits[row, :, :width], bias, _model_dtype(part)
        )
        if layer.spec.selection == "top_k":
            again = select_top_k(ranked[row, :, :width], top_k=layer.spec.top_k)
            is_same.append(_is_same_set(again, part.topk_ids[row]))
    is_known = any(layer.spec is not None for layer in layers)
    is_ranked_apart = is_known and not torch.equal(scores.nan_to_num(), ranked.nan_to_num())
    return PageScores(
        router_logits=part.router_logits,
        router_scores=scores if is_known else None,
        select_scores=ranked if is_ranked_apart else None,
        num_decided=sum(len(part) for part in is_same),
        num_same=sum(int(part.sum()) for part in is_same),
    )


def _score_layer(
    spec: RouterSpec, logits: Float[Tensor, "N E"], bias: Float[Tensor, " E"] | None, model_dtype: torch.dtype
) -> tuple[Float[Tensor, "N E"], Float[Tensor, "N E"]]:
    scores = compute_scores(logits, score=spec.score, score_dtype=spec.score_dtype, model_dtype=model_dtype)
    if spec.selection == "hash":
        return scores, torch.full_like(scores, torch.nan)
    if spec.selection == "sinkhorn":
        return scores, logits
    ranked, _ = rank_scores(spec, logits, scores, bias)
    return scores, ranked


def _model_dtype(part: RoutingTrace) -> torch.dtype:
    """The dtype that the model ran in, where the trace names one that torch has."""
    named = getattr(torch, str(part.metadata.get("dtype", "float32")), None)
    return named if isinstance(named, torch.dtype) and named.is_floating_point else torch.float32


def _is_same_set(first: Tensor, second: Tensor) -> Tensor:
    """[N] whether the same experts are in both, whatever their order; -1 is no expert."""
    width = max(first.shape[1], second.shape[1])
    padded = [torch.nn.functional.pad(ids, (0, width - ids.shape[1]), value=-1) for ids in (first, second)]
    return (padded[0].sort(1).values == padded[1].sort(1).values).all(1)
