"""Load a causal language model with experts and its tokenizer, or say in a line what is missing."""

from __future__ import annotations

import textwrap
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from safetensors import SafetensorError
from torch import nn

from headgate.errors import ArtifactError, InputError
from headgate.integrations.transformers.hub import reading_options
from headgate.integrations.transformers.inspection import find_sites_on_meta, load_config
from headgate.wording import number_of

_REFUSALS = (OSError, ValueError, KeyError, ImportError, RuntimeError, SafetensorError, UnpicklingError)
"""What transformers raises where a file is missing, cut off or none of its own, or needs a package that isn't there."""


def load_causal_model(name: str) -> nn.Module:
    """A causal language model with experts, in the dtype of its weights and in eval mode.

    One that sees pictures or hears, too, is loaded whole and can be given text alone. What its configuration rules out
    is refused before any weight is read.

    Args:
        name: a directory or a Hub id.

    Raises:
        ArtifactError: there is no such model, or weights of it are missing.
        InputError: it has no MoE layer, has an encoder, or is no language model.
    """
    if Path(name).is_file():
        raise ArtifactError(
            f"{name} is a file, and a model is run from the directory that holds its weights; give that"
        )
    config = load_config(name)
    kind = _choose_loader(config, name)
    find_sites_on_meta(config, name)
    try:
        model, found = kind.from_pretrained(name, dtype="auto", output_loading_info=True, **reading_options(name))
    except _REFUSALS as error:
        raise ArtifactError(
            f"the weights of {name} can't be loaded: {_reason(error)}; give the directory or Hub id of a whole "
            "checkpoint"
        ) from error
    if missing := sorted(found["missing_keys"]):
        raise ArtifactError(
            f"{name} lacks {number_of(len(missing), 'tensor')} of its model, which would be drawn at random: "
            f"{textwrap.shorten(', '.join(missing), 160, placeholder=' ...')}; give a whole checkpoint"
        )
    whole: nn.Module = model.eval()
    return whole


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
            f"the tokenizer of {name} can't be loaded: {_reason(error)}; save it beside the weights with "
            "tokenizer.save_pretrained"
        ) from error


def _reason(error: Exception) -> str:
    """What an error says, to stand within a sentence: its first line, and what follows where that ends in a colon."""
    whole = str(error).strip() or type(error).__name__
    first = whole.splitlines()[0].rstrip()
    said = whole if first.endswith(":") else first
    return textwrap.shorten(said.rstrip("."), 160, placeholder=" ...")


def _choose_loader(config: Any, name: str) -> Any:
    """The automatic class that loads a model which one text can be run through as a whole."""
    from transformers import AutoModelForCausalLM, AutoModelForMultimodalLM

    instead = "run it yourself within headgate.tap, or use headgate inspect"
    if getattr(config, "is_encoder_decoder", False):
        raise InputError(
            f"model (={name}) of type {config.model_type!r} must be a causal language model, and it has an encoder: "
            f"its layers see two texts; {instead} and headgate size"
        )
    for kind in (AutoModelForCausalLM, AutoModelForMultimodalLM):
        if type(config) in kind._model_mapping:
            return kind
    raise InputError(
        f"model (={name}) of type {config.model_type!r} must be a causal language model, and transformers has none "
        f"of this type; {instead}"
    )
