"""A small decoder: attention as usual, and in the place of each MLP a `headgate.MoE`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from headgate.demo.config import ModelConfig, balance_of, expert_width, router_spec, shared_spec
from headgate.nn import MoE
from headgate.spec import family

_ROTARY_BASE = 10_000.0
_INITIAL_STD = 0.02


class Attention(nn.Module):
    """Causal self-attention with rotary positions."""

    def __init__(self, d_model: int, num_heads: int, *, num_layers: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.qkv = nn.Linear(d_model, 3 * d_model, bias=False)
        self.out = nn.Linear(d_model, d_model, bias=False)
        nn.init.normal_(self.qkv.weight, std=_INITIAL_STD)
        # What is added to the residual stream starts smaller, the more layers add to it (GPT-2).
        nn.init.normal_(self.out.weight, std=_INITIAL_STD / math.sqrt(2 * num_layers))

    def forward(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        """Let each token read the tokens up to itself."""
        heads = self.qkv(x).unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind(0)
        mixed = F.scaled_dot_product_attention(rotate(query), rotate(key), value, is_causal=True)
        out: Tensor = self.out(mixed.transpose(1, 2).flatten(2))
        return out


def rotate(x: Float[Tensor, "B H S d"]) -> Float[Tensor, "B H S d"]:
    """Turn each pair of features by an angle that grows with the position.

    References:
        Su et al., "RoFormer", 2021, https://arxiv.org/abs/2104.09864, equation 34.
    """
    half = x.shape[-1] // 2
    frequencies = _ROTARY_BASE ** (-torch.arange(half, device=x.device, dtype=torch.float32) / half)
    angles = torch.arange(x.shape[-2], device=x.device, dtype=torch.float32)[:, None] * frequencies
    cos, sin = angles.cos().to(x.dtype), angles.sin().to(x.dtype)
    first, second = x.chunk(2, dim=-1)
    return torch.cat([first * cos - second * sin, first * sin + second * cos], dim=-1)


class DenseMLP(nn.Module):
    """down(silu(gate(x)) * up(x)): what an MoE layer replaces."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate_up = nn.Linear(d_model, 2 * d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Float[Tensor, "B S D"]) -> Float[Tensor, "B S D"]:
        """Run the MLP on every token."""
        gate, up = self.gate_up(x).chunk(2, dim=-1)
        out: Tensor = self.down(F.silu(gate) * up)
        return out


class Layer(nn.Module):
    """One decoder layer."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.attention_norm = nn.RMSNorm(config.d_model)
        self.attention = Attention(config.d_model, config.num_heads, num_layers=config.num_layers)
        self.mlp_norm = nn.RMSNorm(config.d_model)
        self.is_routed = config.feed_forward == "moe"
        if self.is_routed:
            self.moe = make_moe(config)
        else:
            self.mlp = DenseMLP(config.d_model, dense_width(config))

    def forward(self, x: Float[Tensor, "B S D"], token_ids: Int[Tensor, "B S"]) -> Float[Tensor, "B S D"]:
        """Run the layer; the token ids are for routers that go by them."""
        x = x + self.attention(self.attention_norm(x))
        hidden = self.mlp_norm(x)
        y: Tensor = self.moe(hidden, token_ids=token_ids) if self.is_routed else self.mlp(hidden)
        return x + y


class DemoModel(nn.Module):
    """A decoder-only language model with tied embeddings."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocab_size, config.d_model)
        self.layers = nn.ModuleList(Layer(config) for _ in range(config.num_layers))
        self.norm = nn.RMSNorm(config.d_model)
        nn.init.normal_(self.embedding.weight, std=_INITIAL_STD)

    def forward(self, token_ids: Int[Tensor, "B S"]) -> Float[Tensor, "B S V"]:
        """Compute the logits of each position's next token."""
        x = self.embedding(token_ids)
        for layer in self.layers:
            x = layer(x, token_ids)
        return F.linear(self.norm(x), self.embedding.weight)


def make_moe(config: ModelConfig) -> MoE:
    """The MoE layer of a demo model."""
    return MoE(
        config.d_model,
        expert_width(config),
        router=router_spec(config),
        experts=family(config.router).experts,
        shared=shared_spec(config),
        balance=balance_of(config),
    )


def is_routed(model: nn.Module) -> bool:
    """Whether a model holds an MoE layer."""
    return any(isinstance(module, MoE) for module in model.modules())


@dataclass(frozen=True, slots=True, kw_only=True)
class ParameterCounts:
    """Parameters of a model, embeddings included.

    Attributes:
        total: all of them.
        active: those that work on one token, which gets K of E experts.
    """

    total: int
    active: int


def count_parameters(model: nn.Module) -> ParameterCounts:
    """Count a model's parameters."""
    total = sum(parameter.numel() for parameter in model.parameters())
    idle = sum(_idle_parameters(module) for module in model.modules() if isinstance(module, MoE))
    return ParameterCounts(total=total, active=total - idle)


def _idle_parameters(moe: MoE) -> int:
    """Count the parameters of the E - K experts that a token does not get."""
    spec = moe.router.spec
    routed = sum(parameter.numel() for parameter in moe.experts.parameters())
    return routed * (spec.num_experts - spec.top_k) // spec.num_experts


def dense_width(config: ModelConfig) -> int:
    """Hidden units with which a dense MLP has as many parameters as are active in the MoE layer, router included."""
    with torch.device("meta"):
        active = count_parameters(make_moe(config)).active
    return max(1, round(active / (3 * config.d_model)))
