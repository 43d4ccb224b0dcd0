"""`tap`: see every routing decision of a transformers model, on whatever backend its experts run."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from headgate.errors import InputError
from headgate.flow import TokenChoice
from headgate.integrations.transformers.recorded_shape import count_experts, count_shared_experts, shape_of
from headgate.integrations.transformers.sites import Site, find_config, find_holder, find_sites
from headgate.integrations.transformers.wires import Choice, find_router, find_selection_bias, wire_of
from headgate.nn.tape import is_compiled, is_recomputing
from headgate.observe.shape import RecordedShape
from headgate.observe.trace import Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class Decision:
    """What one layer decided in one forward pass. Values are detached copies.

    Attributes:
        forward_id: which forward pass of the model.
        expert_ids: [T, K] int64; -1 = no expert in this slot. T runs over sequences, then positions.
        combine_weights: [T, K], as applied, in the model's dtype.
        logits: [T, E], what the score function gets; None where the router shows none, or they were not asked for.
        is_dropped: [T, K] bool, chosen but the expert was full; None = nothing was.
    """

    forward_id: int
    expert_ids: Int[Tensor, "T K"]
    combine_weights: Float[Tensor, "T K"]
    logits: Float[Tensor, "T E"] | None
    is_dropped: Bool[Tensor, "T K"] | None = None

    @property
    def choice(self) -> TokenChoice:
        """Who goes where, in the form that Headgate's own layers give it."""
        return TokenChoice(expert_ids=self.expert_ids, combine_weights=self.combine_weights)


@dataclass(frozen=True, slots=True, kw_only=True)
class ForwardPass:
    """What the model was called with in one forward pass.

    Attributes:
        token_ids: [B, S], or None where the model was called with something else.
        is_padding: [B, S] bool, or None where no mask was given.
        position: the first token's place in its sequence, padding included: what the cache holds.
        phase: prompt where the cache was empty, else generated.
    """

    token_ids: Int[Tensor, "B S"] | None
    is_padding: Bool[Tensor, "B S"] | None
    position: int
    phase: Phase


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerTape:
    """One layer's decisions.

    Attributes:
        path: module path of what runs the experts.
        class_name: its class.
        layer_index: the decoder (or encoder) layer.
        router_path: module path of the router, or None.
        num_experts: E.
        num_shared: experts that every token gets besides; None where it is not known.
        selection_bias: [E], what the router adds to what it ranks, or None.
        decisions: one per forward pass that reached the layer.
    """

    path: str
    class_name: str
    layer_index: int
    router_path: str | None
    num_experts: int
    num_shared: int | None
    selection_bias: Float[Tensor, " E"] | None
    decisions: list[Decision] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Tape(Mapping[str, list[Decision]]):
    """Every decision of every MoE layer: a mapping of module paths to one `Decision` per forward pass.

    Attributes:
        layers: by module path, in model order.
        passes: one per forward pass of the model.
        config: the model's configuration.
        shape: its widths and parameter counts; None where its weights are packed.
    """

    layers: Mapping[str, LayerTape]
    passes: list[ForwardPass]
    config: Any
    shape: RecordedShape | None

    def __getitem__(self, path: str) -> list[Decision]:
        return self.layers[path].decisions

    def __iter__(self) -> Iterator[str]:
        return iter(self.layers)

    def __len__(self) -> int:
        return len(self.layers)


@contextmanager
def tap(model: nn.Module, *, logits: bool = True) -> Iterator[Tape]:
    """Record the routing of every MoE layer of a transformers model, for as long as the context lasts.

    The decision is read where it is applied: in the call of the experts. Which kernel runs them doesn't change. A
    forward pass that activation checkpointing repeats is recorded once. A compiled model runs uncompiled inside the
    context, since compiled code does not call hooks.

    Args:
        model: any model of transformers with experts.
        logits: whether to keep the router's logits, [T, E] a layer and pass.

    Raises:
        InputError: the model has no MoE layer, or no weights.
    """
    stance = torch.compiler.set_stance("force_eager") if any(map(is_compiled, model.modules())) else nullcontext()
    model = getattr(model, "_orig_mod", model)
    sites = require_sites(model)
    _require_weights(model, sites)
    paths = [site.path for site in sites]
    tape = Tape(
        layers={site.path: _new_layer(model, site) for site in sites},
        passes=[],
        config=find_config(model, paths),
        shape=shape_of(model, sites),
    )
    with ExitStack() as stack:
        stack.enter_context(stance)
        holder = find_holder(model, paths)
        stack.enter_context(watch_inputs(holder, lambda inputs: tape.passes.append(describe_pass(inputs))))
        for site in sites:
            stack.enter_context(_watch_site(model, site, tape, keeps_logits=logits))
        yield tape


