"""The size of the terms that gradients are sums of: what rounding errors are relative to.

A gradient may be smaller than its terms: they cancel where weights are normalised, and vanish where every hidden
unit lies in an activation's flat tail. These are estimates of size, root mean square over the entries of a tensor,
from the variances of the drawn weights (1 / fan-in); factors of two are not their business.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True, kw_only=True)
class Passage:
    """One token's way through one expert.

    Attributes:
        x: [D], the token.
        g: [D], the gradient of its output.
        weight: that its output or input is multiplied by; 1 for a shared expert.
        gradient_of_weight: of the same functional.
    """

    x: Tensor
    g: Tensor
    weight: float
    gradient_of_weight: float = 0.0


def rms(values: Tensor) -> float:
    """Root mean square; 0 of nothing."""
    return float(values.square().mean().sqrt()) if values.numel() else 0.0


def root_of_squares(values: Iterable[float]) -> float:
    """What independent terms of these sizes add up to."""
    return math.sqrt(sum(v * v for v in values))


def hidden_sizes(experts: Mapping[str, Any], x_size: float) -> tuple[float, float]:
    """(a hidden unit, its derivative by gate or up), for an input of this size.

    A gate of size z is wrong by eps * z, so its activation is wrong by that, and the activation's slope by half as much
    (no second derivative is much above 1/2): where z is large, this is what counts.
    """
    reach = root_of_squares([x_size, 0.5 * experts["bias"]])
    if not experts["gated"]:
        return reach, max(1.0, reach / 2.0)
    factor = min(reach, experts["clamp"] or math.inf) + abs(experts["up_offset"])
    return reach * factor, max(reach, factor, reach * factor / 2.0)


def passage_sizes(experts: Mapping[str, Any], passage: Passage, apply_to: str, d_ff: int) -> dict[str, float]:
    """Sizes of the term that the passage adds to an entry: of y, and of gradients ("weight": the combine weight's)."""
    w = abs(passage.weight)
    w_in, w_out = (w, 1.0) if apply_to == "input" else (1.0, w)
    x, g = rms(passage.x), rms(passage.g)
    hidden, slope = hidden_sizes(experts, w_in * x)
    g_hidden = w_out * g * math.sqrt(len(passage.x) / d_ff) * slope
    return {
        "down_proj": w_out * g * hidden,
        "down_proj_bias": w_out * g,
        "up_proj": g_hidden * w_in * x,
        "up_proj_bias": g_hidden,
        "y": w_out * hidden,
        "x": g_hidden * w_in * math.sqrt(d_ff / len(passage.x)),
        "weight": math.sqrt(len(passage.x)) * g * (slope * x if apply_to == "input" else hidden),
    }


def expert_scales(
    experts: Mapping[str, Any], passages: list[Passage], *, prefix: str, apply_to: str, d_ff: int, num_experts: int
) -> dict[str, float]:
    """Scales of the gradients of one module of experts, of which each passage visits one; "y" and "x" as sums."""
    sizes = [passage_sizes(experts, passage, apply_to, d_ff) for passage in passages]
    up_name = "gate_up_proj" if experts["gated"] else "up_proj"
    names = {"up_proj": up_name, "up_proj_bias": f"{up_name}_bias", "down_proj": "down_proj"}
    names["down_proj_bias"] = "down_proj_bias"
    scales = {key: root_of_squares(s[key] for s in sizes) for key in ("y", "x")}
    for key, name in names.items():
        scales[f"{prefix}.{name}"] = root_of_squares(s[key] for s in sizes) / math.sqrt(num_experts)
    # Of a gated output: |d sigmoid| <= 1/4.
    of_gate = [s["weight"] * rms(p.x) / 4.0 for s, p in zip(sizes, passages, strict=True)]
    return scales | {f"{prefix}.output_gate": root_of_squares(of_gate)}


def logit_terms(experts: Mapping[str, Any], passage: Passage, apply_to: str, d_ff: int, linear_scale: float) -> float:
    """The size of the gradients that a combine weight w sends to its token's logits.

    Its own gradient g_w gives terms of at most |g_w| * |w|, since every score function but "linear" has
    |d score / d logit| <= score; for that one, |g_w| * scale.
    """
    by_size = passage_sizes(experts, passage, apply_to, d_ff)["weight"]
    return max(abs(passage.gradient_of_weight), by_size) * max(abs(passage.weight), linear_scale)


def router_scales(logit_sizes: Tensor, x: Tensor) -> dict[str, float]:
    """Scales of the router's gradients, from the size of each token's logit gradients [T] and the tokens [T, D]."""
    return {
        "router.weight": rms(torch.sqrt(logit_sizes.square() @ x.square())),
        "router.bias": float(logit_sizes.square().sum().sqrt()),
    }


def merge_scales(parts: list[dict[str, float]], num_tokens: int) -> dict[str, float]:
    """All scales by name; those of y and x, which are sums over tokens, as root mean squares of them together."""
    merged = {name: scale for part in parts for name, scale in part.items()}
    for name in ("y", "x"):
        total = root_of_squares(part.get(name, 0.0) for part in parts)
        merged[name] = total / math.sqrt(max(num_tokens, 1))
    return merged
