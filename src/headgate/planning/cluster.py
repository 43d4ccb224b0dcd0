"""A cluster, and the experts that run on it: what a simulation needs to turn rows into bytes and seconds."""

from __future__ import annotations

from dataclasses import dataclass

from headgate.errors import InputError
from headgate.planning.hardware import Device


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertShape:
    """One expert of a layer: three matrices [D, F].

    Attributes:
        d_model: D.
        d_ff: F.
        weight_bytes: of one weight: 2 in bfloat16, 1 in FP8.
        activation_bytes: of one number of a row that is sent; the partial sum comes back in as many.

    Raises:
        InputError: something not positive.
    """

    d_model: int
    d_ff: int
    weight_bytes: float = 2.0
    activation_bytes: float = 2.0

    def __post_init__(self) -> None:
        for name in ("d_model", "d_ff", "weight_bytes", "activation_bytes"):
            if not getattr(self, name) > 0:
                raise InputError(f"{name} (={getattr(self, name)}) must be positive; see the model's config")

    @property
    def expert_bytes(self) -> float:
        """Bytes of one expert: 3 D F weights."""
        return 3.0 * self.d_model * self.d_ff * self.weight_bytes

    @property
    def row_flops(self) -> float:
        """Floating point operations of one row: two per weight."""
        return 6.0 * self.d_model * self.d_ff

    @property
    def row_bytes(self) -> float:
        """Bytes of one row, sent once."""
        return float(self.d_model * self.activation_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class Cluster:
    """Devices of one kind, with fast links within a node and slower ones across.

    Attributes:
        device: bandwidth and peak of each, and the link within a node.
        across_bandwidth: bytes per second that one device sends to, and receives from, other nodes.
        arithmetic: what the experts multiply in, for the peak.

    Raises:
        InputError: no bandwidth.
    """

    device: Device
    across_bandwidth: float
    arithmetic: str = "bf16"

    def __post_init__(self) -> None:
        if not self.across_bandwidth > 0:
            raise InputError(f"across_bandwidth (={self.across_bandwidth}) must be positive, in bytes per second")

    @property
    def within_bandwidth(self) -> float:
        """Bytes per second that one device sends to its node; where it has no link of its own, what leaves the node."""
        return self.device.link_bandwidth or self.across_bandwidth
