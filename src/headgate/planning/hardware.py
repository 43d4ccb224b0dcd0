"""Devices to plan for: memory, bandwidth and peak arithmetic, each figure with its source and date."""

from __future__ import annotations

import difflib
import functools
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from importlib.resources import files
from typing import Any, Literal

from headgate.errors import InputError

Arithmetic = Literal["fp32", "bf16", "fp8", "fp4"]
"""What a matrix product multiplies; fp16 runs as fast as bf16 on every device here."""

WIDER: Mapping[str, str] = {"fp4": "fp8", "fp8": "bf16", "bf16": "fp32"}
"""Where a device lacks an arithmetic, it widens the operands to the next one."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """One device: what it holds, how fast it reads, and how fast it multiplies and adds.

    Attributes:
        name: as the command line takes it.
        title: as its maker writes it.
        kind: what it is.
        memory_bytes: that it has; for a CPU or laptop, of the configuration that the title states.
        bandwidth: bytes per second read from that memory, all cores together.
        peak: FLOP per second, dense (no sparsity), a multiply-add being two, by arithmetic.
        link_bandwidth: bytes per second that it sends to its neighbours in a node, one direction; None where it
            has no link but its host's.
        node_size: devices that such links join.
        bandwidth_source, peak_source, date: where the figures come from, and when they were put down here.
        checked: a second page that prints the same figures; None where none was looked up, or what was measured.
    """

    name: str
    title: str
    kind: Literal["accelerator", "laptop", "cpu", "measured"]
    memory_bytes: int
    bandwidth: float
    peak: Mapping[str, float]
    link_bandwidth: float | None = None
    node_size: int = 1
    bandwidth_source: str
    peak_source: str
    date: str
    checked: str | None = None

    def peak_for(self, arithmetic: str) -> float:
        """FLOP per second in an arithmetic, or in the next wider one that the device has.

        Raises:
            InputError: no such arithmetic.

        Example:
            >>> find_device("a100-80gb").peak_for("fp8") == find_device("a100-80gb").peak_for("bf16")
            True
        """
        wanted: str | None = arithmetic
        while wanted is not None and wanted not in self.peak:
            wanted = WIDER.get(wanted)
        if wanted is None:
            raise InputError(
                f"arithmetic (={arithmetic}) must be one that {self.name} has: {', '.join(self.peak)}; pass one of them"
            )
        return self.peak[wanted]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@functools.cache
def devices() -> tuple[Device, ...]:
    """Every device of the table, as its file lists them.

    Example:
        >>> "h100-sxm" in [device.name for device in devices()]
        True
    """
    text = files("headgate.planning").joinpath("data", "devices.json").read_text(encoding="utf-8")
    return tuple(Device(**record) for record in json.loads(text)["devices"])


def find_device(name: str) -> Device:
    """Find a device by its name.

    Args:
        name: as in the table; case does not matter.

    Raises:
        InputError: there is none of that name.

    Example:
        >>> find_device("H100-SXM").memory_bytes
        80000000000
    """
    by_name = {device.name: device for device in devices()}
    if name.lower() in by_name:
        return by_name[name.lower()]
    near = difflib.get_close_matches(name.lower(), by_name, n=3, cutoff=0.4)
    hint = f"did you mean {' or '.join(near)}?" if near else f"there are {', '.join(by_name)}"
    raise InputError(f"device (={name}) must be in the table of devices; {hint}")
