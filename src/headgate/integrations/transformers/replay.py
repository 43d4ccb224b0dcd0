"""`replay`: make a transformers model route as recorded, on whatever backend its experts run."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext
from types import MethodType
from typing import Any, Literal

import torch
from jaxtyping import Int
from torch import Tensor, nn

from headgate.errors import InputError
from headgate.flow import NO_EXPERT
from headgate.integrations.transformers.formulas import formula_or_reason
from headgate.integrations.transformers.recorded_shape import count_experts
from headgate.integrations.transformers.sites import Site, find_config, find_holder
from headgate.integrations.transformers.tap import positional, require_sites, watch_inputs
from headgate.integrations.transformers.wires import Choice, Wire, find_router, wire_of
from headgate.nn.routing import weigh
from headgate.nn.tape import is_compiled, is_recomputing
from headgate.observe.replay import require_same_sizes
from headgate.observe.trace import Phase, RoutingTrace
from headgate.scores import compute_scores
from headgate.spec import RouterSpec

Weights = Literal["own", "recorded"]


@contextmanager
def replay(model: nn.Module, trace: RoutingTrace, *, weights: Weights = "own") -> Iterator[None]:
    """Make every recorded layer choose what the trace says, for as long as the context lasts.

    Call the model with the same batches, in the same order, as when the trace was recorded. Its router still runs;
    what it decided is replaced where it is applied, so the kernel that runs the experts is the same.

    Args:
        model: the model that was recorded, or one of the same shape.
        trace: of a tap of this model, or read from a file, or imported.
        weights: "own": the model's own weights of the recorded experts, with their gradients: those that it applies
            itself to tokens for which it chooses the recorded experts, and what its router's formula gives for the
            others. "recorded": the trace's, as constants without a gradient; in a file they are rounded to float16.

    Raises:
        InputError: the trace is of other layers, experts, k or tokens than the model's and those that it is called
            with; or a layer has weights that no formula gives, or a forward of other code where a replay needs its own.
    """
    stance = torch.compiler.set_stance("force_eager") if any(map(is_compiled, model.modules())) else nullcontext()
    model = getattr(model, "_orig_mod", model)
    rows = _rows(trace, require_sites(model), type(model).__name__)
    with ExitStack() as stack:
        stack.enter_context(stance)
        if trace.token_ids is not None:
            holder = find_holder(model, [site.path for site, _ in rows])
            stack.enter_context(_compared_tokens(holder, trace, trace.token_ids))
        for site, row in rows:
            if weights == "recorded" and trace.topk_weights is None:
                raise InputError("topk_weights (=None) must be in the trace for weights='recorded'; record them too")
            spec = require_formula(model, site) if weights == "own" else None
            reel = _Reel(site.path, trace, row, spec)
            _require_same_router(reel, site, trace, row)
            stack.enter_context(_replaced(model, site, reel))
        yield


def _rows(trace: RoutingTrace, sites: list[Site], name: str) -> list[tuple[Site, int]]:
    """Each recorded layer and its row: by path, or, where the trace knows none, by decoder layer."""
    paths = [layer.get("path") for layer in trace.metadata.get("layers") or []]
    by_path = {site.path: site for site in sites}
    if paths and None not in paths:
        # An encoder's layers, which run before a generation, are not in its trace.
        stacks = {_stack_of(path) for path in paths}
        missing = sorted(set(paths) - by_path.keys())
        more = sorted(path for path in by_path.keys() - set(paths) if _stack_of(path) in stacks)
        if missing:
            raise InputError(f"the trace names {', '.join(missing)}, which the model (={name}) lacks; replay its own")
        if more:
            raise InputError(f"the model (={name}) has {', '.join(more)}, which the trace lacks; replay its own")
        return [(by_path[path], row) for row, path in enumerate(paths)]
    by_index = {site.layer_index: site for site in sites}
    recorded = trace.layer_index.tolist()
    if sorted(by_index) != sorted(recorded) or len(by_index) != len(sites):
        raise InputError(
            f"the trace is of decoder layers {recorded[:8]} and names no layer by its path, and the model (={name}) "
            f"has experts in {sorted(by_index)[:8]}; replay a trace of this model"
        )
    return [(by_index[index], row) for row, index in enumerate(recorded)]


def _stack_of(path: str) -> str:
    """What holds a module's layers, such as `model.decoder`."""
    return path.partition(".layers.")[0]


def _require_same_router(reel: _Reel, site: Site, trace: RoutingTrace, row: int) -> None:
    if not reel.ids.numel():
        return
    if reel.spec is not None:
        layers = trace.metadata.get("layers")
        noted = layers[row].get("router") if layers else None
        require_same_sizes(reel.path, reel.spec, noted or {}, reel.ids)
        return
    largest, num_choices = int(reel.ids.max()), count_experts(site)
    if largest >= num_choices:
        raise InputError(
            f"the trace has expert {largest} in {reel.path}, whose router can choose 0 to {num_choices - 1}; "
            "replay a trace of this model"
        )


def require_formula(model: nn.Module, site: Site) -> RouterSpec:
    """The router that gives a place's own weights for any choice.

    Raises:
        InputError: there is none.
    """
    formula = formula_or_reason(find_config(model, [site.path]), layer_index=site.layer_index)
    spec = formula.spec
    if spec is None or formula.gives != "ids and weights" or spec.selection == "sparsemixer":
        reason = formula.note or "its weights depend on how its experts were drawn"
        raise InputError(
            f"weights (='own') of {site.path} for other choices than its own can't be computed: {reason}; "
            "replay with weights='recorded'"
        )
    return spec


