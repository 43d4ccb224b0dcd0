"""Where each class of transformers shows who goes to which expert, how to read it there, and how to put another in.

Most experts are called with (hidden states, ids, weights): what is applied is seen there and nowhere else. A wire
says how a class that differs writes the same three things.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from headgate.flow import NO_EXPERT
from headgate.integrations.transformers.sites import Site

Arguments = tuple[Any, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Choice:
    """One layer's decision, as applied.

    Attributes:
        expert_ids: [T, K] int64; -1 = no expert in this slot.
        combine_weights: [T, K], the dtype that the model applies.
    """

    expert_ids: Int[Tensor, "T K"]
    combine_weights: Float[Tensor, "T K"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Wire:
    """How to read and replace the decision of one class.

    Attributes:
        at_router: the decision is in what the router returns; else in what the site's module is called with.
        read: the decision, from (the site's module, values).
        write: the values with another decision in them, from (the site's module, values, choice).
        logits: the router's logits, from what it returns; None where it shows none.
        forward: stands in for the forward of the site's module where that can't take what `write` gives.
    """

    read: Callable[[Any, Any], Choice]
    write: Callable[[Any, Any, Choice], Arguments]
    logits: Callable[[Any], Tensor | None]
    at_router: bool = False
    forward: Callable[..., Any] | None = None


def find_router(model: nn.Module, site: Site) -> tuple[str, nn.Module] | None:
    """The module, with its path, whose forward returns a place's logits; None where there is none."""
    parent, _, _ = site.path.rpartition(".")
    paths = (f"{site.path}.router_gate", f"{site.path}.router", f"{parent}.gate", f"{parent}.router")
    for path in (path.removeprefix(".") for path in paths):
        router = _submodule(model, path)
        if router is not None:
            # Gemma 4's router returns probabilities; the linear layer in it, logits.
            projection = _submodule(router, "proj")
            return (path, router) if projection is None else (f"{path}.proj", projection)
    return None


def find_selection_bias(model: nn.Module, site: Site) -> Tensor | None:
    """The bias that the router adds to what it ranks, [E], wherever the model keeps it."""
    parent, _, _ = site.path.rpartition(".")
    block = model.get_submodule(parent)
    for name, tensor in (*block.named_parameters(), *block.named_buffers()):
        if name.endswith(("e_score_correction_bias", "expert_bias", "balancing_biases")) and "shared" not in name:
            return tensor.detach().flatten()
    return None


def wire_of(site: Site) -> Wire:
    """The wire of a place's class."""
    return _WIRES.get(site.class_name, _EXPERTS)


def is_plain(site: Site) -> bool:
    """Whether a place's module is called with (hidden states, ids, weights) and returns the experts' sum."""
    return site.class_name not in _WIRES or site.class_name == "ZayaExperts"


def find_shared_experts(block: nn.Module) -> dict[str, nn.Module]:
    """The experts of an MoE block that every token gets, by name, without their gates."""
    return {
        name: child
        for name, child in block.named_children()
        if name.startswith("shared") and not name.endswith("gate") and any(p.numel() for p in child.parameters())
    }


def shared_experts_of(model: nn.Module, site: Site) -> dict[str, nn.Module]:
    """As `find_shared_experts`, of a place: in its block, or beside it up to the decoder layer, as Granite has them."""
    blocks, path = [site.module], site.path
    while path and not path.rpartition(".")[2].isdecimal():
        path = path.rpartition(".")[0]
        blocks.append(model.get_submodule(path))
    return {name: shared for block in blocks for name, shared in find_shared_experts(block).items()}


def _submodule(model: nn.Module, path: str) -> nn.Module | None:
    try:
        return model.get_submodule(path)
    except AttributeError:
        return None


def _first(result: Any) -> Tensor:
    logits: Tensor = result[0] if isinstance(result, tuple) else result
    return logits.reshape(-1, logits.shape[-1])


def _item(index: int) -> Callable[[Any], Tensor]:
    return lambda result: result[index].reshape(-1, result[index].shape[-1])


def _read_experts(experts: Any, values: Arguments) -> Choice:
    return Choice(expert_ids=values[1].long(), combine_weights=values[2])


def _write_experts(experts: Any, values: Arguments, choice: Choice) -> Arguments:
    return (values[0], choice.expert_ids.to(values[1].dtype), choice.combine_weights, *values[3:])


def _read_llama4(block: Any, result: Arguments) -> Choice:
    # What was not chosen has the score 0.
    weights, ids = result[0].topk(block.top_k, dim=1)
    return Choice(expert_ids=ids, combine_weights=weights)


def _write_llama4(block: Any, result: Arguments, choice: Choice) -> Arguments:
    scores = torch.zeros_like(result[0]).scatter(1, choice.expert_ids, choice.combine_weights)
    return (scores, *result[1:])


def _read_jetmoe(block: Any, result: Arguments) -> Choice:
    top_k = block.router.top_k
    slot_of_row, _, gates, counts, _ = result
    expert_of_row = torch.arange(len(counts)).repeat_interleave(torch.tensor(counts)).to(slot_of_row)
    ids = torch.empty_like(slot_of_row).scatter(0, slot_of_row, expert_of_row)
    weights = torch.empty_like(gates).scatter(0, slot_of_row, gates)
    return Choice(expert_ids=ids.view(-1, top_k), combine_weights=weights.view(-1, top_k))


def _write_jetmoe(block: Any, result: Arguments, choice: Choice) -> Arguments:
    ids, top_k = choice.expert_ids.flatten(), block.router.top_k
    # As the model itself sorts them, so that equal ids give equal rows.
    _, slot_of_row = ids.sort(0)
    counts = torch.bincount(ids, minlength=block.router.num_experts).tolist()
    token_of_row = slot_of_row.div(top_k, rounding_mode="trunc")
    return (slot_of_row, token_of_row, choice.combine_weights.flatten()[slot_of_row], counts, result[4])


def _read_switch(experts: Any, values: Arguments) -> Choice:
    mask, weights = values[1].flatten(0, 1), values[2]
    ids = mask.argmax(dim=1, keepdim=True)
    return Choice(expert_ids=ids.where(mask.any(dim=1, keepdim=True), NO_EXPERT), combine_weights=weights)


def _write_switch(experts: Any, values: Arguments, choice: Choice) -> Arguments:
    mask = _one_hot(choice.expert_ids[:, 0], experts.num_experts)
    return (values[0], mask.view_as(values[1]).to(values[1].dtype), choice.combine_weights)


def _read_nllb(experts: Any, values: Arguments) -> Choice:
    """Slot 0 is the first choice, slot 1 the second; either may be dropped on its own."""
    first_mask, gates = values[1], values[2]
    others = gates.masked_fill(first_mask.bool(), 0.0)
    ids = torch.stack([first_mask.argmax(dim=1), others.argmax(dim=1)], dim=1)
    present = torch.stack([first_mask.any(dim=1), (others > 0).any(dim=1)], dim=1)
    weights = gates.gather(1, ids).masked_fill(~present, 0.0)
    return Choice(expert_ids=ids.where(present, NO_EXPERT), combine_weights=weights)


def _write_nllb(experts: Any, values: Arguments, choice: Choice) -> Arguments:
    ids, num_experts = choice.expert_ids, experts.num_experts
    first_mask = _one_hot(ids[:, 0], num_experts).to(values[1].dtype)
    gates = sum(_one_hot(ids[:, k], num_experts) * choice.combine_weights[:, k, None] for k in range(2))
    return (values[0], first_mask, gates)


def _read_vitpose(experts: Any, values: Arguments) -> Choice:
    """One expert for all patches of an image, and no weight."""
    hidden, indices = values
    ids = indices.reshape(-1, 1).expand(hidden.shape[0], hidden.shape[1]).reshape(-1, 1)
    return Choice(expert_ids=ids, combine_weights=torch.ones_like(ids, dtype=hidden.dtype))


def _write_vitpose(experts: Any, values: Arguments, choice: Choice) -> Arguments:
    per_image = choice.expert_ids.view(len(values[0]), -1)[:, 0]
    return (values[0], per_image.view_as(values[1]))


def _read_zaya(experts: Any, values: Arguments) -> Choice:
    """A token that skips the experts is given to expert 0 with the weight 0; here it gets the id after the last."""
    _, ids, weights = values
    return Choice(expert_ids=ids.long().masked_fill(weights == 0, experts.num_experts), combine_weights=weights)


def _write_zaya(experts: Any, values: Arguments, choice: Choice) -> Arguments:
    skips = choice.expert_ids == experts.num_experts
    ids = choice.expert_ids.masked_fill(skips, 0).to(values[1].dtype)
    return (values[0], ids, choice.combine_weights.masked_fill(skips, 0.0))


def _logits_of_doge(result: Tensor | tuple[Tensor, Choice]) -> Tensor:
    """[T, E]: the sum of an expert's two keys, which the block ranks."""
    first, second = _halves(result[0] if isinstance(result, tuple) else result)
    sums: Tensor = first.unsqueeze(-1) + second.unsqueeze(-2)
    return sums.flatten(1)


def _halves(logits: Tensor) -> Tensor:
    """[2, T, keys], as the block cuts them: the first half of all numbers, whose tokens they are mixed."""
    return logits.view(2, logits.shape[0] * logits.shape[1], -1)


def _read_doge(block: Any, result: Tensor | tuple[Tensor, Choice]) -> Choice:
    """What `_write_doge` put beside the logits, or else the block's own choice."""
    return result[1] if isinstance(result, tuple) else _product_keys(block, result)


def _product_keys(block: Any, logits: Tensor) -> Choice:
    """As the block computes them: the best K of the sums of two halves' logits."""
    halves = _halves(logits)
    (best_x, best_y), (ids_x, ids_y) = halves.topk(block.num_keys, dim=-1)
    sums = (best_x.unsqueeze(-1) + best_y.unsqueeze(-2)).flatten(1)
    ids = (ids_x.unsqueeze(-1) * block.num_keys + ids_y.unsqueeze(-2)).flatten(1)
    scores, places = sums.topk(block.top_k, dim=-1)
    weights = scores.softmax(dim=-1)
    if block.norm_topk_prob:
        weights = weights / weights.sum(dim=-1, keepdim=True)
    return Choice(expert_ids=ids.gather(-1, places), combine_weights=weights)


def _write_doge(block: Any, logits: Tensor, choice: Choice) -> Arguments:
    # Beside the logits, since sums of two lists of logits can't name every set of experts.
    return (logits, choice)


def _forward_doge(block: Any, hidden_states: Float[Tensor, "B S D"], **kwargs: Any) -> tuple[Tensor, Tensor]:
    """The block's own forward, operation by operation, with the choice that is read from its router."""
    result = block.router_gate(hidden_states)
    choice = _read_doge(block, result)
    num_tokens = len(choice.expert_ids)
    logits = (result[0] if isinstance(result, tuple) else result).view(2, num_tokens, -1)
    down, up = block.down_embed(choice.expert_ids), block.up_embed(choice.expert_ids)
    hidden = torch.matmul(down, hidden_states.view(num_tokens, -1, 1)).view(num_tokens, -1)
    hidden = block.act_fn(hidden) * choice.combine_weights
    routed = torch.matmul(hidden.view(num_tokens, 1, -1), up).view_as(hidden_states)
    return run_doge_dense(block, hidden_states) + routed, logits


def run_doge_dense(block: Any, x: Float[Tensor, "*B D"]) -> Float[Tensor, "*B D"]:
    """The MLP that every token of a Doge block meets, beside its experts."""
    y: Tensor = block.down_proj(block.act_fn(block.gate_proj(x)) * block.up_proj(x))
    return y


def _one_hot(ids: Int[Tensor, " T"], num_experts: int) -> Tensor:
    """[T, E] int64, a row of zeros for no expert."""
    return (ids[:, None] == torch.arange(num_experts, device=ids.device)).long()


_EXPERTS = Wire(read=_read_experts, write=_write_experts, logits=_first)
_JETMOE = Wire(read=_read_jetmoe, write=_write_jetmoe, logits=_item(4), at_router=True)
_WIRES: Mapping[str, Wire] = MappingProxyType(
    {
        "DogeCDMoE": Wire(
            read=_read_doge, write=_write_doge, logits=_logits_of_doge, at_router=True, forward=_forward_doge
        ),
        "JetMoeMoA": _JETMOE,
        "JetMoeMoE": _JETMOE,
        "Llama4TextMoe": Wire(read=_read_llama4, write=_write_llama4, logits=_item(1), at_router=True),
        "NllbMoeExperts": Wire(read=_read_nllb, write=_write_nllb, logits=_item(2)),
        "SwitchTransformersExperts": Wire(read=_read_switch, write=_write_switch, logits=_item(2)),
        "VitPoseNaiveMoe": Wire(read=_read_vitpose, write=_write_vitpose, logits=lambda result: None),
        "ZayaExperts": Wire(read=_read_zaya, write=_write_zaya, logits=_first),
    }
)
