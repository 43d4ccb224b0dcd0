"""What a demo run is made of, as frozen values that are saved beside it."""

from __future__ import annotations

import dataclasses
import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from headgate.balance import Balance
from headgate.errors import SpecError
from headgate.spec import Capacity, GroupLimit, RouterSpec, SharedSpec, family, preset

BalanceChoice = Literal["off", "switch", "z", "importance", "sequence", "global-batch", "bias"]
FeedForward = Literal["moe", "dense"]

_USUAL_TOP_K = 2
_GROUP_SIZE = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelConfig:
    """The model of the demo.

    Attributes:
        router: a preset's name.
        num_experts: E.
        top_k: K; None = the preset's own, at most 2: the demo's experts are few.
        capacity: rows that an expert takes at most, as a multiple of an even share; None = the preset's own.
        balance: what keeps the experts evenly used; see `usual_balance`.
        feed_forward: "moe", or "dense" for one MLP with as many parameters as are active in the MoE layer.
        num_layers: L.
        d_model: D.
        num_heads: attention heads; D must be divisible by them.
        active_width: hidden units that work on each token. An expert has this divided by K (and by one more for a
            shared expert), so that every router costs the same compute.
        vocab_size: entries of the tokenizer.
    """

    router: str = "mixtral"
    num_experts: int = 8
    top_k: int | None = None
    capacity: float | None = None
    balance: BalanceChoice = "switch"
    feed_forward: FeedForward = "moe"
    num_layers: int = 4
    d_model: int = 128
    num_heads: int = 4
    active_width: int = 256
    vocab_size: int = 4096

    def __post_init__(self) -> None:
        if self.d_model % (2 * self.num_heads):
            raise SpecError(f"d_model (={self.d_model}) must be divisible by twice num_heads (={self.num_heads})")
        router_spec(self)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingConfig:
    """How the demo trains.

    Attributes:
        steps: optimizer steps.
        seed: of the weights, the order of the data and the router's noise.
        device: as `torch.device` takes it.
        batch_size: sequences in a batch.
        sequence_length: tokens in a sequence.
        learning_rate: at its peak, after `warmup_steps`; a cosine then takes it to a tenth.
        warmup_steps: steps in which the learning rate rises.
        weight_decay: of matrices; vectors have none.
        max_grad_norm: gradients are scaled down to this norm.
        checkpoint_steps: steps between checkpoints.
    """

    steps: int = 600
    seed: int = 0
    device: str = "cpu"
    batch_size: int = 8
    sequence_length: int = 128
    learning_rate: float = 2e-3
    warmup_steps: int = 50
    weight_decay: float = 0.1
    max_grad_norm: float = 1.0
    checkpoint_steps: int = 100

    def __post_init__(self) -> None:
        for name in ("steps", "batch_size", "sequence_length", "checkpoint_steps"):
            if getattr(self, name) < 1:
                raise SpecError(f"{name} (={getattr(self, name)}) must be at least 1")


@dataclass(frozen=True, slots=True, kw_only=True)
class DemoConfig:
    """A whole run: equal configs give equal losses on the same machine."""

    model: ModelConfig = field(default_factory=ModelConfig)
    training: TrainingConfig = field(default_factory=TrainingConfig)

    def to_dict(self) -> dict[str, Any]:
        """Plain values, with the router's fields as they follow from the preset."""
        return {**dataclasses.asdict(self), "router_spec": router_spec(self.model).to_dict()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> DemoConfig:
        """The config that `to_dict` wrote.

        Raises:
            SpecError: unknown fields, or values that do not fit together.
        """
        try:
            return cls(model=ModelConfig(**values["model"]), training=TrainingConfig(**values["training"]))
        except (KeyError, TypeError) as error:
            version = importlib.metadata.version("headgate")
            raise SpecError(
                f"the config is not one of Headgate {version} ({error}); use the version that wrote it"
            ) from error

    def with_options(self, options: Mapping[str, Any]) -> DemoConfig:
        """This config with some fields replaced, whichever part they belong to."""
        names = {f.name for f in dataclasses.fields(ModelConfig)}
        model = {name: value for name, value in options.items() if name in names}
        training = {name: value for name, value in options.items() if name not in names}
        return DemoConfig(
            model=dataclasses.replace(self.model, **model),
            training=dataclasses.replace(self.training, **training),
        )


def router_spec(model: ModelConfig) -> RouterSpec:
    """The preset's router at the demo's sizes.

    Groups (DeepSeek) become pairs of experts of which half are kept, for the demo has fewer experts than groups.

    Raises:
        SpecError: no such preset, or sizes that do not fit together.
    """
    router = family(model.router).router
    fields: dict[str, Any] = {}
    if router.get("selection") == "hash":
        fields["vocab_size"] = model.vocab_size
    limit = router.get("group_limit")
    if limit is not None and model.num_experts < limit.num_groups * _GROUP_SIZE:
        num_groups = max(1, model.num_experts // _GROUP_SIZE)
        fields["group_limit"] = GroupLimit(
            num_groups=num_groups,
            num_kept=max(1, num_groups // 2),
            group_score=limit.group_score,
            mask_value=limit.mask_value,
        )
    if model.capacity is not None:
        known = router.get("capacity")
        fields["capacity"] = (
            dataclasses.replace(known, factor=model.capacity, absolute=None)
            if known is not None
            else Capacity(factor=model.capacity)
        )
    if model.balance == "bias":
        fields["selection_bias"] = True
    top_k = model.top_k if model.top_k is not None else min(_USUAL_TOP_K, router.get("top_k", _USUAL_TOP_K))
    return preset(model.router, num_experts=model.num_experts, top_k=top_k, **fields)


def usual_balance(router: str) -> BalanceChoice:
    """What keeps a preset's experts evenly used, if nobody asks for anything else.

    The selection bias where the preset has one; nothing where the selection itself is balanced; else Switch's loss.

    Raises:
        SpecError: no such preset.
    """
    known = family(router).router
    if known.get("selection_bias"):
        return "bias"
    if known.get("selection") in ("expert_choice", "sinkhorn", "hash"):
        return "off"
    return "switch"


def balance_of(model: ModelConfig) -> Balance | None:
    """The balance that `MoE` takes."""
    return None if model.balance == "off" else Balance.named(model.balance.replace("-", "_"))


def expert_width(model: ModelConfig) -> int:
    """F: hidden units of one expert."""
    shares = router_spec(model).top_k + (family(model.router).shared != "none")
    return max(1, model.active_width // shares)


def shared_spec(model: ModelConfig) -> SharedSpec | None:
    """The shared expert, for families that have one."""
    kind = family(model.router).shared
    return None if kind == "none" else SharedSpec(d_ff=expert_width(model), gated_output=kind == "gated")


def differing_fields(saved: Mapping[str, Any], wanted: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Name the fields in which two configs differ, each with both values."""
    found: list[str] = []
    for name in sorted(set(saved) | set(wanted)):
        old, new = saved.get(name), wanted.get(name)
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            found += differing_fields(old, new, f"{prefix}{name}.")
        elif old != new:
            found.append(f"{prefix}{name} ({old!r} there, {new!r} here)")
    return found
