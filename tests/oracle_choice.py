"""Who is chosen, with which weight, and what is dropped, in float64, one token at a time. See oracle.py."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

KEPT, NO_EXPERT, CAPACITY, PADDING = 0, 1, 2, 3

Values = Mapping[str, Any]
Parameters = Mapping[str, Tensor]


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """What a layer is called with.

    Attributes:
        x: [S, T / S, D] float64: sequences of tokens.
        training: the layer's mode.
        token_ids: T ids, for a router that looks experts up by them.
        is_padding: T booleans.
    """

    x: Tensor
    training: bool = False
    token_ids: Sequence[int] | None = None
    is_padding: Sequence[bool] | None = None

    @property
    def tokens(self) -> Tensor:
        """[T, D]."""
        return self.x.reshape(-1, self.x.shape[-1])

    @property
    def router_tokens(self) -> Tensor:
        """[T, D], what the router sees: padding is zeros."""
        return torch.where(torch.tensor(self.padding, dtype=torch.bool)[:, None], 0.0, self.tokens)

    @property
    def sequences(self) -> list[list[int]]:
        """The token indices of each sequence."""
        num_sequences, length = self.x.shape[0], self.x.shape[1]
        return [list(range(s * length, (s + 1) * length)) for s in range(num_sequences)]

    @property
    def padding(self) -> list[bool]:
        """T booleans."""
        return [False] * len(self.tokens) if self.is_padding is None else list(self.is_padding)


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Who chose whom: [T][K] expert ids where tokens chose, [E][C] token ids where experts did; -1 = nobody.

    Attributes:
        ids: best first.
        weights: as applied, a scalar each; 0 where nothing was chosen or it was dropped.
        drop_reason: 0 kept, 1 nobody, 2 over capacity, 3 padding.
        by_token: whether tokens chose.
    """

    ids: list[list[int]]
    weights: list[list[Tensor]]
    drop_reason: list[list[int]]
    by_token: bool


def choose(
    router: Values, parameters: Parameters, inputs: Inputs, logits: list[Tensor], scores: list[Tensor]
) -> Choice:
    """Ids, weights and drops."""
    if router["selection"] == "expert_choice" and not decides_token_by_token(router, inputs.training):
        return choose_tokens(router, inputs, logits, scores)
    ids = choose_experts(router, parameters, inputs, logits, scores)
    drop_reason = find_drops(router, inputs, ids, weighed_scores(router, parameters, logits, scores))
    weights = []
    for t, ids_t in enumerate(ids):
        weights.append(weigh(router, parameters, logits[t], scores[t], ids_t, drop_reason[t]))
    return Choice(ids=ids, weights=weights, drop_reason=drop_reason, by_token=True)


def decides_token_by_token(router: Values, training: bool) -> bool:
    """Whether selections that compare tokens are replaced by their causal stand-in."""
    return router["causal_inference"] and not training


def choose_experts(
    router: Values, parameters: Parameters, inputs: Inputs, logits: list[Tensor], scores: list[Tensor]
) -> list[list[int]]:
    """[T][K] expert ids; [T][E] for expert choice in inference, where all experts may take a token."""
    selection = router["selection"]
    if selection == "sinkhorn" and not decides_token_by_token(router, inputs.training):
        return choose_sinkhorn(router, inputs, logits)
    chosen = []
    for t, (z, s) in enumerate(zip(logits, scores, strict=True)):
        if selection == "hash":
            chosen.append([int(e) for e in parameters["router.expert_table"][inputs.token_ids[t]]])
        elif selection == "sparsemixer":
            chosen.append([e for e, _ in mix_sparsely(router, z)])
        elif selection == "sinkhorn":
            chosen.append(best(numbers(z), router["top_k"]))
        elif selection == "expert_choice":
            ranked = best(numbers(s), router["num_experts"])
            thresholds = parameters["router.threshold"].tolist()
            chosen.append([e if numbers(s)[e] >= thresholds[e] else -1 for e in ranked])
        else:
            usable = weighed_scores(router, parameters, [z], [s])[0]
            chosen.append(choose_ranked(router, selection_values(router, parameters, z, s), usable))
    return chosen


