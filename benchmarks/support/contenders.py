"""Who computes the experts' function: Headgate, and transformers' own implementations on the very same weights."""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from headgate.dispatch import find_drops, plan_token_choice
from headgate.experts import ExpertWeights, run_experts
from headgate.kernels.function import ExpertFunction
from support.problem import Problem, Shape

DEFAULT_RIVAL = "grouped_mm"
"""What transformers takes where nothing is asked for, on the CPU too: `get_correct_experts_implementation`."""

MOST_TOKENS_BATCHED = 16
"""`batched_mm` copies the weights of every slot, so it is for few tokens only."""

MOST_BYTES_BATCHED = 1 << 32
"""And for small experts: beyond 4 GiB of such copies it is left out."""

_CLASSES = {"olmoe": "Olmoe", "qwen3_moe": "Qwen3Moe", "mixtral": "Mixtral"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Contender:
    """A way to compute y [T, D], and the tensors that get gradients when it is trained."""

    name: str
    run: Callable[[], Tensor]
    leaves: tuple[Tensor, ...]

    def clear(self) -> None:
        """Drop the gradients, and the memory that they hold."""
        for leaf in self.leaves:
            leaf.grad = None


def list_contenders(problem: Problem) -> list[Contender]:
    """Headgate, then transformers' implementations that suit the case."""
    names = rival_names(problem.shape, problem.x.shape[0], problem.x.dtype)
    return [headgate_contender(problem), *[transformers_contender(problem, name) for name in names]]


def rival_names(shape: Shape, num_tokens: int, dtype: torch.dtype) -> list[str]:
    """transformers' implementations; `batched_mm` only where its copies of the weights stay small."""
    names = ["eager", DEFAULT_RIVAL]
    copied = batched_copy_bytes(shape, num_tokens, dtype)
    return [*names, "batched_mm"] if num_tokens <= MOST_TOKENS_BATCHED and copied <= MOST_BYTES_BATCHED else names


def batched_copy_bytes(shape: Shape, num_tokens: int, dtype: torch.dtype) -> int:
    """The copies of weights that `batched_mm` makes: those of one expert for each slot."""
    return num_tokens * shape.top_k * shape.weights_per_expert * dtype.itemsize


def headgate_contender(problem: Problem) -> Contender:
    """`run_experts` on a plan that is made here, once."""
    ids = problem.expert_ids
    plan = plan_token_choice(ids, find_drops(ids, None), num_experts=problem.shape.num_experts, is_dropless=True)
    weights = ExpertWeights(up=problem.gate_up, down=problem.down)
    combine_weights = problem.combine_weights.clone().requires_grad_(problem.x.requires_grad)

    def run() -> Tensor:
        return run_experts(problem.x, plan, combine_weights, weights, ExpertFunction())

    return Contender(name="headgate", run=run, leaves=(problem.x, problem.gate_up, problem.down, combine_weights))


def transformers_contender(problem: Problem, implementation: str) -> Contender:
    """The family's own experts module, which holds the problem's parameters and no others."""
    module = make_transformers_experts(problem.shape, implementation)
    module.gate_up_proj, module.down_proj = problem.gate_up, problem.down
    # Its routers hand over weights in the dtype of the hidden states.
    combine_weights = problem.combine_weights.to(problem.x.dtype).requires_grad_(problem.x.requires_grad)

    def run() -> Tensor:
        return module(problem.x, problem.expert_ids, combine_weights)

    return Contender(name=implementation, run=run, leaves=(problem.x, problem.gate_up, problem.down, combine_weights))


def make_transformers_experts(shape: Shape, implementation: str) -> torch.nn.Module:
    """The family's experts without memory for weights, set to one implementation."""
    prefix = _CLASSES[shape.family]
    folder = f"transformers.models.{shape.family}"
    make_config = getattr(importlib.import_module(f"{folder}.configuration_{shape.family}"), f"{prefix}Config")
    make_experts = getattr(importlib.import_module(f"{folder}.modeling_{shape.family}"), f"{prefix}Experts")
    config = make_config(
        hidden_size=shape.d_model,
        intermediate_size=shape.d_ff,
        moe_intermediate_size=shape.d_ff,
        num_experts=shape.num_experts,
        num_local_experts=shape.num_experts,
        num_experts_per_tok=shape.top_k,
    )
    config._experts_implementation = implementation
    with torch.device("meta"):
        return make_experts(config)
