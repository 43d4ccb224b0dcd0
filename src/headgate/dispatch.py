"""From a choice to a plan: which slots become rows, sorted by expert, and the way back to the tokens."""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from headgate.flow import NO_EXPERT, DispatchPlan, DropReason
from headgate.kernels.plan import plan_choice, sort_slots


def find_drops(expert_ids: Int[Tensor, "T K"], is_padding: Bool[Tensor, " T"] | None) -> UInt8[Tensor, "T K"]:
    """Why each slot has no expert before capacity is looked at: it chose none, or its token is padding.

    Example:
        >>> import torch
        >>> find_drops(torch.tensor([[0, -1], [2, 1]]), torch.tensor([False, True])).tolist()
        [[0, 1], [3, 3]]
    """
    drops = (expert_ids == NO_EXPERT).to(torch.uint8) * int(DropReason.NO_EXPERT)
    if is_padding is not None:
        drops = drops.masked_fill(is_padding[:, None], int(DropReason.PADDING))
    return drops


def drop_over_capacity(
    expert_ids: Int[Tensor, "T K"],
    slot_scores: Float[Tensor, "T K"],
    drops: UInt8[Tensor, "T K"],
    *,
    num_experts: int,
    capacity: int,
    sequence_length: int,
    drop_rule: Literal["position", "choice_position", "score", "batch_prioritised"],
) -> UInt8[Tensor, "T K"]:
    """Mark the slots that come after an expert's first `capacity` ones, in the order of the drop rule.

    Args:
        expert_ids: [T, K].
        slot_scores: [T, K], each slot's score, for the rules that go by it.
        drops: [T, K], what was dropped before; it takes no capacity.
        num_experts: E; pass -1 as the id of what is never full (zero-compute experts).
        capacity: rows that an expert takes of each sequence.
        sequence_length: tokens that share the capacity; T for the whole batch.
        drop_rule: see `Capacity.drop_rule`.

    Returns:
        [T, K] `DropReason`.

    Example:
        >>> import torch
        >>> ids = torch.tensor([[0], [0], [1]])
        >>> sizes = {"num_experts": 2, "capacity": 1, "sequence_length": 3}
        >>> drops = find_drops(ids, None)
        >>> drop_over_capacity(ids, torch.tensor([[0.2], [0.9], [0.1]]), drops, drop_rule="score", **sizes).tolist()
        [[2], [0], [0]]
    """
    num_tokens, top_k = expert_ids.shape
    if num_tokens == 0:
        return drops
    sequence = torch.arange(num_tokens, device=expert_ids.device) // sequence_length
    queued = (drops == 0) & (expert_ids != NO_EXPERT)
    buckets = (sequence[:, None] * num_experts + expert_ids).where(queued, NO_EXPERT).flatten()
    num_buckets = num_tokens // sequence_length * num_experts
    queue = _queue_slots(slot_scores.detach(), drop_rule)
    order, offsets = sort_slots(buckets[queue], num_buckets)
    ids_in_order = buckets[queue][order]
    place = torch.arange(num_tokens * top_k, device=order.device) - offsets[ids_in_order.clamp(min=0)]
    too_late = (place >= capacity) & (ids_in_order != NO_EXPERT)
    slots, flat = queue[order], drops.flatten()
    # Every slot is written, since how many come too late is known to the device alone.
    reasons = flat[slots].masked_fill(too_late, int(DropReason.CAPACITY))
    return flat.scatter(0, slots, reasons).view(num_tokens, top_k)


def _queue_slots(slot_scores: Float[Tensor, "T K"], drop_rule: str) -> Int[Tensor, " N"]:
    """Slot indices in the order in which experts admit them."""
    num_tokens, top_k = slot_scores.shape
    slots = torch.arange(num_tokens * top_k, device=slot_scores.device)
    if drop_rule == "position":
        return slots
    if drop_rule == "choice_position":
        return slots.view(num_tokens, top_k).t().flatten()
    comparable = torch.where(slot_scores.isnan(), float("-inf"), slot_scores)
    if drop_rule == "score":
        return comparable.flatten().sort(descending=True, stable=True).indices
    by_importance = comparable.amax(dim=1).sort(descending=True, stable=True).indices
    return slots.view(num_tokens, top_k)[by_importance].t().flatten()


