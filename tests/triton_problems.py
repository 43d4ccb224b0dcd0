"""Problems for the Triton experts, and what float64 says of them; on a card where there is one, else interpreted."""

from __future__ import annotations

import itertools

import torch
from torch import Tensor

from expert_problems import Problem
from headgate.experts import activate
from headgate.flow import DispatchPlan
from headgate.kernels.triton import ops

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
NAMES = ("x", "combine_weights", "up", "down", "up_bias", "down_bias")


def on_device(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else tensor.to(DEVICE)


def triton_problem(problem: Problem, *, plan: DispatchPlan | None = None, **options: bool) -> ops.Problem:
    plan = plan or problem.plan
    rows = (plan.token_of_row, plan.slot_of_row, plan.expert_offsets, plan.row_order, plan.token_offsets)
    matrices = (problem.up, problem.down, problem.up_bias, problem.down_bias)
    tensors = (problem.x, *rows, problem.combine_weights.flatten(), *matrices)
    return ops.Problem(*map(on_device, tensors), problem.spec.function, **options)  # type: ignore[arg-type]


def with_leaves(problem: ops.Problem) -> tuple[ops.Problem, dict[str, Tensor]]:
    """The problem with fresh tensors that want gradients, and these by name."""
    given = {name: getattr(problem, name) for name in NAMES}
    leaves = {name: tensor.detach().requires_grad_() for name, tensor in given.items() if tensor is not None}
    return problem._replace(**leaves), leaves


def gradients(problem: ops.Problem, dy: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The output, and every gradient."""
    problem, leaves = with_leaves(problem)
    y, _ = ops.triton_experts_for_training(*problem.flatten())
    y.backward(dy.to(DEVICE))
    return y.detach().cpu(), {name: leaf.grad.cpu() for name, leaf in leaves.items() if leaf.grad is not None}


def expected(problem: ops.Problem, dy: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    """The same in float64, expert by expert, at the point that was reached.

    What the first projection gave was rounded to the dtype; where the function has a kink, it may lie on its other
    side.
    """
    kept = ops.triton_experts_for_training(*problem._replace(recomputes=False).flatten())[1].cpu()
    reached = kept.double()
    given = {name: getattr(problem, name) for name in NAMES}
    leaves = {name: t.detach().cpu().double().requires_grad_() for name, t in given.items() if t is not None}
    x, weights = leaves["x"], leaves["combine_weights"]
    offsets, token_of_row = problem.expert_offsets.tolist(), problem.token_of_row.cpu()
    y = torch.zeros_like(x)
    num_experts = problem.up.shape[0]
    for expert, (begin, end) in enumerate(itertools.pairwise(offsets)):
        tokens = token_of_row[begin:end]
        row_weights = weights[problem.slot_of_row.cpu()[begin:end], None]
        if expert >= num_experts:
            y = y.index_add(0, tokens, row_weights * x[tokens])
            continue
        inputs = row_weights * x[tokens] if problem.weighs_input else x[tokens]
        up = inputs @ leaves["up"][expert].t()
        if "up_bias" in leaves:
            up = up + leaves["up_bias"][expert]
        up = up + (reached[begin:end] - up).detach()
        out = activate(up, problem.function) @ leaves["down"][expert].t()
        if "down_bias" in leaves:
            out = out + leaves["down_bias"][expert]
        y = y.index_add(0, tokens, out if problem.weighs_input else row_weights * out)
    y.backward(dy.double())
    found = {name: torch.zeros_like(leaf) if leaf.grad is None else leaf.grad for name, leaf in leaves.items()}
    return y.detach(), found
