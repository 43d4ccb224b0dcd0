"""`headgate check MODEL`: does a model route well, and does a token's route depend on what it should not depend on?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from headgate.errors import InputError
from headgate.flow import Routing
from headgate.nn.router import Router
from headgate.nn.routing import Batch, RouterState, route
from headgate.nn.tape import find_routers, tap
from headgate.observe.agreement import overlap_at_k
from headgate.observe.check_trace import FLIP_FRACTION, check_routing
from headgate.observe.findings import Finding, Status
from headgate.observe.metrics import choice_disagreement
from headgate.observe.record import choice_per_token, trace_of
from headgate.scores import compute_scores

Tapes = Mapping[str, Sequence[Routing]]


def check_model(model: nn.Module, token_ids: Int[Tensor, "B S"]) -> list[Finding]:
    """Run a model a few times, each with one thing changed, and look at what its routing does.

    Args:
        model: token ids [B, S] to outputs [B, S, ...], with Headgate layers. It is put into evaluation mode for the
            time of the check, and nothing of it is changed.
        token_ids: a text that it should do well on; at least two sequences of at least two tokens.

    Raises:
        InputError: too few tokens, or a model without routed layers.
    """
    if token_ids.shape[0] < 2 or token_ids.shape[1] < 2:
        raise InputError(
            f"token_ids.shape (={tuple(token_ids.shape)}) must be at least (2, 2): one sequence has no batch, and one "
            "token has no later ones; give more text"
        )
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            return _check(model, token_ids)
    finally:
        model.train(was_training)


def _check(model: nn.Module, token_ids: Int[Tensor, "B S"]) -> list[Finding]:
    tape, output, inputs = _run(model, token_ids)
    return [
        *check_routing(trace_of(model, tape, token_ids=token_ids)),
        _check_batch(model, token_ids, tape, output),
        _check_causality(model, token_ids, tape),
        _check_nan_guard(model, token_ids),
        _check_dtype(model, inputs),
        _check_training_gap(model, token_ids, tape),
    ]


def _run(model: nn.Module, token_ids: Int[Tensor, "B S"]) -> tuple[Tapes, Tensor, dict[str, Tensor]]:
    """Return the decisions, the output, and what each router saw."""
    inputs: dict[str, Tensor] = {}
    handles = [
        router.register_forward_pre_hook(lambda _, args, path=path: inputs.update({path: args[0]}))
        for path, router in find_routers(model).items()
    ]
    try:
        with tap(model) as tape:
            output = model(token_ids)
    finally:
        for handle in handles:
            handle.remove()
    return tape, output, inputs


def _ids(tape: Tapes) -> dict[str, Tensor]:
    """Each layer's choice, [T, K]."""
    return {path: torch.cat([choice_per_token(routing)[0] for routing in found]) for path, found in tape.items()}


def _changed_fraction(first: Tensor, second: Tensor) -> float:
    """The part of the tokens whose set of experts is another."""
    return float((overlap_at_k(first, second) < 1).double().mean())


def _worst(changed: Mapping[str, float]) -> str:
    path = max(changed, key=lambda name: changed[name])
    return f"{changed[path]:.2%} of the tokens in {path or 'the layer'}, the worst"


def _check_batch(model: nn.Module, token_ids: Int[Tensor, "B S"], tape: Tapes, output: Tensor) -> Finding:
    """Run each sequence alone."""
    changed: dict[str, float] = dict.fromkeys(tape, 0.0)
    furthest, length = 0.0, token_ids.shape[1]
    together = _ids(tape)
    for number in range(len(token_ids)):
        alone, single, _ = _run(model, token_ids[number : number + 1])
        for path, ids in _ids(alone).items():
            part = together[path][number * length : (number + 1) * length]
            changed[path] += _changed_fraction(part, ids) / len(token_ids)
        difference = (single[0].double() - output[number].double()).abs().max() / output.double().abs().max()
        furthest = max(furthest, float(difference))
    bits = (
        "the output has the same bits" if furthest == 0 else f"the output moves by {furthest:.1e} of its largest value"
    )
    if any(changed.values()):
        return Finding(
            check="batch invariance",
            status="fail",
            sentence=f"a token's experts depend on its batch: {_worst(changed)}",
        )
    return Finding(check="batch invariance", status="pass", sentence=f"alone, every token chooses the same; {bits}")


