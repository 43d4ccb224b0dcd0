"""Examine a model: run it a few times, each with one thing changed, and look at what its routing does.

What a model is, and how it is run, is its subject's matter: a model of Headgate's layers, or one of transformers.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from headgate.errors import InputError
from headgate.nn.routing import Batch, RouterState, route
from headgate.observe.agreement import overlap_at_k
from headgate.observe.check_trace import FLIP_FRACTION, check_routing
from headgate.observe.findings import Finding, Status
from headgate.observe.trace import RoutingTrace
from headgate.scores import compute_scores
from headgate.spec import RouterSpec

RANKED = ("top_k", "top_p", "threshold")
"""Ways to choose in which the logits of a token decide about it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelPass:
    """What a model did with some tokens.

    Attributes:
        expert_ids: each routed layer's choice by module path, [T, K]; T runs over sequences, then positions.
        output: what the model returned, [B, S, ...].
    """

    expert_ids: Mapping[str, Int[Tensor, "T K"]]
    output: Float[Tensor, "B S ..."]


@runtime_checkable
class Subject(Protocol):
    """A model under examination. Nothing of it is changed for longer than a call."""

    def run(self, token_ids: Int[Tensor, "B S"], *, training: bool = False) -> ModelPass:
        """Run the model in evaluation mode, or as in training."""

    def run_poisoned(self, token_ids: Int[Tensor, "B S"]) -> tuple[ModelPass, str, int] | None:
        """Run it with a NaN in what the first router sees of the first token.

        Returns:
            What it did, that router's layer, and how many experts it has; None where no router can be got at.
        """

    def record(self, token_ids: Int[Tensor, "B S"]) -> RoutingTrace:
        """Run it and keep the routing."""

    def narrow_changes(self, token_ids: Int[Tensor, "B S"]) -> Mapping[str, float]:
        """The part of the tokens for which a router in bfloat16 chooses others than one in float32, by module path.

        Layers that do not rank logits of their own are left out.
        """


def examine(subject: Subject, token_ids: Int[Tensor, "B S"]) -> list[Finding]:
    """Go through the whole battery.

    Args:
        subject: the model.
        token_ids: a text that it should do well on; at least two sequences of at least two tokens.

    Raises:
        InputError: too few tokens.
    """
    if token_ids.shape[0] < 2 or token_ids.shape[1] < 2:
        raise InputError(
            f"token_ids.shape (={tuple(token_ids.shape)}) must be at least (2, 2): one sequence has no batch, and one "
            "token has no later ones; give more text"
        )
    with torch.no_grad():
        found = subject.run(token_ids)
        return [
            *check_routing(subject.record(token_ids)),
            _check_batch(subject, token_ids, found),
            _check_causality(subject, token_ids, found),
            _check_nan_guard(subject, token_ids, found),
            _check_dtype(subject, token_ids),
            _check_training_gap(subject, token_ids, found),
        ]


def changed_fraction(first: Int[Tensor, "T K"], second: Int[Tensor, "T J"]) -> float:
    """The part of the tokens whose set of experts is another."""
    return float((overlap_at_k(first, second) < 1).double().mean())


def choose_in(
    dtype: torch.dtype,
    spec: RouterSpec,
    x: Float[Tensor, "T D"],
    weight: Float[Tensor, "E D"],
    *,
    bias: Float[Tensor, " E"] | None,
    selection_bias: Float[Tensor, " E"] | None,
) -> Int[Tensor, "T K"]:
    """Choose from logits whose matrix product is made in `dtype`; all that follows is as the router has it.

    Args:
        dtype: of the product.
        spec: of the router; its selection is one of `RANKED`.
        x: what it sees.
        weight: of its linear layer.
        bias: of that layer.
        selection_bias: what it adds to what it ranks.
    """
    logits = F.linear(x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)).float()
    scores = compute_scores(logits, score=spec.score, score_dtype=spec.score_dtype, model_dtype=x.dtype)
    batch = Batch(sequence_length=len(x), training=False)
    choice, _ = route(spec, logits, scores, batch, RouterState(selection_bias=selection_bias))
    found: Tensor = choice.expert_ids  # type: ignore[union-attr]  # These selections are token choice.
    return found


def _finding(check: str, status: Status, sentence: str) -> Finding:
    return Finding(check=check, status=status, sentence=sentence)


def _worst(changed: Mapping[str, float]) -> str:
    path = max(changed, key=lambda name: changed[name])
    return f"{changed[path]:.2%} of the tokens in {path or 'the layer'}, the worst"


