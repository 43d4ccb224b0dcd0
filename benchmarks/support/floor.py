"""What a case must at least cost: weights to read, operations to do, and the time that the machine needs for them."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from support.problem import Shape

BACKWARD_FACTOR = 2
"""The backward pass has two products for each one of the forward pass: one per gradient, of input and of weight."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Work:
    """Bytes of weights and floating-point operations."""

    num_bytes: int
    flops: int

    def floor_s(self, bandwidth: float, peak: float) -> float:
        """Seconds: bytes over bandwidth (bytes/s) or operations over peak (FLOP/s), whichever is longer."""
        return max(self.num_bytes / bandwidth, self.flops / peak)

    def bound(self, bandwidth: float, peak: float) -> str:
        """What the floor comes from: "memory" or "arithmetic"."""
        return "memory" if self.num_bytes / bandwidth > self.flops / peak else "arithmetic"


def forward_work(shape: Shape, *, num_tokens: int, num_distinct: int, item_bytes: int) -> Work:
    """Each distinct expert's weights are read once; each row multiplies and adds once per weight of its expert."""
    flops = 2 * num_tokens * shape.top_k * shape.weights_per_expert
    return Work(num_bytes=num_distinct * shape.weights_per_expert * item_bytes, flops=flops)


def training_work(shape: Shape, *, num_tokens: int) -> Work:
    """Forward and backward; operations alone, since training has enough tokens for them to count most."""
    forward = forward_work(shape, num_tokens=num_tokens, num_distinct=0, item_bytes=0)
    return Work(num_bytes=0, flops=(1 + BACKWARD_FACTOR) * forward.flops)


def scratch_bound_bytes(shape: Shape, *, num_tokens: int) -> int:
    """How much memory a call may take for itself: 3 * (R * F + T * D) float32 values."""
    return 3 * (num_tokens * shape.top_k * shape.d_ff + num_tokens * shape.d_model) * 4


def geometric_mean(values: Sequence[float]) -> float | None:
    """The geometric mean, or None of nothing."""
    return math.exp(sum(map(math.log, values)) / len(values)) if values else None
