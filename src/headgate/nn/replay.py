"""`replay_choices`: make routers route as it was recorded, with gradients through the weights."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from headgate.errors import InputError
from headgate.flow import NO_EXPERT
from headgate.nn.routing import RecordedChoice
from headgate.nn.tape import find_routers, is_compiled, is_recomputing

_MARKS = 16
"""A pass is known again by so many of its values."""


@contextmanager
def replay_choices(model: nn.Module, choices: Mapping[str, RecordedChoice]) -> Iterator[None]:
    """Route a model's layers to recorded experts, for as long as the context lasts.

    Each forward pass takes as many recorded tokens as it has tokens that are not padding, in order; once all are used,
    they are used again from the start. Weights are computed from the model's own logits at these experts, so gradients
    flow. A pass that activation checkpointing repeats gets the tokens that it had. A compiled model runs uncompiled.

    Args:
        model: with Headgate layers.
        choices: by the layer's path, as `tap` names it; all with equally many tokens, without padding.

    Raises:
        InputError: a layer without choices, or choices without a layer; a pass with more tokens than are left; or, at
            the end, tokens that were not used.
    """
    routers = find_routers(model)
    _require_same_paths(set(routers), set(choices))
    players = {path: _Player(path, choices[path]) for path in routers}
    uncompiled = any(is_compiled(module) for module in model.modules())
    try:
        for path, router in routers.items():
            router.replayed = players[path].play
        with torch.compiler.set_stance("force_eager") if uncompiled else nullcontext():
            yield
    finally:
        for router in routers.values():
            router.replayed = None
    for player in players.values():
        player.require_finished()


def _require_same_paths(wanted: set[str], given: set[str]) -> None:
    if wanted == given:
        return
    missing, extra = sorted(wanted - given), sorted(given - wanted)
    raise InputError(
        f"the model's routed layers and the recording's must be the same: the recording lacks {missing[:4]}, and the "
        f"model lacks {extra[:4]}; replay what this model recorded"
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class _Pass:
    """A forward pass through one layer: which tokens it got, and what it is known by."""

    begin: int
    num_tokens: int
    marks: Tensor


class _Player:
    """One layer's recording, and how far it has been played."""

    def __init__(self, path: str, recorded: RecordedChoice) -> None:
        self._path, self._recorded = path or "the layer", recorded
        self._total = len(recorded.expert_ids)
        self._next = 0
        self._passes: list[_Pass] = []

    def play(self, x: Float[Tensor, "T D"], is_padding: Bool[Tensor, " T"] | None) -> RecordedChoice:
        """The choices of a pass over these tokens."""
        is_real = torch.ones(len(x), dtype=torch.bool) if is_padding is None else ~is_padding.cpu()
        num_tokens = int(is_real.sum())
        if is_recomputing():
            begin = self._find(x, num_tokens)
        else:
            begin = self._advance(num_tokens)
            self._passes.append(_Pass(begin=begin, num_tokens=num_tokens, marks=_marks_of(x)))
        part = slice(begin, begin + num_tokens)
        dropped = self._recorded.is_dropped
        return RecordedChoice(
            expert_ids=_spread(self._recorded.expert_ids[part], is_real, NO_EXPERT).to(x.device),
            is_dropped=None if dropped is None else _spread(dropped[part], is_real, False).to(x.device),
        )

    def _advance(self, num_tokens: int) -> int:
        begin = 0 if self._next == self._total else self._next
        if begin + num_tokens > self._total:
            raise InputError(
                f"{self._path} routes {num_tokens} tokens, and {self._total - begin} of the recorded {self._total} are "
                "left; run the passes that were recorded, and name the same padding"
            )
        self._next = begin + num_tokens
        return begin

    def _find(self, x: Float[Tensor, "T D"], num_tokens: int) -> int:
        """Which pass is being repeated: the last of those that looked the same."""
        marks = _marks_of(x)
        alike = [known for known in self._passes if known.num_tokens == num_tokens]
        same = [known for known in alike if torch.equal(known.marks, marks)]
        if not same:
            raise InputError(
                f"{self._path} repeats a pass over {num_tokens} tokens that it did not have before; activation "
                "checkpointing must repeat passes exactly, with preserve_rng_state=True"
            )
        return same[-1].begin

    def require_finished(self) -> None:
        """Raise where tokens were left over, for then the passes were not those that were recorded."""
        if self._next not in (0, self._total):
            raise InputError(
                f"{self._path} routed {self._next} of the recorded {self._total} tokens; "
                "run all the passes that were recorded, or replay a part of the trace (select)"
            )


def _marks_of(x: Float[Tensor, "T D"]) -> Float[Tensor, " n"]:
    flat = x.detach().flatten()
    return flat[:: max(1, len(flat) // _MARKS)].clone()


def _spread(values: Int[Tensor, "R K"] | Bool[Tensor, "R K"], is_real: Bool[Tensor, " T"], fill: int | bool) -> Tensor:
    """Put values where tokens are real, and `fill` where they are padding."""
    spread = values.new_full((len(is_real), values.shape[1]), fill)
    spread[is_real] = values
    return spread