def require_sites(model: nn.Module) -> list[Site]:
    """The places that run experts.

    Raises:
        InputError: there are none.
    """
    sites = find_sites(model)
    if not sites:
        raise InputError(
            f"model (={type(model).__name__}) has no MoE layer of transformers; for layers of Headgate use headgate.tap"
        )
    return sites


def _require_weights(model: nn.Module, sites: Sequence[Site]) -> None:
    if any(parameter.is_meta for site in sites for parameter in site.module.parameters()):
        raise InputError(
            f"model (={type(model).__name__}) has experts on the meta device, where nothing is computed and so nothing "
            "chosen; load its weights with from_pretrained"
        )


def _new_layer(model: nn.Module, site: Site) -> LayerTape:
    router, bias = find_router(model, site), find_selection_bias(model, site)
    return LayerTape(
        path=site.path,
        class_name=site.class_name,
        layer_index=site.layer_index,
        router_path=None if router is None else router[0],
        num_experts=count_experts(site),
        num_shared=count_shared_experts(model, site),
        selection_bias=None if bias is None else bias.clone(),
    )


@contextmanager
def watch_inputs(model: nn.Module, see: Callable[[Mapping[str, Any]], None]) -> Iterator[None]:
    """Call `see` with the arguments of each forward pass, by name, before its layers run."""
    parameters = list(inspect.signature(model.forward).parameters)

    def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not is_recomputing():
            see({**dict(zip(parameters, args, strict=False)), **kwargs})

    handle = model.register_forward_pre_hook(note, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def describe_pass(inputs: Mapping[str, Any]) -> ForwardPass:
    """What a forward pass of the model is given, from its arguments by name.

    Where a model has an encoder, `generate` runs that on its own and gives the model the decoder's tokens alone.
    """
    side = "decoder_" if inputs.get("input_ids") is None else ""
    token_ids, mask = inputs.get(f"{side}input_ids"), inputs.get(f"{side}attention_mask")
    cache = inputs.get("past_key_values")
    position = 0 if cache is None else int(cache.get_seq_length())
    return ForwardPass(
        token_ids=None if token_ids is None else token_ids.detach().clone(),
        is_padding=None if token_ids is None else _find_padding(mask, position, token_ids.shape[1]),
        position=position,
        phase=Phase.GENERATED if position else Phase.PROMPT,
    )


def _find_padding(mask: Any, position: int, length: int) -> Bool[Tensor, "B S"] | None:
    """Which of a pass's tokens are padding: [B, S].

    `generate` with a static cache prepares the masks itself, [B, 1, S, cache] or one such for each kind of attention;
    there a token that no token attends to, not even itself, is padding. Of several kinds any will do: they differ in
    how far a token sees. None where a cache that holds a window has moved on, and the token's column with it.
    """
    if isinstance(mask, Mapping):
        kinds = (mask.get("full_attention"), *mask.values())
        mask = next((one for one in kinds if isinstance(one, Tensor) and one.dim() == 4), None)
    if not isinstance(mask, Tensor) or mask.dim() not in (2, 4):
        return None
    if mask.dim() == 4:
        visible = mask if mask.dtype == torch.bool else mask == 0
        own = visible[:, 0, :, position : position + length]
        return ~own.any(dim=1) if own.shape[-1] == length else None
    # With a cache the mask covers what it holds, too: the tokens of this pass end at position + S.
    return mask[:, : position + length][:, -length:] == 0


@contextmanager
def _watch_site(model: nn.Module, site: Site, tape: Tape, *, keeps_logits: bool) -> Iterator[None]:
    wire, layer, router = wire_of(site), tape.layers[site.path], find_router(model, site)
    last_logits: list[Tensor | None] = [None]

    def keep(choice: Choice) -> None:
        layer.decisions.append(
            Decision(
                forward_id=max(len(tape.passes) - 1, 0),
                expert_ids=choice.expert_ids.detach().clone(),
                combine_weights=choice.combine_weights.detach().clone(),
                logits=last_logits[0],
            )
        )

    def see_router(module: nn.Module, args: Any, result: Any) -> None:
        if is_recomputing():
            return
        found = wire.logits(result) if keeps_logits else None
        last_logits[0] = None if found is None else found.detach().clone()
        if wire.at_router:
            keep(wire.read(site.module, result))

    def see_experts(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not is_recomputing():
            keep(wire.read(site.module, positional(module, args, kwargs)))

    handles = []
    if router is not None and (keeps_logits or wire.at_router):
        handles.append(router[1].register_forward_hook(see_router))
    if not wire.at_router:
        handles.append(site.module.register_forward_pre_hook(see_experts, with_kwargs=True))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def positional(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> tuple[Any, ...]:
    """The arguments of an experts' call in their order: hidden states, ids, weights."""
    if not kwargs:
        return args
    bound = inspect.signature(module.forward).bind(*args, **kwargs)
    return tuple(bound.arguments.values())
