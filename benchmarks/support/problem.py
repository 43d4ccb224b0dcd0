"""The experts' problem: shapes of published models, weights, and tokens routed in three ways.

Letters: T tokens, D model, F hidden of an expert, E experts, K choices.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

ROUTINGS = ("uniform", "zipf", "all_to_one")
DTYPES = {"bfloat16": torch.bfloat16, "float16": torch.float16, "float32": torch.float32}

# A prime: no expert's weights repeat another's.
_PERIOD = 4_194_301


@dataclass(frozen=True, slots=True, kw_only=True)
class Shape:
    """One layer's sizes; `family` is its name in transformers."""

    family: str
    d_model: int
    d_ff: int
    num_experts: int
    top_k: int

    @property
    def weights_per_expert(self) -> int:
        """Entries of gate, up and down."""
        return 3 * self.d_model * self.d_ff


SHAPES = {
    "olmoe": Shape(family="olmoe", d_model=2048, d_ff=1024, num_experts=64, top_k=8),
    "qwen3": Shape(family="qwen3_moe", d_model=2048, d_ff=768, num_experts=128, top_k=8),
    "mixtral": Shape(family="mixtral", d_model=4096, d_ff=14336, num_experts=8, top_k=2),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Problem:
    """Tokens with their choices, and the experts' weights, which every contender uses where they lie.

    Attributes:
        x: [T, D].
        expert_ids: [T, K] int64, distinct in each row.
        combine_weights: [T, K] float32, each representable in the dtype of `x`.
        gate_up: [E, 2F, D].
        down: [E, D, F].
    """

    shape: Shape
    x: Tensor
    expert_ids: Tensor
    combine_weights: Tensor
    gate_up: nn.Parameter
    down: nn.Parameter

    @property
    def num_distinct(self) -> int:
        """How many experts have at least one row."""
        return self.expert_ids.unique().numel()


def choose_experts(routing: str, num_tokens: int, shape: Shape, generator: torch.Generator) -> Tensor:
    """K distinct experts for each token.

    Args:
        routing: "uniform"; "zipf", where expert e is drawn in proportion to 1 / (e + 1), without replacement;
            "all_to_one", where all tokens go to the same K experts, expert 0 first.
        num_tokens: T.
        shape: for E and K.
        generator: of the draws.

    Returns:
        [T, K] int64, best first.
    """
    if routing == "all_to_one":
        return torch.arange(shape.top_k).repeat(num_tokens, 1)
    if routing not in ROUTINGS:
        raise ValueError(f"routing (={routing!r}) must be one of {', '.join(ROUTINGS)}")
    noise = torch.empty(num_tokens, shape.num_experts).exponential_(generator=generator)
    popularity = torch.ones(shape.num_experts)
    if routing == "zipf":
        popularity = 1 / torch.arange(1, shape.num_experts + 1)
    # The smallest K of exponential times with these rates are K draws without replacement.
    return (popularity / noise).topk(shape.top_k, dim=1).indices


def make_weights(
    shape: Shape, dtype: torch.dtype, *, is_trained: bool, device: torch.device | str = "cpu"
) -> tuple[nn.Parameter, nn.Parameter]:
    """Weights of the size that keeps activations near 1, as parameters: gate and up [E, 2F, D], down [E, D, F]."""
    block = torch.randn(_PERIOD, generator=torch.Generator().manual_seed(0))
    sizes = ((2 * shape.d_ff, shape.d_model), (shape.d_model, shape.d_ff))
    made = []
    for rows, columns in sizes:
        flat = torch.empty(shape.num_experts * rows * columns, dtype=dtype, device=device)
        scaled = (block / math.sqrt(columns)).to(flat)
        for begin in range(0, flat.numel(), _PERIOD):
            piece = flat[begin : begin + _PERIOD]
            piece.copy_(scaled[: piece.numel()])
        made.append(nn.Parameter(flat.view(shape.num_experts, rows, columns), requires_grad=is_trained))
    return made[0], made[1]


def make_problem(shape: Shape, weights: tuple[nn.Parameter, nn.Parameter], *, num_tokens: int, routing: str) -> Problem:
    """Draw tokens and choices; the same seed for every case."""
    generator = torch.Generator().manual_seed(1)
    gate_up, down = weights
    x = torch.randn(num_tokens, shape.d_model, generator=generator).to(gate_up.detach())
    scores = torch.randn(num_tokens, shape.top_k, generator=generator).softmax(dim=1)
    return Problem(
        shape=shape,
        x=x.requires_grad_(gate_up.requires_grad),
        expert_ids=choose_experts(routing, num_tokens, shape, generator).to(gate_up.device),
        combine_weights=scores.to(gate_up.detach()).float(),
        gate_up=gate_up,
        down=down,
    )
