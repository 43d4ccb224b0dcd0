"""Who is chosen: from scores to expert ids, and the weights of the chosen. Ties go to the lowest id.

A NaN ranks below every number. A token whose scores are all NaN therefore gets the lowest ids, distinct and in
range, and NaN weights: it spoils its own output and no other token's.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from headgate.flow import NO_EXPERT


def rank_best(values: Float[Tensor, "... n"], k: int) -> Int[Tensor, "... k"]:
    """Indices of the k largest along the last axis, largest first, ties to the lowest index, NaN last."""
    # torch.topk leaves the order of ties open, and it differs between devices; a stable sort does not.
    return _comparable(values).sort(dim=-1, descending=True, stable=True).indices[..., :k]


def _comparable(values: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
    """The values without gradient, -inf for NaN."""
    return torch.where(values.isnan(), float("-inf"), values.detach())


def allowed_by_groups(
    select_scores: Float[Tensor, "T E"],
    *,
    num_groups: int,
    num_kept: int,
    group_score: Literal["max", "top2_sum", "top_share_sum"],
    top_k: int,
) -> Bool[Tensor, "T E"]:
    """Mark the experts that lie in each token's best groups. Groups are equal runs of expert ids.

    References:
        DeepSeek-AI, "DeepSeek-V2", 2024, https://arxiv.org/abs/2405.04434, section 2.2.2 (max); "DeepSeek-V3",
        2024, https://arxiv.org/abs/2412.19437, section 2.1.2 (sum of the best K / num_kept; 2 as published).

    Example:
        >>> import torch
        >>> scores = torch.tensor([[0.9, 0.0, 0.5, 0.5]])
        >>> allowed_by_groups(scores, num_groups=2, num_kept=1, group_score="top2_sum", top_k=1).tolist()
        [[False, False, True, True]]
    """
    num_tokens, num_experts = select_scores.shape
    grouped = _comparable(select_scores).reshape(num_tokens, num_groups, num_experts // num_groups)
    counted = {"max": 1, "top2_sum": 2, "top_share_sum": max(1, top_k // num_kept)}[group_score]
    best = grouped.topk(min(counted, grouped.shape[-1]), dim=-1).values.sum(dim=-1)
    kept = rank_best(best, num_kept)
    allowed = torch.zeros_like(best, dtype=torch.bool).scatter(1, kept, True)
    return allowed.repeat_interleave(num_experts // num_groups, dim=1)


def select_top_k(select_scores: Float[Tensor, "T E"], *, top_k: int) -> Int[Tensor, "T K"]:
    """Each token's K best experts. Depends on that token alone.

    Example:
        >>> import torch
        >>> select_top_k(torch.tensor([[0.2, 0.4, 0.4]]), top_k=2).tolist()
        [[1, 2]]
    """
    return rank_best(select_scores, top_k)


def select_top_p(
    select_scores: Float[Tensor, "T E"], scores: Float[Tensor, "T E"], *, top_k: int, top_p: float
) -> Int[Tensor, "T K"]:
    """Each token's fewest best experts whose probabilities add up to `top_p`, at most K; the rest are -1.

    `select_scores`, with a selection bias, rank; `scores` add up. Depends on that token alone.

    References:
        Huang et al., "Harder Tasks Need More Experts", 2024, https://arxiv.org/abs/2403.07652, equation 3.

    Example:
        >>> import torch
        >>> scores = torch.tensor([[0.6, 0.3, 0.1], [0.4, 0.3, 0.3]])
        >>> select_top_p(scores, scores, top_k=3, top_p=0.5).tolist()
        [[0, -1, -1], [0, 1, -1]]
    """
    expert_ids = rank_best(select_scores, top_k)
    chosen = scores.detach().gather(1, expert_ids)
    # An expert is needed as long as those before it fall short. NaN mass: keep the first, drop the rest.
    mass_before = chosen.cumsum(dim=1) - chosen
    needed = (mass_before < top_p) | (torch.arange(top_k, device=scores.device) == 0)
    return expert_ids.where(needed, NO_EXPERT)


def select_threshold(
    select_scores: Float[Tensor, "T E"], *, top_k: int, threshold: float | Float[Tensor, " E"]
) -> Int[Tensor, "T K"]:
    """Each token's experts whose score reaches the threshold, best first, at most K; the rest are -1, perhaps all.

    Depends on that token alone.

    Example:
        >>> import torch
        >>> select_threshold(torch.tensor([[0.6, 0.3, 0.9], [0.1, 0.2, 0.3]]), top_k=2, threshold=0.5).tolist()
        [[2, 0], [-1, -1]]
    """
    expert_ids = rank_best(select_scores, top_k)
    reached = (select_scores.detach() >= threshold).gather(1, expert_ids)
    return expert_ids.where(reached, NO_EXPERT)


def select_tokens(
    scores: Float[Tensor, "T E"],
    *,
    capacity: int,
    sequence_length: int,
    is_padding: Bool[Tensor, " T"] | None,
) -> Int[Tensor, "E C"]:
    """Expert choice: each expert's `capacity` best tokens of each sequence; -1 where there are too few.

    Compares tokens with each other: whether a token is taken may depend on tokens after it.

    Args:
        scores: [T, E], T = sequences * sequence_length.
        capacity: tokens that an expert takes of each sequence, at most its length.
        sequence_length: tokens in each sequence; T for the whole batch as one.
        is_padding: [T], tokens that no expert may take.

    Returns:
        [E, sequences * capacity] int64, by sequence, best first; ties to the earliest token.

    References:
        Zhou et al., "Mixture-of-Experts with Expert Choice Routing", 2022, https://arxiv.org/abs/2202.09368,
        section 3.2.

    Example:
        >>> import torch
        >>> scores = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]])
        >>> select_tokens(scores, capacity=2, sequence_length=3, is_padding=None).tolist()
        [[0, 1], [2, 1]]
    """
    num_tokens, num_experts = scores.shape
    num_sequences = num_tokens // sequence_length if sequence_length else 0
    by_expert = scores.detach().t().reshape(num_experts, num_sequences, sequence_length)
    first_token = torch.arange(num_sequences, device=scores.device) * sequence_length
    if is_padding is None:
        token_ids = rank_best(by_expert, capacity) + first_token[:, None]
        return token_ids.reshape(num_experts, -1)
    padded = is_padding.reshape(1, num_sequences, sequence_length).expand_as(by_expert)
    # NaN ranks with -inf; a real token must still come before padding, so padding is sorted out in a second key.
    order = rank_best(by_expert, sequence_length)
    real_first = padded.gather(2, order).to(torch.int8).sort(dim=2, stable=True)
    best = order.gather(2, real_first.indices)[..., :capacity]
    is_real = real_first.values[..., :capacity] == 0
    return (best + first_token[:, None]).where(is_real, NO_EXPERT).reshape(num_experts, -1)


def select_sinkhorn(
    logits: Float[Tensor, "T E"], *, top_k: int, iterations: int, is_padding: Bool[Tensor, " T"] | None
) -> Int[Tensor, "T K"]:
    """Each token's K best experts after the logits were balanced to equal load by Sinkhorn iterations.

    Compares tokens with each other: a token's experts may depend on tokens after it. Tokens that are all alike are
    left with equal shares of every expert, and rounding decides.

    References:
        Clark et al., "Unified Scaling Laws for Routed Language Models", 2022, https://arxiv.org/abs/2202.01169,
        section 3.1 and appendix B.

    Example:
        >>> import torch
        >>> logits = torch.tensor([[2.0, 1.0], [2.0, 0.0]])
        >>> select_sinkhorn(logits, top_k=1, iterations=8, is_padding=None).tolist()
        [[1], [0]]
    """
    log_cost = logits.detach()
    if is_padding is not None:
        log_cost = log_cost.masked_fill(is_padding[:, None], float("-inf"))
    # In the log domain, where exp(+-80) neither overflows nor vanishes; a token of NaN or -inf alone has no mass.
    nothing, most = float("-inf"), torch.finfo(log_cost.dtype).max
    finite = log_cost.nan_to_num(nan=nothing, neginf=nothing, posinf=most)
    expert_shift = finite.new_zeros(finite.shape[1])
    for _ in range(iterations):
        token_shift = (finite + expert_shift).logsumexp(dim=1).nan_to_num(neginf=0.0)
        # Along the last axis: along the first, equal columns may be added up in different orders.
        by_expert = (finite - token_shift[:, None]).t().contiguous()
        expert_shift = -by_expert.logsumexp(dim=1).nan_to_num(neginf=0.0)
    return rank_best(finite + expert_shift, top_k)


def select_hash(token_ids: Int[Tensor, " T"], expert_table: Int[Tensor, "V K"]) -> Int[Tensor, "T K"]:
    """Look each token id's experts up in a fixed table. Depends on that token alone.

    References:
        Roller et al., "Hash Layers For Large Sparse Models", 2021, https://arxiv.org/abs/2106.04426, section 3.

    Example:
        >>> import torch
        >>> select_hash(torch.tensor([1, 1, 0]), torch.tensor([[3], [5]])).tolist()
        [[5], [5], [3]]
    """
    return expert_table[token_ids]


def make_expert_table(*, vocab_size: int, num_experts: int, top_k: int) -> Int[Tensor, "V K"]:
    """A fixed random table of distinct experts for each token id, each expert equally often as a first choice.

    Returns:
        [V, K] int64; the same on every machine.

    Example:
        >>> make_expert_table(vocab_size=100, num_experts=4, top_k=2).shape
        torch.Size([100, 2])
    """
    generator = torch.Generator().manual_seed(0)
    first = torch.randperm(vocab_size, generator=generator, device="cpu") % num_experts
    return (first[:, None] + torch.arange(top_k, device="cpu")) % num_experts


def draw_second_expert(
    scores: Float[Tensor, "T E"], expert_ids: Int[Tensor, "T 2"], *, policy: Literal["sampled", "random"]
) -> Int[Tensor, "T 2"]:
    """Replace each token's second choice by a draw, in training.

    "sampled" takes the best of the other experts after Gumbel noise on their log scores; "random" keeps the second
    choice with probability min(1, 2 * its score).

    References:
        Lepikhin et al., "GShard", 2020, https://arxiv.org/abs/2006.16668, section 2.2 ("random routing").

    Example:
        >>> import torch
        >>> ids = torch.tensor([[0, 1]])
        >>> draw_second_expert(torch.tensor([[0.5, 0.5]]), ids, policy="sampled").tolist()
        [[0, 1]]
    """
    first, second = expert_ids[:, :1], expert_ids[:, 1:]
    if policy == "random":
        kept = 2.0 * scores.detach().gather(1, second) > torch.rand_like(second, dtype=scores.dtype)
        return torch.cat([first, second.where(kept, NO_EXPERT)], dim=1)
    gumbel = -torch.empty_like(scores).exponential_().log()
    perturbed = (scores.detach().log() + gumbel).scatter(1, first, float("-inf"))
    return torch.cat([first, rank_best(perturbed, 1)], dim=1)


def weigh_choices(
    values: Float[Tensor, "T K"],
    *,
    normalise: Literal["none", "sum", "softmax"],
    norm_order: float,
    epsilon: float,
    epsilon_rule: Literal["add", "clamp"],
    scale: float,
) -> Float[Tensor, "T K"]:
    """Turn the chosen scores into combine weights.

    Args:
        values: [T, K], the chosen scores, 0 in empty slots; for "softmax" the chosen logits, -inf in empty slots.
        normalise: "none"; "sum" divides by the norm of order `norm_order`; "softmax" over the K.
        norm_order: p of the norm (for scores, which are never negative, p = 1 is the sum).
        epsilon: added to the norm ("add") or its lower bound ("clamp").
        epsilon_rule: which of the two.
        scale: multiplies the result.

    Returns:
        [T, K] in the dtype of `values`. Without epsilon a row of zeros divides 0 by 0, and is 0, not NaN.

    Example:
        >>> import torch
        >>> options = {"norm_order": 1.0, "epsilon": 0.0, "epsilon_rule": "add", "scale": 2.0}
        >>> weigh_choices(torch.tensor([[0.75, 0.25]]), normalise="sum", **options).tolist()
        [[1.5, 0.5]]
    """
    if normalise == "softmax":
        weights = values.softmax(dim=-1)
    elif normalise == "sum":
        norm = values.sum(-1, keepdim=True) if norm_order == 1.0 else values.norm(p=norm_order, dim=-1, keepdim=True)
        norm = norm + epsilon if epsilon_rule == "add" else norm.clamp(min=epsilon)
        weights = values / norm.where(norm != 0, 1.0)
    else:
        weights = values
    return weights if scale == 1.0 else weights * scale
