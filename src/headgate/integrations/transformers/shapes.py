"""A model of transformers as sizing sees it: built on the meta device, with exact counts and without weights."""

from __future__ import annotations

import math
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

from headgate.errors import ArtifactError, InputError, SpecError
from headgate.integrations.transformers.cache_probe import probe_cache
from headgate.integrations.transformers.formulas import formula_or_reason
from headgate.integrations.transformers.inspection import build_on_meta, load_config
from headgate.integrations.transformers.recorded_shape import count_experts, count_zero_experts
from headgate.integrations.transformers.roles import Classifier, used_shape, weight_of
from headgate.integrations.transformers.sites import Site, find_sites
from headgate.planning.catalogue import CatalogueEntry, Published, catalogue, find_model, suggest_models
from headgate.planning.formats import FORMATS
from headgate.planning.parameters import ModelShape, Role, RoutedLayer
from headgate.wording import number_of

_OF_OTHER_TOKENS = re.compile(r"\.vision_moe\.")
"""Experts that only image tokens go to, in the same layers as those for text (ERNIE 4.5 VL)."""

_FORMAT_NAMES = {"architectures", "dtype", "quantization_config"}
"""What a configuration says besides the shape."""

_TOP_K_NAMES = ("num_experts_per_tok", "num_experts_per_token", "moe_top_k", "top_k_experts", "moe_topk", "moe_k")


def read_model(model: str) -> tuple[ModelShape, Published | None]:
    """Describe a model, with its vendor's figures where the catalogue has them.

    Args:
        model: a name of the catalogue, a directory, a config.json, or a Hub id.

    Raises:
        ArtifactError: there is none, or transformers has no model for it.
        InputError, SpecError: as `model_shape`.
    """
    entry = find_model(model)
    if entry is not None and entry.name == model.lower() and not Path(model).exists():
        return model_shape(_config_of(entry), name=entry.name), entry.published
    try:
        config = load_config(model)
    except ArtifactError as error:
        if Path(model).exists():
            raise
        raise ArtifactError(f"{error}; {suggest_models(model)}") from error
    return model_shape(config, name=model), _published_of_shape(config) if entry is None else entry.published


def _published_of_shape(config: Any) -> Published | None:
    """The vendor's figures of the model in the catalogue that has the same shape, in whatever format it is kept."""
    for entry in catalogue().values():
        if entry.config["model_type"] != config.model_type:
            continue
        known = _config_of(entry)
        if all(getattr(config, name, None) == getattr(known, name) for name in entry.config.keys() - _FORMAT_NAMES):
            published = entry.published
            return replace(published, source=f"{published.source}; of {entry.name}, whose shape this is")
    return None


def _config_of(entry: CatalogueEntry) -> Any:
    from transformers import AutoConfig

    values = dict(entry.config)
    return AutoConfig.for_model(values.pop("model_type"), **values)


def model_shape(config: Any, *, name: str) -> ModelShape:
    """Describe a model from its configuration.

    Args:
        config: of transformers.
        name: what to call it.

    Raises:
        ArtifactError: transformers has no model for it.
        InputError: a value of the configuration builds no model, or it is no language model.
        SpecError: a layer that can't be, such as more choices than experts.

    Example:
        >>> from transformers import MixtralConfig
        >>> model_shape(MixtralConfig(), name="mixtral-8x7b").total
        46702792704
    """
    text = config.get_text_config()
    if not hasattr(text, "hidden_size"):
        raise InputError(
            f"model (={name}) of type {config.model_type!r} must be a language model, or hold one; what its experts "
            "are, headgate inspect says"
        )
    built = build_on_meta(config, name)
    sites = find_sites(built)
    num_experts = {site.path: count_experts(site) - count_zero_experts(site) for site in sites}
    empty = [path for path, number in num_experts.items() if number < 1]
    if empty:
        raise SpecError(f"num_experts (={num_experts[empty[0]]}) of {empty[0]} must be at least 1; check the model")
    classifier = Classifier(built, sites, num_experts)
    layers = [_routed_layer(built, site, num_experts[site.path], classifier) for site in sites]
    head = classifier.head
    is_tied = head is not None and head is weight_of(built, "get_input_embeddings")
    cache, cache_notes = probe_cache(built)
    weights = classifier.groups()
    return ModelShape(
        name=name,
        model_type=config.model_type,
        class_name=type(built).__name__,
        d_model=int(getattr(text, "hidden_size", 0)),
        vocab_size=0 if head is None else int(head.shape[0]),
        num_layers=int(getattr(text, "num_hidden_layers", 0) or 0),
        weights=weights,
        routed=tuple(layer for layer in layers if layer is not None),
        cache=cache,
        tied_head=head.numel() if is_tied and head is not None else 0,
        **_formats(config),
        notes=(*_notes(config, {group.role for group in weights}), *cache_notes),
    )


