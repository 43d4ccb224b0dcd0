"""The shape of a model of transformers: its widths, and its parameters by what they are for."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from typing import Any

from torch import nn

from headgate.integrations.transformers.sites import Kind, Site, find_config
from headgate.integrations.transformers.wires import shared_experts_of
from headgate.observe.shape import RecordedShape, count_parameters

_WIDTHS = ("hidden_size", "d_model", "n_embd")
_SHARED = ("n_shared_experts", "num_shared_experts", "moe_num_shared_experts")
_NOT_EXPERTS = re.compile(r"(router|gate|shared\w*)\.")
"""Children of a block that is called as a whole, and are no routed experts."""

_SKIPPING_CHOICES = {"ZayaExperts": 1}
"""Choices of a class's router that its experts do not count: a token that gets one skips them."""


def shape_of(model: nn.Module, sites: Sequence[Site]) -> RecordedShape | None:
    """Measure a model; None where an expert's weights are packed, so that their numbers count something else.

    Args:
        model: of transformers.
        sites: where its experts are.
    """
    config: Any = find_config(model, [site.path for site in sites])
    text: Any = None if config is None else config.get_text_config()
    experts = {site.path: _routed_parameters(site) for site in sites}
    if any(site.kind is Kind.OTHER_INTERFACE for site in sites) or not all(
        parameter.is_floating_point() for parameters in experts.values() for parameter in parameters
    ):
        return None
    shared = _shared_experts(model, sites)
    total, always = count_parameters(model), count_parameters(*shared)
    routed = sum(parameter.numel() for parameters in experts.values() for parameter in parameters)
    d_model = _first(text, _WIDTHS)
    first = next(iter(experts.values()), [])
    return RecordedShape(
        d_model=d_model,
        d_ff=_expert_width(sites[0].module, first, d_model),
        num_layers=_first(text, ("num_hidden_layers", "num_layers")),
        vocab_size=_first(text, ("vocab_size",)),
        dtype=str(first[0].dtype).removeprefix("torch.") if first else "unknown",
        num_parameters=total,
        num_expert_parameters=max(
            sum(parameter.numel() for parameter in experts[site.path]) // _num_routed(site) for site in sites
        ),
        num_routed_parameters=routed,
        num_shared_parameters=always,
        num_other_parameters=total - routed - always,
    )


def count_experts(site: Site) -> int:
    """E of a place, zero-compute experts included."""
    names = ("total_experts", "num_experts")
    holders = (site.module, getattr(site.module, "router", None))
    found = [getattr(holder, name) for holder in holders for name in names if hasattr(holder, name)]
    return int(found[0]) + _SKIPPING_CHOICES.get(site.class_name, 0)


def count_zero_experts(site: Site) -> int:
    """Choices that have no weights, as the module or its class says."""
    return int(getattr(site.module, "zero_expert_num", None) or _SKIPPING_CHOICES.get(site.class_name, 0))


def count_shared_experts(model: nn.Module, site: Site) -> int:
    """The experts of a place that every token gets: several may lie in one module, and the configuration says so."""
    shared = shared_experts_of(model, site)
    config: Any = find_config(model, [site.path])
    noted = None if config is None else _first(config.get_text_config(), _SHARED)
    return (noted or len(shared)) if shared else 0


def _num_routed(site: Site) -> int:
    """E of a place, of experts that have weights."""
    return count_experts(site) - count_zero_experts(site)


def _routed_parameters(site: Site) -> list[nn.Parameter]:
    named = site.module.named_parameters()
    if site.class_name == "DogeCDMoE":
        # A dense MLP, and experts that are a row of each of two embeddings.
        return [parameter for path, parameter in named if path.startswith(("down_embed", "up_embed"))]
    return [parameter for path, parameter in named if not _NOT_EXPERTS.match(path)]


def _shared_experts(model: nn.Module, sites: Iterable[Site]) -> list[nn.Module]:
    return [shared for site in sites for shared in shared_experts_of(model, site).values()]


def _expert_width(experts: Any, parameters: Sequence[nn.Parameter], d_model: int | None) -> int | None:
    """F: the least width that an expert's matrices have besides D, since gate and up may be stacked to 2F."""
    if type(experts).__name__ == "DogeCDMoE":
        return 1
    if hasattr(experts, "ffn_hidden_size"):  # DBRX keeps all experts' rows in one matrix.
        return int(experts.ffn_hidden_size)
    # Stacked matrices have three axes, and then two axes are a bias.
    num_axes = max((parameter.dim() for parameter in parameters), default=0)
    others = []
    for parameter in parameters:
        widths = list(parameter.shape[-2:])
        if parameter.dim() == num_axes and d_model in widths:
            widths.remove(d_model)
            others += widths
    return min(others, default=None)


def _first(config: Any, names: Iterable[str]) -> int | None:
    values = (getattr(config, name, None) for name in names)
    return next((value for value in values if isinstance(value, int)), None)
