"""`transformers`' `output_router_logits`: scores of every expert, from which the choice is made again.

A `.pt` with the tuple that the model returned, or with a dict of `router_logits` (the tuple) and, as they were given to
the model, `input_ids` and `attention_mask`. One entry per routed layer, each `(batch * sequence, experts)`.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from headgate.errors import ArtifactError, InputError
from headgate.nn.routing import Batch, RouterState, route
from headgate.observe.importers.decode import load_pickled_tensors
from headgate.observe.importers.shape import RouterShape
from headgate.observe.metrics import router_entropy, select_margin
from headgate.observe.pieces import count_rows
from headgate.observe.trace import Phase, RoutingTrace
from headgate.scores import compute_scores
from headgate.spec import RouterSpec, preset
from headgate.wording import number_of

_SUM_TOLERANCE = 1e-2
"""Rounding each probability to bfloat16 moves their sum by at most 2^-9 of it, 0.002."""


def import_router_logits(path: Path, shape: RouterShape, *, router: str | None) -> RoutingTrace:
    """Choose experts from recorded logits, by a family's formula.

    Args:
        path: of the `.pt`.
        shape: of the model; its routed layers must be known.
        router: the family, one of `headgate.preset_names()`; its choice must follow from the logits alone.

    Raises:
        InputError: no family, or one whose choice needs more than the logits; probabilities instead of logits.
        SpecError: no such family.
        ArtifactError: the file can't be read.
    """
    logits, given = _read(path)
    spec = _spec(router, logits[0].shape[1], shape)
    _require_logits(logits, path)
    if shape.moe_layers is None or len(shape.moe_layers) != len(logits):
        known = "how many is not known" if shape.moe_layers is None else f"of which it has {len(shape.moe_layers)}"
        raise InputError(
            f"{path} has {number_of(len(logits), 'entry', 'entries')} for the model's routed layers, {known}; entry i "
            "need not be layer i, so give the model's config.json (--config), or name them by --layers"
        )
    stacked = torch.stack(logits)
    kinds: dict[str, Any] = {"score": spec.score, "score_dtype": "float32", "model_dtype": torch.float32}
    scores = torch.stack([compute_scores(row, **kinds) for row in stacked])
    routed = [
        route(spec, row, of_row, Batch(sequence_length=len(row), training=False), RouterState())[0]
        for row, of_row in zip(stacked, scores, strict=True)
    ]
    ids = torch.stack([choice.expert_ids for choice in routed])  # type: ignore[union-attr]  # `_spec` allows no other.
    tokens = _token_arrays(given, stacked.shape[1], path)
    ranked = stacked if spec.select_on == "logits" else scores
    layers = [{"path": f"layers.{layer}", "router": spec.to_dict()} for layer in shape.moe_layers]
    return RoutingTrace(
        topk_ids=ids,
        layer_index=torch.tensor(shape.moe_layers, dtype=torch.int32),
        counts=count_rows(ids, num_experts=stacked.shape[2], phase=tokens.get("phase")),
        metadata={"engine": "transformers", "id_space": "logical", "layers": layers},
        topk_weights=torch.stack([choice.combine_weights for choice in routed]).half(),
        select_margin=torch.stack([select_margin(a, b) for a, b in zip(ranked, ids, strict=True)]).half(),
        router_entropy=torch.stack([router_entropy(row) for row in scores.abs()]).half(),
        router_logits=stacked.half(),
        **tokens,
    )


def _read(path: Path) -> tuple[list[Tensor], dict[str, Any]]:
    value = load_pickled_tensors(path)
    given: dict[str, Any] = value if isinstance(value, dict) else {"router_logits": value}
    logits: Any = given.get("router_logits")
    is_list = isinstance(logits, list | tuple) and len(logits) > 0
    if not is_list or not all(isinstance(row, Tensor) and row.dim() == 2 and row.is_floating_point() for row in logits):
        raise ArtifactError(f"{path} holds no tuple of router logits (tokens, experts); save what the model returned")
    if len({tuple(row.shape) for row in logits}) > 1 or not logits[0].numel():
        raise ArtifactError(f"{path}: the layers' logits are of different shapes, or empty; save one forward pass")
    return [row.float() for row in logits], given


def _spec(router: str | None, num_experts: int, shape: RouterShape) -> RouterSpec:
    if router is None:
        raise InputError("router logits do not say how the model chooses from them; name its family by --router")
    if shape.num_experts not in (None, num_experts):
        raise InputError(
            f"the logits are of {num_experts} experts, and the model has {shape.num_experts}; give its config"
        )
    spec = preset(router, num_experts=num_experts, top_k=shape.top_k)
    needs = {
        "a selection bias": spec.selection_bias,
        "groups": spec.group_limit is not None,
        f"selection {spec.selection!r}": spec.selection != "top_k",
        "capacity": spec.capacity is not None,
    }
    found = [name for name, is_there in needs.items() if is_there]
    if found:
        raise InputError(
            f"router (={router!r}) chooses by more than its logits ({', '.join(found)}), so they do not say what it "
            "chose; record the choice itself (headgate.tap)"
        )
    return spec


def _require_logits(logits: list[Tensor], path: Path) -> None:
    for number, row in enumerate(logits):
        if not row.isfinite().all():
            raise InputError(
                f"{path}: entry {number} holds NaN or infinite logits; find out why before comparing anything"
            )
        sums = row.sum(1)
        if (row >= 0).all() and ((sums - 1).abs() < _SUM_TOLERANCE).all():
            raise InputError(
                f"{path}: the rows of entry {number} are not negative and sum to 1, so these are probabilities, not "
                "logits, as some models return them; take their logarithm if the router is a softmax"
            )


def _token_arrays(given: dict[str, Any], num_tokens: int, path: Path) -> dict[str, Any]:
    arrays: dict[str, Any] = {"seq_offsets": torch.tensor([0, num_tokens])}
    for name in ("input_ids", "attention_mask"):
        value = given.get(name)
        if value is None:
            continue
        is_fitting = isinstance(value, Tensor) and value.dim() == 2 and value.numel() == num_tokens
        if not is_fitting or value.is_floating_point():
            raise ArtifactError(
                f"{path}: {name} is not (batch, sequence) of the {num_tokens} routed tokens; save its own"
            )
        batch, length = value.shape
        arrays["seq_offsets"] = torch.arange(batch + 1) * length
        arrays["position"] = torch.arange(length).repeat(batch).int()
        if name == "input_ids":
            arrays["token_ids"] = value.flatten().int()
        else:
            arrays["phase"] = (value.flatten() == 0).to(torch.uint8) * int(Phase.PADDING)
    return arrays