def choose_ranked(router: Values, values: list[float], scores: Tensor) -> list[int]:
    """[K] ids by rank: the best K, or fewer of them."""
    ranked = best(values, router["top_k"])
    if router["selection"] == "top_k":
        return ranked
    if router["selection"] == "threshold":
        return pad([e for e in ranked if values[e] >= router["threshold"]], router["top_k"])
    probabilities = scores.detach().tolist()
    prefix, mass = ranked[:1], probabilities[ranked[0]]
    for e in ranked[1:]:
        if not mass < router["top_p"]:
            break
        prefix.append(e)
        mass += probabilities[e]
    return pad(prefix, router["top_k"])


def best(values: Sequence[float], k: int) -> list[int]:
    """Indices of the k largest, largest first; ties to the lowest index; NaN as -inf."""
    comparable = [-math.inf if math.isnan(v) else v for v in values]
    return sorted(range(len(values)), key=lambda i: (-comparable[i], i))[:k]


def pad(ids: list[int], k: int) -> list[int]:
    """`ids`, then -1 up to k entries."""
    return ids + [-1] * (k - len(ids))


def numbers(row: Tensor) -> list[float]:
    """Plain floats, NaN as -inf."""
    return [-math.inf if math.isnan(v) else v for v in row.detach().tolist()]


def selection_values(router: Values, parameters: Parameters, logits: Tensor, scores: Tensor) -> list[float]:
    """[E], what experts are ranked by: scores or logits, plus the bias, cut to the best groups."""
    values = biased_values(router, parameters, logits, scores)
    allowed = allowed_experts(router, parameters, logits, scores)
    masked = {None: 0.0, "zero": 0.0, "-inf": -math.inf}[(router["group_limit"] or {}).get("mask_value")]
    return [v if e in allowed else masked for e, v in enumerate(values)]


def biased_values(router: Values, parameters: Parameters, logits: Tensor, scores: Tensor) -> list[float]:
    """[E], scores or logits, plus the selection bias."""
    values = scores if router["select_on"] == "scores" else logits
    if router["selection_bias"]:
        values = values + parameters["router.selection_bias"]
    return numbers(values)


def allowed_experts(router: Values, parameters: Parameters, logits: Tensor, scores: Tensor) -> set[int]:
    """The experts of a token's best groups; all of them where there are no groups."""
    limit = router["group_limit"]
    if limit is None:
        return set(range(len(logits)))
    values = biased_values(router, parameters, logits, scores)
    kept = best([group_score(router, values, g) for g in range(limit["num_groups"])], limit["num_kept"])
    return {e for g in kept for e in group_members(router, g)}


def group_members(router: Values, group: int) -> list[int]:
    """The expert ids of a group."""
    size = (router["num_experts"] + router["num_zero_experts"]) // router["group_limit"]["num_groups"]
    return list(range(group * size, (group + 1) * size))


def group_score(router: Values, values: list[float], group: int) -> float:
    """The sum of a group's best one, two, or K / num_kept values."""
    return sum(sorted((values[e] for e in group_members(router, group)), reverse=True)[: num_counted(router)])


