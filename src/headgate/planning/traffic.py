"""Count what routing asks of every device in every step: rows, weights to read, tokens sent; chunk by chunk.

A step is a forward pass. Its tokens are dealt out to the devices in order, as evenly as can be (data parallel). Each
token is sent once to every other device that holds one of its chosen replicas, and one partial sum comes back.

By the exchange in two levels, it is sent once to every other node that has one: to the device of the same place in that
node, which sends it on to the devices of its node, adds up what they send back, and returns one sum.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from headgate.errors import InputError
from headgate.layout import ExpertLayout, choose_replicas

Exchange = Literal["flat", "two_level"]

_BLOCK_SLOTS = 1 << 21
"""So many slots of a layer, and devices of all steps, are worked on at once."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTraffic:
    """What some steps ask of each device in one layer. Letters: N steps, W devices.

    Attributes:
        rows: [N, W] rows that arrive at the device's experts.
        drops: [N] choices that found their expert full, and were not sent.
        touched: [N, W] replicas that get a row, whose weights must therefore be read.
        sent: [N, W, 2] tokens that leave the device: to its node, and to other nodes.
        received: [N, W, 2] tokens that come to the device.
    """

    rows: Int[Tensor, "N W"]
    drops: Int[Tensor, " N"]
    touched: Int[Tensor, "N W"]
    sent: Int[Tensor, "N W 2"]
    received: Int[Tensor, "N W 2"]


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedTokens:
    """Choices of tokens, in the order in which they ran.

    Attributes:
        expert_ids: [L, T, K], -1 = no expert.
        step: [T] the forward pass of each token, which changes where a step ends.
    """

    expert_ids: Int[Tensor, "L T K"]
    step: Int[Tensor, " T"]


def deal_tokens(step: Int[Tensor, " T"], *, num_devices: int) -> Int[Tensor, " T"]:
    """Deal out the tokens of every step to devices, in order: token i of n is on device `i * W // n`.

    Example:
        >>> deal_tokens(torch.tensor([0, 0, 0, 1]), num_devices=2).tolist()
        [0, 0, 1, 0]
    """
    _, index, lengths = torch.unique_consecutive(step, return_inverse=True, return_counts=True)
    first = lengths.cumsum(0) - lengths
    place: Tensor = torch.arange(len(step)) - first[index]
    source: Tensor = place * num_devices // lengths[index]
    return source