def _check_dependence(check: str, what: str, changed: Mapping[str, float], otherwise: str) -> Finding:
    """Judge what should change nothing: a few flips are rounding's, since other shapes are summed in another order."""
    if max(changed.values()) > FLIP_FRACTION:
        return _finding(check, "fail", f"a token's experts depend on {what}: {_worst(changed)}")
    if any(changed.values()):
        return _finding(check, "warn", f"{what} changes, as rounding may, the experts of {_worst(changed)}")
    return _finding(check, "pass", otherwise)


def _check_batch(subject: Subject, token_ids: Int[Tensor, "B S"], together: ModelPass) -> Finding:
    """Run each sequence alone."""
    changed: dict[str, float] = dict.fromkeys(together.expert_ids, 0.0)
    furthest, length = 0.0, token_ids.shape[1]
    for number in range(len(token_ids)):
        alone = subject.run(token_ids[number : number + 1])
        for path, ids in alone.expert_ids.items():
            part = together.expert_ids[path][number * length : (number + 1) * length]
            changed[path] += changed_fraction(part, ids) / len(token_ids)
        wanted = together.output[number].double()
        furthest = max(furthest, float((alone.output[0].double() - wanted).abs().max() / wanted.abs().max()))
    bits = (
        "the output has the same bits" if furthest == 0 else f"the output moves by {furthest:.1e} of its largest value"
    )
    return _check_dependence("batch invariance", "its batch", changed, f"alone, every token chooses the same; {bits}")


def _check_causality(subject: Subject, token_ids: Int[Tensor, "B S"], found: ModelPass) -> Finding:
    """Replace the second half of every sequence by the first half of the next one."""
    half = token_ids.shape[1] // 2
    other = token_ids.clone()
    other[:, half : 2 * half] = token_ids.roll(1, 0)[:, :half]
    if torch.equal(other, token_ids):
        said = "the sequences are all alike, so no later token can be changed; give another text"
        return _finding("causality", "unknown", said)
    again = subject.run(other)
    is_early = (torch.arange(token_ids.shape[1]) < half).repeat(len(token_ids))
    changed = {
        path: changed_fraction(ids[is_early], again.expert_ids[path][is_early])
        for path, ids in found.expert_ids.items()
    }
    return _check_dependence("causality", "later tokens", changed, "later tokens change no token's experts")


def _check_nan_guard(subject: Subject, token_ids: Int[Tensor, "B S"], found: ModelPass) -> Finding:
    """Let the first routed layer see a NaN in its first token."""
    name = "NaN guard"
    try:
        poisoned = subject.run_poisoned(token_ids)
    except (RuntimeError, IndexError) as error:
        return _finding(name, "fail", f"a NaN in one token stops the model: {' '.join(str(error).split())[:120]}")
    if poisoned is None:
        return _finding(name, "unknown", "no router was found to which a NaN could be given")
    spoilt, path, num_experts = poisoned
    before, after = found.expert_ids[path], spoilt.expert_ids[path]
    if int(after.max()) >= num_experts:
        return _finding(name, "fail", f"a NaN gives the expert id {int(after.max())}")
    chosen = after[0][after[0] >= 0]
    if len(set(chosen.tolist())) != len(chosen):
        return _finding(name, "fail", "a NaN gives a token the same expert twice")
    moved = changed_fraction(before[1:], after[1:])
    if moved:
        return _finding(name, "fail", f"a NaN in one token changes the experts of {moved:.2%} of the others")
    return _finding(name, "pass", "a NaN in one token gives it valid experts, and leaves the others theirs")


def _check_dtype(subject: Subject, token_ids: Int[Tensor, "B S"]) -> Finding:
    changed = subject.narrow_changes(token_ids)
    if not changed:
        said = "no layer is known to rank logits of its own, so there is nothing that a narrower type could change"
        return _finding("bfloat16 router", "unknown", said)
    status: Status = "warn" if max(changed.values()) > FLIP_FRACTION else "pass"
    return _finding("bfloat16 router", status, f"a router in bfloat16 would choose others for {_worst(changed)}")


def _check_training_gap(subject: Subject, token_ids: Int[Tensor, "B S"], found: ModelPass) -> Finding:
    """Route in training mode."""
    with torch.random.fork_rng():
        training = subject.run(token_ids, training=True)
    changed = {path: changed_fraction(ids, training.expert_ids[path]) for path, ids in found.expert_ids.items()}
    if any(changed.values()):
        return _finding("training gap", "warn", f"training mode chooses other experts for {_worst(changed)}")
    return _finding("training gap", "pass", "training mode chooses the same experts")
