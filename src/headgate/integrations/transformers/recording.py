"""From a tape to a trace: the decisions of all passes in one value, each sequence a range of tokens."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn.functional import pad

from headgate.errors import InputError
from headgate.flow import NO_EXPERT
from headgate.integrations.transformers.formulas import formula_or_reason
from headgate.integrations.transformers.tap import ForwardPass, LayerTape, Tape
from headgate.nn.norms import Norms
from headgate.observe.metrics import router_entropy, select_margin
from headgate.observe.pieces import count_rows
from headgate.observe.trace import Phase, RoutingTrace
from headgate.scores import compute_scores
from headgate.spec import RouterSpec


def make_trace(
    tape: Tape,
    *,
    specs: Mapping[str, RouterSpec | None] | None = None,
    metadata: Mapping[str, Any] | None = None,
    norms: Norms | None = None,
    with_logits: bool = False,
) -> RoutingTrace:
    """Put a tape's decisions into one trace. Weights stay float32 until a file is written, so a replay is exact.

    Tokens are ordered by sequence, then position; generated tokens follow their prompt. `forward_id` says which pass
    a token belongs to.

    Args:
        tape: of `tap`.
        specs: each layer's router by module path, for margin and entropy; without one they are NaN. By default
            those that `spec_from_config` knows.
        metadata: plain values to keep with the trace; the layers' paths and specs, and `model_shape`, are added.
        norms: of `measure_norms` around the same passes.
        with_logits: whether to keep the router's logits; NaN in layers whose router shows none.

    Returns:
        A trace of the layers that saw every token of every pass.

    Raises:
        InputError: nothing was recorded, the passes had no token ids, or a batch changed its size between passes.
    """
    order = _token_order(tape.passes)
    layers = [layer for layer in tape.layers.values() if _num_tokens(layer) == len(order)]
    if not layers:
        raise InputError("no layer saw every token of the passes; run the whole model inside the tap, encoder apart")
    specs = known_specs(tape) if specs is None else specs
    num_slots = max(decision.expert_ids.shape[1] for layer in layers for decision in layer.decisions)
    num_experts = max(layer.num_experts for layer in layers)
    ids = torch.stack([_join(layer, "expert_ids", num_slots, NO_EXPERT)[order] for layer in layers])
    is_dropped = torch.stack([_drops(layer, num_slots)[order] for layer in layers])
    confidences = [_confidence(layer, specs.get(layer.path)) for layer in layers]
    tokens = _describe_tokens(tape.passes, order)
    return RoutingTrace(
        topk_ids=ids,
        topk_weights=torch.stack([_join(layer, "combine_weights", num_slots, 0.0)[order] for layer in layers]),
        layer_index=torch.tensor([layer.layer_index for layer in layers], dtype=torch.int32),
        select_margin=torch.stack([margin[order] for margin, _ in confidences]).half(),
        router_entropy=torch.stack([entropy[order] for _, entropy in confidences]).half(),
        is_dropped=is_dropped,
        counts=count_rows(ids, num_experts=num_experts, is_dropped=is_dropped, phase=tokens["phase"]),
        router_logits=_logits(layers, order, num_experts) if with_logits else None,
        select_bias=_biases(layers, num_experts),
        metadata=_describe(tape, layers, specs, metadata or {}),
        **({} if norms is None else _norm_arrays(layers, norms, order, ids)),
        **tokens,
    )


def known_specs(tape: Tape) -> dict[str, RouterSpec | None]:
    """Each layer's router by module path, as the model's configuration gives it; None where no spec says it.

    An architecture may be newer than our formulas: its routing is recorded all the same.
    """
    return {
        path: formula_or_reason(tape.config, layer_index=layer.layer_index).spec for path, layer in tape.layers.items()
    }


def _token_order(passes: Sequence[ForwardPass]) -> Int[Tensor, " T"]:
    """Where the tokens of the trace, by sequence and then pass, are in the concatenation of the passes."""
    if not passes or any(one.token_ids is None for one in passes):
        raise InputError("there are no token ids to record; call the model with input_ids inside the tap")
    sizes = [one.token_ids.shape for one in passes if one.token_ids is not None]
    if len({size[0] for size in sizes}) > 1:
        batches = [size[0] for size in sizes]
        raise InputError(f"the passes have {batches} sequences; record one batch per tap, or one sequence at a time")
    first, parts = 0, []
    for num_sequences, length in sizes:
        parts.append(first + torch.arange(num_sequences * length).view(num_sequences, length))
        first += num_sequences * length
    return torch.cat(parts, dim=1).flatten()


def _describe_tokens(passes: Sequence[ForwardPass], order: Int[Tensor, " T"]) -> dict[str, Any]:
    token_ids, positions, phases, forwards = [], [], [], []
    for index, one in enumerate(passes):
        assert one.token_ids is not None  # `_token_order` has refused such passes.
        ids = one.token_ids.cpu()
        phase = torch.full(ids.shape, int(one.phase), dtype=torch.uint8)
        is_padding = torch.zeros_like(ids, dtype=torch.bool) if one.is_padding is None else one.is_padding.cpu()
        phases.append(phase.masked_fill(is_padding, int(Phase.PADDING)).flatten())
        token_ids.append(ids.flatten())
        positions.append((one.position + torch.arange(ids.shape[1])).expand(ids.shape).flatten())
        forwards.append(torch.full((ids.numel(),), index))
    num_sequences = passes[0].token_ids.shape[0] if passes[0].token_ids is not None else 0
    per_sequence = len(order) // num_sequences
    return {
        "seq_offsets": torch.arange(num_sequences + 1) * per_sequence,
        "token_ids": torch.cat(token_ids)[order].int(),
        "position": torch.cat(positions)[order].int(),
        "phase": torch.cat(phases)[order],
        "forward_id": torch.cat(forwards)[order].int(),
    }


def _num_tokens(layer: LayerTape) -> int:
    return sum(len(decision.expert_ids) for decision in layer.decisions)


def _join(layer: LayerTape, name: str, width: int, fill: float | int) -> Tensor:
    parts = [getattr(decision, name) for decision in layer.decisions]
    joined = torch.cat([pad(part, (0, width - part.shape[1]), value=fill) for part in parts]).cpu()
    return joined if name == "expert_ids" else joined.float()


def _drops(layer: LayerTape, width: int) -> Bool[Tensor, "T K"]:
    parts = [
        torch.zeros_like(one.expert_ids, dtype=torch.bool) if one.is_dropped is None else one.is_dropped
        for one in layer.decisions
    ]
    return torch.cat([pad(part, (0, width - part.shape[1])) for part in parts]).cpu()


def _confidence(layer: LayerTape, spec: RouterSpec | None) -> tuple[Float[Tensor, " T"], Float[Tensor, " T"]]:
    """Margin and entropy of each token; NaN where the router's formula or its logits are not known."""
    parts = [decision.logits for decision in layer.decisions if decision.logits is not None]
    if spec is None or len(parts) < len(layer.decisions):
        unknown = torch.full((_num_tokens(layer),), float("nan"))
        return unknown, unknown
    logits, ids = torch.cat(parts).cpu(), torch.cat([decision.expert_ids for decision in layer.decisions]).cpu()
    scores, ranked = rank(logits, spec, None if layer.selection_bias is None else layer.selection_bias.cpu())
    spread = logits.float().softmax(1) if spec.score == "linear" else scores
    return select_margin(ranked, ids), router_entropy(spread)


