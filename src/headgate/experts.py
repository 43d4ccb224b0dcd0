"""What runs on the rows: gather, gate and up, activation, down, and the weighted combine."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from headgate.flow import DispatchPlan
from headgate.kernels.backends import MOST_BUCKETS
from headgate.kernels.dispatcher import is_seen_by_python
from headgate.kernels.experts import Problem, experts, experts_for_training, is_backend, run_chosen, run_rows
from headgate.kernels.experts_call import DTYPES, Rows, Weights
from headgate.kernels.function import ExpertFunction
from headgate.kernels.grouped import grouped_linear
from headgate.kernels.rows import combine_rows, gather_rows
from headgate.kernels.triton import ops as triton_ops


@dataclass(frozen=True, slots=True, kw_only=True)
class ExpertWeights:
    """The experts' parameters, stacked.

    Attributes:
        up: [E, 2F, D] gate and up together, or [E, F, D] without a gate.
        down: [E, D, F].
        up_bias: [E, 2F] or [E, F], or None.
        down_bias: [E, D], or None.
    """

    up: Float[Tensor, "E U D"]
    down: Float[Tensor, "E D F"]
    up_bias: Float[Tensor, "E U"] | None = None
    down_bias: Float[Tensor, "E D"] | None = None


def activate(hidden: Float[Tensor, "... U"], function: ExpertFunction) -> Float[Tensor, "... F"]:
    """Apply an expert's nonlinearity: act(gate) * (up + up_offset), or act(hidden) without a gate.

    Args:
        hidden: [..., 2F] (gate and up, concatenated or interleaved) or [..., F].
        function: see `ExpertSpec`.

    Returns:
        [..., F], same dtype.

    Example:
        >>> import torch
        >>> activate(torch.tensor([[-1.0, 2.0, 3.0, 4.0]]), ExpertFunction(activation="relu")).tolist()
        [[0.0, 8.0]]
    """
    activation, gated, interleaved, clamp, sigmoid_slope, up_offset = function
    if not gated:
        return _apply_activation(hidden, activation, sigmoid_slope)
    gate, up = (hidden[..., ::2], hidden[..., 1::2]) if interleaved else hidden.chunk(2, dim=-1)
    if clamp is not None:
        gate, up = gate.clamp(max=clamp), up.clamp(min=-clamp, max=clamp)
    if up_offset:
        up = up + up_offset
    return _apply_activation(gate, activation, sigmoid_slope) * up


def _apply_activation(z: Float[Tensor, "... F"], activation: str, sigmoid_slope: float) -> Float[Tensor, "... F"]:
    if activation == "silu":
        return F.silu(z) if sigmoid_slope == 1.0 else z * torch.sigmoid(sigmoid_slope * z)
    if activation == "relu":
        return F.relu(z)
    return F.gelu(z, approximate="tanh" if activation == "gelu_tanh" else "none")


def run_experts(
    x: Float[Tensor, "T D"],
    plan: DispatchPlan,
    combine_weights: Float[Tensor, "A B"],
    weights: ExpertWeights,
    function: ExpertFunction,
    *,
    apply_to: Literal["output", "input"] = "output",
    batch_invariant: bool = False,
    recompute: bool = False,
) -> Float[Tensor, "T D"]:
    """Run the experts on the plan's rows and add each token's weighted outputs.

    Cost follows the rows (T * K), not the experts. Rows of zero-compute experts, which the plan puts last, return
    their input.

    Args:
        x: [T, D], the dtype of the weights.
        plan: rows for E experts or more; those beyond the weights are zero-compute.
        combine_weights: of the choice that the plan was made from, [T, K] or [E, C].
        weights: of E experts.
        function: what an expert computes between its projections.
        apply_to: whether a combine weight multiplies the expert's "output" or "input".
        batch_invariant: take the native kernel, whose order of summation is one for every batch, also where another
            backend would be faster.
        recompute: where Triton runs them, let gradients compute the first projection again instead of keeping its
            [R, 2F]: 11 products of D by F per row instead of 9. Other backends keep it.

    Returns:
        [T, D] in the dtype of `x`; zero for a token without rows.

    Raises:
        BackendError: `batch_invariant` without the native library.

    Example:
        >>> import torch
        >>> from headgate.dispatch import find_drops, plan_token_choice
        >>> ids = torch.tensor([[0], [1]])
        >>> plan = plan_token_choice(ids, find_drops(ids, None), num_experts=2, is_dropless=True)
        >>> weights = ExpertWeights(up=torch.tensor([[[1.0]], [[10.0]]]), down=torch.ones(2, 1, 1))
        >>> x, combine_weights = torch.tensor([[2.0], [3.0]]), torch.tensor([[0.5], [1.0]])
        >>> function = ExpertFunction(activation="relu", gated=False)
        >>> run_experts(x, plan, combine_weights, weights, function).tolist()
        [[1.0], [30.0]]
    """
    if not batch_invariant and triton_ops.runs_in_triton(x.device.type, x.dtype):
        options = {"weighs_input": apply_to == "input", "recomputes": recompute}
        return run_triton_experts(x, plan, combine_weights, weights, function, **options)
    is_fused = batch_invariant or is_backend(x, plan.token_of_row.shape[0], weights.up.shape[0])
    order = (plan.row_order, plan.token_offsets)
    if apply_to == "output" and is_fused:
        rows = Rows(plan.token_of_row, plan.expert_offsets, *order, combine_weights.flatten(), plan.slot_of_row)
        return _run_fused(x, rows, weights, function)
    row_weights = combine_weights.flatten().index_select(0, plan.slot_of_row)
    gathered = gather_rows(x, plan.token_of_row, *order, plan.max_rows_per_token)
    if apply_to == "input":
        gathered = gathered * row_weights.to(gathered.dtype)[:, None]
        row_weights = torch.ones_like(row_weights)
    if is_fused:
        out = _run_fused(gathered, _one_row_each(gathered, plan.expert_offsets), weights, function)
    else:
        out = _run_in_steps(gathered, plan, weights, function)
    y: Tensor = combine_rows(out, row_weights, plan.token_of_row, *order, plan.max_rows_per_token)
    return y


def run_triton_experts(
    x: Float[Tensor, "T D"],
    plan: DispatchPlan,
    combine_weights: Float[Tensor, "A B"],
    weights: ExpertWeights,
    function: ExpertFunction,
    *,
    weighs_input: bool = False,
    recomputes: bool = False,
) -> Float[Tensor, "T D"]:
    """Run the experts by the Triton kernels, without a host synchronisation.

    Args:
        x: [T, D] float32, float16 or bfloat16, the dtype of the weights.
        plan: as in `run_experts`. Rows from its last expert offset on are nobody's and add nothing, so a plan whose
            slots were all sorted, also those without an expert, is as good as one without them.
        combine_weights: of the choice, any floating dtype.
        weights: of E experts.
        function: what an expert computes between its projections.
        weighs_input: a combine weight multiplies the expert's input.
        recomputes: see `run_experts`.

    Returns:
        [T, D] in the dtype of `x`.
    """
    matrices = _matrices(weights)
    rows = (plan.token_of_row, plan.slot_of_row, plan.expert_offsets, plan.row_order, plan.token_offsets)
    problem = triton_ops.Problem(x, *rows, combine_weights.flatten(), *matrices, function, weighs_input, recomputes)
    tensors = (x, combine_weights, *matrices)
    if _needs_gradient(tensors):
        y: Tensor = triton_ops.triton_experts_for_training(*problem.flatten())[0]
    elif _is_seen(tensors):
        y = triton_ops.triton_experts(*problem.flatten())
    else:
        y = triton_ops.run_now(problem)
    return y


def is_one_call(
    x: Float[Tensor, "T D"],
    expert_ids: Int[Tensor, "T K"],
    combine_weights: Float[Tensor, "T K"],
    weights: ExpertWeights,
) -> bool:
    """Whether `run_choice` can run these: by a kernel, without a gradient, and nothing watches the operations."""
    tensors = (x, combine_weights, *_matrices(weights))
    if _needs_gradient(tensors) or _is_seen(tensors):
        return False
    num_experts = weights.up.shape[0]
    if triton_ops.runs_in_triton(x.device.type, x.dtype):
        return num_experts <= MOST_BUCKETS
    return is_backend(x, expert_ids.numel(), num_experts) and combine_weights.dtype in DTYPES


def run_choice(
    x: Float[Tensor, "T D"],
    expert_ids: Int[Tensor, "T K"],
    combine_weights: Float[Tensor, "T K"],
    weights: ExpertWeights,
    function: ExpertFunction,
) -> Float[Tensor, "T D"]:
    """Run the experts that each token chose, where `is_one_call`: the same call makes the plan, and forgets it.

    On a CPU all of it is native; on a GPU the plan takes one launch, or two for many tokens, and no copy of the ids.

    Args:
        x: [T, D], the dtype of the weights.
        expert_ids: [T, K] int64 or int32; an id outside [0, E) has no expert here.
        combine_weights: [T, K] float32, float16 or bfloat16.
        weights: of E experts.
        function: what an expert computes between its projections.

    Returns:
        [T, D] in the dtype of `x`: the same bits as `run_experts` gives on the plan of the choice.

    Raises:
        BackendError: the native library is missing.
    """
    if triton_ops.runs_in_triton(x.device.type, x.dtype):
        return triton_ops.run_chosen_now(x, expert_ids, combine_weights, _matrices(weights), function)
    return run_chosen(x, expert_ids, combine_weights, _matrices(weights), function)


def run_expert(x: Float[Tensor, "T D"], weights: ExpertWeights, function: ExpertFunction) -> Float[Tensor, "T D"]:
    """Run one expert on every token, by the native kernel.

    Args:
        x: [T, D] on the CPU, float32, float16 or bfloat16, the dtype of the weights.
        weights: of a single expert, E = 1.
        function: what the expert computes between its projections.

    Returns:
        [T, D] in the dtype of `x`. A token's output has the same bits alone and in any batch.

    Raises:
        BackendError: the native library is missing.
    """
    offsets = torch.tensor([0, x.shape[0]])
    return _run_fused(x, _one_row_each(x, offsets), weights, function)


def _one_row_each(x: Float[Tensor, "R D"], expert_offsets: Int[Tensor, " E_plus_1"]) -> Rows:
    """Rows that are tokens themselves, in order, unweighted."""
    each = torch.arange(x.shape[0] + 1, device=x.device)
    return Rows(each[:-1], expert_offsets, each[:-1], each, torch.ones(x.shape[0], device=x.device))


def _matrices(weights: ExpertWeights) -> Weights:
    return weights.up, weights.down, weights.up_bias, weights.down_bias


# A subclass, such as a weight sharded over ranks, has memory of its own kind.
_PLAIN = (Tensor, torch.nn.Parameter)


def _needs_gradient(tensors: Iterable[Tensor | None]) -> bool:
    return torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in tensors)


def _is_seen(tensors: Iterable[Tensor | None]) -> bool:
    """Whether anything but the CPU has to see the operation."""
    return any(type(tensor) not in _PLAIN for tensor in tensors if tensor is not None) or is_seen_by_python()


def _run_fused(
    x: Float[Tensor, "T D"], rows: Rows, weights: ExpertWeights, function: ExpertFunction
) -> Float[Tensor, "T D"]:
    """All in one pass; for gradients, one that keeps what the first projection gave."""
    matrices = _matrices(weights)
    tensors = (x, rows.weights, *matrices)
    is_trained = _needs_gradient(tensors)
    if not is_trained and not _is_seen(tensors):
        return run_rows(x, rows._replace(weights=rows.weights.to(torch.float32)), matrices, function)
    row_weights = rows.weights if rows.slot_of_row is None else rows.weights.index_select(0, rows.slot_of_row)
    problem = Problem(x, *rows[:4], row_weights, *matrices, function).flatten()
    y: Tensor = experts_for_training(*problem)[0] if is_trained else experts(*problem)
    return y


def _run_in_steps(
    rows: Float[Tensor, "R D"], plan: DispatchPlan, weights: ExpertWeights, function: ExpertFunction
) -> Float[Tensor, "R D"]:
    """One operation after the other on the rows; those of zero-compute experts, at the end, stay as they are."""
    num_experts = weights.up.shape[0]
    identity_rows: Tensor | None = None
    if plan.num_experts > num_experts:
        num_computed = int(plan.expert_offsets[num_experts])
        rows, identity_rows = rows[:num_computed], rows[num_computed:]
    offsets = plan.expert_offsets[: num_experts + 1]
    hidden = activate(grouped_linear(rows, weights.up, weights.up_bias, offsets), function)
    out: Tensor = grouped_linear(hidden, weights.down, weights.down_bias, offsets)
    return out if identity_rows is None else torch.cat([out, identity_rows])
