"""What a model's MoE layers are, from its configuration alone: no weights are read."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headgate.errors import ArtifactError, InputError, SpecError
from headgate.integrations.transformers.formulas import Formula, formula_from_config
from headgate.integrations.transformers.hub import reading_options
from headgate.integrations.transformers.recorded_shape import count_experts
from headgate.integrations.transformers.sites import Site, find_sites
from headgate.integrations.transformers.switch import LayerBackend, plan_switch
from headgate.integrations.transformers.wires import shared_experts_of
from headgate.kernels.backends import choose_backend
from headgate.observe.shape import count_parameters
from headgate.spec.words import describe_in_symbols, describe_in_words


@dataclass(frozen=True, slots=True, kw_only=True)
class InspectedLayer:
    """One MoE layer.

    Attributes:
        path: module path of what runs its experts.
        layer_index: the decoder (or encoder) layer.
        class_name: its class.
        num_experts: E, zero-compute experts included.
        top_k: K; None where no formula says it.
        words, symbols: the router; "" where no formula says it.
        note: what the formula leaves out.
        num_parameters: of the routed experts.
        shared: module names of experts that every token gets, with their parameter counts.
        backend: what would run the experts on this machine's CPU.
    """

    path: str
    layer_index: int
    class_name: str
    num_experts: int
    top_k: int | None
    words: str
    symbols: str
    note: str
    num_parameters: int
    shared: dict[str, int]
    backend: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Inspection:
    """A model's MoE layers.

    Attributes:
        name: what was asked for.
        model_type: the architecture.
        class_name: the model's class.
        num_layers: decoder layers, with experts or without; None where the configuration doesn't say.
        num_parameters: of the whole model.
        dtype: of the weights, as the configuration says.
        layers: in model order.
    """

    name: str
    model_type: str
    class_name: str
    num_layers: int | None
    num_parameters: int
    dtype: str
    layers: tuple[InspectedLayer, ...]

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)

    def groups(self) -> list[tuple[InspectedLayer, list[int]]]:
        """Layers that are alike in all but their place: the first of each kind, and the places of all."""
        kinds: dict[str, tuple[InspectedLayer, list[int]]] = {}
        for layer in self.layers:
            same = {**asdict(layer), "path": "", "layer_index": 0}
            kinds.setdefault(json.dumps(same, sort_keys=True), (layer, []))[1].append(layer.layer_index)
        return list(kinds.values())


def load_config(model: str) -> Any:
    """The configuration of a directory, a config.json, or a Hub id. The Hub's cache and offline variables are kept.

    Raises:
        ArtifactError: there is none, or transformers does not know the architecture.
    """
    from huggingface_hub.errors import StrictDataclassError
    from transformers import AutoConfig

    path = Path(model)
    if path.is_dir() and not (path / "config.json").is_file():
        raise ArtifactError(f"{model} is no model: it has no config.json; give a directory that save_pretrained wrote")
    if path.suffix == ".json" and not path.is_file():
        raise ArtifactError(f"there is no file {model}; check the path")
    try:
        return AutoConfig.from_pretrained(model, **reading_options(model))
    except StrictDataclassError as error:
        reason = " ".join(str(error).split())
        raise ArtifactError(f"{model} has a value that its architecture does not take: {reason}; mend it") from error
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        said, remedy = f"there is no model {model!r} to read", "check the name, or the connection"
        if path.exists():
            said, remedy = f"{model} has no configuration that transformers can read", "mend it, or update transformers"
        raise ArtifactError(f"{said}: {reason.rstrip('.')}; {remedy}") from error


def require_one_text(config: Any, model: str) -> None:
    """Refuse a model with an encoder, where one text is to be run through all of its layers.

    Raises:
        InputError: says what can be done with such a model.
    """
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(
            f"model (={model}) of type {config.model_type!r} must be a causal language model, and it has an encoder: "
            "its layers see two texts; run it yourself within headgate.tap, or use headgate inspect and headgate size"
        )


def inspect_model(model: str) -> Inspection:
    """Describe the MoE layers of a model, from its configuration.

    Args:
        model: a directory, a config.json, or a Hub id.

    Raises:
        ArtifactError: there is no such model.
        InputError: it has no MoE layers.
    """
    config = load_config(model)
    built = build_on_meta(config)
    sites = find_sites(built)
    if not sites:
        raise InputError(
            f"model (={model}) has no MoE layers; model_type {config.model_type!r} is a dense architecture"
        )
    dtype = config.dtype or config.get_text_config().dtype or torch.float32
    backends = plan_switch(sites)
    return Inspection(
        name=model,
        model_type=config.model_type,
        class_name=type(built).__name__,
        num_layers=getattr(config.get_text_config(), "num_hidden_layers", None),
        num_parameters=count_parameters(built),
        dtype=str(dtype).removeprefix("torch."),
        layers=tuple(_inspect_site(built, site, _backend(config, backends[site.path], dtype)) for site in sites),
    )


def build_on_meta(config: Any) -> nn.Module:
    """The model with shapes and without weights.

    Raises:
        ArtifactError: transformers has no model for the configuration.
    """
    from transformers import AutoModel, AutoModelForCausalLM, AutoModelForMultimodalLM, AutoModelForSeq2SeqLM

    kinds: list[Any] = [AutoModelForCausalLM, AutoModelForSeq2SeqLM, AutoModelForMultimodalLM, AutoModel]
    if config.get_text_config() is not config:
        kinds.insert(0, AutoModelForMultimodalLM)  # with its towers; the first would leave some of them out
    for kind in kinds:
        if type(config) in kind._model_mapping:
            with torch.device("meta"):
                built: nn.Module = kind.from_config(config)
            return built
    raise ArtifactError(f"transformers has no model for model_type {config.model_type!r}; upgrade it")


def _inspect_site(model: nn.Module, site: Site, backend: str) -> InspectedLayer:
    formula = _formula(model, site)
    spec = formula.spec
    return InspectedLayer(
        path=site.path,
        layer_index=site.layer_index,
        class_name=site.class_name,
        num_experts=count_experts(site),
        top_k=None if spec is None else spec.top_k,
        words="" if spec is None else describe_in_words(spec),
        symbols="" if spec is None else describe_in_symbols(spec),
        note=formula.note,
        num_parameters=count_parameters(site.module),
        shared={name: count_parameters(child) for name, child in shared_experts_of(model, site).items()},
        backend=backend,
    )


def _formula(model: nn.Module, site: Site) -> Formula:
    try:
        return formula_from_config(model.config, layer_index=site.layer_index)
    except SpecError as error:
        return Formula(spec=None, gives="nothing", note=str(error))


def _backend(config: Any, planned: LayerBackend, dtype: torch.dtype) -> str:
    if not planned.is_switched:
        return f"theirs: {planned.reason}"
    choice = choose_backend("experts", device_type="cpu", dtype=dtype)
    ours = f"headgate ({choice.backend}): {planned.reason}"
    method = _quantisation(config)
    # Which modules are packed is known once they are loaded, so both are named.
    return (
        f"theirs where the experts are quantised ({method}), which keep their own code; else {ours}" if method else ours
    )


def _quantisation(config: Any) -> str:
    """How a checkpoint says that it is quantised; "" where it isn't."""
    noted = getattr(config, "quantization_config", None) or getattr(
        config.get_text_config(), "quantization_config", None
    )
    if not noted:
        return ""
    method = noted.get("quant_method") if isinstance(noted, dict) else getattr(noted, "quant_method", None)
    return str(getattr(method, "value", method) or "by a method that it does not name")