def rank(
    logits: Float[Tensor, "T E"], spec: RouterSpec, selection_bias: Float[Tensor, " E"] | None
) -> tuple[Float[Tensor, "T E"], Float[Tensor, "T E"]]:
    """The scores of a router's logits, and what its selection ranks: scores or logits, with the selection bias."""
    scores = compute_scores(logits.float(), score=spec.score, score_dtype=spec.score_dtype, model_dtype=logits.dtype)
    ranked = logits.float() if spec.select_on == "logits" else scores
    if spec.selection_bias and selection_bias is not None:
        ranked = ranked + selection_bias.float()
    return scores, ranked


def _biases(layers: Sequence[LayerTape], num_experts: int) -> Float[Tensor, "L E"] | None:
    if all(layer.selection_bias is None for layer in layers):
        return None
    zero = torch.zeros(num_experts)
    rows = [zero if layer.selection_bias is None else layer.selection_bias.cpu().float() for layer in layers]
    return torch.stack([pad(row, (0, num_experts - len(row)))[:num_experts] for row in rows])


def _logits(layers: Sequence[LayerTape], order: Int[Tensor, " T"], num_experts: int) -> Float[Tensor, "L T E"]:
    """Experts that a layer lacks have -inf."""
    rows = []
    for layer in layers:
        parts = [decision.logits for decision in layer.decisions if decision.logits is not None]
        if len(parts) < len(layer.decisions) or parts[0].shape[1] > num_experts:
            rows.append(torch.full((len(order), num_experts), float("nan")))
            continue
        row = torch.cat(parts).cpu().float()
        rows.append(pad(row, (0, num_experts - row.shape[1]), value=float("-inf"))[order])
    return torch.stack(rows).half()


def _norm_arrays(
    layers: Sequence[LayerTape], norms: Norms, order: Int[Tensor, " T"], ids: Int[Tensor, "L T K"]
) -> dict[str, Tensor]:
    """The arrays of norms, NaN in layers that were not measured."""
    unknown = torch.full(ids.shape[1:], float("nan"))
    contributions, shared, outputs, errors = [], [], [], []
    for layer in layers:
        passes = norms.get(layer.path)
        if passes is None:
            contributions.append(unknown)
            shared.append(unknown[:, 0])
            outputs.append(unknown[:, 0])
            errors.append(unknown[:, 0])
            continue
        if len(passes) != len(layer.decisions):
            raise InputError(
                f"norms of {layer.path} (={len(passes)} passes) must be of the passes that the tap saw "
                f"(={len(layer.decisions)}); open tap and measure_norms around the same calls"
            )
        joined = torch.cat([one.contributions for one in passes]).cpu()
        contributions.append(pad(joined, (0, ids.shape[2] - joined.shape[1]))[order])
        shared.append(torch.cat([one.shared for one in passes]).cpu()[order])
        outputs.append(torch.cat([one.output for one in passes]).cpu()[order])
        errors.append(torch.cat([one.sum_error for one in passes]).cpu()[order])
    return {
        "contribution_norms": torch.stack(contributions).masked_fill(ids == NO_EXPERT, 0.0).half(),
        "shared_norms": torch.stack(shared).half(),
        "output_norms": torch.stack(outputs).half(),
        "sum_error": torch.stack(errors),
    }


def _describe(
    tape: Tape,
    layers: Sequence[LayerTape],
    specs: Mapping[str, RouterSpec | None],
    metadata: Mapping[str, Any],
) -> dict[str, Any]:
    noted = [
        {"path": layer.path, "router": _plain(specs.get(layer.path)), "num_shared": layer.num_shared}
        for layer in layers
    ]
    shape = {} if tape.shape is None else {"model_shape": tape.shape.to_dict()}
    return {**shape, **metadata, "layers": noted}


def _plain(spec: RouterSpec | None) -> dict[str, Any] | None:
    return None if spec is None else spec.to_dict()
