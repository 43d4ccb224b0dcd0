"""What an expert computes between its two projections."""

from __future__ import annotations

from typing import Literal, NamedTuple

Activation = Literal["silu", "gelu", "gelu_tanh", "relu"]


class ExpertFunction(NamedTuple):
    """act(gate) * (up + up_offset), or act(up) where there is no gate. See `headgate.ExpertSpec` for the fields.

    A tuple, so that an operation of PyTorch, which takes plain values only, can take its fields one by one.
    """

    activation: Activation = "silu"
    gated: bool = True
    interleaved: bool = False
    clamp: float | None = None
    sigmoid_slope: float = 1.0
    up_offset: float = 0.0
