"""The exchange: each token goes once to every rank that owns one of its experts, and one partial sum comes back."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import NamedTuple

import torch
import torch.distributed as dist
from jaxtyping import Float, Int
from torch import Tensor

from headgate.flow import DispatchPlan
from headgate.kernels.rows import combine_rows, gather_rows
from headgate.parallel.routes import Placement, Routes, find_routes, plan_arrivals
from headgate.parallel.transfer import Transfer

RunExperts = Callable[[Tensor, DispatchPlan, Tensor], Tensor]
"""A rank's experts: (tokens that arrived [Q, D], their plan, combine weights [R, 1]) -> partial sums [Q, D]."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Traffic:
    """What one forward pass of one layer sent from this rank; nothing of a rank's own tokens crosses a wire.

    The backward pass sends the gradients of the rows and of the weights the other way: as many bytes again.

    Attributes:
        rows_sent: tokens to each rank: the distinct (token, rank) pairs; 0 to itself.
        rows_returned: partial sums to each rank; 0 to itself.
        choices_sent: (token, expert) rows that the tokens stand for: what a copy per choice would send.
        rows_run: (token, expert) rows that this rank's experts got, its own tokens' among them.
        row_bytes: of one token, D times the size of a number.
        choice_bytes: of one choice: its pair and expert, int32 each, and its weight.
        count_bytes: to all other ranks: the numbers of pairs and choices, int64 each.
    """

    rows_sent: tuple[int, ...]
    rows_returned: tuple[int, ...]
    choices_sent: tuple[int, ...]
    rows_run: int
    row_bytes: int
    choice_bytes: int
    count_bytes: int

    @property
    def bytes_sent(self) -> tuple[int, ...]:
        """Bytes of rows to each rank, there and back."""
        return tuple(self.row_bytes * (n + m) for n, m in zip(self.rows_sent, self.rows_returned, strict=True))

    @property
    def copies_bytes(self) -> int:
        """Bytes of rows that this rank would send out with one copy of a token per choice; `rows_bytes` is fewer."""
        return self.row_bytes * sum(self.choices_sent)

    @property
    def rows_bytes(self) -> int:
        """Bytes of rows that this rank sends out, one copy of a token per rank."""
        return self.row_bytes * sum(self.rows_sent)

    @property
    def message_bytes(self) -> int:
        """Bytes to other ranks that are no rows: counts, and each choice's expert and weight."""
        return self.choice_bytes * sum(self.choices_sent) + self.count_bytes


