"""Random problems for the experts' kernels, and the instruction sets to run them on."""

from __future__ import annotations

import dataclasses

import torch
from torch import Tensor

from headgate.dispatch import find_drops, plan_token_choice
from headgate.flow import DispatchPlan
from headgate.kernels import native
from headgate.kernels.experts_call import ISAS
from headgate.spec import ExpertSpec

SPECS = {
    "swiglu": ExpertSpec(),
    "gpt_oss": ExpertSpec(bias=True, interleaved=True, clamp=7.0, sigmoid_slope=1.702, up_offset=1.0),
    "gelu": ExpertSpec(activation="gelu", gated=False, bias=True),
    "geglu": ExpertSpec(activation="gelu_tanh", bias=True),
    "reglu": ExpertSpec(activation="relu", clamp=1.0),
}
SHAPES = [
    # T, D, F, E, K
    (0, 8, 8, 4, 2),
    (1, 8, 8, 4, 2),
    (1, 1, 1, 1, 1),
    (2, 70, 61, 5, 3),
    (17, 33, 7, 4, 4),
    (40, 128, 96, 3, 2),
    (13, 2100, 24, 3, 2),
    (9, 24, 2100, 3, 2),
    (800, 16, 16, 1, 1),
]


def available_isas() -> list[str]:
    library = native.library()
    best = 0 if library is None else library.headgate_best_isa()
    return [name for name, level in ISAS.items() if 0 <= level <= best]


@dataclasses.dataclass(frozen=True)
class Problem:
    x: Tensor
    ids: Tensor
    combine_weights: Tensor
    up: Tensor
    down: Tensor
    up_bias: Tensor | None
    down_bias: Tensor | None
    spec: ExpertSpec

    @property
    def plan(self) -> DispatchPlan:
        drops = find_drops(self.ids, None)
        return plan_token_choice(self.ids, drops, num_experts=self.up.shape[0], is_dropless=False)


def make_problem(shape: tuple[int, int, int, int, int], spec: ExpertSpec, dtype: torch.dtype) -> Problem:
    num_tokens, d_model, d_ff, num_experts, top_k = shape
    generator = torch.Generator().manual_seed(sum(shape))
    width = 2 * d_ff if spec.gated else d_ff

    def draw(*size: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*size, generator=generator) * scale).to(dtype)

    ids = torch.rand(num_tokens, num_experts, generator=generator).argsort(1)[:, :top_k]
    return Problem(
        x=draw(num_tokens, d_model),
        ids=ids,
        combine_weights=torch.rand(num_tokens, top_k, generator=generator),
        up=draw(num_experts, width, d_model, scale=d_model**-0.5),
        down=draw(num_experts, d_model, d_ff, scale=d_ff**-0.5),
        up_bias=draw(num_experts, width) if spec.bias else None,
        down_bias=draw(num_experts, d_model) if spec.bias else None,
        spec=spec,
    )


def arguments_of(problem: Problem, *, isa: str = "best") -> tuple[object, ...]:
    """What the operations take."""
    plan = problem.plan
    row_weights = problem.combine_weights.flatten()[plan.slot_of_row]
    order = (plan.token_of_row, plan.expert_offsets, plan.row_order, plan.token_offsets)
    matrices = (problem.up, problem.down, problem.up_bias, problem.down_bias)
    return (problem.x, *order, row_weights, *matrices, *problem.spec.function, isa)
