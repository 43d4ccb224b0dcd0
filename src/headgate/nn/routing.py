"""The router's decision as pure functions of its logits: spec and tensors in, choice and plan out."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Bool, Float, Int, Shaped, UInt8
from torch import Tensor

from headgate import dispatch, selection
from headgate.errors import InputError
from headgate.flow import NO_EXPERT, DispatchPlan, DropReason, ExpertChoice, TokenChoice
from headgate.sparsemixer import choose_sparsemixer
from headgate.spec import Capacity, RouterSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedChoice:
    """Experts that were chosen elsewhere, to be routed to again.

    Attributes:
        expert_ids: [T, K] int64, -1 = none.
        is_dropped: [T, K] bool, chosen but the expert was full; None = nothing was.
    """

    expert_ids: Int[Tensor, "T K"]
    is_dropped: Bool[Tensor, "T K"] | None = None


@runtime_checkable
class Peers(Protocol):
    """The ranks whose tokens are one batch, in rank order. Every rank must ask for the same, in the same order."""

    def gather(self, *values: Shaped[Tensor, "T ..."]) -> tuple[tuple[Tensor, ...], slice]:
        """Each token's values, on all ranks, without gradient: [T, ...] -> [tokens of all, ...]; and which are own."""
        ...

    def add(self, sums: Shaped[Tensor, " n"]) -> Shaped[Tensor, " n"]:
        """Sums over own tokens -> sums over all ranks' tokens, through which gradients reach the own ones."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    """What a router must know of the tokens besides their vectors.

    Attributes:
        sequence_length: the T tokens are sequences of this length, one after the other; 0 only for T = 0.
        training: whether the layer trains.
        token_ids: [T], for hash routers.
        is_padding: [T], or None.
        recorded: what to route to instead of choosing, or None.
        peers: whose tokens are one batch with the T; None = the T are the batch.
        keeps_rows: see `plan_token_choice`.
    """

    sequence_length: int
    training: bool
    token_ids: Int[Tensor, " T"] | None = None
    is_padding: Bool[Tensor, " T"] | None = None
    recorded: RecordedChoice | None = None
    peers: Peers | None = None
    keeps_rows: bool = False

    def gather(self, *values: Shaped[Tensor, "T ..."]) -> tuple[tuple[Tensor, ...], slice]:
        """Values of the T tokens -> of all that share the batch, and where the T lie among them."""
        if self.peers is None:
            return values, slice(0, values[0].shape[0])
        return self.peers.gather(*values)

    def gather_real(
        self, values: Float[Tensor, "T E"]
    ) -> tuple[Float[Tensor, "all E"], Bool[Tensor, " all"] | None, slice]:
        """As `gather`, with which of the tokens are padding: None where there are no peers and no padding."""
        if self.peers is None:
            return values, self.is_padding, slice(0, values.shape[0])
        # Whether a rank has padding is its own affair, so a mask always travels.
        is_padding = self.is_padding
        if is_padding is None:
            is_padding = torch.zeros(values.shape[0], dtype=torch.bool, device=values.device)
        (everyone, padding), own = self.peers.gather(values, is_padding)
        return everyone, padding, own


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterState:
    """What selection needs besides logits, each None where the spec has no use for it.

    Attributes:
        selection_bias: [E] float32.
        threshold: [E], expert choice's learned threshold.
        expert_table: [V, K] int64, a hash router's.
    """

    selection_bias: Float[Tensor, " E"] | None = None
    threshold: Float[Tensor, " E"] | None = None
    expert_table: Int[Tensor, "V K"] | None = None


def route(
    spec: RouterSpec,
    logits: Float[Tensor, "T E"],
    scores: Float[Tensor, "T E"],
    batch: Batch,
    state: RouterState,
) -> tuple[TokenChoice | ExpertChoice, DispatchPlan]:
    """Choose experts from logits and scores, and plan the rows.

    Args:
        spec: the router.
        logits: [T, E], those that decide (with noise, in training).
        scores: [T, E], of these logits.
        batch: sequence length, mode, token ids and padding, and who shares the batch.
        state: bias, threshold and table.
    """
    if batch.recorded is not None:
        return _route_again(spec, logits, scores, batch, batch.recorded)
    if spec.selection == "expert_choice" and (batch.training or not spec.causal_inference):
        return _let_experts_choose(spec, scores, batch)
    weights: Tensor | None = None
    if spec.selection == "sparsemixer":
        expert_ids, weights = choose_sparsemixer(
            logits, top_k=spec.top_k, jitter=spec.sparsemixer_jitter, training=batch.training
        )
        weights = weights if spec.scale == 1.0 else weights * spec.scale
    else:
        expert_ids, scores = _select_ids(spec, logits, scores, batch, state)
    drops = dispatch.find_drops(expert_ids, batch.is_padding)
    present = drops == 0
    if _limits_rows(spec):
        drops = _drop(spec, expert_ids, scores, drops, batch)
    if spec.capacity is not None and spec.capacity.normalise == "after_drop":
        present = drops == 0
    if weights is None:
        weights = weigh(spec, logits, scores, expert_ids, present)
    is_dropless = not _limits_rows(spec) and batch.is_padding is None and not _may_leave_slots_empty(spec)
    if not is_dropless:
        weights = weights.masked_fill(drops != 0, 0.0)
    rows = {"is_dropless": is_dropless, "keeps_rows": batch.keeps_rows}
    plan = dispatch.plan_token_choice(expert_ids, drops, num_experts=spec.num_choices, **rows)
    return TokenChoice(expert_ids=expert_ids, combine_weights=weights.to(scores.dtype)), plan


def _route_again(
    spec: RouterSpec, logits: Float[Tensor, "T E"], scores: Float[Tensor, "T E"], batch: Batch, recorded: RecordedChoice
) -> tuple[TokenChoice, DispatchPlan]:
    """Take choices and drops as they were recorded, and weigh them by these logits and scores."""
    expert_ids = recorded.expert_ids
    drops = dispatch.find_drops(expert_ids, batch.is_padding)
    present = drops == 0
    if recorded.is_dropped is not None:
        drops = drops.masked_fill(recorded.is_dropped & present, int(DropReason.CAPACITY))
    if spec.capacity is not None and spec.capacity.normalise == "after_drop":
        present = drops == 0
    weights = weigh(spec, logits, scores, expert_ids, present).masked_fill(drops != 0, 0.0)
    rows = {"is_dropless": False, "keeps_rows": batch.keeps_rows}
    plan = dispatch.plan_token_choice(expert_ids, drops, num_experts=spec.num_choices, **rows)
    return TokenChoice(expert_ids=expert_ids, combine_weights=weights.to(scores.dtype)), plan


def capacity_rows(capacity: Capacity, spec: RouterSpec, batch: Batch, num_tokens: int) -> tuple[int, int]:
    """(C, tokens that share it): of the whole batch, or of each sequence."""
    shared = num_tokens if capacity.per == "batch" else batch.sequence_length
    size = capacity.size(num_tokens=shared, top_k=spec.top_k, num_experts=spec.num_experts, training=batch.training)
    return min(size, shared), shared


def sharing(capacity: Capacity, batch: Batch) -> Batch:
    """The batch as its capacity sees it: with the tokens of its peers, unless each sequence has its own."""
    return batch if capacity.per == "batch" else replace(batch, peers=None)


def _limits_rows(spec: RouterSpec) -> bool:
    return spec.capacity is not None and spec.selection != "expert_choice"


def _may_leave_slots_empty(spec: RouterSpec) -> bool:
    dynamic = spec.selection in ("top_p", "threshold", "expert_choice", "hash")
    return dynamic or spec.second_expert == "random"


def _let_experts_choose(
    spec: RouterSpec, scores: Float[Tensor, "T E"], batch: Batch
) -> tuple[ExpertChoice, DispatchPlan]:
    assert spec.capacity is not None  # RouterSpec requires it for expert choice.
    sharers = sharing(spec.capacity, batch)
    everyone, is_padding, own = sharers.gather_real(scores)
    capacity, shared = capacity_rows(spec.capacity, spec, batch, everyone.shape[0])
    token_ids = selection.select_tokens(everyone, capacity=capacity, sequence_length=shared, is_padding=is_padding)
    if sharers.peers is not None:
        token_ids = _keep_own(token_ids, own)
    weights = scores.t().gather(1, token_ids.clamp(min=0)).masked_fill(token_ids == NO_EXPERT, 0.0)
    weights = weights if spec.scale == 1.0 else weights * spec.scale
    plan = dispatch.plan_expert_choice(token_ids, num_tokens=scores.shape[0])
    return ExpertChoice(token_ids=token_ids, combine_weights=weights), plan


def _keep_own(token_ids: Int[Tensor, "E all"], own: slice) -> Int[Tensor, "E C"]:
    """Of each expert's tokens, those of this rank, counted from its first; -1 in the slots that are left."""
    is_own = (token_ids >= own.start) & (token_ids < own.stop)
    # An expert takes no token twice, so no more of this rank's than it has; that bound needs no look at the data.
    num_slots = min(token_ids.shape[1], own.stop - own.start)
    own_first = is_own.sort(dim=1, descending=True, stable=True).indices[:, :num_slots]
    counted: Tensor = (token_ids - own.start).where(is_own, NO_EXPERT)
    return counted.gather(1, own_first)