@torch.no_grad()
def plan_token_choice(
    expert_ids: Int[Tensor, "T K"],
    drops: UInt8[Tensor, "T K"],
    *,
    num_experts: int,
    is_dropless: bool,
    keeps_rows: bool = False,
) -> DispatchPlan:
    """Sort the slots that became rows by expert.

    Args:
        expert_ids: [T, K].
        drops: [T, K] `DropReason`.
        num_experts: E, zero-compute experts included.
        is_dropless: the caller knows that nothing was dropped: no shape then depends on the data.
        keeps_rows: nor does one here: R = T * K whatever was dropped, and the rows of dropped slots come last, from
            `expert_offsets[E]` on, where nobody works. For the experts' kernels on a GPU, which pass over them.

    Example:
        >>> import torch
        >>> ids = torch.tensor([[1, 0], [1, 2]])
        >>> plan = plan_token_choice(ids, find_drops(ids, None), num_experts=3, is_dropless=True)
        >>> plan.token_of_row.tolist(), plan.expert_offsets.tolist()
        ([0, 0, 1, 1], [0, 1, 3, 4])
    """
    num_tokens, top_k = expert_ids.shape
    if is_dropless or keeps_rows:
        plan = plan_choice(expert_ids if is_dropless else expert_ids.where(drops == 0, NO_EXPERT), num_experts)
        return DispatchPlan(**plan._asdict(), drop_reason=drops, max_rows_per_token=top_k)
    order, expert_offsets = sort_slots(expert_ids.where(drops == 0, NO_EXPERT).flatten(), num_experts)
    slot_of_row = order[: int(expert_offsets[-1])]
    token_of_row = slot_of_row.div(top_k, rounding_mode="floor")
    return DispatchPlan(
        slot_of_row=slot_of_row,
        token_of_row=token_of_row,
        expert_offsets=expert_offsets,
        row_order=slot_of_row.argsort(),
        token_offsets=_count_offsets(token_of_row, num_tokens),
        drop_reason=drops,
        max_rows_per_token=top_k,
    )


@torch.no_grad()
def plan_expert_choice(token_ids: Int[Tensor, "E C"], *, num_tokens: int) -> DispatchPlan:
    """Turn each expert's tokens into rows; a token's contributions are added in the order of expert ids.

    Args:
        token_ids: [E, C], -1 = no token in this slot.
        num_tokens: T.

    Example:
        >>> import torch
        >>> plan = plan_expert_choice(torch.tensor([[2, 0], [1, -1]]), num_tokens=3)
        >>> plan.token_of_row.tolist(), plan.expert_counts.tolist()
        ([2, 0, 1], [2, 1])
    """
    num_experts = token_ids.shape[0]
    flat = token_ids.flatten()
    slot_of_row = (flat != NO_EXPERT).nonzero().squeeze(1)
    token_of_row = flat[slot_of_row]
    row_order, token_offsets = sort_slots(token_of_row, num_tokens)
    counts = (token_ids != NO_EXPERT).sum(dim=1)
    return DispatchPlan(
        slot_of_row=slot_of_row,
        token_of_row=token_of_row,
        expert_offsets=torch.cat([counts.new_zeros(1), counts.cumsum(0)]),
        row_order=row_order,
        token_offsets=token_offsets,
        drop_reason=(token_ids == NO_EXPERT).to(torch.uint8) * int(DropReason.NO_EXPERT),
        max_rows_per_token=num_experts,
    )


def _count_offsets(token_of_row: Int[Tensor, " R"], num_tokens: int) -> Int[Tensor, " T_plus_1"]:
    counts = torch.bincount(token_of_row, minlength=num_tokens)
    return torch.cat([counts.new_zeros(1), counts.cumsum(0)])
