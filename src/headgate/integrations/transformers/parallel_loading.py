"""Load a model of transformers with some of its experts: no process ever holds the others, not even while it loads."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from headgate.errors import ArtifactError, BackendError
from headgate.integrations.transformers.expert_rows import choose_tensors, first_dtype, keep_experts, read_slices
from headgate.integrations.transformers.inspection import build_on_meta, load_config
from headgate.integrations.transformers.sites import Site

_INDEX = "model.safetensors.index.json"


def load_experts(
    path: str, held: Mapping[str, tuple[int, ...]], *, skeleton: nn.Module, sites: list[Site], **options: Any
) -> Any:
    """Load a checkpoint with some of its experts, by transformers' own loader and conversions.

    Args:
        path: a directory, or a Hub id.
        held: the experts to load by the path of their module, in the order that their parameters shall have.
        skeleton: of the checkpoint, see `build_skeleton`.
        sites: the skeleton's experts.
        options: of `from_pretrained`, such as `dtype`.

    Returns:
        The model, in eval mode; the parameters of experts have as many rows as `held` names.

    Raises:
        ArtifactError: no checkpoint in safetensors, or not that of the configuration.
        BackendError: a conversion that mixes experts.
    """
    folder = _find_folder(path)
    tensors = read_slices(_list_files(folder))
    chosen = choose_tensors(skeleton, sites, held, tensors)
    config = load_config(str(folder))
    dtype = options.pop("dtype", None) or config.dtype or first_dtype(tensors)
    counts = {path: len(experts) for path, experts in held.items()}
    made = _with_fewer_experts(type(skeleton), counts)
    model = made.from_pretrained(
        None, config=config, state_dict=chosen, dtype=dtype, generation_config=_read_generation(folder), **options
    )
    model.__class__ = type(skeleton)
    model.name_or_path = model.config.name_or_path = path
    return model


def build_skeleton(path: str, model_class: Any = None) -> nn.Module:
    """Build a checkpoint's model on the meta device.

    Args:
        path: a directory, or a Hub id.
        model_class: of transformers; None = the one that its auto classes have for the configuration.

    Raises:
        ArtifactError: there is none, or transformers has no model for it.
        BackendError: it is quantised.
    """
    config = load_config(path)
    if getattr(config, "quantization_config", None) is not None:
        raise BackendError(
            f"model (={path}) is quantised, and quantised experts keep the backend that they came with; "
            "use a checkpoint in float32, float16 or bfloat16"
        )
    if model_class is None:
        return build_on_meta(config, str(path))
    with torch.device("meta"):
        built: nn.Module = model_class(config)
    return built


def _with_fewer_experts(kind: type[nn.Module], counts: Mapping[str, int]) -> Any:
    """The same class, whose instances have room for the given number of experts at each path.

    The loader fills a model that it has made itself, so the class is the place to say so.
    """

    def init(self: Any, *args: Any, **kwargs: Any) -> None:
        kind.__init__(self, *args, **kwargs)
        for path, count in counts.items():
            keep_experts(self.get_submodule(path), count)

    empty = [rf"^{path.replace('.', chr(92) + '.')}\." for path, count in counts.items() if not count]
    ignored = [*(getattr(kind, "_keys_to_ignore_on_load_missing", None) or ()), *empty]
    members = {"__init__": init, "__module__": kind.__module__, "_keys_to_ignore_on_load_missing": ignored}
    return type(kind.__name__, (kind,), members)


def _find_folder(path: str) -> Path:
    """A checkpoint's folder: the directory itself, or where the Hub's cache keeps it."""
    if Path(path).is_dir():
        return Path(path)
    from huggingface_hub import snapshot_download

    return Path(snapshot_download(path, allow_patterns=["*.safetensors", "*.json"]))


def _list_files(folder: Path) -> list[Path]:
    index = folder / _INDEX
    if index.is_file():
        names = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
        return [folder / name for name in dict.fromkeys(names)]
    if not (folder / "model.safetensors").is_file():
        raise ArtifactError(
            f"{folder} holds no model.safetensors; save the model with save_pretrained, which writes safetensors"
        )
    return [folder / "model.safetensors"]


def _read_generation(folder: Path) -> Any:
    from transformers import GenerationConfig

    if not (folder / "generation_config.json").is_file():
        return None
    return GenerationConfig.from_pretrained(folder)
