"""The shape of the model that a trace was recorded from: what its sizes follow from, in a few numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any

from torch import nn

from headgate.nn.experts import Experts, SharedExpert


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordedShape:
    """Widths and parameter counts of a model. None where it is not known.

    Attributes:
        d_model: D.
        d_ff: F, the hidden width of one routed expert.
        num_layers: decoder layers, with experts or without.
        vocab_size: of the embedding.
        dtype: of the routed experts' weights, as in "bfloat16".
        num_parameters: of the whole model; what is tied counts once.
        num_expert_parameters: of one routed expert of one layer; where layers differ, of the largest.
        num_routed_parameters: of all routed experts of all layers.
        num_shared_parameters: of all shared experts, their gates included.
        num_other_parameters: of all else, routers included.
    """

    d_model: int | None
    d_ff: int | None
    num_layers: int | None
    vocab_size: int | None
    dtype: str
    num_parameters: int
    num_expert_parameters: int
    num_routed_parameters: int
    num_shared_parameters: int
    num_other_parameters: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values, for a trace's metadata."""
        return asdict(self)

    @classmethod
    def from_metadata(cls, metadata: Mapping[str, Any]) -> RecordedShape | None:
        """The shape that a trace's metadata holds; None where there is none, or a part of one."""
        noted = metadata.get("model_shape") or {}
        names = {field.name for field in fields(cls)}
        return cls(**{name: noted[name] for name in names}) if names <= noted.keys() else None


def shape_of(model: nn.Module, *, num_layers: int | None = None, vocab_size: int | None = None) -> RecordedShape:
    """Measure a model of Headgate layers.

    Args:
        model: that holds at least one `headgate.MoE`.
        num_layers: its decoder layers, which only the caller knows.
        vocab_size: of its embedding.

    Example:
        >>> import headgate
        >>> layer = headgate.MoE(8, 16, num_experts=4, top_k=2)
        >>> shape = shape_of(layer)
        >>> shape.num_parameters, shape.num_expert_parameters, shape.num_other_parameters
        (1568, 384, 32)
    """
    experts = [module for module in model.modules() if isinstance(module, Experts)]
    shared = [module for module in model.modules() if isinstance(module, SharedExpert)]
    total, routed, always = (count_parameters(*group) for group in ([model], experts, shared))
    first = experts[0]
    return RecordedShape(
        d_model=first.d_model,
        d_ff=first.d_ff,
        num_layers=num_layers,
        vocab_size=vocab_size,
        dtype=str(first.down_proj.dtype).removeprefix("torch."),
        num_parameters=total,
        num_expert_parameters=max(count_parameters(module) // module.num_experts for module in experts),
        num_routed_parameters=routed,
        num_shared_parameters=always,
        num_other_parameters=total - routed - always,
    )


def describe_shape(model: nn.Module, **known: int | None) -> dict[str, Any]:
    """A model's shape as the metadata of its trace holds it; nothing for a model that holds no experts of Headgate.

    Args:
        model: any module.
        known: what `shape_of` can't see.
    """
    if not any(isinstance(module, Experts) for module in model.modules()):
        return {}
    return {"model_shape": shape_of(model, **known).to_dict()}


def count_parameters(*modules: nn.Module) -> int:
    """Count the parameters of some modules; what they share counts once."""
    return sum(parameter.numel() for parameter in {p: None for module in modules for p in module.parameters()})
