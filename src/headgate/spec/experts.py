"""What one expert computes, as data."""

from __future__ import annotations

from dataclasses import dataclass

from headgate.errors import SpecError
from headgate.kernels.function import Activation, ExpertFunction
from headgate.spec.router import check_literals


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertSpec:
    """An expert's function: down(act(gate(x)) * up(x)), or down(act(up(x))) where it isn't gated.

    Attributes:
        activation: act. "gelu" is exact (erf), "gelu_tanh" its approximation.
        gated: whether a gate multiplies the up projection (SwiGLU and its kin).
        bias: whether both projections have biases.
        interleaved: rows of `gate_up_proj` alternate gate, up, gate, up (gpt-oss) instead of all gate, then all up.
        clamp: gate is cut at +clamp and up at +-clamp before the activation; None = no clamp.
        sigmoid_slope: for "silu": act(z) = z * sigmoid(sigmoid_slope * z); gpt-oss uses 1.702.
        up_offset: added to up before it multiplies; gpt-oss uses 1.
    """

    activation: Activation = "silu"
    gated: bool = True
    bias: bool = False
    interleaved: bool = False
    clamp: float | None = None
    sigmoid_slope: float = 1.0
    up_offset: float = 0.0

    def __post_init__(self) -> None:
        check_literals(self)
        if self.clamp is not None and self.clamp <= 0:
            raise SpecError(f"clamp (={self.clamp}) must be positive; gpt-oss uses 7, DeepSeek-V4 10, None is no clamp")
        if not self.gated and (self.interleaved or self.up_offset or self.clamp is not None):
            raise SpecError("interleaved, up_offset and clamp belong to gated experts; set gated=True or drop them")
        if self.activation != "silu" and self.sigmoid_slope != 1.0:
            raise SpecError(f"sigmoid_slope (={self.sigmoid_slope}) belongs to 'silu', not {self.activation!r}")

    @property
    def function(self) -> ExpertFunction:
        """What happens between the projections."""
        return ExpertFunction(
            activation=self.activation,
            gated=self.gated,
            interleaved=self.interleaved,
            clamp=self.clamp,
            sigmoid_slope=self.sigmoid_slope,
            up_offset=self.up_offset,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class SharedSpec:
    """An expert that every token gets, besides those that it is routed to.

    Attributes:
        d_ff: hidden width.
        gated_output: its output is multiplied by sigmoid(linear(x)), one number a token (Qwen2-MoE).
        bias: whether its projections have biases.
    """

    d_ff: int
    gated_output: bool = False
    bias: bool = False

    def __post_init__(self) -> None:
        if self.d_ff < 1:
            raise SpecError(f"shared d_ff (={self.d_ff}) must be at least 1; leave shared out for no shared expert")
