"""Which rows travel to which rank, and the plan of what has arrived: integers only, no communication."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

import torch
from jaxtyping import Int
from torch import Tensor

from headgate.flow import DispatchPlan, DropReason
from headgate.kernels.plan import sort_slots
from headgate.layout import EMPTY, ExpertLayout, choose_replicas


@dataclass(frozen=True, slots=True, kw_only=True)
class Placement:
    """Where one layer's experts live, as the routes look it up. Letters: E experts, P physical experts, W ranks.

    An expert's number on a rank counts the filled slots of that rank, from 0: its place in the rank's weights.

    Attributes:
        replicas: [E, C] int64, the physical experts of each expert, rising; -1 after the last.
        rank_of_physical: [P] int64.
        local_of_physical: [P] int64, the number of the expert on its rank; of no meaning for an empty slot.
        rank_experts: for each rank, the experts that it holds, in the order of its weights.
    """

    replicas: Int[Tensor, "E C"]
    rank_of_physical: Int[Tensor, " P"]
    local_of_physical: Int[Tensor, " P"]
    rank_experts: tuple[tuple[int, ...], ...]

    @classmethod
    def of_layer(cls, layout: ExpertLayout, row: int) -> Self:
        """The placement of the layout's layer in that row."""
        slots = layout.device_experts[row]
        is_filled = slots != EMPTY
        return cls(
            replicas=torch.from_numpy(layout.logical_to_physical[row]),
            rank_of_physical=torch.arange(len(slots)).repeat_interleave(slots.shape[1]),
            local_of_physical=torch.from_numpy((is_filled.cumsum(1) - 1).ravel()),
            rank_experts=tuple(
                tuple(experts[filled].tolist()) for experts, filled in zip(slots, is_filled, strict=True)
            ),
        )

    @property
    def num_experts(self) -> int:
        """E."""
        return self.replicas.shape[0]

    @property
    def has_replicas(self) -> bool:
        """Whether an expert lives on more than one rank."""
        return self.replicas.shape[1] > 1

    def to(self, device: torch.device) -> Self:
        """The same placement with its tables on a device."""
        if self.replicas.device == device:
            return self
        return replace(
            self,
            replicas=self.replicas.to(device),
            rank_of_physical=self.rank_of_physical.to(device),
            local_of_physical=self.local_of_physical.to(device),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Routes:
    """One rank's rows, sorted by the rank that they go to, then by token, then by slot.

    A pair is a token and a rank that owns at least one of its experts: the token travels there once, however many of
    its experts that rank owns. Letters: R rows, Q pairs, W ranks, T tokens.

    Attributes:
        slot_of_row: [R] int64, index into the flattened `combine_weights` of the choice.
        expert_of_row: [R] int64, the expert's number on the rank that the row goes to.
        pair_of_row: [R] int64, rising.
        row_counts: [W] int64, rows that go to each rank.
        token_of_pair: [Q] int64, rising within a rank.
        pair_counts: [W] int64, pairs of each rank.
        pair_order: [Q] int64, the pairs sorted by token, then by rank.
        pair_offsets: [T + 1] int64, where each token's pairs begin in `pair_order`.
        max_rows_per_token: no token has more rows than this.
    """

    slot_of_row: Int[Tensor, " R"]
    expert_of_row: Int[Tensor, " R"]
    pair_of_row: Int[Tensor, " R"]
    row_counts: Int[Tensor, " W"]
    token_of_pair: Int[Tensor, " Q"]
    pair_counts: Int[Tensor, " W"]
    pair_order: Int[Tensor, " Q"]
    pair_offsets: Int[Tensor, " T_plus_1"]
    max_rows_per_token: int

    @property
    def num_ranks(self) -> int:
        """W, and the most pairs of a token."""
        return self.row_counts.shape[0]


@torch.no_grad()
def find_routes(plan: DispatchPlan, placement: Placement, *, rank: int, source: int | None = None) -> Routes:
    """Find the rank of each row of a plan, and the distinct (token, rank) pairs.

    Each replica of an expert gets every c-th of its rows, see `headgate.layout.choose_replicas`. Rows of zero-compute
    experts stay on their rank, where they are the last expert.

    Args:
        plan: of this rank's own tokens, for the experts of the whole layer.
        placement: of the layer.
        rank: this one.
        source: the number by which this rank chooses among replicas; None = `rank`.

    References:
        DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024, https://arxiv.org/abs/2412.19437, section 3.2.2: a token
        crosses to each place of its experts once.

    Example:
        >>> import numpy as np
        >>> from headgate.dispatch import find_drops, plan_token_choice
        >>> ids = torch.tensor([[0, 1], [2, 0], [3, 2]])
        >>> plan = plan_token_choice(ids, find_drops(ids, None), num_experts=4, is_dropless=True)
        >>> layout = ExpertLayout(device_experts=np.array([[[0, 1], [2, 3]]]), num_experts=4)
        >>> routes = find_routes(plan, Placement.of_layer(layout, 0), rank=0)
        >>> routes.token_of_pair.tolist(), routes.pair_counts.tolist(), routes.row_counts.tolist()
        ([0, 1, 1, 2], [2, 2], [3, 3])
    """
    num_ranks = len(placement.rank_experts)
    rows = plan.row_order
    token = plan.token_of_row[rows]
    expert = torch.searchsorted(plan.expert_offsets, rows, right=True) - 1
    to_rank, local = _locate(expert, placement, rank, rank if source is None else source)
    order, row_offsets = sort_slots(to_rank, num_ranks)
    token, to_rank = token[order], to_rank[order]
    key = to_rank * max(plan.num_tokens, 1) + token
    is_first = torch.ones_like(key, dtype=torch.bool)
    is_first[1:] = key[1:] != key[:-1]
    token_of_pair = token[is_first]
    pair_order, pair_offsets = sort_slots(token_of_pair, plan.num_tokens)
    return Routes(
        slot_of_row=plan.slot_of_row[rows][order],
        expert_of_row=local[order],
        pair_of_row=is_first.cumsum(0) - 1,
        row_counts=row_offsets.diff(),
        token_of_pair=token_of_pair,
        pair_counts=torch.bincount(to_rank[is_first], minlength=num_ranks),
        pair_order=pair_order,
        pair_offsets=pair_offsets,
        max_rows_per_token=plan.max_rows_per_token,
    )


def _locate(expert: Int[Tensor, " R"], placement: Placement, rank: int, source: int) -> tuple[Tensor, Tensor]:
    """The rank and the number there of each row's expert, the rows sorted by token, then by slot."""
    is_real = expert < placement.num_experts
    known = expert.where(is_real, EMPTY)[:, None]
    physical = choose_replicas(known, torch.full_like(expert, source), placement.replicas)[:, 0]
    # A zero-compute expert has no physical one; what index -1 picks for it is replaced.
    to_rank = placement.rank_of_physical[physical].where(is_real, rank)
    local = placement.local_of_physical[physical].where(is_real, len(placement.rank_experts[rank]))
    return to_rank, local


@torch.no_grad()
def plan_arrivals(
    pair_of_row: Int[Tensor, " R"],
    expert_of_row: Int[Tensor, " R"],
    *,
    num_pairs: int,
    num_experts: int,
    max_rows_per_token: int,
) -> DispatchPlan:
    """Make a rank's own plan from the rows that arrived: each pair is a token of it.

    Args:
        pair_of_row: [R], rising; a pair's rows are in slot order.
        expert_of_row: [R], the experts' numbers on this rank.
        num_pairs: how many tokens arrived.
        num_experts: on this rank, plus one where zero-compute experts may occur.
        max_rows_per_token: no token has more rows than this.

    Returns:
        The plan, for combine weights [R, 1] in the order of arrival.

    Example:
        >>> plan = plan_arrivals(torch.tensor([0, 0, 1]), torch.tensor([1, 0, 1]), num_pairs=2, num_experts=2,
        ...                      max_rows_per_token=2)
        >>> plan.token_of_row.tolist(), plan.expert_counts.tolist()
        ([0, 0, 1], [1, 2])
    """
    order, expert_offsets = sort_slots(expert_of_row, num_experts)
    token_counts = torch.bincount(pair_of_row, minlength=num_pairs)
    return DispatchPlan(
        slot_of_row=order,
        token_of_row=pair_of_row[order],
        expert_offsets=expert_offsets,
        row_order=order.argsort(),
        token_offsets=torch.cat([token_counts.new_zeros(1), token_counts.cumsum(0)]),
        drop_reason=torch.full((len(order), 1), int(DropReason.KEPT), dtype=torch.uint8, device=order.device),
        max_rows_per_token=max_rows_per_token,
    )
