"""Measure routing: how evenly experts are loaded, what was dropped, how sure the router was.

All functions are pure and work on what was really chosen, never on probabilities. Letters: T tokens, E experts,
K choices, N slots, C capacity; `*L` stands for any leading axes, such as layers.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int, UInt8
from torch import Tensor

from headgate.errors import InputError
from headgate.flow import NO_EXPERT, DropReason, ExpertChoice, TokenChoice

LEAST_SHARE = 0.1
"""An expert that would get at least this part of an even share must have been seen before it is called dead."""

MISS_PROBABILITY = 0.01
"""How likely it may be that such an expert is missed by chance."""


def load_ratio(expert_counts: Int[Tensor, "*L E"]) -> Float[Tensor, "*L"]:
    """Compute the busiest expert's load as a multiple of an even share.

    max(n) / mean(n) over the experts. With one expert per device this is how much longer a step takes than it should.

    Args:
        expert_counts: [..., E] integer, rows per expert.

    Returns:
        [...] float64, no unit. 1 at perfect balance, E / K at full collapse onto K experts; NaN without rows.

    Example:
        >>> import torch
        >>> load_ratio(torch.tensor([6, 2, 2, 2])).item()
        2.0
    """
    counts = expert_counts.double()
    return counts.amax(-1) / counts.mean(-1)


def load_ratio_chance(expert_counts: Int[Tensor, " E"]) -> float:
    """Bound the probability that a router with an even load shows a busiest expert like this one, or a busier.

    E exp(-m (r ln r - r + 1)), at most 1, with m = mean(n) and r = max(n) / m: Chernoff's bound of one expert, for all.

    Args:
        expert_counts: [E] integer, rows per expert.

    Returns:
        no unit; 1 without rows. Tokens count as independent; where those of a sequence are alike, it is larger.

    References:
        Mitzenmacher and Upfal, "Probability and Computing", 2nd edition, 2017, theorem 4.4.

    Example:
        >>> import torch
        >>> [round(load_ratio_chance(torch.tensor([n, n // 9, n // 9])), 4) for n in (9, 90)]
        [0.1921, 0.0]
    """
    ratio, mean = load_ratio(expert_counts).item(), expert_counts.double().mean().item()
    if mean == 0:
        return 1.0
    return min(1.0, len(expert_counts) * math.exp(-mean * (ratio * math.log(ratio) - ratio + 1)))


def load_variation(expert_counts: Int[Tensor, "*L E"]) -> Float[Tensor, "*L"]:
    """Compute the coefficient of variation of the load.

    std(n) / mean(n) over the experts, with the population's standard deviation.

    Args:
        expert_counts: [..., E] integer, rows per expert.

    Returns:
        [...] float64, no unit. 0 at perfect balance, sqrt(E / K - 1) at full collapse onto K experts; NaN without rows.

    Example:
        >>> import torch
        >>> load_variation(torch.tensor([4, 0])).item()
        1.0
    """
    counts = expert_counts.double()
    return counts.std(-1, correction=0) / counts.mean(-1)


def load_entropy(expert_counts: Int[Tensor, "*L E"]) -> Float[Tensor, "*L"]:
    """Compute the entropy of the load: -sum(p ln p) with p = n / sum(n).

    Its exponential is the effective number of experts: as many evenly loaded experts would have this entropy.

    Args:
        expert_counts: [..., E] integer, rows per expert.

    Returns:
        [...] float64, nats. ln(E) at perfect balance, ln(K) at full collapse onto K experts; NaN without rows.

    Example:
        >>> import torch
        >>> round(load_entropy(torch.tensor([5, 5, 0, 0])).exp().item(), 6)
        2.0
    """
    counts = expert_counts.double()
    shares = counts / counts.sum(-1, keepdim=True)
    entropy: Tensor = torch.special.entr(shares).sum(-1)
    return entropy


def normalised_entropy(expert_counts: Int[Tensor, "*L E"]) -> Float[Tensor, "*L"]:
    """Compute the entropy of the load divided by the most that it can be, ln(E).

    Args:
        expert_counts: [..., E] integer, rows per expert; E is at least 2.

    Returns:
        [...] float64, no unit. 1 at perfect balance, ln(K) / ln(E) at full collapse onto K experts (0 for K = 1); NaN
        without rows.

    Raises:
        InputError: there is only one expert.

    Example:
        >>> import torch
        >>> round(normalised_entropy(torch.tensor([5, 5, 0, 0])).item(), 6)
        0.5
    """
    num_experts = expert_counts.shape[-1]
    if num_experts < 2:
        raise InputError(f"E (={num_experts}) must be at least 2: a single expert's load has no entropy to normalise")
    return load_entropy(expert_counts) / math.log(num_experts)


@dataclass(frozen=True, slots=True, kw_only=True)
class DeadExperts:
    """The experts that got nothing, and whether so small a sample can show it.

    Attributes:
        expert_ids: those with 0 rows, ascending.
        num_rows: rows that were looked at.
        num_rows_needed: rows from which on an expert with `LEAST_SHARE` of an even share would be missed with a
            probability below `MISS_PROBABILITY`.
    """

    expert_ids: tuple[int, ...]
    num_rows: int
    num_rows_needed: int

    @property
    def count(self) -> int:
        """How many experts got nothing."""
        return len(self.expert_ids)

    @property
    def is_sample_sufficient(self) -> bool:
        """Whether an expert without rows may be called dead; if not, it may just not have been seen yet."""
        return self.num_rows >= self.num_rows_needed


def dead_experts(expert_counts: Int[Tensor, " E"], *, least_share: float = LEAST_SHARE) -> DeadExperts:
    """Find the experts that got no rows, and say whether the sample is large enough to call them dead.

    An expert that gets `least_share` of an even share is missed by all N rows with probability
    (1 - least_share / E)^N. The sample suffices once that is below `MISS_PROBABILITY`. Rows are taken as
    independent; neighbouring tokens are not quite, so take rows from many sequences.

    Args:
        expert_counts: [E] integer, rows per expert.
        least_share: the load that still counts as alive, as a part of an even share; in (0, 1].

    Returns:
        0 dead at perfect balance, E - K at full collapse onto K experts.

    Raises:
        InputError: `least_share` is outside (0, 1].

    Example:
        >>> import torch
        >>> found = dead_experts(torch.tensor([3, 0, 5, 4]))
        >>> found.expert_ids, found.num_rows_needed, found.is_sample_sufficient
        ((1,), 182, False)
    """
    if not 0.0 < least_share <= 1.0:
        raise InputError(f"least_share (={least_share}) must be in (0, 1]; it is a part of an even share")
    counts = expert_counts.tolist()
    share = least_share / len(counts)
    needed = math.log(MISS_PROBABILITY) / math.log1p(-share) if share < 1.0 else 1.0
    return DeadExperts(
        expert_ids=tuple(expert for expert, count in enumerate(counts) if count == 0),
        num_rows=sum(counts),
        num_rows_needed=math.ceil(needed),
    )


def drop_fraction(drop_reason: UInt8[Tensor, "A B"]) -> Mapping[DropReason, float]:
    """Compute the part of all slots that became no row, by reason.

    Args:
        drop_reason: [T, K] or [E, C] uint8, `DispatchPlan.drop_reason`.

    Returns:
        For every reason but `KEPT`: slots with that reason / all slots, in [0, 1]; 0 where there are no slots. A
        dropless layer has 0 `CAPACITY`. Balance lowers `CAPACITY`: at perfect balance nothing is dropped from a
        capacity factor of 1 on; at full collapse onto K experts it is 1 - factor * K / E.

    Example:
        >>> import torch
        >>> drop_fraction(torch.tensor([[0, 2], [0, 0]], dtype=torch.uint8))[DropReason.CAPACITY]
        0.25
    """
    counts = torch.bincount(drop_reason.flatten().int(), minlength=len(DropReason)).tolist()
    num_slots = max(1, drop_reason.numel())
    return {reason: counts[reason] / num_slots for reason in DropReason if reason is not DropReason.KEPT}


def select_margin(scores: Float[Tensor, "T E"], expert_ids: Int[Tensor, "T K"]) -> Float[Tensor, " T"]:
    """Compute by how much each token's choice was decided: its k-th score minus the next.

    The least score among the token's chosen experts minus the greatest among the others. A small margin means that a
    little noise (another dtype, another kernel) can change the choice. It is negative where something other than these
    scores decided: groups, a hash, balanced assignment.

    Args:
        scores: [T, E], what selection ranked: scores or logits, selection bias included.
        expert_ids: [T, K] integer; -1 = no expert in this slot.

    Returns:
        [T], dtype and unit of `scores`; inf where a token chose all experts or none.

    Example:
        >>> import torch
        >>> select_margin(torch.tensor([[0.5, 0.25, 0.125]]), torch.tensor([[0, 1]])).tolist()
        [0.125]
    """
    num_experts = scores.shape[1]
    one_more = torch.zeros(scores.shape[0], num_experts + 1, dtype=torch.bool, device=scores.device)
    # Empty slots write to a column of their own, which is cut off.
    columns = expert_ids.long().where(expert_ids != NO_EXPERT, num_experts)
    is_chosen = one_more.scatter(1, columns, True)[:, :num_experts]
    least_chosen = scores.masked_fill(~is_chosen, math.inf).amin(1)
    greatest_other = scores.masked_fill(is_chosen, -math.inf).amax(1)
    return least_chosen - greatest_other


def router_entropy(scores: Float[Tensor, "T E"]) -> Float[Tensor, " T"]:
    """Compute how undecided the router was about each token: the entropy of its scores, divided by their sum.

    Args:
        scores: [T, E], at least 0; rows need not sum to 1 (sigmoid scores do not).

    Returns:
        [T], nats. ln(E) where all experts score the same, 0 where one has everything; NaN where all scores are 0.

    Example:
        >>> import torch
        >>> router_entropy(torch.tensor([[0.0, 2.0, 0.0]])).tolist()
        [0.0]
    """
    entropy: Tensor = torch.special.entr(scores / scores.sum(1, keepdim=True)).sum(1)
    return entropy


def choice_disagreement(first: TokenChoice | ExpertChoice, second: TokenChoice | ExpertChoice) -> float:
    """Compute the part of the (token, expert) pairs that only one of two choices made.

    |A xor B| / (|A| + |B|), with A and B the sets of pairs. Order within a token and weights do not count.

    Args:
        first: a choice for T tokens among E experts.
        second: another for the same tokens and experts; it may be of the other kind.

    Returns:
        In [0, 1]: 0 = the same pairs, 1 = no pair in common; 0 where neither chose anything.

    Example:
        >>> import torch
        >>> ids, weights = torch.tensor([[0], [1]]), torch.ones(2, 1)
        >>> by_token = TokenChoice(expert_ids=ids, combine_weights=weights)
        >>> by_expert = ExpertChoice(token_ids=torch.tensor([[0], [0]]), combine_weights=weights)
        >>> choice_disagreement(by_token, by_expert)
        0.5
    """
    pairs_a, pairs_b = _chosen_pairs(first), _chosen_pairs(second)
    num_pairs = len(pairs_a) + len(pairs_b)
    if not num_pairs:
        return 0.0
    return len(pairs_a ^ pairs_b) / num_pairs


def _chosen_pairs(choice: TokenChoice | ExpertChoice) -> set[tuple[int, int]]:
    """Return the (token, expert) pairs of a choice."""
    if isinstance(choice, TokenChoice):
        tokens, slots = (choice.expert_ids != NO_EXPERT).nonzero(as_tuple=True)
        return set(zip(tokens.tolist(), choice.expert_ids[tokens, slots].tolist(), strict=True))
    experts, slots = (choice.token_ids != NO_EXPERT).nonzero(as_tuple=True)
    return set(zip(choice.token_ids[experts, slots].tolist(), experts.tolist(), strict=True))
