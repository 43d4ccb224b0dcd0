"""The specification: a whole routed layer in plain PyTorch, on one screen. Every other backend equals it.

Legend: T tokens, D model, F hidden of an expert, E experts, K choices.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor


def moe(x: Tensor, router_weight: Tensor, gate_up_proj: Tensor, down_proj: Tensor, *, top_k: int) -> Tensor:
    """A Mixtral layer: softmax router, top-k, weights divided by their sum, SwiGLU experts, weighted combine.

    Args:
        x: [T, D].
        router_weight: [E, D].
        gate_up_proj: [E, 2F, D], first the F rows of the gate, then those of up.
        down_proj: [E, D, F].
        top_k: K.

    Returns:
        [T, D] in the dtype of `x`.

    References:
        Jiang et al., "Mixtral of Experts", 2024, https://arxiv.org/abs/2401.04088, section 2.1.
    """
    logits = F.linear(x.float(), router_weight.float())  # [T, E]
    scores = logits.softmax(dim=-1)  # [T, E]
    ranked, order = scores.sort(dim=-1, descending=True, stable=True)  # ties: lowest id
    expert_ids = order[:, :top_k]  # [T, K]
    combine_weights = ranked[:, :top_k] / ranked[:, :top_k].sum(dim=-1, keepdim=True)  # [T, K]
    return experts(x, expert_ids, combine_weights, gate_up_proj, down_proj)


def experts(x: Tensor, expert_ids: Tensor, combine_weights: Tensor, gate_up_proj: Tensor, down_proj: Tensor) -> Tensor:
    """Run each token's experts and add their weighted outputs, in float32 and in slot order.

    Args:
        x: [T, D].
        expert_ids: [T, K] integer; -1 = no expert in this slot.
        combine_weights: [T, K].
        gate_up_proj: [E, 2F, D].
        down_proj: [E, D, F].

    Returns:
        [T, D] in the dtype of `x`.
    """
    y = torch.zeros_like(x, dtype=torch.float32)  # [T, D]
    for k in range(expert_ids.shape[1]):
        contribution = torch.zeros_like(y)
        for e in range(gate_up_proj.shape[0]):
            tokens = (expert_ids[:, k] == e).nonzero().squeeze(1)  # [rows of e]
            gate, up = F.linear(x[tokens], gate_up_proj[e]).chunk(2, dim=-1)  # [rows, F] each
            out = F.linear(F.silu(gate) * up, down_proj[e])  # [rows, D]
            contribution = contribution.index_copy(0, tokens, out.float() * combine_weights[tokens, k, None].float())
        y = y + contribution
    return y.to(x.dtype)
