"""What a model is made of: its weights by role, its routed layers, and how many parameters a token uses."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Literal

from headgate.errors import SpecError


class Role(StrEnum):
    """What a weight is there for."""

    ROUTED_EXPERTS = "routed_experts"
    SHARED_EXPERTS = "shared_experts"
    ROUTER = "router"
    ATTENTION = "attention"
    DENSE_MLP = "dense_mlp"
    EMBEDDING = "embedding"
    HEAD = "head"
    OTHER = "other"
    MTP = "mtp"
    VISION = "vision"
    AUDIO = "audio"


ROLE_TITLES: Mapping[Role, str] = {
    Role.ROUTED_EXPERTS: "routed experts",
    Role.SHARED_EXPERTS: "shared experts",
    Role.ROUTER: "router",
    Role.ATTENTION: "attention",
    Role.DENSE_MLP: "MLP outside the experts",
    Role.EMBEDDING: "embedding",
    Role.HEAD: "head",
    Role.OTHER: "norms and the rest",
    Role.MTP: "multi-token prediction",
    Role.VISION: "vision tower",
    Role.AUDIO: "audio tower",
}

NOT_FOR_A_TEXT_TOKEN = (Role.MTP, Role.VISION, Role.AUDIO)
"""Held in memory, and not run when a text token is decoded."""

CONVENTIONS: Mapping[str, str] = {
    "no_embeddings": "no embeddings",
    "with_head": "with the head",
    "with_embeddings_and_head": "with embeddings and head",
}
"""The ways in which vendors count active parameters, by name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightGroup:
    """Weights of one role and shape.

    Attributes:
        role: what they are there for.
        shape: of one tensor; experts are stacked along its first axis.
        count: how many such tensors there are.
        is_matrix: whether products read it, so that quantisation applies to it: no norm, no bias.
    """

    role: Role
    shape: tuple[int, ...]
    count: int
    is_matrix: bool

    @property
    def num_parameters(self) -> int:
        """Of all its tensors."""
        return self.count * math.prod(self.shape)


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedLayer:
    """One layer whose experts are routed.

    Attributes:
        path: its module path.
        layer_index: the decoder layer.
        num_experts: E, experts that have weights.
        top_k: K, choices of a token; of expert choice, choices of a token on average.
        expert_parameters: of one expert.
        d_model: values of a token that travel to an expert (fewer than the model's width in latent experts).
        d_ff: hidden values of an expert; 0 where its weights don't say it.
        num_zero_experts: choices without weights and work, such as the identity.
        selection: who chooses. With expert choice every expert takes its tokens, so all are touched.
        token_fraction: of the tokens, those that enter the layer: below 1 in Mixture-of-Depths, 0 where experts
            serve another kind of token than text.
    """

    path: str
    layer_index: int
    num_experts: int
    top_k: int | float
    expert_parameters: int
    d_model: int
    d_ff: int
    num_zero_experts: int = 0
    selection: Literal["token_choice", "expert_choice"] = "token_choice"
    token_fraction: int | float = 1.0

    def __post_init__(self) -> None:
        """Refuse what no layer can be."""
        num_choices = self.num_experts + self.num_zero_experts
        if self.num_experts < 1:
            raise SpecError(f"num_experts (={self.num_experts}) of {self.path} must be at least 1; check the model")
        if not 0 < self.top_k <= num_choices:
            raise SpecError(
                f"top_k (={self.top_k:g}) of {self.path} must be from 1 to the number of experts (={num_choices}); "
                "choose fewer experts a token"
            )
        if not 0 <= self.token_fraction <= 1:
            raise SpecError(f"token_fraction (={self.token_fraction}) must be from 0 to 1; pass a part of the tokens")

    @property
    def mean_choices(self) -> float:
        """Choices of a token that have weights, on average over all tokens: K E / (E + Z), times the fraction."""
        return self.token_fraction * self.top_k * self.num_experts / (self.num_experts + self.num_zero_experts)

    @property
    def num_parameters(self) -> int:
        """Of all its experts."""
        return self.num_experts * self.expert_parameters


