"""The demo's training loop. Nothing in it is about routing but the line that attaches the balance."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from headgate.demo.config import TrainingConfig
from headgate.demo.corpus import Corpus, training_batch
from headgate.demo.model import is_routed
from headgate.demo.shares import settle_gradients, share_of, sum_over_ranks
from headgate.flow import Routing
from headgate.nn import Tape, attach_balance, tap
from headgate.parallel.gradients import group_by_mesh
from headgate.parallel.launch import num_ranks

_FINAL_LEARNING_RATE = 0.1
"""The cosine ends at this part of the peak."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StepReport:
    """What one optimizer step did.

    Attributes:
        step: steps done, this one included.
        loss: of the batch before the step, nats per token, balance losses not included.
        learning_rate: of the step.
        grad_norm: before it was scaled down.
        num_tokens: in the batch.
        duration_s: wall time.
        expert_counts: rows per expert, one tuple for each routed layer.
        balance_losses: each loss's mean over the layers, before its coefficient.
    """

    step: int
    loss: float
    learning_rate: float
    grad_norm: float
    num_tokens: int
    duration_s: float
    expert_counts: tuple[tuple[int, ...], ...]
    balance_losses: Mapping[str, float]


def make_optimizer(model: nn.Module, config: TrainingConfig) -> torch.optim.Optimizer:
    """AdamW, with weight decay on matrices alone."""
    groups = []
    for parameters in group_by_mesh(model.parameters()):
        groups += [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": config.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
    return torch.optim.AdamW(groups, lr=config.learning_rate, betas=(0.9, 0.95), fused=True)


def learning_rate(step: int, config: TrainingConfig) -> float:
    """Warm up linearly, then fall along a cosine.

    Args:
        step: from 0.
        config: `steps`, `warmup_steps` and the peak.
    """
    warmup = min(config.warmup_steps, config.steps)
    if step < warmup:
        return config.learning_rate * (step + 1) / warmup
    progress = (step - warmup) / max(1, config.steps - warmup)
    cosine = 0.5 * (1.0 + math.cos(math.pi * progress))
    return config.learning_rate * (_FINAL_LEARNING_RATE + (1.0 - _FINAL_LEARNING_RATE) * cosine)


def train(
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    corpus: Corpus,
    config: TrainingConfig,
    *,
    first_step: int = 0,
) -> Iterator[StepReport]:
    """Train, and report each step once it is complete.

    While the caller looks at a report the model and the optimizer rest, so that is the time to save or to stop. Under
    torch.distributed each rank trains on its share of every batch, and all report the same.

    Args:
        model: token ids to logits; it is changed.
        optimizer: of that model.
        corpus: the text.
        config: how to train.
        first_step: steps that were done before.
    """
    model.train()
    if is_routed(model):
        attach_balance(model, optimizer)
    for step in range(first_step, config.steps):
        start = time.perf_counter()
        inputs, targets = training_batch(
            corpus,
            step,
            seed=config.seed,
            batch_size=config.batch_size,
            sequence_length=config.sequence_length,
        )
        for group in optimizer.param_groups:
            group["lr"] = learning_rate(step, config)
        with watch(model) as tape:
            logits = model(share_of(inputs).to(config.device))
        wanted = share_of(targets).flatten().to(config.device)
        # The batch's mean is the sum of the ranks' parts; gradients are averaged over ranks, so each is taken W times.
        loss = F.cross_entropy(logits.flatten(0, 1), wanted, reduction="sum") / targets.numel()
        (loss * num_ranks()).backward()  # type: ignore[no-untyped-call]
        grad_norm = settle_gradients(model, config.max_grad_norm)
        optimizer.step()
        optimizer.zero_grad()
        yield StepReport(
            step=step + 1,
            loss=sum_over_ranks(loss.detach()).item(),
            learning_rate=learning_rate(step, config),
            grad_norm=grad_norm.item(),
            num_tokens=inputs.numel(),
            duration_s=time.perf_counter() - start,
            expert_counts=tuple(tuple(sum_over_ranks(tape[path][0].expert_counts).tolist()) for path in tape),
            balance_losses=mean_losses([tape[path][0] for path in tape]),
        )


def watch(model: nn.Module) -> AbstractContextManager[Tape]:
    """Tap a model; a dense one has nothing to see."""
    return tap(model) if is_routed(model) else nullcontext({})


def mean_losses(routings: list[Routing]) -> dict[str, float]:
    """Average each balance loss over the layers that report it, and over the ranks."""
    values: dict[str, list[Tensor]] = {}
    for routing in routings:
        for name, value in routing.losses.items():
            values.setdefault(name, []).append(value)
    return {name: (sum_over_ranks(torch.stack(found).mean()) / num_ranks()).item() for name, found in values.items()}


@torch.no_grad()
def held_out_loss(model: nn.Module, pieces: Tensor, *, batch_size: int, device: str) -> float:
    """Compute the mean held-out loss, in whichever mode (training or evaluation) the model is.

    Args:
        model: token ids to logits.
        pieces: [n, S + 1] int64; each predicts its last S tokens.
        batch_size: pieces in a batch.
        device: the model's.

    Returns:
        Nats per token.
    """
    total = 0.0
    for start in range(0, len(pieces), batch_size):
        tokens = pieces[start : start + batch_size].to(device)
        logits = model(tokens[:, :-1])
        total += F.cross_entropy(logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="sum").item()
    return total / pieces[:, 1:].numel()
