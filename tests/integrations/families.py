"""Every model family beside the headgate layer that must compute the same, with the same weights.

A `Recipe` says how to build transformers' block, which of its tensors is which of ours, and what its router
returns. Formulas are not repeated here: they are transformers' own code on one side and a preset on the other.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor, nn

import headgate
from integrations import family_blocks as blocks
from integrations.family_blocks import Sizes, State


@dataclass(frozen=True, kw_only=True)
class Decision:
    """What a router decided: logits [T, E], which slots got in [T, E], their weights [T, E], 0 elsewhere."""

    logits: Tensor
    chosen: Tensor
    weights: Tensor


Route = Callable[[nn.Module, Tensor, Tensor], Decision]
"""transformers' router on tokens [B, S, D] and token ids [B, S]."""


def decide(logits: Tensor, weights: Tensor, expert_ids: Tensor) -> Decision:
    """A decision from [T, K] weights and ids."""
    none = torch.zeros(logits.shape, dtype=torch.float32)
    return Decision(
        logits=logits.detach().float(),
        chosen=none.scatter(1, expert_ids, 1.0).bool(),
        weights=none.scatter(1, expert_ids, weights.detach().float()),
    )


def route_of(name: str) -> Route:
    """The router is a submodule that returns logits, weights and ids."""
    return lambda block, x, token_ids: decide(*block.get_submodule(name)(x.flatten(0, 1)))


def route_with_bias(block: nn.Module, x: Tensor, token_ids: Tensor) -> Decision:
    return decide(*block.gate(x.flatten(0, 1), block.e_score_correction_bias))


def route_by_token_id(block: nn.Module, x: Tensor, token_ids: Tensor) -> Decision:
    return decide(*block.gate(x, token_ids))


def route_dbrx(block: nn.Module, x: Tensor, token_ids: Tensor) -> Decision:
    logits = block.router(x)
    return decide(logits, *block.route_tokens_to_experts(logits))


def route_llama4(block: nn.Module, x: Tensor, token_ids: Tensor) -> Decision:
    """Its router returns the sigmoid of every logit, where those not chosen are -inf."""
    weights, logits = block.router(x.flatten(0, 1))
    weights = weights.detach().float()
    return Decision(logits=logits.detach().float(), chosen=weights > 0, weights=weights)


def route_switch(block: nn.Module, x: Tensor, token_ids: Tensor) -> Decision:
    """Its router returns a mask of those that got in, [B, S, E], and each token's best probability, [B, S, 1]."""
    mask, weights, logits = block.router(x)
    return Decision(
        logits=logits.detach().flatten(0, 1),
        chosen=mask.flatten(0, 1).bool(),
        weights=(mask * weights.detach().float()).flatten(0, 1),
    )


def route_nllb(block: nn.Module, x: Tensor, token_ids: Tensor) -> Decision:
    """Its router returns the gates of those that got in, [T, E]; a gate is never exactly 0 unless dropped."""
    _, gates, logits = block.router(x.flatten(0, 1))
    return Decision(logits=logits.detach().float(), chosen=gates > 0, weights=gates.detach().float())


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to build one family on both sides.

    Attributes:
        preset: headgate's name for it.
        module: its folder in transformers.models.
        block: its MoE block's class.
        config: keyword arguments of its configuration, and "class", the configuration's name.
        fields: the preset's fields to replace, to match `config`.
        router_weight: the name of the router's weight in the block.
        more_weights: further tensors of ours by their names in the block.
        experts: where the experts' weights are.
        shared: the shared expert's name in the block.
        shared_widths: its width in units of F.
        route: what its router decides.
        rank: the values that its top-k ranks, from its logits in the model's dtype and its selection bias, where
            rounding to bfloat16 makes ties likely; None where it ranks float32 values of float32 logits, which
            never tie here.
        roundings: how often a weight is rounded to the model's dtype, which ours is not.
        kept: what stays float32 when the model is cast.
        gain: size of the experts' weights; large where a clamp must bite.
        min_choices, max_choices: K at least and at most.
        block_arguments: of the block's constructor, besides the configuration.
    """

    preset: str
    module: str
    block: str
    config: Callable[[Sizes], Mapping[str, Any]]
    fields: Callable[[Sizes], Mapping[str, Any]] = lambda sizes: {}
    router_weight: str = "gate.weight"
    more_weights: Mapping[str, str] = field(default_factory=dict)
    experts: Callable[[nn.Module], State] = blocks.stacked
    shared: str | None = None
    shared_widths: int = 1
    route: Route = field(default_factory=lambda: route_of("gate"))
    rank: Callable[[Tensor, Tensor | None], Tensor] | None = None
    roundings: int = 0
    kept: tuple[str, ...] = ()
    gain: float = 1.0
    min_choices: int = 1
    max_choices: int = 99
    block_arguments: Mapping[str, Any] = field(default_factory=dict)


def build(recipe: Recipe, name: str, sizes: Sizes, dtype: torch.dtype) -> tuple[nn.Module, headgate.MoE]:
    """transformers' block and our layer, in eval mode, with the same weights. Every weight of ours is copied."""
    sizes = replace(sizes, top_k=max(recipe.min_choices, min(sizes.top_k, recipe.max_choices)))
    block = blocks.build_block(
        recipe.module,
        recipe.block,
        recipe.config(sizes),
        generator=blocks.make_generator(name, sizes.seed),
        gain=recipe.gain,
        block_arguments=recipe.block_arguments,
    )
    blocks.cast_block(block, dtype, recipe.kept)
    layer = headgate.MoE.from_family(
        recipe.preset,
        sizes.d_model,
        sizes.d_ff,
        num_experts=sizes.num_experts,
        top_k=sizes.top_k,
        shared_d_ff=recipe.shared_widths * sizes.d_ff,
        dtype=dtype,
        **recipe.fields(sizes),
    )
    layer.load_state_dict(read_state(recipe, block), strict=True)
    return block, layer.eval()


def read_state(recipe: Recipe, block: nn.Module) -> State:
    """The block's tensors under our names."""
    tensors = {**dict(block.named_parameters()), **dict(block.named_buffers())}
    state = {"router.weight": tensors[recipe.router_weight], **recipe.experts(block)}
    state |= {ours: tensors[theirs].flatten() for ours, theirs in recipe.more_weights.items()}
    if "gate.tid2eid" in tensors:
        state["router.expert_table"] = tensors["gate.tid2eid"]
    if recipe.shared is not None:
        state |= blocks.shared_weights(block, recipe.shared)
    return {name: tensor.detach().clone() for name, tensor in state.items()}


def run_block(block: nn.Module, x: Tensor, token_ids: Tensor, *, takes_token_ids: bool) -> Tensor:
    """The block's output, [B, S, D]; some return the router's logits or weights too."""
    out = block(x, token_ids) if takes_token_ids else block(x)
    y: Tensor = out[0] if isinstance(out, tuple) else out
    return y.reshape(x.shape)


def softmax_of(logits: Tensor, bias: Tensor | None) -> Tensor:
    return logits.float().softmax(dim=-1)


def rounded_softmax_of(logits: Tensor, bias: Tensor | None) -> Tensor:
    return logits.softmax(dim=-1).float()


def logits_of(logits: Tensor, bias: Tensor | None) -> Tensor:
    return logits.float()


def biased_sigmoid_of(logits: Tensor, bias: Tensor | None) -> Tensor:
    return logits.float().sigmoid() + bias


def biased_sqrt_softplus_of(logits: Tensor, bias: Tensor | None) -> Tensor:
    return nn.functional.softplus(logits).sqrt().float() + bias
