"""Traces of the trained demo: all of the held-out text, and a sample of it with everything that can be recorded."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from headgate.demo.config import DemoConfig
from headgate.demo.corpus import Corpus, held_out_pieces
from headgate.demo.model import is_routed
from headgate.demo.tokenizer import Tokenizer, token_strings
from headgate.flow import Routing
from headgate.kernels.backends import choose_backend
from headgate.nn import PassNorms, measure_norms, tap
from headgate.observe.record import trace_of
from headgate.observe.shape import describe_shape
from headgate.observe.tokenizer_hash import hash_tokenizer
from headgate.observe.trace import RoutingTrace

SAMPLE_TOKENS = 2048
"""So many tokens, with logits and norms, take about 300 kB."""


def record_routings(
    model: nn.Module,
    routings: Mapping[str, Sequence[Routing]],
    pieces: Int[Tensor, "n S_plus_1"],
    tokenizer: Tokenizer,
    config: DemoConfig,
    norms: Mapping[str, Sequence[PassNorms]] | None = None,
) -> RoutingTrace:
    """Make a trace of what a model decided about pieces of text.

    Args:
        model: the demo's.
        routings: of a tap.
        pieces: what it was run on; the last token of each is only predicted.
        tokenizer: of the text.
        config: of the run.
        norms: of `measure_norms`; with them, the trace has the logits too.
    """
    token_ids = pieces[:, :-1]
    return trace_of(
        model,
        routings,
        token_ids=token_ids,
        metadata=_metadata(model, token_ids, tokenizer, config),
        norms=norms,
        with_logits=norms is not None,
    )


def record_sample(model: nn.Module, corpus: Corpus, tokenizer: Tokenizer, config: DemoConfig) -> RoutingTrace | None:
    """Record passages from all over the held-out text, with logits and norms; None for a dense model.

    Args:
        model: trained, in evaluation mode.
        corpus: whose held-out text to use.
        tokenizer: of that text.
        config: of the run.
    """
    if not is_routed(model):
        return None
    length = config.training.sequence_length
    pieces = held_out_pieces(corpus, length)
    number = min(len(pieces), max(1, SAMPLE_TOKENS // length))
    # At even distances: the load on one topic is not that on the text.
    pieces = pieces[torch.linspace(0, len(pieces) - 1, number).round().long()]
    with tap(model) as tape, measure_norms(model) as norms, torch.inference_mode():
        # Each passage in a pass of its own, so that the passes can be told apart.
        for piece in pieces:
            model(piece[None, :-1].to(config.training.device))
    return record_routings(model, tape, pieces, tokenizer, config, norms)


def _metadata(model: nn.Module, token_ids: Tensor, tokenizer: Tokenizer, config: DemoConfig) -> dict[str, Any]:
    occurring = sorted(set(token_ids.flatten().tolist()))
    sizes = {"num_layers": config.model.num_layers, "vocab_size": tokenizer.get_vocab_size()}
    device, dtype = torch.device(config.training.device), next(model.parameters()).dtype
    return {
        "model": "headgate demo",
        "config": config.to_dict(),
        "tokenizer_hash": hash_tokenizer(tokenizer),
        "token_strings": dict(zip(map(str, occurring), token_strings(tokenizer, occurring), strict=True)),
        "headgate": importlib.metadata.version("headgate"),
        "torch": torch.__version__,
        "dtype": str(dtype).removeprefix("torch."),
        "device": config.training.device,
        "backends": {"prompt": choose_backend("experts", device_type=device.type, dtype=dtype).backend},
        "created": datetime.now(UTC).isoformat(timespec="seconds"),
        **describe_shape(model, **sizes),
    }
