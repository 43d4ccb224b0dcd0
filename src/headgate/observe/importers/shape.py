"""What a foreign file does not say and the model's config does: how many experts, and which layers have any."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from headgate.errors import InputError
from headgate.observe.importers.decode import read_json

_EXPERTS = ("n_routed_experts", "num_local_experts", "num_experts", "moe_num_experts")
_TOP_K = ("num_experts_per_tok", "num_experts_per_token", "moe_topk", "moe_k", "top_k_experts")


MAX_SIZE = 65535
"""Experts that a trace can hold, and more layers and choices than any model has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RouterShape:
    """The model that a routing belongs to. None = not known.

    Attributes:
        num_experts: E.
        top_k: K.
        num_layers: decoder layers, dense ones included.
        moe_layers: the decoder layers with experts, in order.
        num_rows: layers that the file holds for each token; None = the routed ones, or all.
    """

    num_experts: int | None = None
    top_k: int | None = None
    num_layers: int | None = None
    moe_layers: tuple[int, ...] | None = None
    num_rows: int | None = None

    def __post_init__(self) -> None:
        for name in ("num_experts", "top_k", "num_layers", "num_rows"):
            value = getattr(self, name)
            if value is not None and not 1 <= value <= MAX_SIZE:
                raise InputError(f"{name} (={value}) must be between 1 and {MAX_SIZE}; give the model's own")
        layers = self.moe_layers
        if layers is not None and (len(set(layers)) != len(layers) or not all(0 <= n < MAX_SIZE for n in layers)):
            raise InputError(
                f"moe_layers (={list(layers)[:8]}) must be distinct decoder layers, from 0; name each once"
            )

    def require(self, name: str, option: str) -> int:
        """A size without which the file can't be read.

        Raises:
            InputError: it isn't known.
        """
        value: int | None = getattr(self, name)
        if value is None:
            raise InputError(f"{name} is not in the file; give the model's config.json (--config) or {option}")
        return value

    def require_layers(self, layers: Iterable[int], path: Path) -> None:
        """That the layers which a file names have experts in this model, where that is known.

        Raises:
            InputError: one of them has none.
        """
        found = sorted(layers)
        if self.moe_layers is not None and not set(found) <= set(self.moe_layers):
            raise InputError(
                f"{path} has the layers {found[:8]}, and experts are in {list(self.moe_layers)[:8]} by --config or "
                "--layers; give the model's own, or leave --layers out, as the file names its layers"
            )


def shape_of_config(path: Path) -> RouterShape:
    """Read the shape from a `config.json`.

    Which layers have experts follows from `first_k_dense_replace` and `moe_layer_freq` (DeepSeek), or
    `decoder_sparse_step` and `mlp_only_layers` (Qwen), or `interleave_moe_layer_step` and `moe_layers` (Llama 4);
    where none of them is there, every layer has.

    Raises:
        ArtifactError: no JSON object.
        InputError: no number of experts in it.
    """
    config = read_json(path)
    if not isinstance(config, dict):
        raise InputError(f"{path} holds no JSON object; give the model's config.json")
    text = config.get("text_config")
    values: Mapping[str, Any] = {**config, **text} if isinstance(text, dict) else config
    num_experts = _first_int(values, _EXPERTS)
    if num_experts is None:
        raise InputError(f"{path} has none of {', '.join(_EXPERTS)}; give a Mixture-of-Experts model's config")
    # The sizes are checked before anything is made of them.
    shape = RouterShape(
        num_experts=num_experts, top_k=_first_int(values, _TOP_K), num_layers=_int(values, "num_hidden_layers")
    )
    return shape if shape.num_layers is None else replace(shape, moe_layers=_moe_layers(values, shape.num_layers))


def _moe_layers(values: Mapping[str, Any], num_layers: int) -> tuple[int, ...]:
    listed = values.get("moe_layers")
    if isinstance(listed, list) and all(type(layer) is int for layer in listed):
        return tuple(listed)
    first = _int(values, "first_k_dense_replace") or 0
    pattern = values.get("moe_layer_freq")
    if isinstance(pattern, list):
        return tuple(layer for layer, has_experts in enumerate(pattern) if has_experts)
    every = _int(values, "moe_layer_freq") or 1
    step = _int(values, "decoder_sparse_step") or _int(values, "interleave_moe_layer_step") or 1
    listed_dense = values.get("mlp_only_layers")
    dense = listed_dense if isinstance(listed_dense, list) else []
    return tuple(
        layer
        for layer in range(num_layers)
        if layer >= first and layer % every == 0 and (layer + 1) % step == 0 and layer not in dense
    )


def _first_int(values: Mapping[str, Any], names: tuple[str, ...]) -> int | None:
    return next((found for name in names if (found := _int(values, name)) is not None), None)


def _int(values: Mapping[str, Any], name: str) -> int | None:
    value = values.get(name)
    return value if type(value) is int else None