def num_counted(router: Values) -> int:
    """How many of a group's best experts make its score."""
    limit = router["group_limit"]
    share = max(1, router["top_k"] // limit["num_kept"])
    return {"max": 1, "top2_sum": 2, "top_share_sum": share}[limit["group_score"]]


def choose_sinkhorn(router: Values, inputs: Inputs, logits: list[Tensor]) -> list[list[int]]:
    """[T][K] ids by exp(logits), rescaled until experts have equal load; padding has no part in it."""
    real = {t: numbers(z) for t, z in enumerate(logits) if not inputs.padding[t]}
    balanced = balance_cost(router, real)
    return [best(balanced.get(t, [0.0] * len(logits[t])), router["top_k"]) for t in range(len(logits))]


def balance_cost(router: Values, logits: Mapping[int, list[float]]) -> dict[int, list[float]]:
    """Each token's [E] exp(logits), times a factor per token and per expert that make the sums equal."""
    num_tokens, experts = len(logits), range(router["num_experts"] + router["num_zero_experts"])
    cost = {t: [math.exp(z) for z in row] for t, row in logits.items()}
    of_token, of_expert = dict.fromkeys(logits, 1.0), [1.0 for _ in experts]
    for _ in range(router["sinkhorn_iterations"] if logits else 0):
        for t in logits:
            of_token[t] = inverse(num_tokens * sum(of_expert[e] * cost[t][e] for e in experts))
        for e in experts:
            of_expert[e] = inverse(len(experts) * sum(of_token[t] * cost[t][e] for t in logits))
    return {t: [of_expert[e] * cost[t][e] * of_token[t] for e in experts] for t in logits}


def inverse(total: float) -> float:
    """1 / total; 1 for nothing, as of a token whose logits are all NaN."""
    return 1.0 / total if total else 1.0


def mix_sparsely(router: Values, logits: Tensor) -> list[tuple[int, Tensor]]:
    """SparseMixer outside training: K times, the best expert left, weighed by a softmax over the close."""
    left, picks = list(range(len(logits))), []
    for _ in range(router["top_k"]):
        values = numbers(logits)
        winner = max(left, key=lambda e: (values[e], -e))
        close = [e for e in left if not is_far(values[winner], values[e], router["sparsemixer_jitter"])]
        picks.append((winner, softmax_of(logits, close)[close.index(winner)]))
        left.remove(winner)
    return picks


def is_far(top: float, value: float, jitter: float) -> bool:
    """Whether a logit is more than 2 * jitter below the best one, as a fraction of the larger magnitude."""
    factor = max(abs(value), top)
    return factor != 0.0 and (top - value) / factor > 2.0 * jitter


def softmax_of(logits: Tensor, ids: list[int]) -> list[Tensor]:
    """The softmax over a few of a token's logits."""
    top = max((numbers(logits)[e] for e in ids), default=0.0)
    powers = [(logits[e] - top).exp() for e in ids]
    return [power / sum(powers) for power in powers]


# Weights of one token's choices.


def weigh(
    router: Values, parameters: Parameters, logits: Tensor, scores: Tensor, ids: list[int], drops: list[int]
) -> list[Tensor]:
    """[K] combine weights; 0 where nothing was chosen or it was dropped."""
    is_kept = [reason == KEPT for reason in drops]
    after_drop = (router["capacity"] or {}).get("normalise") == "after_drop"
    counted = [k for k, e in enumerate(ids) if e >= 0 and (is_kept[k] or not after_drop)]
    ids_counted = [ids[k] for k in counted]
    if router["selection"] == "sparsemixer":
        mixed = dict(mix_sparsely(router, logits))
        weights = [mixed[e] for e in ids_counted]
    elif router["normalise"] == "softmax":
        weights = softmax_of(logits, ids_counted)
    else:
        usable = weighed_scores(router, parameters, [logits], [scores])[0]
        weights = normalise(router, [usable[e] for e in ids_counted])
    by_slot = dict(zip(counted, weights, strict=True))
    zero = torch.zeros((), dtype=torch.float64)
    return [by_slot[k] * router["scale"] if is_kept[k] else zero for k in range(len(ids))]


def weighed_scores(router: Values, parameters: Parameters, logits: list[Tensor], scores: list[Tensor]) -> list[Tensor]:
    """[T] of [E]: the scores that weights are made of; 0 in other groups where the mask value is zero."""
    if (router["group_limit"] or {}).get("mask_value") != "zero":
        return scores
    usable = []
    for z, s in zip(logits, scores, strict=True):
        allowed = allowed_experts(router, parameters, z, s)
        usable.append(torch.stack([s[e] if e in allowed else torch.zeros_like(s[e]) for e in range(len(s))]))
    return usable


def normalise(router: Values, chosen: list[Tensor]) -> list[Tensor]:
    """The chosen scores as they are, or divided by their p-norm; scores of zeros alone stay zeros."""
    if router["normalise"] == "none" or not chosen:
        return chosen
    p = router["norm_order"]
    norm = sum(chosen) if p == 1.0 else sum(s**p for s in chosen) ** (1.0 / p)
    epsilon = router["epsilon"]
    norm = norm + epsilon if router["epsilon_rule"] == "add" else norm.clamp(min=epsilon)
    return chosen if norm.item() == 0.0 else [s / norm for s in chosen]


# Drops.


def find_drops(router: Values, inputs: Inputs, ids: list[list[int]], scores: list[Tensor]) -> list[list[int]]:
    """[T][K] drop reasons."""
    reasons = []
    for t, ids_t in enumerate(ids):
        reasons.append([PADDING if inputs.padding[t] else KEPT if e >= 0 else NO_EXPERT for e in ids_t])
    if router["capacity"] is None or router["selection"] == "expert_choice":
        return reasons
    for members in capacity_groups(router, inputs):
        capacity = capacity_size(router, len(members), inputs.training)
        taken: dict[int, int] = {}
        for t, k in queue(router["capacity"]["drop_rule"], members, ids, scores):
            if reasons[t][k] != KEPT or ids[t][k] >= router["num_experts"]:
                continue  # Zero-compute experts are never full.
            if taken.get(ids[t][k], 0) >= capacity:
                reasons[t][k] = CAPACITY
            else:
                taken[ids[t][k]] = taken.get(ids[t][k], 0) + 1
    return reasons


def capacity_groups(router: Values, inputs: Inputs) -> list[list[int]]:
    """The tokens that share a capacity."""
    if router["capacity"]["per"] == "sequence":
        return inputs.sequences
    return [list(range(len(inputs.tokens)))]


def capacity_size(router: Values, num_tokens: int, training: bool) -> int:
    """C of an expert for `num_tokens` tokens, padding included."""
    capacity = router["capacity"]
    factor = capacity["factor"]
    if not training and capacity["eval_factor"] is not None:
        factor = capacity["eval_factor"]
    if factor is None:
        return capacity["absolute"]
    return math.ceil(factor * num_tokens * router["top_k"] / router["num_experts"])


def queue(rule: str, members: list[int], ids: list[list[int]], scores: list[Tensor]) -> list[tuple[int, int]]:
    """(token, choice) in the order in which experts admit them."""
    slots = [(t, k) for t in members for k in range(len(ids[t]))]
    if rule == "position":
        return slots
    if rule == "choice_position":
        return sorted(slots, key=lambda slot: (slot[1], slot[0]))
    if rule == "score":
        return sorted(slots, key=lambda slot: (-slot_score(ids, scores, *slot), slot))
    return sorted(slots, key=lambda slot: (slot[1], -token_score(ids, scores, slot[0]), slot[0]))


def slot_score(ids: list[list[int]], scores: list[Tensor], t: int, k: int) -> float:
    """The score of a choice; -inf where there is none or it is NaN."""
    return numbers(scores[t])[ids[t][k]] if ids[t][k] >= 0 else -math.inf


def token_score(ids: list[list[int]], scores: list[Tensor], t: int) -> float:
    """The best score among a token's choices."""
    return max(slot_score(ids, scores, t, k) for k in range(len(ids[t])))


# Expert choice.


def choose_tokens(router: Values, inputs: Inputs, logits: list[Tensor], scores: list[Tensor]) -> Choice:
    """Each expert takes its best tokens of the batch, or of each sequence."""
    rank_by = scores if router["select_on"] == "scores" else logits
    ids: list[list[int]] = []
    for e in range(router["num_experts"]):
        groups = capacity_groups(router, inputs)
        ids.append([t for members in groups for t in best_tokens(router, inputs, rank_by, members, e)])
    zero = torch.zeros((), dtype=torch.float64)
    weights = []
    for e, row in enumerate(ids):
        weights.append([scores[t][e] * router["scale"] if t >= 0 else zero for t in row])
    return Choice(
        ids=ids,
        weights=weights,
        drop_reason=[[KEPT if t >= 0 else NO_EXPERT for t in row] for row in ids],
        by_token=False,
    )


def best_tokens(router: Values, inputs: Inputs, rank_by: list[Tensor], members: list[int], expert: int) -> list[int]:
    """The C tokens that an expert takes of those that share its capacity; -1 where there are too few."""
    capacity = min(capacity_size(router, len(members), inputs.training), len(members))
    real = [t for t in members if not inputs.padding[t]]
    ranked = best([numbers(rank_by[t])[expert] for t in real], capacity)
    return pad([real[i] for i in ranked], capacity)
