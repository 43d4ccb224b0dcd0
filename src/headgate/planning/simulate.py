"""Replay routing on a described cluster: bytes, the slowest device, and the time of every step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headgate.errors import InputError
from headgate.layout import ExpertLayout
from headgate.planning.cluster import Cluster, ExpertShape
from headgate.planning.traffic import Exchange, LayerTraffic, RoutedTokens, count_traffic, whole_steps


@dataclass(frozen=True, slots=True, kw_only=True)
class StepTimes:
    """The time of each step, and its parts. Letters: N steps.

    Attributes:
        step_s: [N] seconds; of every layer, the slowest device's experts and the slowest one's sends, there and back.
        expert_s: [N] the part of the experts.
        even_s: [N] what the step would take if every layer's work and sends were shared out evenly.
        slowest_device: [N] whose experts take longest, over all layers.
    """

    step_s: Float[Tensor, " N"]
    expert_s: Float[Tensor, " N"]
    even_s: Float[Tensor, " N"]
    slowest_device: Int[Tensor, " N"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Simulation:
    """What a trace asks of a cluster.

    Attributes:
        num_tokens: T.
        rows: [L, W] rows of each device, dropped ones not counted.
        sent: [L, W, 2] tokens that each device sends: to its node, and to other nodes.
        received: [L, W, 2] tokens that each device receives; as many partial sums go back.
        num_dropped: choices that found their expert full, and were not sent.
        times: of the steps.
        row_bytes: of one token that is sent.
    """

    num_tokens: int
    rows: Int[Tensor, "L W"]
    sent: Int[Tensor, "L W 2"]
    received: Int[Tensor, "L W 2"]
    num_dropped: int
    times: StepTimes
    row_bytes: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        rows = self.rows.double()
        num_steps = len(self.times.step_s)
        within, across = (2 * self.row_bytes * self.sent.sum((0, 1))).tolist()
        offered = int(self.rows.sum()) + self.num_dropped
        return {
            "num_devices": self.rows.shape[1],
            "num_steps": num_steps,
            "num_tokens": self.num_tokens,
            "max_over_mean": float((rows.amax(1) / rows.mean(1).clamp(min=1e-300)).mean()),
            "sends_per_token": int(self.sent.sum()) / (self.num_tokens * len(rows)),
            "bytes_within_nodes": within,
            "bytes_across_nodes": across,
            "drop_fraction": self.num_dropped / offered if offered else 0.0,
            "step_s": float(self.times.step_s.mean()),
            "step_s_p95": float(self.times.step_s.quantile(0.95)),
            "expert_s": float(self.times.expert_s.mean()),
            "even_step_s": float(self.times.even_s.mean()),
            "tokens_per_s": self.num_tokens / float(self.times.step_s.sum()),
            "steps": {
                "step_s": self.times.step_s.tolist(),
                "slowest_device": self.times.slowest_device.tolist(),
            },
        }


def simulate(
    parts: Iterable[RoutedTokens],
    layout: ExpertLayout,
    *,
    cluster: Cluster,
    shape: ExpertShape,
    step_tokens: int | None = None,
    capacity_factor: float | None = None,
    exchange: Exchange = "flat",
) -> Simulation:
    """Replay tokens on a cluster, layer by layer and step by step.

    The time of a layer is the slowest device's experts, `max(rows * row_flops / peak, touched * expert_bytes /
    bandwidth)`, and twice the slowest device's sends, `max over (sent, received) of within / link + across / network`.
    Attention, the router, what overlaps and what a send takes to begin are not in it: compare layouts by it, not
    engines.

    Args:
        parts: of a trace, see `tokens_of`.
        layout: where experts are; a row per layer of the trace.
        cluster: of `layout.num_devices` devices.
        shape: of an expert.
        step_tokens: tokens of a step over all devices; None = the passes that the trace knows.
        capacity_factor, exchange: see `count_traffic`.

    Raises:
        InputError: a trace of other layers or more experts than the layout, or values that make no sense.

    Example:
        >>> from headgate.layout import deal_experts
        >>> from headgate.planning.hardware import find_device
        >>> cluster = Cluster(device=find_device("h100-sxm"), across_bandwidth=50e9)
        >>> shape = ExpertShape(d_model=1024, d_ff=512)
        >>> ids = torch.arange(8).view(1, 4, 2)
        >>> layout = deal_experts(1, 8, num_devices=2)
        >>> tokens = RoutedTokens(expert_ids=ids, step=torch.zeros(4).long())
        >>> found = simulate([tokens], layout, cluster=cluster, shape=shape)
        >>> found.rows.tolist(), found.sent.sum().item()
        ([[4, 4]], 0)
    """
    if capacity_factor is not None and not capacity_factor > 0:
        raise InputError(f"capacity (={capacity_factor}) must be positive; 1.25 is a common choice")
    num_layers, num_devices = len(layout.device_experts), layout.num_devices
    rows = torch.zeros(num_layers, num_devices, dtype=torch.int64)
    sent, received = (torch.zeros(num_layers, num_devices, 2, dtype=torch.int64) for _ in range(2))
    num_tokens, num_dropped = 0, 0
    times: list[StepTimes] = []
    for block in whole_steps(parts, num_devices=num_devices, step_tokens=step_tokens):
        _require_layers(block.expert_ids, layout)
        found = [
            count_traffic(ids, block.step, layout, row, capacity_factor=capacity_factor, exchange=exchange)
            for row, ids in enumerate(block.expert_ids)
        ]
        for row, traffic in enumerate(found):
            rows[row] += traffic.rows.sum(0)
            sent[row] += traffic.sent.sum(0)
            received[row] += traffic.received.sum(0)
            num_dropped += int(traffic.drops.sum())
        num_tokens += len(block.step)
        times.append(_time_steps(found, cluster, shape))
    return Simulation(
        num_tokens=num_tokens,
        rows=rows,
        sent=sent,
        received=received,
        num_dropped=num_dropped,
        times=_join(times),
        row_bytes=shape.row_bytes,
    )


def _require_layers(ids: Int[Tensor, "L T K"], layout: ExpertLayout) -> None:
    if len(ids) != len(layout.device_experts):
        raise InputError(
            f"layers (={len(ids)} in the trace) must be those of the layout (={len(layout.device_experts)}); "
            "plan for this model"
        )
    if int(ids.amax()) >= layout.num_experts:
        raise InputError(f"expert id (={int(ids.amax())}) must be below the layout's experts (={layout.num_experts})")


def _time_steps(found: list[LayerTraffic], cluster: Cluster, shape: ExpertShape) -> StepTimes:
    peak = cluster.device.peak_for(cluster.arithmetic)
    links = torch.tensor([1 / cluster.within_bandwidth, 1 / cluster.across_bandwidth], dtype=torch.float64)
    num_steps, num_devices = found[0].rows.shape
    busy = torch.zeros(num_steps, num_devices, dtype=torch.float64)
    expert_s, send_s, even_s = (torch.zeros(num_steps, dtype=torch.float64) for _ in range(3))
    for layer in found:
        compute = layer.rows * shape.row_flops / peak
        read = layer.touched * shape.expert_bytes / cluster.device.bandwidth
        work = torch.maximum(compute, read)
        sends = torch.maximum(*(shape.row_bytes * (way.double() @ links) for way in (layer.sent, layer.received)))
        busy += work
        expert_s += work.amax(1)
        send_s += 2 * sends.amax(1)
        even_s += torch.maximum(compute.mean(1), read.mean(1)) + 2 * shape.row_bytes * (
            layer.sent.double().mean(1) @ links
        )
    return StepTimes(step_s=expert_s + send_s, expert_s=expert_s, even_s=even_s, slowest_device=busy.argmax(1))


def _join(times: list[StepTimes]) -> StepTimes:
    return StepTimes(
        step_s=torch.cat([part.step_s for part in times]),
        expert_s=torch.cat([part.expert_s for part in times]),
        even_s=torch.cat([part.even_s for part in times]),
        slowest_device=torch.cat([part.slowest_device for part in times]),
    )
