"""How long a decoding step takes on a machine whose parts were measured: each part at the rate at which it really runs.

A ceiling assumes that everything overlaps and that all of memory's bandwidth is used. A step of transformers does
neither: its parts run one after the other, a product of few rows with a wide matrix reads slower than the memory could,
the cache is copied to append to it, and every layer costs the interpreter time. Each of these is measured on shapes of
its own, never on the model that is to be predicted, and their times are added.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from headgate.planning.memory import Precision, weight_bytes
from headgate.planning.parameters import ModelShape, Role
from headgate.planning.roofline import decode_work
from headgate.planning.touch import LayerTouch


@dataclass(frozen=True, slots=True, kw_only=True)
class MachineRates:
    """What the parts of a decoding step reach on a machine, for one batch and context.

    Attributes:
        batch, context: that they were measured with.
        layer_matrices, head, experts, cache: bytes per second of weights or cached values, at which the products of a
            layer, those of the head, the experts and the attention over an appended cache run.
        layer_s: seconds that a layer takes whatever its size.
        step_s: seconds that a step takes besides.
    """

    batch: int
    context: int
    layer_matrices: float
    head: float
    experts: float
    cache: float
    layer_s: float
    step_s: float

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpectedStep:
    """Seconds of a decoding step, by part; they add up.

    Attributes:
        layer_matrices_s, head_s, experts_s, cache_s: bytes over the rate of each.
        overhead_s: of layers and step.
    """

    layer_matrices_s: float
    head_s: float
    experts_s: float
    cache_s: float
    overhead_s: float

    @property
    def time_s(self) -> float:
        """Of the whole step."""
        return self.layer_matrices_s + self.head_s + self.experts_s + self.cache_s + self.overhead_s

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return {**asdict(self), "time_s": self.time_s}


def expect_decode(
    shape: ModelShape, precision: Precision, touches: Sequence[LayerTouch], rates: MachineRates
) -> ExpectedStep:
    """Add up the parts of a decoding step, of one token for each sequence.

    time = (dense - head) / layer rate + head / head rate + distinct experts / expert rate + cache / cache rate
    + layers x time of a layer + time of a step.

    Args:
        shape: the model.
        precision: formats; the rates must have been measured in them.
        touches: of each routed layer.
        rates: measured with the batch and context that are meant.

    Returns:
        Seconds by part.
    """
    work = decode_work(shape, precision, touches, batch=rates.batch, context=rates.context)
    head = weight_bytes(shape, precision)[Role.HEAD] + shape.tied_head * precision.wide.value_bits / 8
    return ExpectedStep(
        layer_matrices_s=(work.dense_bytes - head) / rates.layer_matrices,
        head_s=head / rates.head,
        experts_s=work.experts_bytes / rates.experts,
        cache_s=work.cache_bytes / rates.cache,
        overhead_s=shape.num_layers * rates.layer_s + rates.step_s,
    )
