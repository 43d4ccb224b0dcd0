"""How far a routing decision is from another one: so a test knows that float32 must decide as float64 does.

Two values are a true tie, which the lowest id must win in every precision, where they were computed from the
same numbers in the same way: equal logits and equal bias. Other values must differ by more than rounding.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Hashable, Iterable, Iterator

from torch import Tensor

import oracle
import oracle_choice
from oracle_choice import Inputs, Parameters, Values

Ranked = tuple[float, Hashable]
"""A value that is ranked, and what it was computed from."""


def selection_gap(router: Values, parameters: Parameters, inputs: Inputs) -> float:
    """The smallest relative difference on which an id, its slot, or a drop depends; true ties don't count.

    Relative to the larger of two values. Router weights, tokens and biases must be multiples of 1/16, and
    small, so that float32 computes logits without rounding.
    """
    logits = [oracle.compute_logits(router, parameters, x).detach() for x in inputs.router_tokens]
    scores = [oracle.compute_scores(router, z) for z in logits]
    return min(itertools.chain([math.inf], _all_gaps(router, parameters, inputs, logits, scores)))


def gap_between(a: float, b: float, *, floor: float = 1e-36) -> float:
    """|a - b| relative to the larger magnitude, or to `floor`, below which float32 loses digits."""
    if math.isinf(a) or math.isinf(b):
        return math.inf
    return abs(a - b) / max(abs(a), abs(b), floor)


def gaps_in_order(ranked: Iterable[Ranked], count: int, *, floor: float = 1e-36) -> Iterator[float]:
    """Gaps between each of the best `count` and all below it: none of them may change places."""
    ordered = sorted(ranked, key=lambda item: -item[0])
    for place, above in enumerate(ordered[:count]):
        yield from _gaps_between([above], ordered[place + 1 :], floor)


def gaps_at_cut(ranked: Iterable[Ranked], count: int) -> Iterator[float]:
    """Gaps between those that get in and those that don't."""
    ordered = sorted(ranked, key=lambda item: -item[0])
    yield from _gaps_between(ordered[:count], ordered[count:], floor=1e-36)


def _gaps_between(above: list[Ranked], below: list[Ranked], floor: float) -> Iterator[float]:
    for (a, origin_a), (b, origin_b) in itertools.product(above, below):
        if origin_a != origin_b:
            yield gap_between(a, b, floor=floor)


def _all_gaps(
    router: Values, parameters: Parameters, inputs: Inputs, logits: list[Tensor], scores: list[Tensor]
) -> Iterator[float]:
    selection, is_causal = router["selection"], oracle_choice.decides_token_by_token(router, inputs.training)
    if selection == "expert_choice" and not is_causal:
        yield from _gaps_of_expert_choice(router, inputs, logits, scores)
        return
    for z, s in zip(logits, scores, strict=True):
        if selection == "sparsemixer":
            yield from _gaps_of_sparsemixer(router, z)
        elif selection == "expert_choice":
            values = oracle_choice.numbers(s)
            yield from gaps_in_order(zip(values, z.tolist(), strict=True), len(values))
            yield from _gaps_at_threshold(values, parameters["router.threshold"].tolist())
        elif selection in ("top_k", "top_p", "threshold"):
            yield from _gaps_of_token(router, parameters, z, s)
    if selection == "sinkhorn" and not is_causal:
        yield from _gaps_of_sinkhorn(router, inputs, logits)
    if router["capacity"] is not None and selection != "expert_choice":
        yield from _gaps_of_drops(router, parameters, inputs, logits, scores)


def _origins(router: Values, parameters: Parameters, logits: Tensor) -> list[Hashable]:
    """What each expert's value within one token was computed from; a value itself where float32 is exact."""
    bias = parameters["router.selection_bias"].tolist() if router["selection_bias"] else [0.0] * len(logits)
    if router["select_on"] == "logits" or router["score"] == "linear":
        return [z + b for z, b in zip(oracle_choice.numbers(logits), bias, strict=True)]
    return list(zip(oracle_choice.numbers(logits), bias, strict=True))


def _gaps_of_token(router: Values, parameters: Parameters, logits: Tensor, scores: Tensor) -> Iterator[float]:
    origins = _origins(router, parameters, logits)
    allowed = oracle_choice.allowed_experts(router, parameters, logits, scores)
    values = oracle_choice.selection_values(router, parameters, logits, scores)
    ranked = [(v, origins[e] if e in allowed else v) for e, v in enumerate(values)]
    yield from gaps_in_order(ranked, router["top_k"])
    if router["group_limit"] is not None:
        biased = oracle_choice.biased_values(router, parameters, logits, scores)
        yield from _gaps_of_groups(router, biased, origins)
    best = oracle_choice.best(values, router["top_k"])
    if router["selection"] == "threshold":
        yield from _gaps_at_threshold([values[e] for e in best], [router["threshold"]] * len(best))
    if router["selection"] == "top_p":
        usable = oracle_choice.weighed_scores(router, parameters, [logits], [scores])[0]
        yield from _gaps_of_mass([float(usable[e]) for e in best], router["top_p"])


