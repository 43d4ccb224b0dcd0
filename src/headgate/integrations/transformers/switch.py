"""Put a model's experts on our backend, say what was switched and why, and put it back."""

from __future__ import annotations

import types
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import nn

from headgate.errors import BackendError, InputError
from headgate.integrations.transformers.adapters import ADAPTERS, REASONS
from headgate.integrations.transformers.backend import NAME, describe_dtype, experts_forward, is_quantised
from headgate.integrations.transformers.gates import forget_function, known_function
from headgate.integrations.transformers.sites import Kind, Site, find_sites
from headgate.kernels.backends import choose_backend

_PREVIOUS = "_headgate_previous"
"""The attribute of a model that holds its configurations and what they said before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LayerBackend:
    """What runs one layer's experts.

    Attributes:
        path: module path of the experts.
        class_name: their class.
        num_experts: E, from the weights; 0 where they are not stacked.
        is_switched: whether our backend runs them.
        reason: how, or why not.
    """

    path: str
    class_name: str
    num_experts: int
    is_switched: bool
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Acceleration:
    """What `accelerate` did, layer by layer. As text, it is a table in which equal layers share a line."""

    layers: tuple[LayerBackend, ...]

    @property
    def num_switched(self) -> int:
        """Layers whose experts our backend runs."""
        return sum(layer.is_switched for layer in self.layers)

    def __str__(self) -> str:
        counts = Counter(
            (layer.class_name, layer.num_experts, layer.is_switched, layer.reason) for layer in self.layers
        )
        lines = [f"{self.num_switched} of {len(self.layers)} MoE layers run on headgate"]
        for (class_name, num_experts, is_switched, reason), count in counts.items():
            backend = NAME if is_switched else "theirs"
            size = f"E={num_experts}" if num_experts else ""
            lines.append(f"{count:4} x {class_name:28} {size:7} {backend:9} {reason}")
        return "\n".join(lines)


def register() -> None:
    """Add the backend "headgate" to the experts interface of transformers; once or often, it is the same.

    After it, `from_pretrained(..., experts_implementation="headgate")` and
    `model.set_experts_implementation("headgate")` work.

    Raises:
        BackendError: transformers is missing, or older than its experts interface.
    """
    try:
        from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS
    except ImportError as error:
        raise BackendError(
            f"transformers with an experts interface is not installed ({error}); "
            "run: pip install 'headgate[transformers]'"
        ) from error
    ALL_EXPERTS_FUNCTIONS.register(NAME, experts_forward)


def accelerate(model: nn.Module, *, any_device: bool = False) -> Acceleration:
    """Switch every MoE layer of a transformers model to our experts, where they compute the same and faster.

    The weights stay where they are. What can't be switched keeps its own code, and the result says why.
    `restore` puts everything back.

    Args:
        model: any model of transformers, or a module that holds one.
        any_device: switch also where there is no kernel for the device and dtype, and our experts run operation by
            operation, no faster than theirs.

    Returns:
        What runs each layer now.

    Raises:
        InputError: the model has no MoE layer.
        BackendError: transformers is missing.
    """
    register()
    sites = find_sites(model)
    if not sites:
        raise InputError(
            f"model (={type(model).__name__}) has no MoE layer of transformers; "
            "only layers with routed experts get faster"
        )
    planned = plan_switch(sites, any_device=any_device)
    for site in sites:
        if planned[site.path].is_switched:
            _switch(model, site)
    return Acceleration(layers=tuple(planned.values()))


def plan_switch(sites: Sequence[Site], *, any_device: bool = True) -> dict[str, LayerBackend]:
    """Say by module path what `accelerate` would switch, and why not the rest."""
    refusals = {site.path: _refusal(site, any_device=any_device) for site in sites}
    shared = _configs_that_must_stay(sites, refusals)
    return {site.path: _describe(site, refusals[site.path] or shared.get(site.path)) for site in sites}


def restore(model: nn.Module) -> None:
    """Undo `accelerate`: every layer runs as it did before. A model that wasn't switched is left as it is."""
    for config, implementation in model.__dict__.pop(_PREVIOUS, ()):
        config._experts_implementation_internal = implementation
    for site in find_sites(model):
        if _is_adapted(site.module):
            del site.module.forward
        for module in site.module.modules():
            forget_function(module)


