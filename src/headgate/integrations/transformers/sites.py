"""Where the experts are in a model of `transformers`, and how each place is called."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from torch import nn


class Kind(Enum):
    """How a module runs its experts."""

    INTERFACE = "dispatches through transformers' experts interface"
    OTHER_INTERFACE = "dispatches through an interface of its own (quantised experts)"
    OUTSIDE = "runs its experts itself"


@dataclass(frozen=True, slots=True, kw_only=True)
class Site:
    """One module that runs experts.

    Attributes:
        path: module path in the model.
        module: the module itself.
        kind: how it runs them.
        layer_index: the decoder (or encoder) layer, as the path says it; -1 where the path has no number.
    """

    path: str
    module: Any
    kind: Kind
    layer_index: int

    @property
    def class_name(self) -> str:
        """The module's class."""
        return type(self.module).__name__


def find_sites(model: nn.Module) -> list[Site]:
    """Find every module that runs experts, in model order; of nested ones the outermost.

    A module outside the interface counts where its class is in `OUTSIDE_CLASSES` or is named as experts.
    """
    sites: list[Site] = []
    for path, module in model.named_modules():
        is_inside = any(path.startswith(f"{site.path}.") for site in sites)
        if runs_experts(module) and not is_inside:
            sites.append(_make_site(path, module))
    return sites


def find_holder(model: nn.Module, paths: Sequence[str]) -> nn.Module:
    """The module that is called with tokens, and has the configuration, of what runs in these places.

    It is the model itself, or the model of transformers that lies in it: a `LightningModule` has one, and calls it
    without being called itself.
    """
    from transformers import PreTrainedModel

    if hasattr(getattr(model, "config", None), "get_text_config"):
        return model
    for path, module in model.named_modules():
        if isinstance(module, PreTrainedModel) and all(place.startswith(f"{path}.") for place in paths):
            return module
    return model


def find_config(model: nn.Module, paths: Sequence[str]) -> Any:
    """The configuration of transformers for what runs in these places, or None."""
    config = getattr(find_holder(model, paths), "config", None)
    return config if hasattr(config, "get_text_config") else None


def layer_index_of(path: str) -> int:
    """The first number in a module path: 3 for `model.layers.3.mlp.experts`; -1 where there is none."""
    number = re.search(r"(?:^|\.)(\d+)(?=\.|$)", path)
    return int(number[1]) if number else -1


# Classes that run their experts outside the interface. The block is the place to act on where the experts alone do
# not see ids and weights.
OUTSIDE_CLASSES = (
    "DbrxExperts",
    "DogeCDMoE",
    "JetMoeMoA",
    "JetMoeMoE",
    "Llama4TextMoe",
    "LongcatFlashExperts",
    "NllbMoeExperts",
    "Step3p7Experts",
    "SwitchTransformersExperts",
    "VitPoseNaiveMoe",
)

_LOOKS_LIKE_EXPERTS = re.compile(r"(?<!Shared)(?<!Parallel)(Experts|NaiveMoe)$")


def runs_experts(module: nn.Module) -> bool:
    """Whether a module runs experts of transformers."""
    if experts_interface(module) is not None:
        return True
    name = type(module).__name__
    if not type(module).__module__.startswith("transformers."):
        return False
    return name in OUTSIDE_CLASSES or bool(_LOOKS_LIKE_EXPERTS.search(name))


def _make_site(path: str, module: nn.Module) -> Site:
    interface = experts_interface(module)
    kind = Kind.OUTSIDE
    if interface is not None:
        kind = Kind.INTERFACE if interface is _main_interface() else Kind.OTHER_INTERFACE
    return Site(path=path, module=module, kind=kind, layer_index=layer_index_of(path))


def experts_interface(module: nn.Module) -> Any:
    """The interface that a module's class looks its experts' function up in, or None.

    `use_experts_implementation` keeps it in the closure of the forward that it puts in place of the model's.
    """
    forward = type(module).forward
    code = getattr(forward, "__code__", None)
    closure = getattr(forward, "__closure__", None)
    if code is None or closure is None or "experts_interface" not in code.co_freevars:
        return None
    return closure[code.co_freevars.index("experts_interface")].cell_contents


def _main_interface() -> Any:
    from transformers.integrations.moe import ALL_EXPERTS_FUNCTIONS

    return ALL_EXPERTS_FUNCTIONS
