"""The experts' function and its gradients in float64, straight from the weights, for a few tokens or one expert."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from support.problem import Problem

MOST_TOKENS = 16
_MOST_PRODUCTS = 1 << 31  # weights times tokens that read them: a second or two


def choose_tokens(problem: Problem) -> Tensor:
    """Tokens from the first to the last, evenly: at most 16, fewer where experts are large."""
    num_tokens = problem.x.shape[0]
    affordable = _MOST_PRODUCTS // (problem.shape.top_k * problem.shape.weights_per_expert)
    size = max(1, min(MOST_TOKENS, num_tokens, affordable))
    return torch.linspace(0, num_tokens - 1, size, device=problem.x.device).round().long()


@torch.no_grad()
def exact_output(problem: Problem, tokens: Tensor) -> Tensor:
    """y of these tokens: [n, D] float64."""
    y = torch.zeros(tokens.numel(), problem.shape.d_model, dtype=torch.float64, device=tokens.device)
    for expert, place, weight in _rows(problem, tokens):
        hidden, _, _ = _hidden(problem, expert, tokens[place])
        y.index_add_(0, place, weight * (hidden @ problem.down[expert].double().T))
    return y


@torch.no_grad()
def exact_input_gradient(problem: Problem, tokens: Tensor, grad_y: Tensor) -> Tensor:
    """The gradient for these tokens' x: [n, D] float64."""
    grad_x = torch.zeros(tokens.numel(), problem.shape.d_model, dtype=torch.float64, device=tokens.device)
    for expert, place, weight in _rows(problem, tokens):
        grad = weight * grad_y[tokens[place]].double()
        grad_gate_up = _gate_up_gradient(problem, expert, tokens[place], grad)
        grad_x.index_add_(0, place, grad_gate_up @ problem.gate_up[expert].double())
    return grad_x


@torch.no_grad()
def exact_weight_gradients(problem: Problem, expert: int, grad_y: Tensor) -> tuple[Tensor, Tensor]:
    """The gradients for one expert's gate and up [2F, D], and down [D, F], in float64."""
    tokens, slots = (problem.expert_ids == expert).nonzero(as_tuple=True)
    grad = problem.combine_weights[tokens, slots, None].double() * grad_y[tokens].double()
    hidden, _, _ = _hidden(problem, expert, tokens)
    grad_gate_up = _gate_up_gradient(problem, expert, tokens, grad)
    return grad_gate_up.T @ problem.x[tokens].double(), grad.T @ hidden


def relative_error(found: Tensor, exact: Tensor) -> float:
    """Root mean square of the difference over that of the exact values."""
    return float((found.detach().double() - exact.detach()).norm() / exact.detach().norm())


def error_bound(problem: Problem) -> float:
    """The relative error from which a result is wrong, and its time means nothing.

    A few roundings to the dtype (of hidden values, of an expert's output, of y), and sums of D and F products in
    float32.
    """
    shape = problem.shape
    terms = shape.d_model + shape.d_ff
    return 4 * torch.finfo(problem.x.dtype).eps + torch.finfo(torch.float32).eps * math.sqrt(terms)


def _rows(problem: Problem, tokens: Tensor) -> Iterator[tuple[int, Tensor, Tensor]]:
    """Of each expert that these tokens chose: its id, which of them [rows], their combine weights [rows, 1]."""
    ids, weights = problem.expert_ids[tokens], problem.combine_weights[tokens].double()
    for expert in ids.unique().tolist():
        place, slot = (ids == expert).nonzero(as_tuple=True)
        yield expert, place, weights[place, slot, None]


def _hidden(problem: Problem, expert: int, tokens: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """silu(gate) * up, gate and up: [rows, F] each."""
    gate_up = problem.x[tokens].double() @ problem.gate_up[expert].double().T
    gate, up = gate_up.chunk(2, dim=1)
    return F.silu(gate) * up, gate, up


def _gate_up_gradient(problem: Problem, expert: int, tokens: Tensor, grad: Tensor) -> Tensor:
    """The gradient for gate and up before the activation [rows, 2F], given that for the expert's output."""
    _, gate, up = _hidden(problem, expert, tokens)
    grad_hidden = grad @ problem.down[expert].double()
    sigmoid = gate.sigmoid()
    slope = sigmoid * (1 + gate * (1 - sigmoid))
    return torch.cat([grad_hidden * up * slope, grad_hidden * F.silu(gate)], dim=1)
