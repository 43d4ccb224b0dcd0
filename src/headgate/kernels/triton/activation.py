"""What an expert computes between its projections, and its derivative, on tiles in float32 registers."""

from __future__ import annotations

import triton
import triton.language as tl

_SQRT_HALF = tl.constexpr(0.7071067811865476)
_DENSITY_AT_0 = tl.constexpr(0.3989422804014327)  # 1 / sqrt(2 pi)
# Constants stand to the right of tensors: the interpreter does not know them on the left.
# tanh(z) = 2 sigmoid(2z) - 1, so z (1 + tanh(u)) / 2 = z sigmoid(2u), with u = sqrt(2 / pi) (z + 0.044715 z^3).
_TWO_SQRT_2_BY_PI = tl.constexpr(1.5957691216057308)
_CUBIC = tl.constexpr(0.044715)


@triton.jit
def act(z, slope, ACTIVATION: tl.constexpr):
    """The activation itself."""
    if ACTIVATION == "silu":
        return z * tl.sigmoid(slope * z)
    elif ACTIVATION == "relu":
        return tl.where(z <= 0, 0.0, z)  # NaN stays
    elif ACTIVATION == "gelu":
        return 0.5 * z * (1 + tl.erf(z * _SQRT_HALF))
    else:
        return z * tl.sigmoid((z + z * z * z * _CUBIC) * _TWO_SQRT_2_BY_PI)


@triton.jit
def act_slope(z, slope, ACTIVATION: tl.constexpr):
    """Its derivative."""
    if ACTIVATION == "silu":
        s = tl.sigmoid(slope * z)
        return s * (1 + slope * z * (1 - s))
    elif ACTIVATION == "relu":
        return tl.where(z <= 0, 0.0, 1.0)
    elif ACTIVATION == "gelu":
        return 0.5 * (1 + tl.erf(z * _SQRT_HALF)) + z * _DENSITY_AT_0 * tl.exp(-0.5 * z * z)
    else:
        s = tl.sigmoid((z + z * z * z * _CUBIC) * _TWO_SQRT_2_BY_PI)
        return s + z * s * (1 - s) * (1 + z * z * _CUBIC * 3) * _TWO_SQRT_2_BY_PI


@triton.jit
def clamp_pair(gate, up, clamp):
    """Gate at most `clamp`, up within [-clamp, clamp]; NaN stays."""
    if clamp is not None:
        gate = tl.where(gate > clamp, clamp, gate)
        up = tl.where(up > clamp, clamp, tl.where(up < -clamp, -clamp, up))
    return gate, up


@triton.jit
def activate(gate, up, clamp, slope, up_offset, GATED: tl.constexpr, ACTIVATION: tl.constexpr):
    """Compute act(gate) * (up + up_offset); act(gate) without a gate, which then is the only projection."""
    if GATED:
        gate, up = clamp_pair(gate, up, clamp)
        return act(gate, slope, ACTIVATION) * (up + up_offset)
    else:
        return act(gate, slope, ACTIVATION)


@triton.jit
def activate_backward(d, gate, up, clamp, slope, up_offset, GATED: tl.constexpr, ACTIVATION: tl.constexpr):
    """The gradients for gate and up, from that of `activate`."""
    if GATED:
        held_gate, held_up = clamp_pair(gate, up, clamp)
        d_gate = d * (held_up + up_offset) * act_slope(held_gate, slope, ACTIVATION)
        d_up = d * act(held_gate, slope, ACTIVATION)
        if clamp is not None:
            d_gate = tl.where(gate <= clamp, d_gate, 0.0)
            d_up = tl.where((up <= clamp) & (up >= -clamp), d_up, 0.0)
        return d_gate, d_up
    else:
        return d * act_slope(gate, slope, ACTIVATION), d


@triton.jit
def gate_and_up_columns(columns, F: tl.constexpr, GATED: tl.constexpr, INTERLEAVED: tl.constexpr):
    """Where gate and up of hidden columns lie in the first projection; both the same without a gate."""
    if not GATED:
        return columns, columns
    elif INTERLEAVED:
        return 2 * columns, 2 * columns + 1
    else:
        return columns, columns + F
