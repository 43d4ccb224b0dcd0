"""`balance`: a correct balance loss, per layer and on the routers' own scores, for any model of transformers."""

from __future__ import annotations

import inspect
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from headgate.balance import add_loss_gradient, switch_loss, z_loss
from headgate.errors import InputError
from headgate.integrations.transformers.formulas import Formula, formula_or_reason
from headgate.integrations.transformers.sites import Site, find_config, find_holder
from headgate.integrations.transformers.tap import describe_pass, positional, require_sites
from headgate.integrations.transformers.wires import Choice, find_router, wire_of
from headgate.scores import compute_scores
from headgate.spec import RouterSpec


@dataclass(frozen=True, slots=True, kw_only=True)
class Balanced:
    """What `balance` acts on.

    Attributes:
        layers: module paths of the layers that are balanced.
        skipped: why each other layer isn't, by its path.
        handles: of the hooks.
        scale: [], what the gradients of all losses are multiplied by.
    """

    layers: tuple[str, ...]
    skipped: dict[str, str]
    handles: tuple[Any, ...] = field(repr=False)
    scale: Float[Tensor, ""] = field(repr=False)

    def set_scale(self, scale: float) -> None:
        """Multiply the gradients of the losses by `scale` from the next forward pass on.

        A layer can't see by what the training loss is multiplied before `backward()`. Tell it: 1 / A where the loss
        is divided by A accumulation steps, as `transformers.Trainer` does, `scaler.get_scale()` under a gradient
        scaler.

        Args:
            scale: finite, at least 0.

        Raises:
            InputError: it is negative or not finite.
        """
        if not 0 <= scale < float("inf"):
            raise InputError(f"scale (={scale}) must be finite and at least 0; pass 1 / accumulation_steps, say")
        self.scale.fill_(scale)

    def remove(self) -> None:
        """Stop balancing."""
        for handle in self.handles:
            handle.remove()


def balance(model: nn.Module, *, switch: float = 0.01, z: float = 0.0) -> Balanced:
    """Balance every MoE layer in training, whatever the model's own auxiliary loss does.

    Each layer's loss is computed from that layer's scores and choices alone, without padding, and its gradient enters
    where the layer's weights are applied, once in each backward pass: the loss that the training loop sees stays as it
    is. Where that loop divides it, `Balanced.set_scale` says so. Outside training, and without gradients, nothing
    happens. Set the model's own `router_aux_loss_coef` to 0.

    Args:
        model: any model of transformers with experts, on any backend.
        switch: coefficient of `switch_loss`: 1 at balance, E / K at collapse.
        z: coefficient of `z_loss`.

    Raises:
        InputError: the model has no MoE layer, or none that can be balanced.
    """
    sites = require_sites(model)
    paths = [site.path for site in sites]
    config = find_config(model, paths)
    formulas = {site.path: formula_or_reason(config, layer_index=site.layer_index) for site in sites}
    skipped = {site.path: reason for site in sites if (reason := _why_not(model, site, formulas[site.path]))}
    if len(skipped) == len(sites):
        raise InputError(f"model (={type(model).__name__}) has no layer to balance: {next(iter(skipped.values()))}")
    padding, scale = _Padding(find_holder(model, paths)), torch.ones(())
    handles = [padding.handle]
    losses = _Losses(switch=switch, z=z, scale=scale)
    for site in sites:
        spec = formulas[site.path].spec
        if site.path not in skipped and spec is not None:
            handles += _balance_site(model, site, spec, padding, losses)
    layers = tuple(site.path for site in sites if site.path not in skipped)
    return Balanced(layers=layers, skipped=skipped, handles=tuple(handles), scale=scale)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Losses:
    """The coefficients of the losses, and what their sum is multiplied by."""

    switch: float
    z: float
    scale: Float[Tensor, ""]


class _Padding:
    """The padding of the forward pass that runs, [T]."""

    def __init__(self, model: nn.Module) -> None:
        self.current: Bool[Tensor, " T"] | None = None
        parameters = list(inspect.signature(model.forward).parameters)

        def note(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            one = describe_pass({**dict(zip(parameters, args, strict=False)), **kwargs})
            self.current = None if one.is_padding is None else one.is_padding.flatten()

        self.handle = model.register_forward_pre_hook(note, with_kwargs=True)

    def of(self, num_tokens: int) -> Bool[Tensor, " T"] | None:
        """The padding of a layer's tokens; a layer of another sequence (an encoder's) has none that is known."""
        return self.current if self.current is not None and len(self.current) == num_tokens else None


def _balance_site(model: nn.Module, site: Site, spec: RouterSpec, padding: _Padding, losses: _Losses) -> list[Any]:
    wire, router = wire_of(site), find_router(model, site)
    assert router is not None  # `_why_not` has refused the others.
    last: list[Tensor | None] = [None]

    def with_loss(values: Any, logits: Tensor) -> Any:
        choice = wire.read(site.module, values)
        loss = _loss(spec, logits, choice, padding.of(len(logits)), losses)
        weights = add_loss_gradient(choice.combine_weights, loss.to(choice.combine_weights.dtype))
        return wire.write(site.module, values, Choice(expert_ids=choice.expert_ids, combine_weights=weights))

    def see_router(module: nn.Module, args: Any, result: Any) -> Any:
        if not _trains(module):
            return None
        last[0] = wire.logits(result)
        return with_loss(result, last[0]) if wire.at_router and last[0] is not None else None

    def see_experts(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if not _trains(module) or last[0] is None:
            return None
        return with_loss(positional(module, args, kwargs), last[0]), {}

    handles: list[Any] = [router[1].register_forward_hook(see_router)]
    if not wire.at_router:
        handles.append(site.module.register_forward_pre_hook(see_experts, with_kwargs=True))
    return handles


def _trains(module: nn.Module) -> bool:
    return module.training and torch.is_grad_enabled()


def _loss(
    spec: RouterSpec,
    logits: Float[Tensor, "T E"],
    choice: Choice,
    is_padding: Bool[Tensor, " T"] | None,
    losses: _Losses,
) -> Float[Tensor, ""]:
    scores = compute_scores(logits.float(), score=spec.score, score_dtype=spec.score_dtype, model_dtype=logits.dtype)
    kept = choice.expert_ids if is_padding is None else choice.expert_ids[~is_padding]
    counts = torch.bincount(kept[kept >= 0], minlength=logits.shape[1])
    loss = losses.switch * switch_loss(scores, counts, is_padding=is_padding)
    if losses.z:
        loss = loss + losses.z * z_loss(logits.float(), is_padding=is_padding)
    return loss * losses.scale


def _why_not(model: nn.Module, site: Site, formula: Formula) -> str:
    """Why a layer can't be balanced; "" where it can."""
    if formula.spec is None:
        return formula.note
    if wire_of(site).forward is not None or find_router(model, site) is None:
        return "its weights can't be reached from outside"
    return ""
