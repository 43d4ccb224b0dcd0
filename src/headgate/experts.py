"""What runs on the rows: gather, gate and up, activation, down, and the weighted combine."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from headgate.flow import DispatchPlan
from headgate.kernels.dispatcher import is_seen_by_python
from headgate.kernels.experts import experts, experts_for_training, is_backend, run_forward
from headgate.kernels.grouped import grouped_linear
from headgate.kernels.rows import combine_rows, gather_rows


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


def activate(
    hidden: Float[Tensor, "... U"],
    *,
    activation: Literal["silu", "gelu", "gelu_tanh", "relu"],
    gated: bool,
    interleaved: bool,
    clamp: float | None,
    sigmoid_slope: float,
    up_offset: float,
) -> Float[Tensor, "... F"]:
    """Apply an expert's nonlinearity: act(gate) * (up + up_offset), or act(hidden) without a gate.

    Args:
        hidden: [..., 2F] (gate and up, concatenated or interleaved) or [..., F].
        activation, gated, interleaved, clamp, sigmoid_slope, up_offset: see `ExpertSpec`.

    Returns:
        [..., F], same dtype.

    Example:
        >>> import torch
        >>> options = {"interleaved": False, "clamp": None, "sigmoid_slope": 1.0, "up_offset": 0.0}
        >>> activate(torch.tensor([[-1.0, 2.0, 3.0, 4.0]]), activation="relu", gated=True, **options).tolist()
        [[0.0, 8.0]]
    """
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
    *,
    apply_to: Literal["output", "input"],
    activation: Literal["silu", "gelu", "gelu_tanh", "relu"],
    gated: bool,
    interleaved: bool,
    clamp: float | None,
    sigmoid_slope: float,
    up_offset: float,
    batch_invariant: bool = False,
) -> Float[Tensor, "T D"]:
    """Run the experts on the plan's rows and add each token's weighted outputs.

    Cost follows the rows (T * K), not the experts. Rows of zero-compute experts, which the plan puts last, return
    their input.

    Args:
        x: [T, D], the dtype of the weights.
        plan: rows for E experts or more; those beyond the weights are zero-compute.
        combine_weights: of the choice that the plan was made from, [T, K] or [E, C].
        weights: of E experts.
        apply_to: whether a combine weight multiplies the expert's "output" or "input".
        activation, gated, interleaved, clamp, sigmoid_slope, up_offset: see `ExpertSpec`.
        batch_invariant: take the native kernel, whose order of summation is one for every batch, also where another
            backend would be faster.

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
        >>> options = {"interleaved": False, "clamp": None, "sigmoid_slope": 1.0, "up_offset": 0.0}
        >>> x, combine_weights = torch.tensor([[2.0], [3.0]]), torch.tensor([[0.5], [1.0]])
        >>> fields = {"apply_to": "output", "activation": "relu", "gated": False}
        >>> run_experts(x, plan, combine_weights, weights, **fields, **options).tolist()
        [[1.0], [30.0]]
    """
    function = (activation, gated, interleaved, clamp, sigmoid_slope, up_offset)
    row_weights = combine_weights.flatten().index_select(0, plan.slot_of_row)
    way = (plan.token_of_row, plan.row_order, plan.token_offsets)
    is_fused = batch_invariant or is_backend(x, plan.token_of_row.shape[0], weights.up.shape[0])
    if apply_to == "output" and is_fused:
        return _run_fused(x, way, plan.expert_offsets, row_weights, weights, function)
    rows = gather_rows(x, *way, plan.max_rows_per_token)
    if apply_to == "input":
        rows = rows * row_weights.to(rows.dtype)[:, None]
        row_weights = torch.ones_like(row_weights)
    if is_fused:
        one_each = torch.arange(rows.shape[0] + 1, device=x.device)
        own_way = (one_each[:-1], one_each[:-1], one_each)
        out = _run_fused(rows, own_way, plan.expert_offsets, torch.ones_like(row_weights), weights, function)
    else:
        out = _run_in_steps(rows, plan, weights, function)
    y: Tensor = combine_rows(out, row_weights, *way, plan.max_rows_per_token)
    return y


def run_expert(
    x: Float[Tensor, "T D"],
    weights: ExpertWeights,
    *,
    activation: Literal["silu", "gelu", "gelu_tanh", "relu"],
    gated: bool,
    interleaved: bool,
    clamp: float | None,
    sigmoid_slope: float,
    up_offset: float,
) -> Float[Tensor, "T D"]:
    """Run one expert on every token, by the native kernel.

    Args:
        x: [T, D] on the CPU, float32, float16 or bfloat16, the dtype of the weights.
        weights: of a single expert, E = 1.
        activation, gated, interleaved, clamp, sigmoid_slope, up_offset: see `ExpertSpec`.

    Returns:
        [T, D] in the dtype of `x`. A token's output has the same bits alone and in any batch.

    Raises:
        BackendError: the native library is missing.
    """
    num_tokens = x.shape[0]
    one_each = torch.arange(num_tokens + 1)
    way = (one_each[:-1], one_each[:-1], one_each)
    function = (activation, gated, interleaved, clamp, sigmoid_slope, up_offset)
    offsets = torch.stack((one_each[0], one_each[-1]))
    return _run_fused(x, way, offsets, torch.ones(num_tokens), weights, function)


# A subclass, such as a weight sharded over ranks, has memory of its own kind.
_PLAIN = (Tensor, torch.nn.Parameter)

_Function: TypeAlias = tuple[Literal["silu", "gelu", "gelu_tanh", "relu"], bool, bool, float | None, float, float]


def _run_fused(
    x: Float[Tensor, "T D"],
    way: tuple[Tensor, Tensor, Tensor],
    expert_offsets: Tensor,
    row_weights: Float[Tensor, " R"],
    weights: ExpertWeights,
    function: _Function,
) -> Float[Tensor, "T D"]:
    """All in one pass; for gradients, one that keeps what the first projection gave."""
    token_of_row, row_order, token_offsets = way
    matrices = (weights.up, weights.down, weights.up_bias, weights.down_bias)
    inputs = (x, token_of_row, expert_offsets, row_order, token_offsets, row_weights, *matrices, *function, "best")
    needed = (x, row_weights, *matrices)
    if torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in needed):
        trained: Tensor = experts_for_training(*inputs)[0]
        return trained
    if any(type(tensor) not in _PLAIN for tensor in needed if tensor is not None) or is_seen_by_python():
        y: Tensor = experts(*inputs)
        return y
    return run_forward(x, (token_of_row, expert_offsets, row_order, token_offsets), row_weights, matrices, function)


def _run_in_steps(
    rows: Float[Tensor, "R D"], plan: DispatchPlan, weights: ExpertWeights, function: _Function
) -> Float[Tensor, "R D"]:
    """One operation after the other on the rows; those of zero-compute experts, at the end, stay as they are."""
    num_experts = weights.up.shape[0]
    identity_rows: Tensor | None = None
    if plan.num_experts > num_experts:
        num_computed = int(plan.expert_offsets[num_experts])
        rows, identity_rows = rows[:num_computed], rows[num_computed:]
    offsets = plan.expert_offsets[: num_experts + 1]
    hidden = grouped_linear(rows, weights.up, weights.up_bias, offsets)
    activation, gated, interleaved, clamp, sigmoid_slope, up_offset = function
    hidden = activate(
        hidden,
        activation=activation,
        gated=gated,
        interleaved=interleaved,
        clamp=clamp,
        sigmoid_slope=sigmoid_slope,
        up_offset=up_offset,
    )
    out: Tensor = grouped_linear(hidden, weights.down, weights.down_bias, offsets)
    return out if identity_rows is None else torch.cat([out, identity_rows])