class Exchange(NamedTuple):
    """How tokens travel: directly to each rank of the group.

    The shared expert runs meanwhile; under `run_in_turns`, so does what another batch computes, its gate and all.

    Attributes:
        group: W ranks.
        rank: this one.
        placement: of the layer, over these ranks.
        source: the number by which this rank chooses among replicas; its own where the group has all ranks.
    """

    group: dist.ProcessGroup
    rank: int
    placement: Placement
    source: int

    def run(
        self,
        x: Float[Tensor, "T D"],
        plan: DispatchPlan,
        combine_weights: Float[Tensor, "A B"],
        run_experts: RunExperts,
        *,
        num_experts: int,
        meanwhile: Callable[[], Tensor] | None = None,
    ) -> tuple[Float[Tensor, "T D"], Tensor | None, Traffic]:
        """Send tokens to their experts' ranks, run what arrived here, and add up the partial sums in rank order.

        y[t] = sum over the ranks r that own an expert of t, rising, of partial[r, t], in float32 (float64 for float64).

        Args:
            x: [T, D], in the dtype in which it travels.
            plan: of these tokens, for the experts of the whole placement.
            combine_weights: of the choice.
            run_experts: this rank's experts.
            num_experts: of this rank, and one more where zero-compute experts may occur.
            meanwhile: what to compute while tokens travel.

        Returns:
            [T, D] in the dtype of `x`; what `meanwhile` returned; what was sent.

        References:
            Lepikhin et al., "GShard", 2020, https://arxiv.org/abs/2006.16668, section 3: experts spread over devices,
            tokens exchanged by an all-to-all there and one back. DeepSeek-AI, "DeepSeek-V3 Technical Report", 2024,
            https://arxiv.org/abs/2412.19437, section 3.2.2: a token is sent once to a place, not once per expert.
        """
        routes = find_routes(plan, self.placement.to(x.device), rank=self.rank, source=self.source)
        counts = _Counts.exchange(routes, self.group)
        pairs = Transfer(counts.pairs_sent, counts.pairs_received, self.group, gives_way=True)
        rows = Transfer(counts.rows_sent, counts.rows_received, self.group)
        labels = Transfer(counts.rows_sent, counts.rows_received, self.group)
        by_token = (routes.pair_order, routes.pair_offsets, routes.num_ranks)
        tokens = pairs.begin(gather_rows(x, routes.token_of_pair, *by_token))
        label = labels.begin(_label_rows(routes))
        weights = rows.begin(combine_weights.flatten().index_select(0, routes.slot_of_row))
        beside = None if meanwhile is None else meanwhile()
        tokens, label, weights = pairs.end(tokens), labels.end(label), rows.end(weights)
        arrived = plan_arrivals(
            _count_on(label[:, 0], counts.pairs_received, counts.rows_received),
            label[:, 1].long(),
            num_pairs=tokens.shape[0],
            num_experts=num_experts,
            max_rows_per_token=routes.max_rows_per_token,
        )
        partial = run_experts(tokens, arrived, weights[:, None])
        back = Transfer(counts.pairs_received, counts.pairs_sent, self.group, gives_way=True)
        returned = back.end(back.begin(partial))
        ones = torch.ones(returned.shape[0], device=returned.device)
        y: Tensor = combine_rows(returned, ones, routes.token_of_pair, *by_token)
        return y, beside, self._count_traffic(counts, x, combine_weights)

    def _count_traffic(self, counts: _Counts, x: Tensor, combine_weights: Tensor) -> Traffic:
        def to_others(each: list[int]) -> tuple[int, ...]:
            return tuple(0 if rank == self.rank else count for rank, count in enumerate(each))

        return Traffic(
            rows_sent=to_others(counts.pairs_sent),
            rows_returned=to_others(counts.pairs_received),
            choices_sent=to_others(counts.rows_sent),
            rows_run=sum(counts.rows_received),
            row_bytes=x.shape[1] * x.element_size(),
            choice_bytes=2 * torch.int32.itemsize + combine_weights.element_size(),
            count_bytes=2 * torch.int64.itemsize * (len(counts.pairs_sent) - 1),
        )


class _Counts(NamedTuple):
    """Pairs and rows to and from each rank, as numbers: the lengths of the messages that follow."""

    pairs_sent: list[int]
    rows_sent: list[int]
    pairs_received: list[int]
    rows_received: list[int]

    @classmethod
    def exchange(cls, routes: Routes, group: dist.ProcessGroup) -> _Counts:
        sent = torch.stack([routes.pair_counts, routes.row_counts], dim=1)
        received = torch.empty_like(sent)
        dist.all_to_all_single(received, sent, group=group)
        # The one wait for the device: message lengths must be known to the host.
        table = torch.cat([sent, received], dim=1).t().tolist()
        return cls(*table)


def _label_rows(routes: Routes) -> Int[Tensor, "R 2"]:
    """For each row the number of its pair within the message, and the expert's number on the rank that gets it."""
    first = (routes.pair_counts.cumsum(0) - routes.pair_counts).repeat_interleave(routes.row_counts)
    return torch.stack([routes.pair_of_row - first, routes.expert_of_row], dim=1).to(torch.int32)


def _count_on(
    pair_in_message: Int[Tensor, " R"], pairs_received: list[int], rows_received: list[int]
) -> Int[Tensor, " R"]:
    """Numbers of pairs within their messages -> numbers among all pairs that arrived."""
    pairs = torch.tensor([pairs_received, rows_received], device=pair_in_message.device)
    first = (pairs[0].cumsum(0) - pairs[0]).repeat_interleave(pairs[1])
    return pair_in_message.long() + first
