"""`tap`, `trace_of`, `replay` and `measure_norms` for any model: of Headgate's layers, of `transformers`, or of both.

Each asks what the model holds and calls what knows that kind. The integration with transformers is imported only where
transformers is in use already.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from jaxtyping import Int
from torch import Tensor, nn

from headgate.errors import InputError
from headgate.integrations import mixture
from headgate.nn.norms import Norms
from headgate.nn.norms import measure_norms as measure_our_norms
from headgate.nn.tape import Tape as OurTape
from headgate.nn.tape import find_routers
from headgate.nn.tape import tap as tap_ours
from headgate.observe.record import trace_of as our_trace_of
from headgate.observe.replay import replay as replay_ours
from headgate.observe.trace import RoutingTrace

if TYPE_CHECKING:
    from headgate.integrations.transformers import Tape as TheirTape


@dataclass(frozen=True, slots=True, kw_only=True)
class Tape(Mapping[str, list[Any]]):
    """Every routing decision of a model: a mapping of module paths to one value per forward pass.

    A value is a `Routing` for a layer of Headgate and a `Decision` for one of transformers; both have
    `choice.expert_ids`, `choice.combine_weights` and `logits`.

    Attributes:
        ours: decisions of Headgate's layers; empty where there are none.
        theirs: the tape of transformers' layers, or None where there are none.
    """

    ours: OurTape
    theirs: TheirTape | None

    def __getitem__(self, path: str) -> list[Any]:
        if self.theirs is not None and path in self.theirs:
            return self.theirs[path]
        return self.ours[path]

    def __iter__(self) -> Iterator[str]:
        yield from self.ours
        yield from self.theirs or ()

    def __len__(self) -> int:
        return len(self.ours) + len(self.theirs or ())


@contextmanager
def tap(model: nn.Module, *, logits: bool = True) -> Iterator[Tape]:
    """Record the routing of every routed layer of a model, for as long as the context lasts.

    A layer is named by its module path ("" for a bare `MoE`). Values are detached. A forward pass that activation
    checkpointing repeats is recorded once. A compiled model runs uncompiled inside the context, since compiled code
    does not call hooks. On a model of transformers the decision is read where it is applied, in the call of the
    experts, on whatever backend they run.

    Args:
        model: any module that holds `MoE`, `MixtureOfDepths` or `Router` modules, or experts of transformers.
        logits: whether to keep the logits of transformers' routers; Headgate's are always kept.

    Raises:
        InputError: the model holds no routed layer.

    Example:
        >>> import torch, headgate
        >>> layer = headgate.MoE(8, 16, num_experts=4, top_k=2)
        >>> with headgate.tap(layer) as tape:
        ...     _ = layer(torch.randn(3, 8))
        >>> tape[""][0].choice.expert_ids.shape
        torch.Size([3, 2])
    """
    has_ours, has_theirs = _kinds(model)
    with ExitStack() as stack:
        ours: OurTape = {}
        theirs = None
        # A model with neither is refused here, in the words of Headgate's own layers.
        if has_ours or not has_theirs:
            ours = stack.enter_context(tap_ours(model))
        if has_theirs:
            from headgate.integrations import transformers

            theirs = stack.enter_context(transformers.tap(model, logits=logits))
        yield Tape(ours=ours, theirs=theirs)


@contextmanager
def measure_norms(model: nn.Module) -> Iterator[Norms]:
    """Measure what each choice, the shared experts and the whole layer add to a token, while the context lasts.

    Experts run a second time, slot by slot, so it takes about twice their time. What the model returns is unchanged.
    Give the result to `trace_of`.

    Args:
        model: any module that holds `MoE` layers, or experts of transformers.

    Raises:
        InputError: the model holds none.

    Example:
        >>> import torch, headgate
        >>> layer = headgate.MoE(8, 16, num_experts=4, top_k=2)
        >>> with headgate.tap(layer) as tape, headgate.measure_norms(layer) as norms:
        ...     y = layer(torch.randn(3, 8))
        >>> headgate.trace_of(layer, tape, token_ids=torch.arange(3), norms=norms).contribution_norms.shape
        torch.Size([1, 3, 2])
    """
    has_ours, has_theirs = _kinds(model)
    with ExitStack() as stack:
        found: list[Norms] = []
        if has_ours or not has_theirs:
            found.append(stack.enter_context(measure_our_norms(model)))
        if has_theirs:
            from headgate.integrations import transformers

            found.append(stack.enter_context(transformers.measure_norms(model)))
        yield {path: passes for norms in found for path, passes in norms.items()}


def trace_of(
    model: nn.Module,
    tape: Mapping[str, Sequence[Any]],
    *,
    token_ids: Int[Tensor, ...] | None = None,
    seq_lengths: Sequence[int] | None = None,
    metadata: Mapping[str, Any] | None = None,
    norms: Norms | None = None,
    with_logits: bool = False,
) -> RoutingTrace:
    """Make a trace of what a tap recorded.

    Args:
        model: that the tap was on.
        tape: of the tap.
        token_ids: [T] integer, or [batch, sequence], of all forward passes, in order. A model of transformers is seen
            with its token ids, so there it is left out.
        seq_lengths: tokens of each sequence, in order; None = the rows of `token_ids`.
        metadata: plain values to keep with the trace, such as `model` and `token_strings`; `model_shape` is added.
        norms: of `measure_norms` around the same passes.
        with_logits: whether to keep the router's logits.

    Raises:
        InputError: nothing was recorded, or `token_ids` are missing, superfluous, or not those of the passes.

    Example:
        >>> import torch, headgate
        >>> layer = headgate.MoE(8, 16, num_experts=4, top_k=2)
        >>> with headgate.tap(layer) as tape:
        ...     _ = layer(torch.randn(2, 3, 8))
        >>> trace_of(layer, tape, token_ids=torch.tensor([[5, 6, 7], [5, 6, 8]])).seq_offsets.tolist()
        [0, 3, 6]
    """
    options: dict[str, Any] = {"metadata": metadata, "norms": norms, "with_logits": with_logits}
    both = tape if isinstance(tape, Tape) else _wrap(tape)
    if both.theirs is None:
        if token_ids is None:
            raise InputError("token_ids (=None) are not seen by Headgate's layers; give those of all forward passes")
        return our_trace_of(model, both.ours, token_ids=token_ids, seq_lengths=seq_lengths, **options)
    if token_ids is not None or seq_lengths is not None:
        raise InputError("token_ids (given) are seen with a model of transformers; leave out token_ids and seq_lengths")
    from headgate.integrations import transformers

    if not both.ours:
        return transformers.make_trace(both.theirs, **options)
    joined, specs = mixture.join_tapes(model, both.ours, both.theirs)
    return transformers.make_trace(joined, specs=specs, **options)


@contextmanager
def replay(
    model: nn.Module,
    trace: RoutingTrace,
    *,
    token_ids: Int[Tensor, ...] | None = None,
    weights: Literal["own", "recorded"] = "own",
) -> Iterator[None]:
    """Make a model route as it was recorded, with gradients through the weights, for as long as the context lasts.

    What reinforcement learning on a Mixture-of-Experts model needs: the training pass then runs the experts that the
    rollout ran, whatever its precision. Choices and drops come from the trace, weights from the model's own logits.

    Headgate's layers take the next tokens of the trace in each forward pass; padding takes none, all tokens must be
    used, and they may be used several times. A model of transformers takes pass after pass, so call it with the same
    batches in the same order.

    Args:
        model: with Headgate layers, experts of transformers, or both.
        trace: of the same layers; of some sequences, by `select`.
        token_ids: what the model will be run on, in order and without padding, to be compared with those of the trace.
        weights: "own": the model's own weights of the recorded experts, with their gradients. "recorded": the trace's,
            as constants without a gradient, in layers of transformers.

    Raises:
        InputError: the trace is of other layers, experts, k or tokens; the message says which.

    Example:
        >>> import torch, headgate
        >>> layer, x = headgate.MoE(8, 16, num_experts=4, top_k=2), torch.randn(3, 8)
        >>> with headgate.tap(layer) as tape:
        ...     _ = layer(x)
        >>> trace = headgate.trace_of(layer, tape, token_ids=torch.arange(3))
        >>> with replay(layer, trace), headgate.tap(layer) as again:
        ...     _ = layer(-x)
        >>> torch.equal(again[""][0].choice.expert_ids, tape[""][0].choice.expert_ids)
        True
    """
    has_ours, has_theirs = _kinds(model)
    if not has_theirs:
        if weights != "own":
            raise InputError(f"weights (={weights!r}) must be 'own' for Headgate's layers; leave it out")
        with replay_ours(model, trace, token_ids=token_ids):
            yield
        return
    from headgate.integrations import transformers

    if token_ids is not None:
        mixture.require_same_tokens(trace, token_ids)
    with ExitStack() as stack:
        if has_ours:
            trace, choices = mixture.split_trace(trace, list(find_routers(model)))
            stack.enter_context(mixture.replay_choices(model, choices))
        stack.enter_context(transformers.replay(model, trace, weights=weights))
        yield


def _wrap(tape: Any) -> Tape:
    """A tape of one kind, as its own module gives it, as a tape of both."""
    is_theirs = hasattr(tape, "passes")
    return Tape(ours={} if is_theirs else tape, theirs=tape if is_theirs else None)


def _kinds(model: nn.Module) -> tuple[bool, bool]:
    """Whether a model holds layers of Headgate, and experts of transformers."""
    return bool(find_routers(model)), _holds_experts_of_transformers(model.modules())


def _holds_experts_of_transformers(modules: Iterable[nn.Module]) -> bool:
    if "transformers" not in sys.modules:  # then no object can be of its classes
        return False
    from headgate.integrations.transformers.sites import runs_experts

    return any(map(runs_experts, modules))
