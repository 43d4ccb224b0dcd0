"""Which experts of `transformers` compute a function that the fused kernel knows.

The function is not read from a name or from source text: the model's own code is run on a few values and compared
with each function that the kernel has. A model that isn't written yet is recognised the same way.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Iterator
from typing import Any, get_args

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headgate.experts import activate
from headgate.kernels.function import Activation, ExpertFunction

_KEPT = "_headgate_function"
"""The attribute of an experts module that holds what was recognised, so that it is probed once."""

WEIGHT_NAMES = ("gate_up_proj", "up_proj", "down_proj", "gate_up_proj_bias", "up_proj_bias", "down_proj_bias")
_POINTS = (-1e4, -80.0, -9.0, -2.5, -1.0, -0.3, 0.0, 0.2, 0.7, 1.5, 4.0, 30.0, 1e4)

# Each function goes through about 4 roundings of float32 in either order: 4 * 2**-23 < 1e-6 of the result. The two
# forms of GELU, the closest pair, differ by 4e-4.
_RELATIVE, _ABSOLUTE = 1e-5, 1e-5


def known_function(experts: Any) -> ExpertFunction | None:
    """Recognise what one expert computes between its two projections.

    Args:
        experts: a module with `has_gate` (True where it lacks one), and `_apply_gate`, `act_fn` or `activation`.

    Returns:
        The function, without the biases; None where the fused kernel has no such function.
    """
    if _KEPT not in experts.__dict__:
        setattr(experts, _KEPT, _recognise(experts))
    kept: ExpertFunction | None = experts.__dict__[_KEPT]
    return kept


# Compiled code takes the answer as it is: there is nothing in it to trace.
known_function._dynamo_marked_constant = True  # type: ignore[attr-defined]


def forget_function(experts: Any) -> None:
    """Drop what was recognised, so that the next call probes again."""
    vars(experts).pop(_KEPT, None)


def run_function(experts: Any, hidden: Float[Tensor, "R U"]) -> Float[Tensor, "R F"]:
    """Apply the model's own code to the rows between the two projections."""
    if not is_gated(experts):
        return _activation(experts)(hidden)
    if hasattr(experts, "_apply_gate"):
        gated: Tensor = experts._apply_gate(hidden)
        return gated
    gate, up = hidden.chunk(2, dim=-1)
    return _activation(experts)(gate) * up


def is_gated(experts: Any) -> bool:
    """Whether the up projection holds a gate too; modules outside the interface, which don't say, all have one."""
    return bool(getattr(experts, "has_gate", True))


def _activation(experts: Any) -> Callable[[Tensor], Tensor]:
    activation: Callable[[Tensor], Tensor] = experts.act_fn if hasattr(experts, "act_fn") else experts.activation
    return activation


def _recognise(experts: Any) -> ExpertFunction | None:
    if _has_own_parameters(experts):
        return None
    numbers = _numbers(experts)
    probe = _probe(numbers, gated=is_gated(experts))
    with torch.no_grad():
        expected = run_function(experts, probe)
    if expected.shape != (probe.shape[0], probe.shape[1] // 2 if is_gated(experts) else probe.shape[1]):
        return None
    for candidate in _candidates(numbers, gated=is_gated(experts)):
        if torch.allclose(_apply(candidate, probe), expected, rtol=_RELATIVE, atol=_ABSOLUTE):
            return candidate
    return None


def _has_own_parameters(experts: Any) -> bool:
    """Whether the function may depend on learned values, which no fixed function has."""
    if not hasattr(experts, "_apply_gate"):
        activation = _activation(experts)
        return isinstance(activation, nn.Module) and any(True for _ in activation.parameters())
    outside = (name for name, _ in experts.named_parameters() if name not in WEIGHT_NAMES)
    return any(not name.startswith("post_expert_norm.") for name in outside)


def _numbers(experts: Any) -> list[float]:
    """Every number that the module and its activation keep: limits and slopes are among them."""
    holders = [experts, *(module for module in experts.children())]
    values = [value for holder in holders for value in vars(holder).values()]
    numbers = {float(v) for v in values if isinstance(v, (int, float)) and not isinstance(v, bool)}
    return sorted(n for n in numbers if n > 0 and math.isfinite(n))


def _probe(numbers: list[float], *, gated: bool) -> Float[Tensor, "P U"]:
    """Rows that tell the candidates apart: both sides of every limit, gate and up independent, two columns of each."""
    points = [*_POINTS, *(sign * factor * n for n in numbers for sign in (-1, 1) for factor in (0.5, 1.5))]
    values = torch.tensor(points, dtype=torch.float32, device="cpu")
    if not gated:
        return values[:, None].repeat(1, 2)
    gate, up = torch.cartesian_prod(values, values).unbind(dim=1)
    return torch.stack([gate, gate.roll(1), up, up.roll(7)], dim=1)


def _candidates(numbers: list[float], *, gated: bool) -> Iterator[ExpertFunction]:
    # 1.702 is the slope of gpt-oss and of the sigmoid form of GELU.
    functions: list[tuple[Activation, float]] = [("silu", slope) for slope in dict.fromkeys((1.0, 1.702, *numbers))]
    functions += [(name, 1.0) for name in get_args(Activation) if name != "silu"]
    if not gated:
        for activation, slope in functions:
            yield ExpertFunction(activation=activation, sigmoid_slope=slope, gated=False)
        return
    forms = itertools.product((False, True), (0.0, 1.0), (None, *numbers), functions)
    for interleaved, up_offset, clamp, (activation, slope) in forms:
        yield ExpertFunction(
            activation=activation, interleaved=interleaved, clamp=clamp, sigmoid_slope=slope, up_offset=up_offset
        )


def _apply(function: ExpertFunction, hidden: Float[Tensor, "P U"]) -> Float[Tensor, "P F"]:
    return activate(hidden, function)
