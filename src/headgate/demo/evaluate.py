"""Measure a trained demo model on the held-out text, and record how it routed it."""

from __future__ import annotations

import dataclasses
import math
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Int
from torch import Tensor, nn

from headgate.demo.config import DemoConfig, router_spec
from headgate.demo.corpus import Corpus, held_out_pieces, unigram_loss
from headgate.demo.model import ParameterCounts, count_parameters
from headgate.demo.record import record_routings
from headgate.demo.tokenizer import Tokenizer, token_strings
from headgate.demo.train import held_out_loss, watch
from headgate.flow import Routing
from headgate.observe.health import LayerHealth, health
from headgate.observe.metrics import choice_disagreement
from headgate.observe.record import choice_per_token
from headgate.observe.trace import RoutingTrace

_TYPICAL_TOKENS = 6
_SHRINKAGE = 20
"""So many rows elsewhere are added to each token's own, so that a few rows by chance make nothing typical."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerFinding:
    """What one routed layer did with the held-out text.

    Attributes:
        path: module path.
        health: the verdict on its load.
        expert_counts: rows per expert.
        typical_tokens: for each expert, the tokens that it got most often compared with the other experts.
        training_disagreement: how much the choices differ from those in training mode (`choice_disagreement`), for
            routers that look at later tokens in training; None for others.
    """

    path: str
    health: LayerHealth
    expert_counts: tuple[int, ...]
    typical_tokens: tuple[tuple[str, ...], ...]
    training_disagreement: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Evaluation:
    """A model's figures on the held-out text. Losses are in nats per token.

    Attributes:
        loss: of the model as it is used, in evaluation mode.
        unigram_loss: of guessing each token by its frequency in training.
        num_tokens: that were predicted.
        training_mode_loss: of the model when it routes as in training, for routers that look at later tokens then.
        parameters: of the model.
        layers: the routed layers, in model order.
    """

    loss: float
    unigram_loss: float
    num_tokens: int
    training_mode_loss: float | None
    parameters: ParameterCounts
    layers: tuple[LayerFinding, ...]

    @property
    def perplexity(self) -> float:
        """exp(loss): as uncertain as a fair choice among so many tokens."""
        return math.exp(self.loss)

    @property
    def unigram_perplexity(self) -> float:
        """exp(unigram_loss)."""
        return math.exp(self.unigram_loss)

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return {
            **dataclasses.asdict(self),
            "perplexity": self.perplexity,
            "unigram_perplexity": self.unigram_perplexity,
        }


def evaluate(
    model: nn.Module, corpus: Corpus, tokenizer: Tokenizer, config: DemoConfig
) -> tuple[Evaluation, RoutingTrace | None]:
    """Measure a model, and record its routing.

    Args:
        model: a trained `DemoModel`; it is left in evaluation mode.
        corpus: whose held-out text to use.
        tokenizer: of that text.
        config: of the run.

    Returns:
        The figures, and the trace; None for a dense model, which routes nothing.
    """
    pieces = held_out_pieces(corpus, config.training.sequence_length)
    model.eval()
    loss, routings = _run(model, pieces, config)
    training_loss: float | None = None
    training_routings: dict[str, list[Routing]] = {}
    if routings and router_spec(config.model).may_see_later_tokens_in_training:
        with _training_mode(model):
            training_loss, training_routings = _run(model, pieces, config)
    token_ids = pieces[:, :-1].flatten()
    layers = [
        _layer_finding(path, found, training_routings.get(path), token_ids, tokenizer, config)
        for path, found in routings.items()
    ]
    evaluation = Evaluation(
        loss=loss,
        unigram_loss=unigram_loss(corpus.train_ids, pieces[:, 1:].flatten(), vocab_size=config.model.vocab_size).item(),
        num_tokens=token_ids.numel(),
        training_mode_loss=training_loss,
        parameters=count_parameters(model),
        layers=tuple(layers),
    )
    return evaluation, record_routings(model, routings, pieces, tokenizer, config) if routings else None


def _run(model: nn.Module, pieces: Tensor, config: DemoConfig) -> tuple[float, dict[str, list[Routing]]]:
    """Return the loss, and each routed layer's decisions."""
    training = config.training
    with watch(model) as tape:
        loss = held_out_loss(model, pieces, batch_size=training.batch_size, device=training.device)
    return loss, tape


@contextmanager
def _training_mode(model: nn.Module) -> Iterator[None]:
    """Put the model into training mode, and torch's random numbers back afterwards."""
    with torch.random.fork_rng():
        model.train()
        try:
            yield
        finally:
            model.eval()


def _layer_finding(
    path: str,
    routings: Sequence[Routing],
    training_routings: Sequence[Routing] | None,
    token_ids: Int[Tensor, " T"],
    tokenizer: Tokenizer,
    config: DemoConfig,
) -> LayerFinding:
    counts = torch.stack([routing.expert_counts.cpu() for routing in routings]).sum(0)
    drops = torch.cat([routing.plan.drop_reason.flatten() for routing in routings])[None]
    disagreement = None
    if training_routings is not None:
        disagreement = _mean_disagreement(routings, training_routings)
    return LayerFinding(
        path=path,
        health=health(counts, top_k=router_spec(config.model).top_k, drop_reason=drops),
        expert_counts=tuple(counts.tolist()),
        typical_tokens=_typical_tokens(routings, token_ids, tokenizer, num_experts=len(counts)),
        training_disagreement=disagreement,
    )


def _mean_disagreement(first: Sequence[Routing], second: Sequence[Routing]) -> float:
    """Average over batches, each of which counts by its tokens."""
    sizes = [routing.plan.num_tokens for routing in first]
    values = [choice_disagreement(a.choice, b.choice) for a, b in zip(first, second, strict=True)]
    return sum(value * size for value, size in zip(values, sizes, strict=True)) / sum(sizes)


def _typical_tokens(
    routings: Sequence[Routing], token_ids: Int[Tensor, " T"], tokenizer: Tokenizer, *, num_experts: int
) -> tuple[tuple[str, ...], ...]:
    """Find each expert's typical tokens: those of which it got the largest part, the more frequent first."""
    pairs: Counter[tuple[int, int]] = Counter()
    start = 0
    for routing in routings:
        ids = choice_per_token(routing)[0].cpu()
        tokens, slots = (ids >= 0).nonzero(as_tuple=True)
        pairs.update(zip(token_ids[start + tokens].tolist(), ids[tokens, slots].tolist(), strict=True))
        start += routing.plan.num_tokens
    of_token: Counter[int] = Counter()
    for (token_id, _), count in pairs.items():
        of_token[token_id] += count
    found = []
    for expert in range(num_experts):
        ranked = sorted(
            # The expert's part of the token's rows, shrunk towards 0 for tokens that came up only a few times.
            (-count / (of_token[token_id] + _SHRINKAGE), token_id)
            for (token_id, owner), count in pairs.items()
            if owner == expert
        )
        found.append(tuple(token_strings(tokenizer, [token_id for _, token_id in ranked[:_TYPICAL_TOKENS]])))
    return tuple(found)
