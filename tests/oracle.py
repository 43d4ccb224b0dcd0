"""What a routed layer computes, in float64 and one token at a time: the layer is held against these loops.

Nothing here is fast, shared with the library, or clever. A specification comes as plain values
(`RouterSpec.to_dict()`, `dataclasses.asdict` of an `ExpertSpec` or `SharedSpec`), parameters as float64 by their
names in `MoE.state_dict()`. Plain autograd gives every gradient.

Letters: T tokens, D model, F hidden, E experts (zero-compute ones included, unless `num_experts` is meant),
K choices, C capacity.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from oracle_choice import KEPT, Choice, Inputs, Parameters, Values, choose


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """Everything that one routed layer computed: logits and scores [T, E], the choice, y [S, T / S, D]."""

    logits: Tensor
    scores: Tensor
    choice: Choice
    y: Tensor


def run_layer(
    router: Values, experts: Values, shared: Values | None, parameters: Parameters, inputs: Inputs
) -> Outcome:
    """The whole layer."""
    num_experts = router["num_experts"] + router["num_zero_experts"]
    tokens = inputs.tokens
    logits = [compute_logits(router, parameters, x) for x in inputs.router_tokens]
    scores = [compute_scores(router, z) for z in logits]
    choice = choose(router, parameters, inputs, logits, scores)
    y = [torch.zeros_like(x) for x in tokens]
    for t, e, weight in list_rows(choice):
        y[t] = y[t] + run_expert(router, experts, parameters, e, tokens[t], weight)
    if shared is not None:
        y = [y_t + run_shared(experts, shared, parameters, x) for y_t, x in zip(y, tokens, strict=True)]
    return Outcome(
        logits=stack(logits, num_experts),
        scores=stack(scores, num_experts),
        choice=choice,
        y=stack(y, tokens.shape[1]).reshape(inputs.x.shape),
    )


def stack(rows: list[Tensor], width: int) -> Tensor:
    """[len(rows), width], also where there is no row."""
    return torch.stack(rows) if rows else torch.zeros(0, width, dtype=torch.float64)


def list_rows(choice: Choice) -> list[tuple[int, int, Tensor]]:
    """(token, expert, weight) of every slot that was kept."""
    rows = []
    for a, ids in enumerate(choice.ids):
        for slot, b in enumerate(ids):
            if choice.drop_reason[a][slot] == KEPT:
                token, expert = (a, b) if choice.by_token else (b, a)
                rows.append((token, expert, choice.weights[a][slot]))
    return rows


# Logits and scores of one token.


def compute_logits(router: Values, parameters: Parameters, x: Tensor) -> Tensor:
    """[E] logits: weight @ x + bias; a router whose score is "ones" has none, shown as zeros."""
    if router["score"] == "ones":
        return torch.zeros(router["num_experts"] + router["num_zero_experts"], dtype=torch.float64)
    logits = torch.stack([(row * x).sum() for row in parameters["router.weight"]])
    return logits + parameters["router.bias"] if router["linear_bias"] else logits


def compute_scores(router: Values, logits: Tensor) -> Tensor:
    """[E] scores."""
    score = router["score"]
    if score == "softmax":
        powers = (logits - logits.detach().max()).exp()
        return powers / powers.sum()
    if score == "sigmoid":
        return 1.0 / (1.0 + (-logits).exp())
    if score == "sqrt_softplus":
        return torch.log1p(logits.exp()).sqrt()
    return logits if score == "linear" else torch.ones_like(logits)


# What an expert computes for one token.


def run_expert(
    router: Values, experts: Values, parameters: Parameters, expert: int, x: Tensor, weight: Tensor
) -> Tensor:
    """[D], one expert's share of a token's output."""
    if expert >= router["num_experts"]:
        return weight * x
    up_name = "gate_up_proj" if experts["gated"] else "up_proj"
    up, down = parameters[f"experts.{up_name}"][expert], parameters["experts.down_proj"][expert]
    up_bias = parameters[f"experts.{up_name}_bias"][expert] if experts["bias"] else None
    down_bias = parameters["experts.down_proj_bias"][expert] if experts["bias"] else None
    if router["apply_to"] == "input":
        return feed_forward(experts, weight * x, up, up_bias, down, down_bias)
    return weight * feed_forward(experts, x, up, up_bias, down, down_bias)


def run_shared(experts: Values, shared: Values, parameters: Parameters, x: Tensor) -> Tensor:
    """[D], the shared expert's output."""
    up_name = "gate_up_proj" if experts["gated"] else "up_proj"
    up, down = parameters[f"shared_expert.{up_name}"], parameters["shared_expert.down_proj"]
    up_bias = parameters[f"shared_expert.{up_name}_bias"] if shared["bias"] else None
    down_bias = parameters["shared_expert.down_proj_bias"] if shared["bias"] else None
    out = feed_forward(experts, x, up, up_bias, down, down_bias)
    if shared["gated_output"]:
        out = out * torch.sigmoid((parameters["shared_expert.output_gate"][0] * x).sum())
    return out


def feed_forward(
    experts: Values, x: Tensor, up: Tensor, up_bias: Tensor | None, down: Tensor, down_bias: Tensor | None
) -> Tensor:
    """down(act(gate(x)) * up(x)), or down(act(up(x))) without a gate."""
    hidden = up @ x if up_bias is None else up @ x + up_bias
    if experts["gated"]:
        gate, linear = split_gate_up(hidden, experts["interleaved"])
        if experts["clamp"] is not None:
            gate, linear = gate.clamp(max=experts["clamp"]), linear.clamp(-experts["clamp"], experts["clamp"])
        hidden = activate(experts, gate) * (linear + experts["up_offset"])
    else:
        hidden = activate(experts, hidden)
    return down @ hidden if down_bias is None else down @ hidden + down_bias


def split_gate_up(hidden: Tensor, interleaved: bool) -> tuple[Tensor, Tensor]:
    """[F] gate and [F] up."""
    width = len(hidden) // 2
    if interleaved:
        gate = torch.stack([hidden[2 * f] for f in range(width)])
        return gate, torch.stack([hidden[2 * f + 1] for f in range(width)])
    return hidden[:width], hidden[width:]


def activate(experts: Values, z: Tensor) -> Tensor:
    """The activation, from its definition."""
    name = experts["activation"]
    if name == "silu":
        return z * torch.sigmoid(experts["sigmoid_slope"] * z)
    if name == "relu":
        return torch.where(z > 0, z, torch.zeros_like(z))
    if name == "gelu":
        return z * 0.5 * (1.0 + torch.erf(z / math.sqrt(2.0)))
    return z * 0.5 * (1.0 + torch.tanh(math.sqrt(2.0 / math.pi) * (z + 0.044715 * z**3)))
