"""Architectures whose experts don't dispatch through the experts interface: their forward, on our kernels.

Each function stands in for the `forward` of one class of transformers and computes what that computes. Classes for
which none can do so with the weights where they lie are in `REASONS`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headgate.experts import ExpertWeights
from headgate.flow import DispatchPlan
from headgate.integrations.transformers.backend import Routed, plan_all, run_known_function, scatter_rows, sum_rows
from headgate.integrations.transformers.gates import known_function, run_function
from headgate.kernels.grouped import grouped_linear


def run_dbrx(
    self: Any,
    hidden_states: Float[Tensor, "B S D"],
    top_k_index: Int[Tensor, "T K"],
    top_k_weights: Float[Tensor, "T K"],
) -> Float[Tensor, "B S D"]:
    """DBRX: gate and up are two parameters, so they are two grouped products; down lies transposed."""
    shape = (self.num_experts, self.ffn_hidden_size, self.hidden_size)
    gate_weight, up_weight, down_weight = (weight.view(shape) for weight in (self.mlp.w1, self.mlp.v1, self.mlp.w2))
    tokens = hidden_states.reshape(-1, self.hidden_size)
    routed = Routed(x=tokens, plan=plan_all(top_k_index, self.num_experts), combine_weights=top_k_weights)
    rows, offsets = scatter_rows(routed), routed.plan.expert_offsets
    gate = self.mlp.activation_fn(grouped_linear(rows, gate_weight, None, offsets))
    hidden = gate * grouped_linear(rows, up_weight, None, offsets)
    return sum_rows(routed, grouped_linear(hidden, down_weight.transpose(1, 2), None, offsets)).view_as(hidden_states)


def run_jetmoe(self: Any, layer_input: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
    """JetMoe: its router has sorted the slots already."""
    tokens = layer_input.reshape(-1, self.input_size)
    slot_of_row, token_of_row, gates, counts, _ = self.router(tokens)
    top_k = self.router.top_k
    expert_counts = torch.tensor(counts, device=tokens.device)
    row_order = torch.empty_like(slot_of_row).scatter(0, slot_of_row, torch.arange(len(slot_of_row)).to(slot_of_row))
    plan = DispatchPlan(
        slot_of_row=slot_of_row,
        token_of_row=token_of_row,
        expert_offsets=torch.cat([expert_counts.new_zeros(1), expert_counts.cumsum(0)]),
        row_order=row_order,
        token_offsets=torch.arange(len(tokens) + 1, device=tokens.device) * top_k,
        drop_reason=slot_of_row.new_zeros((len(tokens), top_k), dtype=torch.uint8),
        max_rows_per_token=top_k,
    )
    routed = Routed(x=tokens, plan=plan, combine_weights=gates[row_order].view(-1, top_k))
    weights = ExpertWeights(up=self.input_linear.weight, down=self.output_linear.weight)
    y: Tensor = run_gated(self, routed, weights).view_as(layer_input) + self.bias
    return y


def run_llama4(self: Any, hidden_states: Float[Tensor, "*B D"]) -> tuple[Float[Tensor, "T D"], Float[Tensor, "T E"]]:
    """Llama 4: the weight multiplies the input; an expert that wasn't chosen sees zeros and returns zeros."""
    tokens = hidden_states.reshape(-1, self.hidden_dim)
    scores, logits = self.router(tokens)
    # What wasn't chosen has the score 0, so the best K are the chosen, or as good as them.
    weights_of_slots, expert_ids = scores.topk(self.top_k, dim=1)
    y = run_llama4_slots(self, tokens, expert_ids, weights_of_slots)
    return self.shared_expert(tokens) + y.sum(dim=1), logits


def run_llama4_slots(
    block: Any, tokens: Float[Tensor, "T D"], expert_ids: Int[Tensor, "T K"], weights: Float[Tensor, "T K"]
) -> Float[Tensor, "T K D"]:
    """What each choice of Llama 4 adds to its token."""
    slots = (tokens[:, None] * weights[..., None]).flatten(0, 1)
    routed = Routed(
        x=slots,
        plan=plan_all(expert_ids.reshape(-1, 1), block.num_experts),
        combine_weights=slots.new_ones((len(slots), 1)),
    )
    up, down = (weight.transpose(1, 2) for weight in (block.experts.gate_up_proj, block.experts.down_proj))
    return run_gated(block.experts, routed, ExpertWeights(up=up, down=down)).view(*expert_ids.shape, -1)


def run_longcat(
    self: Any,
    hidden_states: Float[Tensor, "T D"],
    top_k_index: Int[Tensor, "T K"],
    top_k_weights: Float[Tensor, "T K"],
) -> Float[Tensor, "T D"]:
    """LongCat-Flash: ids from `num_routed_experts` on return their input; rows of the weights for them are unused."""
    routed = Routed(x=hidden_states, plan=plan_all(top_k_index, self.total_experts), combine_weights=top_k_weights)
    weights = ExpertWeights(up=self.gate_up_proj[: self.num_routed_experts], down=self.down_proj)
    return run_gated(self, routed, weights)


def run_step(
    self: Any,
    hidden_states: Float[Tensor, "T D"],
    top_k_index: Int[Tensor, "T K"],
    top_k_weights: Float[Tensor, "T K"],
) -> Float[Tensor, "T D"]:
    """Step-3.7: as the experts interface, which it doesn't use; some layers clamp after the activation."""
    routed = Routed(x=hidden_states, plan=plan_all(top_k_index, self.num_experts), combine_weights=top_k_weights)
    return run_gated(self, routed, ExpertWeights(up=self.gate_up_proj, down=self.down_proj))


def run_gated(experts: Any, routed: Routed, weights: ExpertWeights) -> Float[Tensor, "T D"]:
    """Run experts with a gate outside the interface: in one pass where the kernel has their function."""
    function = known_function(experts)
    if function is not None:
        return run_known_function(routed, weights, function)
    offsets = routed.plan.expert_offsets
    hidden = run_function(experts, grouped_linear(scatter_rows(routed), weights.up, None, offsets))
    return sum_rows(routed, grouped_linear(hidden, weights.down, None, offsets))


ADAPTERS: Mapping[str, Callable[..., object]] = MappingProxyType(
    {
        "DbrxExperts": run_dbrx,
        "JetMoeMoE": run_jetmoe,
        "Llama4TextMoe": run_llama4,
        "LongcatFlashExperts": run_longcat,
        "Step3p7Experts": run_step,
    }
)
"""What stands in for the `forward` of each class."""

REASONS: Mapping[str, str] = MappingProxyType(
    {
        "DogeCDMoE": "an expert is one row of an embedding: there is no matrix product to run",
        "JetMoeMoA": "a mixture of attention heads: attention runs between its two products",
        "NllbMoeExperts": "each expert is a module of its own: one call needs a stacked copy of the weights",
        "SwitchTransformersExperts": "each expert is a module of its own: one call needs a stacked copy of the weights",
        "VitPoseNaiveMoe": "the caller names one expert for a whole image: nothing is routed",
    }
)
"""Why a class keeps its own forward."""