@dataclass(frozen=True, slots=True, kw_only=True)
class CacheLayer:
    """What one layer keeps of the tokens before.

    Attributes:
        layer_index: its place among the layers that keep something.
        values_per_token: numbers for each token kept. A layer that compresses 4 tokens into one keeps a fraction.
        window: tokens that it keeps at most; None for all.
        num_heads: heads that tensor parallelism can share out; 1 for a latent, which each rank then holds whole.
        state_bytes: of a sequence, whatever its length: the state of linear attention, of an SSM, of a convolution.
        score_width: multiply-adds for each pair of a query token and a kept token, when decoding.
        prompt_score_width: the same when reading a prompt, where latents are expanded into keys and values, which
            takes fewer; None where it is the same.
        attended: tokens that a query looks at, at most, where an indexer chooses them; None for all kept.
        is_latent: whether keys and values are kept as one latent vector.
    """

    layer_index: int
    values_per_token: float
    window: int | None = None
    num_heads: int = 1
    state_bytes: int = 0
    score_width: int = 0
    prompt_score_width: int | None = None
    attended: int | None = None
    is_latent: bool = False

    @property
    def kind(self) -> str:
        """The kind in a word."""
        if not self.values_per_token:
            return "state"
        if self.is_latent:
            return "latent"
        return "sliding" if self.window is not None else "full"


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelShape:
    """A model as sizing sees it.

    Attributes:
        name, model_type, class_name: what was asked for, its architecture, its class.
        d_model, vocab_size, num_layers: width, words of the head (0 without one), decoder layers.
        weights: all of them, grouped.
        routed: layers with routed experts; empty for a dense model.
        cache: what its layers keep of a sequence.
        tied_head: parameters of the embedding that serve as the head too; 0 where the head has its own.
        dtype, expert_dtype: formats that the configuration states; None where it states none.
        notes: what a reader of the figures must know.
    """

    name: str
    model_type: str
    class_name: str
    d_model: int
    vocab_size: int
    num_layers: int
    weights: tuple[WeightGroup, ...]
    routed: tuple[RoutedLayer, ...]
    cache: tuple[CacheLayer, ...]
    tied_head: int = 0
    dtype: str | None = None
    expert_dtype: str | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Hold what the counts rely on: the routed layers are the weights of that role."""
        by_weights = self.by_role()[Role.ROUTED_EXPERTS]
        by_layers = sum(layer.num_parameters for layer in self.routed)
        assert by_weights == by_layers, f"{self.name}: {by_weights} parameters of experts, in layers {by_layers}"

    @property
    def total(self) -> int:
        """Parameters, each counted once."""
        return sum(group.num_parameters for group in self.weights)

    def by_role(self) -> dict[Role, int]:
        """Parameters of each role; they sum to the total."""
        counts: Counter[Role] = Counter()
        for group in self.weights:
            counts[group.role] += group.num_parameters
        return {role: counts[role] for role in Role}

    def active_experts(self) -> int:
        """Parameters of routed experts that a token uses, over all layers; rounded where K is a mean."""
        return sum(round(layer.mean_choices * layer.expert_parameters) for layer in self.routed)

    def active(self) -> dict[str, int]:
        """Parameters that a text token uses, in each convention of `CONVENTIONS`.

        A tied matrix counts with the head, for it is multiplied there, and not a second time as the embedding.
        """
        roles = self.by_role()
        outside = (Role.ROUTED_EXPERTS, Role.EMBEDDING, Role.HEAD, *NOT_FOR_A_TEXT_TOKEN)
        body = sum(count for role, count in roles.items() if role not in outside) + self.active_experts()
        with_head = body + roles[Role.HEAD] + self.tied_head
        return {
            "no_embeddings": body,
            "with_head": with_head,
            "with_embeddings_and_head": with_head + roles[Role.EMBEDDING] - self.tied_head,
        }
