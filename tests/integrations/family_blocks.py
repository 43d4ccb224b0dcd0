"""transformers' MoE blocks at small random sizes, and their weights under headgate's names.

Router weights, router biases and tokens lie on grids that make every product and every sum of a router exact in
float32, in any order: tokens are multiples of 1/64 below 4, router weights multiples of 1/256 below 1, so that a
sum of up to 64 products is a multiple of 2**-14 below 2**8 and needs 22 bits of float32's 24. Both grids fit
bfloat16's 8 bits. Logits are then the same bits on both sides, and a difference in ids is never rounding.
"""

from __future__ import annotations

import importlib
import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Generator, Tensor, nn

ROUTER_NAMES = ("gate.weight", "router.weight", "router.bias", "wg.weight", "layer.weight", "classifier")


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """D, F, E, K, and the seed of all weights. Group-limited families use `num_groups`, and keep two."""

    d_model: int
    d_ff: int
    num_experts: int
    top_k: int
    num_groups: int
    seed: int


def make_generator(name: str, seed: int) -> Generator:
    """The same numbers for the same name and seed, on every machine."""
    return torch.Generator().manual_seed(zlib.crc32(f"{name}-{seed}".encode()))


def draw_tokens(generator: Generator, *shape: int) -> Tensor:
    """Normal, rounded to multiples of 1/64 in (-4, 4)."""
    return (torch.randn(shape, generator=generator) * 64).round().clamp(-255, 255) / 64


def draw_router_weights(generator: Generator, shape: torch.Size) -> Tensor:
    """Normal with deviation 1/4, rounded to multiples of 1/256 in (-1, 1)."""
    return (torch.randn(shape, generator=generator) * 64).round().clamp(-255, 255) / 256


def draw_selection_bias(generator: Generator, shape: torch.Size) -> Tensor:
    """Around -1, so that biased scores are negative and a masked score of 0 would beat them."""
    return 0.1 * torch.randn(shape, generator=generator) - 1.0


def build_block(
    module: str,
    block: str,
    config: Mapping[str, Any],
    *,
    generator: Generator,
    gain: float,
    block_arguments: Mapping[str, Any],
) -> nn.Module:
    """transformers' block with random weights, in float32 and eval mode."""
    modeling = importlib.import_module(f"transformers.models.{module}.modeling_{module}")
    configuration = importlib.import_module(f"transformers.models.{module}.configuration_{module}")
    values = dict(config)
    made = getattr(configuration, values.pop("class"))(**values)
    made._experts_implementation = "eager"
    built: nn.Module = getattr(modeling, block)(made, **block_arguments)
    fill(built, generator, gain)
    return built.eval()


@torch.no_grad()
def fill(block: nn.Module, generator: Generator, gain: float) -> None:
    """Random values for every parameter and selection bias; many routers start at zero."""
    for name, parameter in block.named_parameters():
        if any(name.endswith(end) or end + "." in name for end in ROUTER_NAMES):
            parameter.copy_(draw_router_weights(generator, parameter.shape))
        elif name.endswith("e_score_correction_bias"):
            parameter.copy_(draw_selection_bias(generator, parameter.shape))
        else:
            parameter.copy_(gain * 0.2 * torch.randn(parameter.shape, generator=generator))
    for name, buffer in block.named_buffers():
        if name.endswith("e_score_correction_bias"):
            buffer.copy_(draw_selection_bias(generator, buffer.shape))
        elif name.endswith("tid2eid"):
            num_experts = block.get_submodule(name.rpartition(".")[0]).num_experts
            order = torch.rand(buffer.shape[0], num_experts, generator=generator).argsort(dim=1)
            buffer.copy_(order[:, : buffer.shape[1]])


def cast_block(block: nn.Module, dtype: torch.dtype, kept: tuple[str, ...]) -> nn.Module:
    """Cast as `from_pretrained(dtype=...)` does: what a family keeps in float32 stays float32."""
    tensors = {**dict(block.named_parameters()), **dict(block.named_buffers())}
    originals = {name: tensor.data.clone() for name, tensor in tensors.items() if any(key in name for key in kept)}
    block.to(dtype)
    tensors = {**dict(block.named_parameters()), **dict(block.named_buffers())}
    for name, original in originals.items():
        tensors[name].data = original
    return block


# Weights: each of these maps a block's tensors to names in `MoE.state_dict()`.

State = dict[str, Tensor]


def stacked(block: nn.Module) -> State:
    """Gate and up concatenated, [E, 2F, D]: most families."""
    return {"experts.gate_up_proj": block.experts.gate_up_proj, "experts.down_proj": block.experts.down_proj}


def stacked_transposed(block: nn.Module) -> State:
    """[E, D, 2F] and [E, F, D]: Llama 4."""
    return {name: tensor.transpose(1, 2) for name, tensor in stacked(block).items()}


def stacked_transposed_with_bias(block: nn.Module) -> State:
    """As Llama 4's, with biases: gpt-oss. Its interleaved rows stay as they are."""
    biases = {name + "_bias": getattr(block.experts, name + "_bias") for name in ("gate_up_proj", "down_proj")}
    return {**stacked_transposed(block), **{f"experts.{name}": bias for name, bias in biases.items()}}


def flat(block: nn.Module) -> State:
    """w1 (gate), v1 (up) and w2 (down, transposed), each [E * F, D]: DBRX."""
    mlp = block.experts.mlp
    gate, up, down = (
        weight.view(mlp.moe_num_experts, mlp.ffn_hidden_size, mlp.hidden_size) for weight in (mlp.w1, mlp.v1, mlp.w2)
    )
    return {"experts.gate_up_proj": torch.cat([gate, up], dim=1), "experts.down_proj": down.transpose(1, 2)}


def one_by_one(up: str, down: str, *, bias: bool) -> Callable[[nn.Module], State]:
    """A module per expert, without a gate: Switch and NLLB-MoE."""

    def read(block: nn.Module) -> State:
        experts = [block.experts[f"expert_{e}"] for e in range(len(block.experts.keys() - {"token_dropout"}))]
        state = {
            "experts.up_proj": torch.stack([getattr(expert, up).weight for expert in experts]),
            "experts.down_proj": torch.stack([getattr(expert, down).weight for expert in experts]),
        }
        if bias:
            state["experts.up_proj_bias"] = torch.stack([getattr(expert, up).bias for expert in experts])
            state["experts.down_proj_bias"] = torch.stack([getattr(expert, down).bias for expert in experts])
        return state

    return read


def used_rows(block: nn.Module) -> State:
    """LongCat-Flash allots gate and up rows to zero-compute experts too; nothing reads them."""
    experts = block.experts
    return {
        "experts.gate_up_proj": experts.gate_up_proj[: experts.num_routed_experts],
        "experts.down_proj": experts.down_proj,
    }


def shared_weights(block: nn.Module, name: str) -> State:
    """A shared expert of three linear layers, and its output gate where it has one."""
    mlp = getattr(block, name)
    state = {
        "shared_expert.gate_up_proj": torch.cat([mlp.gate_proj.weight, mlp.up_proj.weight]),
        "shared_expert.down_proj": mlp.down_proj.weight,
    }
    if hasattr(block, name + "_gate"):
        state["shared_expert.output_gate"] = getattr(block, name + "_gate").weight
    return state
