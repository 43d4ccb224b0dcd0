"""Make a trace from the routing decisions of a tap."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor, nn
from torch.nn.functional import pad

from headgate.errors import InputError
from headgate.flow import NO_EXPERT, DropReason, ExpertChoice, Routing, TokenChoice
from headgate.nn.moe import MoE
from headgate.nn.norms import PassNorms
from headgate.nn.tape import find_routers
from headgate.observe.metrics import router_entropy, select_margin
from headgate.observe.norms import norm_arrays
from headgate.observe.shape import describe_shape
from headgate.observe.trace import Phase, RoutingTrace
from headgate.spec import RouterSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedLayer:
    """One layer's part of a recording.

    Attributes:
        path: module path of the layer.
        layer_index: the decoder layer that it belongs to.
        spec: its router's fields.
        selection_bias: [E] float32, or None.
        routings: one per forward pass, in order.
        norms: of these passes, or None where they were not measured.
        num_shared: experts that every token gets besides; None where it is not known.
    """

    path: str
    layer_index: int
    spec: RouterSpec
    selection_bias: Float[Tensor, " E"] | None
    routings: Sequence[Routing]
    norms: Sequence[PassNorms] | None = None
    num_shared: int | None = None


def trace_of(
    model: nn.Module,
    tape: Mapping[str, Sequence[Routing]],
    *,
    token_ids: Int[Tensor, ...],
    seq_lengths: Sequence[int] | None = None,
    metadata: Mapping[str, Any] | None = None,
    norms: Mapping[str, Sequence[PassNorms]] | None = None,
    with_logits: bool = False,
) -> RoutingTrace:
    """Make a trace of what a tap recorded.

    Args:
        model: that the tap was on.
        tape: of the tap.
        token_ids: [T] integer, or [batch, sequence], of all forward passes, in order.
        seq_lengths: tokens of each sequence, in order; None = the rows of `token_ids`.
        metadata: plain values to keep with the trace, such as `model` and `token_strings`; `model_shape` is added.
        norms: of `measure_norms` around the same passes.
        with_logits: whether to keep the router's logits.

    Raises:
        InputError: nothing was recorded, or `token_ids` are not those of the recorded passes.

    Example:
        >>> import torch, headgate
        >>> layer = headgate.MoE(8, 16, num_experts=4, top_k=2)
        >>> with headgate.tap(layer) as tape:
        ...     _ = layer(torch.randn(2, 3, 8))
        >>> trace_of(layer, tape, token_ids=torch.tensor([[5, 6, 7], [5, 6, 8]])).seq_offsets.tolist()
        [0, 3, 6]
    """
    routers, shared = find_routers(model), shared_counts(model)
    indices = decoder_layers(list(tape))
    layers = [
        RecordedLayer(
            path=path,
            layer_index=index,
            spec=routers[path].spec,
            selection_bias=routers[path].selection_bias,
            routings=tape[path],
            norms=(norms or {}).get(path),
            num_shared=shared.get(path),
        )
        for path, index in zip(tape, indices, strict=True)
    ]
    rows = token_ids if token_ids.dim() > 1 else token_ids[None]
    lengths = [rows.shape[-1]] * rows[..., 0].numel() if seq_lengths is None else seq_lengths
    return make_trace(
        layers,
        token_ids=token_ids.flatten(),
        seq_lengths=lengths,
        metadata={**describe_shape(model), **(metadata or {})},
        with_logits=with_logits,
    )


def shared_counts(model: nn.Module) -> dict[str, int]:
    """Shared experts of each `MoE` by module path; a router in another layer says nothing of what is beside it."""
    return {
        path.replace("_orig_mod.", ""): int(module.shared_expert is not None)
        for path, module in model.named_modules()
        if isinstance(module, MoE)
    }


def decoder_layers(paths: Sequence[str]) -> list[int]:
    """Number layers by the first number in their module paths, or, where that names two layers alike, by order.

    Example:
        >>> decoder_layers(["model.layers.1.mlp", "model.layers.2.mlp"]), decoder_layers(["a", "b"])
        ([1, 2], [0, 1])
    """
    found = [next((int(part) for part in path.split(".") if part.isdecimal()), None) for path in paths]
    numbers = [number for number in found if number is not None]
    return numbers if len(set(numbers)) == len(paths) else list(range(len(paths)))


def make_trace(
    layers: Sequence[RecordedLayer],
    *,
    token_ids: Int[Tensor, " T"],
    seq_lengths: Sequence[int],
    metadata: Mapping[str, Any],
    with_logits: bool = False,
) -> RoutingTrace:
    """Put the decisions of all layers and forward passes into one trace.

    Args:
        layers: in model order; each has seen the same forward passes.
        token_ids: [T] integer, of all passes, in order.
        seq_lengths: tokens of each sequence, in order; they add up to T.
        metadata: plain values to keep with the trace; the layers' paths and specs are added.
        with_logits: whether to keep the router's logits.

    Raises:
        InputError: no layers, or the lengths, ids and decisions are not of the same number of tokens.
    """
    num_tokens = _checked_num_tokens(layers, token_ids, seq_lengths)
    choices = [_layer_choice(layer, num_tokens) for layer in layers]
    num_slots = max(ids.shape[1] for ids, _, _ in choices)
    num_experts = max(layer.spec.num_choices for layer in layers)
    offsets = torch.tensor([0, *seq_lengths]).cumsum(0)
    passes = torch.tensor([routing.plan.num_tokens for routing in layers[0].routings])
    return RoutingTrace(
        topk_ids=torch.stack([_widen(ids, num_slots, NO_EXPERT) for ids, _, _ in choices]),
        topk_weights=torch.stack([_widen(weights, num_slots, 0) for _, weights, _ in choices]).half(),
        layer_index=torch.tensor([layer.layer_index for layer in layers], dtype=torch.int32),
        seq_offsets=offsets,
        token_ids=token_ids.cpu().int(),
        position=torch.cat([torch.arange(length) for length in seq_lengths]).int(),
        phase=_phases(layers[0]),
        forward_id=torch.arange(len(passes)).repeat_interleave(passes).int(),
        select_margin=torch.stack([_margins(layer, ids) for layer, (ids, _, _) in zip(layers, choices, strict=True)]),
        router_entropy=torch.stack([_entropies(layer) for layer in layers]).half(),
        is_dropped=torch.stack([_widen(dropped, num_slots, False) for _, _, dropped in choices]),
        counts=torch.stack([_widen(_counts(layer), num_experts, 0) for layer in layers]),
        router_logits=_logits(layers, num_experts) if with_logits else None,
        select_bias=_biases(layers, num_experts),
        **norm_arrays(layers, [ids for ids, _, _ in choices], num_slots),
        metadata={
            **metadata,
            "layers": [
                {"path": layer.path, "router": layer.spec.to_dict(), "num_shared": layer.num_shared} for layer in layers
            ],
            "dtype": str(layers[0].routings[0].logits.dtype).removeprefix("torch."),
        },
    )


def _phases(layer: RecordedLayer) -> UInt8[Tensor, " T"]:
    """Padding where the layer was told so; all else counts as prompt."""
    parts = [torch.full((routing.plan.num_tokens,), Phase.PROMPT, dtype=torch.uint8) for routing in layer.routings]
    for part, routing in zip(parts, layer.routings, strict=True):
        if routing.is_padding is not None:
            part[routing.is_padding.cpu()] = Phase.PADDING
    return torch.cat(parts)


def choice_per_token(
    routing: Routing,
) -> tuple[Int[Tensor, "T K"], Float[Tensor, "T K"], Bool[Tensor, "T K"]]:
    """Write either kind of choice as the experts of each token.

    Returns:
        expert_ids: [T, K] int64, best first; -1 = none. For expert choice K is the most experts that one token got.
        combine_weights: [T, K], 0 where there is no expert.
        is_dropped: [T, K] bool, chosen but the expert was full.
    """
    choice = routing.choice
    if isinstance(choice, TokenChoice):
        dropped = routing.plan.drop_reason == DropReason.CAPACITY
        return choice.expert_ids, choice.combine_weights, dropped
    return _invert(choice, routing.plan.num_tokens)


def _invert(
    choice: ExpertChoice, num_tokens: int
) -> tuple[Int[Tensor, "T K"], Float[Tensor, "T K"], Bool[Tensor, "T K"]]:
    """Turn the tokens of each expert into the experts of each token, by weight, ties to the lowest expert id."""
    experts, slots = (choice.token_ids != NO_EXPERT).nonzero(as_tuple=True)
    tokens = choice.token_ids[experts, slots]
    weights = choice.combine_weights[experts, slots]
    by_weight = torch.argsort(weights, descending=True, stable=True)
    order = by_weight[torch.argsort(tokens[by_weight], stable=True)]
    tokens, experts, weights = tokens[order], experts[order], weights[order]
    counts = torch.bincount(tokens, minlength=num_tokens)
    columns = torch.arange(len(tokens), device=tokens.device) - (counts.cumsum(0) - counts)[tokens]
    width = max(1, int(counts.max())) if num_tokens else 1
    ids = tokens.new_full((num_tokens, width), NO_EXPERT)
    ids[tokens, columns] = experts
    combine_weights = weights.new_zeros(num_tokens, width)
    combine_weights[tokens, columns] = weights
    return ids, combine_weights, torch.zeros_like(ids, dtype=torch.bool)


def selection_scores(
    routing: Routing, *, spec: RouterSpec, selection_bias: Float[Tensor, " E"] | None
) -> Float[Tensor, "T E"]:
    """Compute what selection ranked: scores or logits, with the selection bias added."""
    ranked = routing.logits if spec.select_on == "logits" else routing.scores
    return ranked if selection_bias is None else ranked + selection_bias.to(ranked)


def _layer_choice(
    layer: RecordedLayer, num_tokens: int
) -> tuple[Int[Tensor, "T K"], Float[Tensor, "T K"], Bool[Tensor, "T K"]]:
    parts = [choice_per_token(routing) for routing in layer.routings]
    width = max(ids.shape[1] for ids, _, _ in parts)
    ids = torch.cat([_widen(ids, width, NO_EXPERT) for ids, _, _ in parts])
    weights = torch.cat([_widen(weights, width, 0) for _, weights, _ in parts])
    dropped = torch.cat([_widen(dropped, width, False) for _, _, dropped in parts])
    return ids.cpu(), weights.detach().cpu().float(), dropped.cpu()


def _margins(layer: RecordedLayer, expert_ids: Int[Tensor, "T K"]) -> Float[Tensor, " T"]:
    scores = [selection_scores(r, spec=layer.spec, selection_bias=layer.selection_bias) for r in layer.routings]
    return select_margin(torch.cat(scores).detach().cpu().float(), expert_ids).half()


def _entropies(layer: RecordedLayer) -> Float[Tensor, " T"]:
    is_signed = layer.spec.score == "linear"
    parts = [r.logits.softmax(1) if is_signed else r.scores for r in layer.routings]
    return router_entropy(torch.cat(parts).detach().cpu().float())


def _counts(layer: RecordedLayer) -> Int[Tensor, " E"]:
    return torch.stack([routing.expert_counts.cpu() for routing in layer.routings]).sum(0)


def _logits(layers: Sequence[RecordedLayer], num_experts: int) -> Float[Tensor, "L T E"]:
    """Experts that a layer lacks have -inf."""
    rows = [torch.cat([routing.logits for routing in layer.routings]).cpu().half() for layer in layers]
    return torch.stack([_widen(row, num_experts, float("-inf")) for row in rows])


def _biases(layers: Sequence[RecordedLayer], num_experts: int) -> Float[Tensor, "L E"] | None:
    if all(layer.selection_bias is None for layer in layers):
        return None
    rows = [layer.selection_bias for layer in layers]
    zero = torch.zeros(num_experts)
    return torch.stack([zero if row is None else _widen(row.detach().cpu().float(), num_experts, 0) for row in rows])


def _widen(values: Tensor, width: int, fill: float | int) -> Tensor:
    """Append columns of `fill` up to `width`."""
    return pad(values, (0, width - values.shape[-1]), value=fill)


def _checked_num_tokens(
    layers: Sequence[RecordedLayer], token_ids: Int[Tensor, " T"], seq_lengths: Sequence[int]
) -> int:
    if not layers or not all(layer.routings for layer in layers):
        raise InputError("there are no routings to record; run the model inside the tap first")
    num_tokens = len(token_ids)
    if sum(seq_lengths) != num_tokens:
        raise InputError(
            f"seq_lengths add up to {sum(seq_lengths)}, not to the {num_tokens} token_ids; give both for T"
        )
    for layer in layers:
        routed = sum(routing.plan.num_tokens for routing in layer.routings)
        if routed != num_tokens:
            raise InputError(f"{layer.path} routed {routed} tokens, not {num_tokens}; record the same forward passes")
    return num_tokens
