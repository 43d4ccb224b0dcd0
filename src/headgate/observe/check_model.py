"""Examine a model of Headgate's layers: does it route well, and does a route depend on what it should not depend on?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager

import torch
from jaxtyping import Int
from torch import Tensor, nn

from headgate.flow import Routing
from headgate.nn.router import Router
from headgate.nn.tape import find_routers, tap
from headgate.observe.battery import RANKED, ModelPass, changed_fraction, choose_in, examine
from headgate.observe.findings import Finding
from headgate.observe.record import choice_per_token, trace_of
from headgate.observe.trace import RoutingTrace


def check_model(model: nn.Module, token_ids: Int[Tensor, "B S"]) -> list[Finding]:
    """Run a model a few times, each with one thing changed, and look at what its routing does.

    Args:
        model: token ids [B, S] to outputs [B, S, ...], with Headgate layers. It is put into evaluation mode for the
            time of the check, and nothing of it is changed.
        token_ids: a text that it should do well on; at least two sequences of at least two tokens.

    Raises:
        InputError: too few tokens, or a model without routed layers.
    """
    return examine(_LayeredModel(model), token_ids)


@contextmanager
def in_mode(model: nn.Module, *, training: bool) -> Iterator[None]:
    """Put a model into training or evaluation mode, and back at the end."""
    was_training = model.training
    model.train(training)
    try:
        yield
    finally:
        model.train(was_training)


def poison_first(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    """A forward pre-hook that makes the first token a NaN, whether tokens come as [T, D] or as [B, S, D]."""
    spoilt = args[0].clone()
    spoilt.view(-1, spoilt.shape[-1])[0] = float("nan")
    return (spoilt, *args[1:])


class _LayeredModel:
    """A model of Headgate's layers as a `Subject`."""

    def __init__(self, model: nn.Module) -> None:
        self._model = model

    def run(self, token_ids: Int[Tensor, "B S"], *, training: bool = False) -> ModelPass:
        tape, output = self._tapped(token_ids, training=training)
        return ModelPass(expert_ids=_ids(tape), output=output)

    def _tapped(
        self, token_ids: Int[Tensor, "B S"], *, training: bool = False
    ) -> tuple[Mapping[str, Sequence[Routing]], Tensor]:
        with in_mode(self._model, training=training), tap(self._model) as tape:
            output = self._model(token_ids)
        return tape, output

    def run_poisoned(self, token_ids: Int[Tensor, "B S"]) -> tuple[ModelPass, str, int]:
        path, router = next(iter(find_routers(self._model).items()))
        handle = router.register_forward_pre_hook(poison_first)
        try:
            return self.run(token_ids), path, router.spec.num_choices
        finally:
            handle.remove()

    def record(self, token_ids: Int[Tensor, "B S"]) -> RoutingTrace:
        return trace_of(self._model, self._tapped(token_ids)[0], token_ids=token_ids)

    def narrow_changes(self, token_ids: Int[Tensor, "B S"]) -> Mapping[str, float]:
        routers = {
            path: router
            for path, router in find_routers(self._model).items()
            if router.weight is not None and router.spec.selection in RANKED
        }
        inputs: dict[str, Tensor] = {}
        with ExitStack() as stack:
            for path, router in routers.items():
                hook = router.register_forward_pre_hook(lambda _, args, path=path: inputs.update({path: args[0]}))
                stack.callback(hook.remove)
            self.run(token_ids)
        return {
            path: changed_fraction(*(_choose(router, inputs[path], d) for d in (torch.float32, torch.bfloat16)))
            for path, router in routers.items()
        }


def _ids(tape: Mapping[str, Sequence[Routing]]) -> dict[str, Tensor]:
    """Each layer's choice, [T, K]."""
    return {path: torch.cat([choice_per_token(routing)[0] for routing in found]) for path, found in tape.items()}


def _choose(router: Router, x: Tensor, dtype: torch.dtype) -> Tensor:
    assert router.weight is not None  # The caller left such routers out.
    return choose_in(dtype, router.spec, x, router.weight, bias=router.bias, selection_bias=router.selection_bias)
