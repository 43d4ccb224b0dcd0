"""One verdict on one layer's routing: healthy, imbalanced or collapsed, with the numbers and a sentence."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from jaxtyping import Int, UInt8
from torch import Tensor

from headgate.errors import InputError
from headgate.flow import DropReason
from headgate.observe.metrics import (
    DeadExperts,
    dead_experts,
    drop_fraction,
    load_entropy,
    load_ratio,
    load_ratio_chance,
    load_variation,
)
from headgate.wording import number_of

Verdict = Literal["healthy", "imbalanced", "collapsed"]

COLLAPSED_SPREAD = 0.25
"""Below this `spread` a layer has collapsed: three quarters of the room that routing could use lie idle."""

IMBALANCED_LOAD_RATIO = 2.0
"""Above this `load_ratio` a layer is imbalanced: a device that holds the busiest expert takes twice as long as it
should, and a capacity factor of 2, the largest in common use (GShard), drops rows."""

IMBALANCED_DROP_FRACTION = 0.01
"""Above this part of slots dropped by capacity a layer is imbalanced: Switch Transformers (arXiv:2101.03961, section
2.2) report below 1 % for a balanced layer."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerHealth:
    """How one layer's routing does.

    Attributes:
        verdict: "collapsed" below `COLLAPSED_SPREAD`; else "imbalanced" above `IMBALANCED_LOAD_RATIO` or
            `IMBALANCED_DROP_FRACTION`, or with a dead expert that a sufficient sample shows; else "healthy".
        load_ratio: busiest expert / even share. 1 at perfect balance, E / K at full collapse.
        load_ratio_chance: at most so likely an even router shows such a busiest expert in so few rows.
        load_variation: coefficient of variation of the load. 0 at perfect balance, sqrt(E / K - 1) at full collapse.
        normalised_entropy: of the load. 1 at perfect balance, ln(K) / ln(E) at full collapse; 1 for a single expert.
        effective_experts: exp(entropy of the load). E at perfect balance, K at full collapse.
        spread: (effective_experts - K) / (E - K). 1 at perfect balance, 0 at full collapse; 1 where K = E.
        dead: the experts without rows, and whether the sample can show it.
        capacity_drop_fraction: slots dropped because an expert was full / slots that chose an expert.
        sentence: the verdict in words.
    """

    verdict: Verdict
    load_ratio: float
    load_ratio_chance: float
    load_variation: float
    normalised_entropy: float
    effective_experts: float
    spread: float
    dead: DeadExperts
    capacity_drop_fraction: float
    sentence: str


def health(
    expert_counts: Int[Tensor, " E"], *, top_k: int, drop_reason: UInt8[Tensor, "A B"] | None = None
) -> LayerHealth:
    """Judge one layer's routing by its real load.

    Args:
        expert_counts: [E] integer, rows per expert, over as many tokens as there are.
        top_k: K, the experts that a token gets; the load of a fully collapsed layer lies on K of them.
        drop_reason: [T, K] or [E, C] uint8, `DispatchPlan.drop_reason`; None = nothing was dropped.

    Raises:
        InputError: there are no rows, so there is nothing to judge.

    Example:
        >>> import torch
        >>> health(torch.tensor([90, 110, 95, 105]), top_k=1).verdict
        'healthy'
    """
    dropped = 0.0 if drop_reason is None else _capacity_drop_fraction(drop_reason)
    return judge_load(expert_counts, top_k=top_k, capacity_drop_fraction=dropped)


def judge_load(expert_counts: Int[Tensor, " E"], *, top_k: int, capacity_drop_fraction: float) -> LayerHealth:
    """Judge one layer's routing where only the part of the dropped choices is known.

    Args:
        expert_counts: [E] integer, rows per expert, over as many tokens as there are.
        top_k: K, the experts that a token gets.
        capacity_drop_fraction: slots dropped because an expert was full / slots that chose an expert.

    Raises:
        InputError: there are no rows, so there is nothing to judge.

    Example:
        >>> import torch
        >>> judge_load(torch.tensor([90, 110, 95, 105]), top_k=1, capacity_drop_fraction=0.2).verdict
        'imbalanced'
    """
    num_rows = int(expert_counts.sum())
    if num_rows == 0:
        raise InputError("expert_counts sums to 0: no row reached an expert; route some tokens first")
    num_experts = len(expert_counts)
    entropy = load_entropy(expert_counts).item()
    ratio = load_ratio(expert_counts).item()
    room = num_experts - top_k
    spread = (math.exp(entropy) - top_k) / room if room > 0 else 1.0
    dead = dead_experts(expert_counts)
    verdict = _verdict(spread, ratio, dead, capacity_drop_fraction)
    return LayerHealth(
        verdict=verdict,
        load_ratio=ratio,
        load_ratio_chance=load_ratio_chance(expert_counts),
        load_variation=load_variation(expert_counts).item(),
        normalised_entropy=entropy / math.log(num_experts) if num_experts > 1 else 1.0,
        effective_experts=math.exp(entropy),
        spread=spread,
        dead=dead,
        capacity_drop_fraction=capacity_drop_fraction,
        sentence=_sentence(verdict, num_experts, math.exp(entropy), ratio, dead, capacity_drop_fraction),
    )


def _capacity_drop_fraction(drop_reason: UInt8[Tensor, "A B"]) -> float:
    fractions = drop_fraction(drop_reason)
    chosen = 1.0 - fractions[DropReason.NO_EXPERT] - fractions[DropReason.PADDING]
    return fractions[DropReason.CAPACITY] / chosen if chosen > 0.0 else 0.0


def _verdict(spread: float, ratio: float, dead: DeadExperts, dropped: float) -> Verdict:
    if spread < COLLAPSED_SPREAD:
        return "collapsed"
    has_dead = dead.count > 0 and dead.is_sample_sufficient
    if ratio > IMBALANCED_LOAD_RATIO or dropped > IMBALANCED_DROP_FRACTION or has_dead:
        return "imbalanced"
    return "healthy"


def _sentence(
    verdict: Verdict, num_experts: int, effective: float, ratio: float, dead: DeadExperts, dropped: float
) -> str:
    parts = {
        "healthy": f"all {num_experts} experts share the work",
        "imbalanced": "the work is shared unevenly",
        "collapsed": f"the work of {num_experts} experts lies on about {effective:.1f} of them",
    }
    if verdict == "healthy" and dead.count:
        parts["healthy"] = "the work is shared evenly among the experts seen so far"
    idle = number_of(dead.count, "expert")
    said = [parts[verdict], f"the busiest does {ratio:.2f} times an even share"]
    if dead.count and dead.is_sample_sufficient:
        said.append(f"{idle} dead ({_ids(dead.expert_ids)})")
    elif dead.count:
        said.append(
            f"{idle} got nothing, but {number_of(dead.num_rows, 'row is', 'rows are')} too few to call one dead "
            f"({dead.num_rows_needed} would do)"
        )
    if dropped:
        said.append(f"{dropped:.1%} of the choices were dropped because the expert was full")
    return "; ".join(said)


def _ids(expert_ids: tuple[int, ...]) -> str:
    shown = ", ".join(map(str, expert_ids[:8]))
    return shown if len(expert_ids) <= 8 else f"{shown}, ..."