def _select_ids(
    spec: RouterSpec,
    logits: Float[Tensor, "T E"],
    scores: Float[Tensor, "T E"],
    batch: Batch,
    state: RouterState,
) -> tuple[Int[Tensor, "T K"], Float[Tensor, "T E"]]:
    """Expert ids [T, K], and the scores that weights are made of."""
    if spec.selection == "hash":
        assert state.expert_table is not None  # The router owns one for every hash spec.
        return _look_up(batch.token_ids, state.expert_table), scores
    if spec.selection == "expert_choice":
        assert state.threshold is not None  # The router owns one for every expert-choice spec.
        ids = selection.select_threshold(scores, top_k=spec.num_experts, threshold=state.threshold.detach())
        return ids, scores
    if spec.selection == "sinkhorn":
        if batch.training or not spec.causal_inference:
            everyone, is_padding, own = batch.gather_real(logits)
            ids = selection.select_sinkhorn(
                everyone, top_k=spec.top_k, iterations=spec.sinkhorn_iterations, is_padding=is_padding
            )
            return ids[own], scores
        return selection.select_top_k(logits, top_k=spec.top_k), scores
    ranked, scores = rank_scores(spec, logits, scores, state.selection_bias)
    if spec.selection == "top_p":
        assert spec.top_p is not None  # RouterSpec requires it.
        return selection.select_top_p(ranked, scores, top_k=spec.top_k, top_p=spec.top_p), scores
    if spec.selection == "threshold":
        assert spec.threshold is not None  # RouterSpec requires it.
        return selection.select_threshold(ranked, top_k=spec.top_k, threshold=spec.threshold), scores
    ids = selection.select_top_k(ranked, top_k=spec.top_k)
    if spec.second_expert != "best" and batch.training:
        ids = selection.draw_second_expert(scores, ids, policy=spec.second_expert)
    return ids, scores


