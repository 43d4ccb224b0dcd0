"""`replay`: a model routes as a trace says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from headgate.errors import InputError
from headgate.flow import NO_EXPERT
from headgate.nn.replay import replay_choices
from headgate.nn.router import Router
from headgate.nn.routing import RecordedChoice
from headgate.nn.tape import find_routers
from headgate.observe.pieces import select
from headgate.observe.record import decoder_layers
from headgate.observe.trace import Phase, RoutingTrace
from headgate.spec import RouterSpec

_DYNAMIC = ("expert_choice", "top_p", "threshold")
"""Selections whose tokens have different numbers of experts."""


@contextmanager
def replay(model: nn.Module, trace: RoutingTrace, *, token_ids: Int[Tensor, ...] | None = None) -> Iterator[None]:
    """Make a model route as it was recorded, with gradients through the weights, for as long as the context lasts.

    What reinforcement learning on a Mixture-of-Experts model needs: the training pass then runs the experts that the
    rollout ran, whatever its precision. Choices and drops come from the trace, weights from the model's own logits.
    Each forward pass takes the next tokens of the trace; padding takes none. All tokens must be used, and may be
    used several times, pass after pass.

    Args:
        model: with Headgate layers.
        trace: of the same layers; of some sequences, by `select`.
        token_ids: what the model will be run on, in order and without padding, to be compared with those of the trace.

    Raises:
        InputError: the trace is of other layers, experts, k or tokens; the message says which.

    Example:
        >>> import headgate
        >>> layer, x = headgate.MoE(8, 16, num_experts=4, top_k=2), torch.randn(3, 8)
        >>> with headgate.tap(layer) as tape:
        ...     _ = layer(x)
        >>> trace = headgate.trace_of(layer, tape, token_ids=torch.arange(3))
        >>> with replay(layer, trace), headgate.tap(layer) as again:
        ...     _ = layer(-x)
        >>> torch.equal(again[""][0].choice.expert_ids, tape[""][0].choice.expert_ids)
        True
    """
    if trace.num_tokens == 0:
        raise InputError("the trace has no tokens, so there is nothing to replay; record the choices themselves")
    if trace.phase is not None and (trace.phase == Phase.PADDING).any():
        trace = select(trace, phases=[phase for phase in Phase if phase != Phase.PADDING])
    if token_ids is not None:
        require_same_tokens(trace, token_ids)
    routers = find_routers(model)
    rows = _rows(trace, list(routers))
    choices = {path: _choice(path, routers.get(path), trace, row) for path, row in rows.items()}
    with replay_choices(model, choices):
        yield


def require_same_tokens(trace: RoutingTrace, token_ids: Int[Tensor, ...]) -> None:
    """Require that a model will be run on the text of a trace.

    Raises:
        InputError: the first token that differs.
    """
    if trace.token_ids is None:
        raise InputError("token_ids were given, and the trace has none to compare them with; leave them out")
    given, known = token_ids.flatten().cpu(), trace.token_ids
    if len(given) != len(known):
        raise InputError(
            f"token_ids (={len(given)}) must be as many as the trace's (={len(known)}); give the same text"
        )
    if not torch.equal(given.int(), known):
        place = int((given.int() != known).nonzero()[0])
        raise InputError(
            f"token {place} is {int(given[place])} here and {int(known[place])} in the trace; replay the same text"
        )


def _rows(trace: RoutingTrace, paths: list[str]) -> dict[str, int]:
    """Each layer's row, by path; an imported trace knows the decoder layers alone."""
    noted = [layer.get("path") for layer in trace.metadata.get("layers") or []]
    if noted and None not in noted:
        return {path: row for row, path in enumerate(noted)}
    mine, theirs = decoder_layers(paths), trace.layer_index.tolist()
    if mine != theirs:
        raise InputError(
            f"the model's routed layers are the decoder layers {mine[:8]}, and the trace's {theirs[:8]}; "
            "replay a trace of this model"
        )
    return dict(zip(paths, range(len(paths)), strict=True))


def _choice(path: str, router: Router | None, trace: RoutingTrace, row: int) -> RecordedChoice:
    ids = trace.topk_ids[row]
    noted: Mapping[str, Any] = {}
    if trace.metadata.get("layers"):
        noted = trace.metadata["layers"][row].get("router") or {}
    if router is not None:
        _require_same_router(path or "the layer", router, noted, ids)
    dropped = None if trace.is_dropped is None else trace.is_dropped[row]
    return RecordedChoice(expert_ids=ids, is_dropped=dropped)


def _require_same_router(path: str, router: Router, noted: Mapping[str, Any], ids: Int[Tensor, "T K"]) -> None:
    spec = router.spec
    if spec.selection == "sparsemixer":
        raise InputError(
            f"{path} has selection 'sparsemixer', whose weights depend on how its experts were drawn; "
            "only a router without a draw can be replayed"
        )
    require_same_sizes(path, spec, noted, ids)


def require_same_sizes(path: str, spec: RouterSpec, noted: Mapping[str, Any], ids: Int[Tensor, "T K"]) -> None:
    """Require that a layer has as many experts, and chooses as many of them, as the recorded one.

    Args:
        path: of the layer.
        spec: its router.
        noted: what the trace says of the recorded router; empty where it says nothing.
        ids: [T, K] as recorded.

    Raises:
        InputError: it has others, or chooses another number; the message says which.
    """
    if noted.get("num_experts", spec.num_experts) != spec.num_experts or int(ids.max()) >= spec.num_choices:
        found = max(noted.get("num_experts", 0), int(ids.max()) + 1)
        raise InputError(f"{path} has {spec.num_experts} experts, and the trace {found}; replay a trace of this model")
    # Rows of layers that choose fewer are filled up with none.
    used = int((ids != NO_EXPERT).sum(1).max())
    top_k = noted.get("top_k", used)
    if spec.selection not in _DYNAMIC and top_k != spec.top_k:
        raise InputError(
            f"{path} chooses k = {spec.top_k} experts, and the trace {top_k}; replay a trace of this model"
        )
