"""The values that flow through a routed layer, from logits to plan: frozen, and the same words everywhere.

    x [T,D] -> logits [T,E] -> scores [T,E] -> choice -> plan -> experts run, in parallel -> combine -> y [T,D]

Letters: T tokens, E experts, K choices, C capacity, N slots (one per (token, choice) pair), R rows (slots that
reached an expert).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

NO_EXPERT = -1
"""The `expert_ids` entry of a slot that chose no expert, and the `token_ids` entry of one that chose no token."""


class DropReason(IntEnum):
    """Why a slot became no row."""

    KEPT = 0
    NO_EXPERT = 1
    """Nothing was chosen in this slot: fewer than K experts passed a threshold, or a second choice was not drawn."""
    CAPACITY = 2
    """The expert was full."""
    PADDING = 3
    """The token is padding."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenChoice:
    """Each token chose up to K experts.

    Attributes:
        expert_ids: [T, K] int64, best first; -1 = no expert in this slot.
        combine_weights: [T, K] float32 (float64 for float64 inputs), the weight of each choice, as applied; 0 where
            the slot is empty or was dropped.
    """

    expert_ids: Int[Tensor, "T K"]
    combine_weights: Float[Tensor, "T K"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertChoice:
    """Each expert chose up to C tokens.

    Attributes:
        token_ids: [E, C] int64, best first within a sequence; -1 = no token in this slot.
        combine_weights: [E, C] float32 (float64 for float64 inputs); 0 where the slot is empty.
    """

    token_ids: Int[Tensor, "E C"]
    combine_weights: Float[Tensor, "E C"]


@dataclass(frozen=True, slots=True, kw_only=True)
class DispatchPlan:
    """Which token goes to which expert, as rows sorted by expert, and the way back.

    Expert e works on rows `expert_offsets[e]` to `expert_offsets[e + 1]`; ties keep slot order. Zero-compute experts
    come after all others. Token t gets back the rows `row_order[token_offsets[t]:token_offsets[t + 1]]`, in that
    order, which is slot order (best choice first), so that a sum over them has the same bits on every run. Rows from
    `expert_offsets[E]` on, where there are any, are of slots that were dropped (`keeps_rows` of `plan_token_choice`).

    Attributes:
        slot_of_row: [R] int64, index into the flattened `combine_weights` of the choice.
        token_of_row: [R] int64.
        expert_offsets: [E + 1] int64, first entry 0.
        row_order: [R] int64, the rows sorted by token, then by slot.
        token_offsets: [T + 1] int64, first entry 0.
        drop_reason: uint8 `DropReason`, shaped as the choice: [T, K] or [E, C].
        max_rows_per_token: no token has more rows than this.
    """

    slot_of_row: Int[Tensor, " R"]
    token_of_row: Int[Tensor, " R"]
    expert_offsets: Int[Tensor, " E_plus_1"]
    row_order: Int[Tensor, " R"]
    token_offsets: Int[Tensor, " T_plus_1"]
    drop_reason: UInt8[Tensor, "A B"]
    max_rows_per_token: int

    @property
    def num_tokens(self) -> int:
        """T."""
        return self.token_offsets.shape[0] - 1

    @property
    def num_experts(self) -> int:
        """E, zero-compute experts included."""
        return self.expert_offsets.shape[0] - 1

    @property
    def num_rows(self) -> int:
        """R."""
        return self.token_of_row.shape[0]

    @property
    def expert_counts(self) -> Int[Tensor, " E"]:
        """Rows per expert: [E] int64."""
        return self.expert_offsets.diff()


@dataclass(frozen=True, slots=True, kw_only=True)
class Routing:
    """Everything that one routed layer decided in one forward pass.

    Attributes:
        logits: [T, E] float32 (float64 for float64 inputs), the router's raw output, before noise.
        scores: [T, E], same dtype, after the score function.
        choice: who chose whom, with which weight.
        plan: the rows that follow from the choice.
        is_padding: [T] bool, or None where no padding was named.
        losses: each balance loss's value, a scalar without gradient and before its coefficient.
    """

    logits: Float[Tensor, "T E"]
    scores: Float[Tensor, "T E"]
    choice: TokenChoice | ExpertChoice
    plan: DispatchPlan
    is_padding: Bool[Tensor, " T"] | None
    losses: Mapping[str, Tensor]

    @property
    def expert_counts(self) -> Int[Tensor, " E"]:
        """Rows per expert: [E] int64."""
        return self.plan.expert_counts

    def detach(self) -> Routing:
        """The same decisions without their autograd graph, so that keeping them keeps nothing else alive."""
        weights = self.choice.combine_weights.detach()
        choice: TokenChoice | ExpertChoice
        if isinstance(self.choice, TokenChoice):
            choice = TokenChoice(expert_ids=self.choice.expert_ids, combine_weights=weights)
        else:
            choice = ExpertChoice(token_ids=self.choice.token_ids, combine_weights=weights)
        return Routing(
            logits=self.logits.detach(),
            scores=self.scores.detach(),
            choice=choice,
            plan=self.plan,
            is_padding=self.is_padding,
            losses=self.losses,
        )