def _passes(trace: RoutingTrace) -> Int[Tensor, " T"]:
    """The forward pass of each token; one where the trace knows none."""
    return torch.zeros(trace.num_tokens, dtype=torch.int32) if trace.forward_id is None else trace.forward_id


@contextmanager
def _compared_tokens(model: nn.Module, trace: RoutingTrace, token_ids: Int[Tensor, " T"]) -> Iterator[None]:
    """Compare the tokens of each forward pass with the recorded ones; how many they are is compared in the layers.

    A step of generation is given what the model made of the steps before, which a replay may change: it is left out.
    """
    number, passes = 0, _passes(trace)
    generated = torch.zeros_like(passes, dtype=torch.bool) if trace.phase is None else trace.phase == Phase.GENERATED

    def compare(inputs: Mapping[str, Any]) -> None:
        nonlocal number
        in_pass, given = passes == number, inputs.get("input_ids")
        recorded = token_ids[in_pass]
        if given is not None and given.numel() == len(recorded) and not generated[in_pass].all():
            # The pass waits here for its input alone; its layers copy the recorded ids to the device anyway.
            places = (given.detach().flatten().cpu() != recorded).nonzero().flatten().tolist()
            if places:
                here, there = int(given.flatten()[places[0]]), int(recorded[places[0]])
                raise InputError(
                    f"token {places[0]} of pass {number} is {here} here and {there} in the trace; replay the same text"
                )
        number += 1

    with watch_inputs(model, compare):
        yield


class _Reel:
    """One layer's recorded decisions, handed out pass by pass."""

    def __init__(self, path: str, trace: RoutingTrace, row: int, spec: RouterSpec | None) -> None:
        self.path, self.spec = path, spec
        self.ids = trace.topk_ids[row]
        self.weights = None if trace.topk_weights is None else trace.topk_weights[row]
        self.forward_id = _passes(trace)
        self.next_pass = 0
        self.logits: Tensor | None = None

    def replace(self, own: Choice) -> Choice:
        """The recorded decision of the next pass, in the form of the model's own."""
        # Activation checkpointing repeats, inside the backward, the pass that was last.
        in_pass = self.forward_id == (self.next_pass - 1 if is_recomputing() else self.next_pass)
        num_tokens, width = own.expert_ids.shape
        if int(in_pass.sum()) != num_tokens:
            raise InputError(
                f"{self.path} was called with {num_tokens} tokens in pass {self.next_pass}, and {int(in_pass.sum())} "
                "were recorded; call the model with the same batches in the same order"
            )
        self.next_pass += not is_recomputing()
        if (self.ids[in_pass][:, width:] != NO_EXPERT).any():
            raise InputError(
                f"{self.path} chooses k = {width} experts, and the trace {self.ids.shape[1]}; "
                "replay a trace of this model"
            )
        ids = self.ids[in_pass][:, :width].to(own.expert_ids)
        if self.spec is not None:
            return Choice(expert_ids=ids, combine_weights=self._own_weights(own, ids, self.spec))
        assert self.weights is not None  # `replay` has refused a trace without.
        return Choice(expert_ids=ids, combine_weights=self.weights[in_pass][:, :width].to(own.combine_weights))

    def _own_weights(self, own: Choice, ids: Tensor, spec: RouterSpec) -> Tensor:
        """[T, K]: as the model applies them where it chose the same experts, so that no bit differs."""
        is_same = ids[:, :, None] == own.expert_ids[:, None, :]
        agrees = (is_same.any(2) | (ids == NO_EXPERT)).all(1) & (is_same.any(1) | (own.expert_ids == NO_EXPERT)).all(1)
        kept = own.combine_weights.gather(1, is_same.int().argmax(2)).masked_fill(ids == NO_EXPERT, 0.0)
        if self.logits is None:
            raise InputError(
                f"weights (='own') of {self.path} need its router's logits, and it returned none; "
                "replay with weights='recorded'"
            )
        logits = self.logits.float()
        scores = compute_scores(logits, score=spec.score, score_dtype=spec.score_dtype, model_dtype=self.logits.dtype)
        computed = weigh(spec, logits, scores, ids, ids != NO_EXPERT).masked_fill(ids == NO_EXPERT, 0.0)
        return kept.where(agrees[:, None], computed.to(kept.dtype))


@contextmanager
def _replaced(model: nn.Module, site: Site, reel: _Reel) -> Iterator[None]:
    wire = wire_of(site)
    if wire.forward is not None and "forward" in vars(site.module):
        raise InputError(
            f"the forward of {site.path} (={site.class_name}) has been replaced by other code, and a replay must put "
            "its own there; undo that first"
        )
    handles = [] if reel.spec is None and not wire.at_router else [_hook_router(model, site, wire, reel)]
    if not wire.at_router:
        handles.append(_hook_experts(site, wire, reel))
    if wire.forward is not None:
        site.module.forward = MethodType(wire.forward, site.module)
    try:
        yield
    finally:
        if wire.forward is not None:
            del site.module.forward
        for handle in handles:
            handle.remove()


def _hook_router(model: nn.Module, site: Site, wire: Wire, reel: _Reel) -> Any:
    router = find_router(model, site)
    assert router is not None  # Classes with such a wire have one, and so has every layer with a formula.

    def see(module: nn.Module, args: Any, result: Any) -> Any:
        reel.logits = wire.logits(result)
        return wire.write(site.module, result, reel.replace(wire.read(site.module, result))) if wire.at_router else None

    return router[1].register_forward_hook(see)


def _hook_experts(site: Site, wire: Wire, reel: _Reel) -> Any:
    def swap(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        values = positional(module, args, kwargs)
        return wire.write(site.module, values, reel.replace(wire.read(site.module, values))), {}

    return site.module.register_forward_pre_hook(swap, with_kwargs=True)