def count_traffic(
    expert_ids: Int[Tensor, "T K"],
    step: Int[Tensor, " T"],
    layout: ExpertLayout,
    row: int,
    *,
    capacity_factor: float | None = None,
    exchange: Exchange = "flat",
) -> LayerTraffic:
    """Count rows, drops and sends of some whole steps in one layer.

    Args:
        expert_ids: [T, K], -1 = no expert.
        step: [T], rising from 0.
        layout: where experts are.
        row: of the layout, the layer.
        capacity_factor: rows that an expert takes at most, in even shares of the step's slots, C = ceil(factor T K /
            E); tokens are queued in order, and what comes after is dropped before it is sent. None = all.
        exchange: whether a token goes straight to each device, or to each node and then within it.

    Returns:
        Counts as int64.

    Example:
        >>> import numpy as np
        >>> layout = ExpertLayout(device_experts=np.array([[[0], [1]]]), num_experts=2, num_nodes=2)
        >>> traffic = count_traffic(torch.tensor([[0, 1], [0, 1]]), torch.tensor([0, 0]), layout, 0)
        >>> traffic.rows.tolist(), traffic.sent[..., 1].tolist()
        ([[2, 2]], [[1, 1]])
    """
    num_devices, num_steps = layout.num_devices, int(step[-1]) + 1 if len(step) else 0
    source = deal_tokens(step, num_devices=num_devices)
    table = torch.from_numpy(layout.logical_to_physical[row])
    drops = torch.zeros(num_steps, dtype=torch.int64)
    if capacity_factor is not None:
        is_late = _find_late(expert_ids, step, capacity_factor, num_experts=layout.num_experts)
        expert_ids = expert_ids.masked_fill(is_late, -1)
        drops.index_add_(0, step, is_late.sum(1))
    physical = choose_replicas(expert_ids, source, table, step=step)
    is_row = physical >= 0
    num_slots = num_devices * layout.slots_per_device
    key = (step[:, None] * num_slots + physical)[is_row]
    by_device = torch.bincount(key, minlength=num_steps * num_slots).view(num_steps, num_devices, -1)
    device = torch.where(is_row, physical // layout.slots_per_device, -1)
    sent, received = _count_sends(device, source, step, num_steps, layout, exchange)
    return LayerTraffic(
        rows=by_device.sum(2),
        drops=drops,
        touched=(by_device > 0).sum(2),
        sent=sent,
        received=received,
    )


def _find_late(
    expert_ids: Int[Tensor, "T K"], step: Int[Tensor, " T"], factor: float, *, num_experts: int
) -> Bool[Tensor, "T K"]:
    """Choices that come after an expert's first C of their step, in the order of tokens and slots."""
    num_slots = torch.bincount(step) * expert_ids.shape[1]
    capacity = (factor * num_slots.double() / num_experts).ceil().long()
    queue = torch.where(expert_ids >= 0, step[:, None] * num_experts + expert_ids, -1).flatten()
    ranked, order = queue.sort(stable=True)
    place = torch.arange(len(ranked)) - torch.searchsorted(ranked, ranked)
    is_late = (place >= capacity[step.repeat_interleave(expert_ids.shape[1])[order]]) & (ranked >= 0)
    return torch.zeros_like(is_late).index_put_((order,), is_late).view_as(expert_ids)


def _count_sends(
    device: Int[Tensor, "T K"],
    source: Int[Tensor, " T"],
    step: Int[Tensor, " T"],
    num_steps: int,
    layout: ExpertLayout,
    exchange: Exchange,
) -> tuple[Tensor, Tensor]:
    """Tokens that leave and reach each device: [N, W, 2] each, within the node and across."""
    num_devices, per_node = layout.num_devices, layout.num_devices // layout.num_nodes
    ends = device.sort(1).values
    begins = source[:, None].expand_as(ends)
    legs = [(begins, ends)]
    if exchange == "two_level":
        # The device of the same place in the node; -1 stays negative.
        relays = ends.div(per_node, rounding_mode="floor") * per_node + begins % per_node
        legs = [(begins, relays), (relays, ends)]
    found = torch.zeros(2, num_steps * num_devices * 2, dtype=torch.int64)
    for begin, end in legs:
        goes = _is_new(end) & (end >= 0) & (begin != end)
        across = (begin // per_node != end // per_node).long()
        for way, place in enumerate((begin, end)):
            key = ((step[:, None] * num_devices + place) * 2 + across)[goes]
            found[way] += torch.bincount(key, minlength=found.shape[1])
    sent, received = found.view(2, num_steps, num_devices, 2)
    return sent, received


def _is_new(ranked: Int[Tensor, "T K"]) -> Bool[Tensor, "T K"]:
    """Whether each entry differs from the one before it."""
    is_new = torch.ones_like(ranked, dtype=torch.bool)
    is_new[:, 1:] = ranked[:, 1:] != ranked[:, :-1]
    return is_new


def whole_steps(
    parts: Iterable[RoutedTokens], *, num_devices: int, step_tokens: int | None = None
) -> Iterator[RoutedTokens]:
    """Cut a stream of tokens into blocks of whole steps that fit memory.

    Args:
        parts: of the stream, wherever it was cut; ids [L, T, K] of the same L and K.
        num_devices: W.
        step_tokens: tokens of a step, instead of what the passes say; the last one may have fewer.

    Yields:
        Whole steps, numbered from 0 in each block.

    Raises:
        InputError: no tokens, or steps of fewer than one.
    """
    if step_tokens is not None and step_tokens < 1:
        raise InputError(f"step tokens (={step_tokens}) must be at least 1; leave it out for the passes of the trace")
    rest: tuple[Tensor, Tensor] | None = None
    begin = 0
    for part in parts:
        size = len(part.step)
        mark = torch.arange(begin, begin + size) // step_tokens if step_tokens else part.step.long()
        begin += size
        ids, marks = part.expert_ids, mark
        if rest is not None:
            ids, marks = torch.cat([rest[0], ids], dim=1), torch.cat([rest[1], marks])
        if len(marks):
            end = int((marks != marks[-1]).sum())
            yield from _blocks(ids[:, :end], marks[:end], num_devices)
            rest = ids[:, end:], marks[end:]
    if rest is None:
        raise InputError("tokens (=0) must be at least one; give a trace of tokens, not of counts alone")
    yield from _blocks(*rest, num_devices)


def _blocks(ids: Tensor, marks: Tensor, num_devices: int) -> Iterator[RoutedTokens]:
    """Whole steps in blocks of bounded size; a step that is larger is a block of its own."""
    if not len(marks):
        return
    lengths = torch.unique_consecutive(marks, return_counts=True)[1]
    ends = lengths.cumsum(0).tolist()
    begin, first = 0, 0
    for number, end in enumerate(ends):
        size = max((end - begin) * ids.shape[2], (number + 1 - first) * num_devices * 8)
        following = lengths[number + 1] * ids.shape[2] if number + 1 < len(ends) else _BLOCK_SLOTS
        if size + following > _BLOCK_SLOTS:
            steps = torch.arange(number + 1 - first).repeat_interleave(lengths[first : number + 1])
            yield RoutedTokens(expert_ids=ids[:, begin:end], step=steps)
            begin, first = end, number + 1


def tokens_of(trace: Any, *, top_k: int | None = None) -> Iterator[RoutedTokens]:
    """Read a trace's choices piece by piece, without padding and what was dropped.

    Where the trace does not know passes, each piece is one; say how many tokens a step has instead.

    Args:
        trace: a `RoutingTrace` or `TraceFile`.
        top_k: keep the best K choices; None = all.

    Raises:
        InputError: more choices than were recorded.
    """
    for number, part in enumerate(trace.chunks()):
        width = part.topk_ids.shape[2]
        if top_k is not None and not 1 <= top_k <= width:
            raise InputError(f"top_k (={top_k}) must be between 1 and the choices that were recorded (={width})")
        ids = part.topk_ids[..., :top_k]
        if part.is_dropped is not None:
            ids = ids.masked_fill(part.is_dropped[..., :top_k], -1)
        marks = torch.full((ids.shape[1],), number) if part.forward_id is None else part.forward_id.long()
        if part.phase is not None:
            is_token = part.phase != 3
            ids, marks = ids[:, is_token], marks[is_token]
        yield RoutedTokens(expert_ids=ids, step=marks)
