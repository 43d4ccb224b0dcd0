"""Load a causal language model with experts and its tokenizer, or say in a line what is missing."""

from __future__ import annotations

from typing import Any

from torch import nn

from headgate.errors import ArtifactError, InputError
from headgate.integrations.transformers.hub import reading_options
from headgate.integrations.transformers.inspection import find_sites_on_meta, load_config

_REFUSALS = (OSError, ValueError, KeyError, ImportError, RuntimeError)
"""What transformers raises where a file is missing, is none of its own, or needs a package that is not installed."""


def load_causal_model(name: str) -> nn.Module:
    """A causal language model with experts, in the dtype of its weights and in eval mode.

    What its configuration rules out is refused before any weight is read.

    Args:
        name: a directory or a Hub id.

    Raises:
        ArtifactError: there is no such model, or its weights are missing.
        InputError: it has no MoE layer, has an encoder, or is no language model.
    """
    from transformers import AutoModelForCausalLM

    config = load_config(name)
    _require_one_text(config, name)
    find_sites_on_meta(config, name)
    try:
        model: nn.Module = AutoModelForCausalLM.from_pretrained(name, dtype="auto", **reading_options(name))
    except _REFUSALS as error:
        raise ArtifactError(
            f"the weights of {name} can't be loaded: {first_line(error)}; give the directory or Hub id of a whole "
            "checkpoint"
        ) from error
    return model.eval()


def load_tokenizer(name: str) -> Any:
    """The tokenizer of a model.

    Args:
        name: a directory or a Hub id.

    Raises:
        ArtifactError: there is none, or a package that it needs is missing.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, **reading_options(name))
    except _REFUSALS as error:
        raise ArtifactError(
            f"the tokenizer of {name} can't be loaded: {first_line(error)}; save it beside the weights with "
            "tokenizer.save_pretrained"
        ) from error


def first_line(error: Exception) -> str:
    """What an error says first, to stand within a sentence."""
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return lines[0].rstrip(".: ")


def _require_one_text(config: Any, name: str) -> None:
    """Refuse what one text can't be run through as a whole."""
    from transformers import AutoModelForCausalLM

    instead = "run it yourself within headgate.tap, or use headgate inspect and headgate size"
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(
            f"model (={name}) of type {config.model_type!r} must be a causal language model, and it has an encoder: "
            f"its layers see two texts; {instead}"
        )
    if type(config) not in AutoModelForCausalLM._model_mapping:
        raise InputError(
            f"model (={name}) of type {config.model_type!r} must be a causal language model, and transformers has none "
            f"of this type; {instead}"
        )