def _routed_layer(model: Any, site: Site, num_experts: int, classifier: Classifier) -> RoutedLayer | None:
    """The layer of a site; None where it belongs to a tower."""
    shapes = {
        name: used_shape(parameter, site, num_experts)
        for name, parameter in site.module.named_parameters()
        if classifier.role_of(f"{site.path}.{name}", parameter) is Role.ROUTED_EXPERTS
    }
    if not shapes:
        return None
    d_model, d_ff = _widths(model, shapes, num_experts)
    return RoutedLayer(
        path=site.path,
        layer_index=site.layer_index,
        num_experts=num_experts,
        num_zero_experts=count_zero_experts(site),
        top_k=_top_k(model, site),
        expert_parameters=sum(map(math.prod, shapes.values())) // num_experts,
        d_model=d_model,
        d_ff=d_ff,
        token_fraction=0.0 if _OF_OTHER_TOKENS.search(site.path) else 1.0,
    )


def _top_k(model: Any, site: Site) -> int:
    spec = formula_or_reason(model.config, layer_index=site.layer_index).spec
    if spec is not None:
        return spec.top_k
    for holder in (model.config.get_text_config(), site.module, getattr(site.module, "router", None)):
        for name in _TOP_K_NAMES:
            value = getattr(holder, name, None)
            if isinstance(value, int):
                return value
    return 1  # one expert, named by the caller (ViTPose's data sets)


def _widths(model: Any, shapes: dict[str, tuple[int, ...]], num_experts: int) -> tuple[int, int]:
    """D of the experts, which is the model's but for latent experts, and F.

    D is an axis of every matrix of an expert; the other axis is F, 2F or, where experts lie in one matrix, E F.
    """
    matrices = {name: shape for name, shape in shapes.items() if len(shape) >= 2 and not name.endswith("bias")}
    common = set.intersection(*(set(shape[-2:]) for shape in matrices.values()))
    d_model = int(model.config.get_text_config().hidden_size)
    width = d_model if d_model in common or not common else min(common)
    name, last = list(matrices.items())[-1]
    is_of_one = any(part.removeprefix("expert_").isdigit() for part in name.split("."))
    return width, math.prod(last) // width // (1 if is_of_one else num_experts)


def _formats(config: Any) -> dict[str, str | None]:
    """The formats of the weights, as far as the configuration says."""
    dtype = config.dtype or config.get_text_config().dtype
    names = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}
    stated = None if dtype is None else names.get(str(dtype).removeprefix("torch."))
    quantised = getattr(config, "quantization_config", None)
    method = "" if quantised is None else _get(quantised, "quant_method")
    method = str(getattr(method, "value", method))
    if method == "mxfp4":
        return {"dtype": stated or "bf16", "expert_dtype": "mxfp4"}
    if method in ("fp8", "finegrained_fp8"):
        return {"dtype": "fp8", "expert_dtype": "fp8"}
    return {"dtype": stated, "expert_dtype": method if method in FORMATS else None}


def _get(values: Any, name: str) -> Any:
    return values.get(name, "") if isinstance(values, dict) else getattr(values, name, "")


def _notes(config: Any, roles: set[Role]) -> list[str]:
    notes = []
    text = config.get_text_config()
    mtp = getattr(text, "num_nextn_predict_layers", None) or getattr(text, "mtp_num_hidden_layers", None)
    if mtp and Role.MTP not in roles:
        notes.append(
            f"The checkpoint holds {number_of(mtp, 'multi-token-prediction layer')} besides, which "
            "transformers does not load; no count here includes them."
        )
    if getattr(config, "is_encoder_decoder", False):
        notes.append("Encoder and decoder are both counted as active: a token of the answer needs the prompt encoded.")
    if roles & {Role.VISION, Role.AUDIO}:
        notes.append("Towers are in the total and in memory, and not active for a text token.")
    return notes