def _look_up(token_ids: Int[Tensor, " T"] | None, table: Int[Tensor, "V K"]) -> Int[Tensor, "T K"]:
    if token_ids is None:
        raise InputError("a hash router routes by token id, and token_ids is None; call moe(x, token_ids=ids)")
    return selection.select_hash(token_ids, table)


def rank_scores(
    spec: RouterSpec,
    logits: Float[Tensor, "T E"],
    scores: Float[Tensor, "T E"],
    selection_bias: Float[Tensor, " E"] | None,
) -> tuple[Float[Tensor, "T E"], Float[Tensor, "T E"]]:
    """Compute what selection ranks, with bias and groups, and the scores that weights are made of.

    Returns:
        ranked: [T, E]; where groups mask, `GroupLimit.mask_value`.
        scores: [T, E], those given, or masked as well where the model does so.
    """
    ranked = logits if spec.select_on == "logits" else scores
    if selection_bias is not None:
        ranked = ranked.detach() + selection_bias.to(ranked.dtype)
    limit = spec.group_limit
    if limit is None:
        return ranked, scores
    allowed = selection.allowed_by_groups(
        ranked,
        num_groups=limit.num_groups,
        num_kept=limit.num_kept,
        group_score=limit.group_score,
        top_k=spec.top_k,
    )
    if limit.mask_value == "zero":
        # DeepSeek-V2 sets the scores themselves to 0, so a masked expert that is chosen after all weighs nothing.
        return ranked.masked_fill(~allowed, 0.0), scores.masked_fill(~allowed, 0.0)
    return ranked.masked_fill(~allowed, float("-inf")), scores


def _drop(
    spec: RouterSpec,
    expert_ids: Int[Tensor, "T K"],
    scores: Float[Tensor, "T E"],
    drops: UInt8[Tensor, "T K"],
    batch: Batch,
) -> UInt8[Tensor, "T K"]:
    assert spec.capacity is not None  # Called only where rows are limited.
    # Zero-compute experts cost nothing, so they are never full.
    limited = expert_ids.where(expert_ids < spec.num_experts, NO_EXPERT)
    slot_scores = scores.gather(1, expert_ids.clamp(min=0)).masked_fill(expert_ids == NO_EXPERT, float("-inf"))
    everyone, own = sharing(spec.capacity, batch).gather(limited, slot_scores, drops)
    capacity, shared = capacity_rows(spec.capacity, spec, batch, everyone[0].shape[0])
    whole = dispatch.drop_over_capacity(
        *everyone,
        num_experts=spec.num_experts,
        capacity=capacity,
        sequence_length=shared,
        drop_rule=spec.capacity.drop_rule,
    )
    return whole[own]


def weigh(
    spec: RouterSpec,
    logits: Float[Tensor, "T E"],
    scores: Float[Tensor, "T E"],
    expert_ids: Int[Tensor, "T K"],
    present: Bool[Tensor, "T K"],
) -> Float[Tensor, "T K"]:
    """Compute the weights of given choices, however they were made.

    Args:
        spec: the router.
        logits: [T, E].
        scores: [T, E], of these logits.
        expert_ids: [T, K] integer, -1 = none.
        present: [T, K], the slots that share the weight.
    """
    source, empty = (logits, float("-inf")) if spec.normalise == "softmax" else (scores, 0.0)
    values = source.gather(1, expert_ids.clamp(min=0)).masked_fill(~present, empty)
    if spec.normalise == "softmax":
        # A row of -inf alone has no softmax; what it gets instead is dropped anyway.
        values = values.masked_fill(~present.any(dim=1, keepdim=True), 0.0)
    return selection.weigh_choices(
        values,
        normalise=spec.normalise,
        norm_order=spec.norm_order,
        epsilon=spec.epsilon,
        epsilon_rule=spec.epsilon_rule,
        scale=spec.scale,
    )