def _refusal(site: Site, *, any_device: bool) -> str | None:
    """Why a place keeps its own code, or None."""
    if site.kind is Kind.OTHER_INTERFACE:
        return "quantised experts, which run on a backend of their own"
    if site.kind is Kind.OUTSIDE and site.class_name not in ADAPTERS:
        return REASONS.get(site.class_name, "outside the experts interface, and no adapter is known to be exact")
    if site.kind is Kind.OUTSIDE and "forward" in vars(site.module) and not _is_adapted(site.module):
        return "its forward has been replaced by other code"
    if site.class_name == "LongcatFlashExperts" and known_function(site.module) is None:
        return "its activation is none that the kernel knows"
    weights = list(_expert_weights(site.module))
    quantised = sorted({describe_dtype(weight) for weight in weights if is_quantised(weight)})
    if quantised or not weights:
        return f"quantised experts ({', '.join(quantised) or 'packed'}), which keep their own code"
    if any_device:
        return None
    choice = choose_backend("experts", device_type=weights[0].device.type, dtype=weights[0].dtype)
    name = f"{weights[0].dtype} on {weights[0].device.type}".removeprefix("torch.")
    return None if choice.backend != "torch" else f"no kernel of ours for {name}: {choice.reason}"


def _configs_that_must_stay(sites: Sequence[Site], refusals: dict[str, str | None]) -> dict[str, str]:
    """Layers that can't be switched because a layer under the same configuration can't."""
    kept = {
        id(site.module.config): f"shares its configuration with {site.path}: {refusals[site.path]}"
        for site in sites
        if site.kind is not Kind.OUTSIDE and refusals[site.path] is not None
    }
    inside = [site for site in sites if site.kind is Kind.INTERFACE and id(site.module.config) in kept]
    return {site.path: kept[id(site.module.config)] for site in inside}


def _switch(model: nn.Module, site: Site) -> None:
    if site.kind is Kind.OUTSIDE:
        site.module.forward = types.MethodType(ADAPTERS[site.class_name], site.module)
        return
    config: Any = site.module.config
    previous = model.__dict__.setdefault(_PREVIOUS, [])
    if config._experts_implementation != NAME:
        previous.append((config, config._experts_implementation))
        config._experts_implementation_internal = NAME


def _describe(site: Site, refusal: str | None) -> LayerBackend:
    weights = list(_expert_weights(site.module))
    return LayerBackend(
        path=site.path,
        class_name=site.class_name,
        num_experts=_count_experts(site.module, weights),
        is_switched=refusal is None,
        reason=refusal or _how(site),
    )


def _how(site: Site) -> str:
    if site.class_name == "DbrxExperts":
        return "adapter: grouped products, its own gate between them"
    is_fused = known_function(_gate_holder(site.module)) is not None and not getattr(
        site.module, "has_post_expert_norm", False
    )
    way = "one fused pass" if is_fused else "grouped products, its own gate between them"
    return f"adapter: {way}" if site.kind is Kind.OUTSIDE else way


def _gate_holder(module: Any) -> nn.Module:
    """The module that knows the activation: the experts, which Llama 4 keeps one level down."""
    inner: nn.Module = getattr(module, "experts", module)
    return inner


def _expert_weights(module: Any) -> Iterator[torch.Tensor]:
    """The stacked parameters: those of two or three dimensions, the router's and a shared expert's apart."""
    for name, parameter in module.named_parameters():
        is_other = name.startswith(("router.", "shared_expert.", "post_expert_norm."))
        if parameter.dim() >= 2 and not is_other:
            yield parameter


def _count_experts(module: Any, weights: Sequence[torch.Tensor]) -> int:
    stacked = [len(weight) for weight in weights if weight.dim() == 3]
    return min(stacked) if stacked else int(getattr(module, "num_experts", 0))


def _is_adapted(module: Any) -> bool:
    replaced = getattr(vars(module).get("forward"), "__func__", None)
    return replaced is not None and replaced is ADAPTERS.get(type(module).__name__)