def _check_causality(model: nn.Module, token_ids: Int[Tensor, "B S"], tape: Tapes) -> Finding:
    """Replace the second half of every sequence by the first half of the next one."""
    half = token_ids.shape[1] // 2
    other = token_ids.clone()
    other[:, half : 2 * half] = token_ids.roll(1, 0)[:, :half]
    if torch.equal(other, token_ids):
        said = "the sequences are all alike, so no later token can be changed; give another text"
        return Finding(check="causality", status="unknown", sentence=said)
    again, _, _ = _run(model, other)
    is_early = (torch.arange(token_ids.shape[1]) < half).repeat(len(token_ids))
    before, after = _ids(tape), _ids(again)
    changed = {path: _changed_fraction(ids[is_early], after[path][is_early]) for path, ids in before.items()}
    if any(changed.values()):
        said = f"a token's experts depend on later tokens: {_worst(changed)}"
        return Finding(check="causality", status="fail", sentence=said)
    return Finding(check="causality", status="pass", sentence="later tokens change no token's experts")


def _check_nan_guard(model: nn.Module, token_ids: Int[Tensor, "B S"]) -> Finding:
    """Let the first routed layer see a NaN in its first token."""
    path, router = next(iter(find_routers(model).items()))
    with tap(model) as clean:
        model(token_ids)
    with _poisoned(router), tap(model) as poisoned:
        model(token_ids)
    first, second = clean[path][0], poisoned[path][0]
    before, after = choice_per_token(first)[0], choice_per_token(second)[0]
    if int(after.max()) >= router.spec.num_choices:
        return Finding(check="NaN guard", status="fail", sentence=f"a NaN gives the expert id {int(after.max())}")
    chosen = after[0][after[0] >= 0]
    if len(set(chosen.tolist())) != len(chosen):
        return Finding(check="NaN guard", status="fail", sentence="a NaN gives a token the same expert twice")
    moved = _changed_fraction(before[1:], after[1:])
    if moved:
        said = f"a NaN in one token changes the experts of {moved:.2%} of the others"
        return Finding(check="NaN guard", status="fail", sentence=said)
    said = "a NaN in one token gives it valid experts, and leaves the others theirs"
    return Finding(check="NaN guard", status="pass", sentence=said)


@contextmanager
def _poisoned(router: Router) -> Iterator[None]:
    def poison(module: nn.Module, args: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        spoilt = args[0].clone()
        spoilt[0] = float("nan")
        return (spoilt, *args[1:])

    handle = router.register_forward_pre_hook(poison)
    try:
        yield
    finally:
        handle.remove()


def _check_dtype(model: nn.Module, inputs: Mapping[str, Tensor]) -> Finding:
    """Choose from logits whose matrix product was made in bfloat16, and in float32."""
    changed: dict[str, float] = {}
    for path, router in find_routers(model).items():
        if router.weight is None or router.spec.selection not in ("top_k", "top_p", "threshold"):
            continue
        wide, narrow = (_choose(router, inputs[path], dtype) for dtype in (torch.float32, torch.bfloat16))
        changed[path] = _changed_fraction(wide, narrow)
    if not changed:
        said = "no layer ranks logits of its own, so there is nothing that a narrower type could change"
        return Finding(check="bfloat16 router", status="unknown", sentence=said)
    status: Status = "warn" if max(changed.values()) > FLIP_FRACTION else "pass"
    return Finding(
        check="bfloat16 router",
        status=status,
        sentence=f"a router in bfloat16 would choose others for {_worst(changed)}",
    )


def _choose(router: Router, x: Tensor, dtype: torch.dtype) -> Tensor:
    assert router.weight is not None  # The caller asks only where there is one.
    bias = None if router.bias is None else router.bias.to(dtype)
    logits = F.linear(x.to(dtype), router.weight.to(dtype), bias).float()
    scores = compute_scores(logits, score=router.spec.score, score_dtype=router.spec.score_dtype, model_dtype=x.dtype)
    state = RouterState(selection_bias=router.selection_bias)
    choice, _ = route(router.spec, logits, scores, Batch(sequence_length=len(x), training=False), state)
    found: Tensor = choice.expert_ids  # type: ignore[union-attr]  # These selections are token choice.
    return found


def _check_training_gap(model: nn.Module, token_ids: Int[Tensor, "B S"], tape: Tapes) -> Finding:
    """Route in training mode."""
    with torch.random.fork_rng():
        model.train()
        try:
            with tap(model) as training:
                model(token_ids)
        finally:
            model.eval()
    changed = {path: choice_disagreement(found[0].choice, training[path][0].choice) for path, found in tape.items()}
    if any(changed.values()):
        path = max(changed, key=lambda name: changed[name])
        said = (
            f"training mode chooses others for {changed[path]:.2%} of the choices in {path or 'the layer'}, the worst"
        )
        return Finding(check="training gap", status="warn", sentence=said)
    return Finding(check="training gap", status="pass", sentence="training mode chooses the same experts")
