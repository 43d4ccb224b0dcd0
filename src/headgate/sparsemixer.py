"""SparseMixer-v2, PhiMoE's router: one masked softmax per choice, sampled in training."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor


class _Pick(NamedTuple):
    expert_ids: Int[Tensor, "T 1"]
    weights: Float[Tensor, "T 1"]


def choose_sparsemixer(
    logits: Float[Tensor, "T E"], *, top_k: int, jitter: float, training: bool
) -> tuple[Int[Tensor, "T K"], Float[Tensor, "T K"]]:
    """Choose experts one after the other, each among those whose logit is within 2 * jitter of the best left.

    Each weight is the softmax over the experts that competed. In training the choice is drawn from that softmax, and
    a draw that is not the best is scaled by 1/3 three times in four (Heun's third-order estimate of the gradient);
    gradients flow as if it were not scaled. Ties go to the lowest id, NaN ranks last.

    Args:
        logits: [T, E].
        top_k: 1 or 2.
        jitter: half the relative distance within which experts compete.
        training: draw instead of taking the best.

    Returns:
        expert_ids [T, K] int64, and weights [T, K] in the dtype of `logits`.

    References:
        Liu et al., "GRIN: GRadient-INformed MoE", 2024, https://arxiv.org/abs/2409.12136, section 2.

    Example:
        >>> import torch
        >>> ids, weights = choose_sparsemixer(torch.tensor([[1.0, 9.0, 5.0]]), top_k=2, jitter=0.01, training=False)
        >>> ids.tolist(), weights.tolist()
        ([[1, 2]], [[1.0, 1.0]])
    """
    taken = torch.zeros_like(logits, dtype=torch.bool)
    picks = []
    for _ in range(top_k):
        pick = _pick_one(logits, taken, jitter=jitter, training=training)
        taken = taken.scatter(1, pick.expert_ids, True)
        picks.append(pick)
    return torch.cat([p.expert_ids for p in picks], dim=1), torch.cat([p.weights for p in picks], dim=1)


def _pick_one(logits: Float[Tensor, "T E"], taken: Bool[Tensor, "T E"], *, jitter: float, training: bool) -> _Pick:
    lowest = torch.finfo(logits.dtype).min
    # Finite, so that an expert that was taken (-inf) stays below every one that wasn't.
    ranked = logits.detach().nan_to_num(nan=lowest, neginf=lowest).masked_fill(taken, float("-inf"))
    best, best_id = ranked.max(dim=1, keepdim=True)
    distance = (best - logits.detach()) / logits.detach().abs().clamp(min=best)
    competing = ~(distance > 2 * jitter) & ~taken
    gates = logits.masked_fill(~competing, float("-inf")).softmax(dim=1)
    if not training:
        return _Pick(best_id, gates.gather(1, best_id))
    gumbel = -torch.empty_like(logits, dtype=torch.promote_types(logits.dtype, torch.float32)).exponential_().log()
    drawn_id = (ranked.masked_fill(~competing, float("-inf")) + gumbel).argmax(dim=1, keepdim=True)
    weight = gates.gather(1, drawn_id)
    is_whole = (drawn_id == best_id) | (torch.rand_like(weight) > 0.75)
    scaled = weight * is_whole.to(weight.dtype).mul(2 / 3).add(1 / 3)
    return _Pick(drawn_id, weight + (scaled - weight).detach())