def _gaps_of_groups(router: Values, values: list[float], origins: list[Hashable]) -> Iterator[float]:
    ranked = []
    for group in range(router["group_limit"]["num_groups"]):
        members = sorted(oracle_choice.group_members(router, group), key=lambda e: -values[e])
        parts = [origins[e] for e in members[: oracle_choice.num_counted(router)]]
        ranked.append((oracle_choice.group_score(router, values, group), tuple(sorted(parts))))
    yield from gaps_at_cut(ranked, router["group_limit"]["num_kept"])


def _gaps_at_threshold(values: list[float], thresholds: list[float]) -> Iterator[float]:
    for value, threshold in zip(values, thresholds, strict=True):
        if value != threshold:
            yield gap_between(value, threshold)


def _gaps_of_mass(probabilities: list[float], top_p: float) -> Iterator[float]:
    mass, is_exact = 0.0, True
    for probability in probabilities[:-1]:
        mass += probability
        is_exact = is_exact and (probability * 2**20).is_integer()
        if not (is_exact and mass == top_p):
            yield gap_between(mass, top_p)


def _gaps_of_sparsemixer(router: Values, logits: Tensor) -> Iterator[float]:
    left = oracle_choice.numbers(logits)
    for winner, _ in oracle_choice.mix_sparsely(router, logits):
        top = left[winner]
        for value in left:
            factor = max(abs(value), top)
            if factor != 0.0 and not math.isinf(value):
                yield gap_between((top - value) / factor, 2.0 * router["sparsemixer_jitter"])
        left[winner] = -math.inf


def _gaps_of_sinkhorn(router: Values, inputs: Inputs, logits: list[Tensor]) -> Iterator[float]:
    real = [t for t, padded in enumerate(inputs.padding) if not padded]
    moved = oracle_choice.balance_cost(router, {t: oracle_choice.numbers(logits[t]) for t in real})
    for values in moved.values():
        columns = [tuple(float(logits[t][e]) for t in real) for e in range(len(values))]
        yield from gaps_in_order(zip(values, columns, strict=True), router["top_k"], floor=1e-300)


def _softmax_origin(row: list[float]) -> Hashable:
    """What a softmax was computed from: all of a token's logits; one logit alone gives 1 in every precision."""
    return tuple(row) if len(row) > 1 else ()


def _ranked_tokens(
    router: Values, logits: list[Tensor], values: list[Tensor], tokens: list[int], expert: int
) -> list[Ranked]:
    """Tokens by what an expert makes of them; a softmax also rounds by the token's other logits."""
    ranked: list[Ranked] = []
    for t in tokens:
        row = oracle_choice.numbers(logits[t])
        origin = _softmax_origin(row) if router["score"] == "softmax" else row[expert]
        value = oracle_choice.numbers(values[t])[expert]
        ranked.append((value, origin if value else 0.0))
    return ranked


def _importance_origin(router: Values, logits: Tensor, ids: list[int]) -> Hashable:
    """What a token's best score was computed from."""
    row = oracle_choice.numbers(logits)
    if router["score"] == "softmax":
        return _softmax_origin(row)
    return max((row[e] for e in ids if e >= 0), default=None)


def _gaps_of_drops(
    router: Values, parameters: Parameters, inputs: Inputs, logits: list[Tensor], scores: list[Tensor]
) -> Iterator[float]:
    rule = router["capacity"]["drop_rule"]
    if rule not in ("score", "batch_prioritised"):
        return
    ids = oracle_choice.choose_experts(router, parameters, inputs, logits, scores)
    usable = oracle_choice.weighed_scores(router, parameters, logits, scores)
    for members in oracle_choice.capacity_groups(router, inputs):
        real = [t for t in members if not inputs.padding[t]]
        if rule == "batch_prioritised":
            importance = [oracle_choice.token_score(ids, usable, t) for t in real]
            origins = [_importance_origin(router, logits[t], ids[t]) for t in real]
            ranked = [(v, origin if v else 0.0) for v, origin in zip(importance, origins, strict=True)]
            yield from gaps_in_order(ranked, len(real))
            continue
        capacity = oracle_choice.capacity_size(router, len(members), inputs.training)
        for expert in range(router["num_experts"]):
            takers = [t for t in real if expert in ids[t]]
            yield from gaps_at_cut(_ranked_tokens(router, logits, usable, takers, expert), capacity)


def _gaps_of_expert_choice(
    router: Values, inputs: Inputs, logits: list[Tensor], scores: list[Tensor]
) -> Iterator[float]:
    rank_by = scores if router["select_on"] == "scores" else logits
    for members in oracle_choice.capacity_groups(router, inputs):
        real = [t for t in members if not inputs.padding[t]]
        capacity = min(oracle_choice.capacity_size(router, len(members), inputs.training), len(members))
        for expert in range(router["num_experts"]):
            yield from gaps_in_order(_ranked_tokens(router, logits, rank_by, real, expert), capacity)
