"""The way back through a router's decision: from gradients of logits, scores and combine weights to that of the logits.

One launch, which computes scores and groups again from the logits rather than reading them; two products by PyTorch's
library then give the gradients of tokens and weight. Who was chosen has no gradient.
"""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

from headgate.kernels.route_call import RouterFormula
from headgate.kernels.triton.decide import (
    allow_groups,
    bound_norm,
    exp_of_negative,
    norm_rows,
    rank_rows,
    score_rows,
    softmax_rows,
    take_values,
)
from headgate.kernels.triton.route import choose_blocks, describe

_CELLS = 4096  # half of what deciding takes: five tables of them are in registers at once


def differentiate_logits(
    gradients: tuple[Tensor | None, Tensor | None, Tensor | None],
    logits: Tensor,
    selection_bias: Tensor | None,
    expert_ids: Tensor,
    formula: RouterFormula,
    dtype: torch.dtype,
) -> Tensor:
    """Compute the gradient of the sums x @ weight.T + bias.

    Args:
        gradients: of the logits [T, E], the scores [T, E] and the combine weights [T, K], each float32 or None.
        logits: [T, E] float32.
        selection_bias: [E] float32, or None.
        expert_ids: [T, K] int64.
        formula: of the router.
        dtype: of the tokens.

    Returns:
        [T, E], float32 or in `dtype`, as the router's product is.
    """
    num_tokens, num_experts = logits.shape
    out = torch.empty_like(logits, dtype=dtype if formula.linear_dtype == "model" else torch.float32)
    if num_tokens == 0:
        return out
    blocks = choose_blocks(num_tokens, num_experts, formula, num_cells=_CELLS)
    given = [None if gradient is None else gradient.contiguous() for gradient in gradients]
    numbers = (num_tokens, float(formula.epsilon), float(formula.scale))
    options = describe(formula, num_experts, dtype)
    del options["LOGITS"]
    with torch.cuda.device_of(logits):
        grid = (triton.cdiv(num_tokens, blocks["BLOCK_T"]),)
        tensors = (*given, logits, selection_bias, expert_ids, out)
        _differentiate[grid](*tensors, *numbers, **options, **blocks, num_warps=8)
    return out


@triton.jit(do_not_specialize=["num_tokens"])
def _differentiate(
    d_logits_at, d_scores_at, d_weights_at, logits_at, selection_bias_at, expert_ids_at, out_at, num_tokens,
    epsilon, scale,
    NUM_EXPERTS: tl.constexpr, TOP_K: tl.constexpr, SCORE: tl.constexpr, INNER: tl.constexpr, OUTER: tl.constexpr,
    SELECT_ON_LOGITS: tl.constexpr, NUM_GROUPS: tl.constexpr, NUM_KEPT: tl.constexpr, GROUP_COUNTED: tl.constexpr,
    GROUP_SIZE: tl.constexpr, MASK_ZERO: tl.constexpr, NORMALISE: tl.constexpr, NORM_ORDER: tl.constexpr,
    CLAMP_NORM: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """`out` [T, E] for a block of tokens."""
    tokens = (tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)).to(tl.int64)
    experts, slots = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_K)
    is_token, is_expert = (tokens < num_tokens)[:, None], (experts < NUM_EXPERTS)[None, :]
    cells, mask = tokens[:, None] * NUM_EXPERTS + experts[None, :], is_token & is_expert
    logits = tl.load(logits_at + cells, mask=mask, other=0.0)
    scores = score_rows(logits, is_expert, SCORE, INNER, OUTER)
    d_logits = _load_or_zero(d_logits_at, cells, mask)
    d_scores = _load_or_zero(d_scores_at, cells, mask)
    if d_weights_at is not None:
        is_allowed, source = is_expert, logits if NORMALISE == "softmax" else scores
        if NUM_GROUPS > 0 and MASK_ZERO:
            ranked = rank_rows(logits, scores, selection_bias_at, SELECT_ON_LOGITS, NUM_EXPERTS, BLOCK_E)
            is_allowed = allow_groups(
                ranked, is_expert, NUM_GROUPS, NUM_KEPT, GROUP_COUNTED, GROUP_SIZE, BLOCK_T, BLOCK_E, BLOCK_G
            )
            source = source if NORMALISE == "softmax" else tl.where(is_allowed, source, 0.0)
        slot_cells, is_slot = tokens[:, None] * TOP_K + slots[None, :], slots[None, :] < TOP_K
        ids = tl.load(expert_ids_at + slot_cells, mask=is_token & is_slot, other=-1).to(tl.int32)
        d_weights = tl.load(d_weights_at + slot_cells, mask=is_token & is_slot, other=0.0) * scale
        values = _gather_choices(source, ids, TOP_K)
        d_values = _unweigh_rows(d_weights, values, is_slot, epsilon, NORMALISE, NORM_ORDER, CLAMP_NORM)
        d_source = _scatter_choices(d_values, ids, TOP_K, BLOCK_E)
        if NORMALISE == "softmax":
            d_logits += d_source
        else:
            d_scores += tl.where(is_allowed, d_source, 0.0)
    d_logits += _unscore_rows(d_scores, logits.to(INNER).to(tl.float32), scores, SCORE)
    tl.store(out_at + cells, d_logits.to(out_at.dtype.element_ty), mask=mask)


@triton.jit
def _load_or_zero(at, cells, mask):
    if at is None:
        return tl.zeros(cells.shape, tl.float32)
    else:
        return tl.load(at + cells, mask=mask, other=0.0)


@triton.jit
def _gather_choices(source, ids, TOP_K: tl.constexpr):
    """What the rows [BLOCK_T, BLOCK_E] have for their choices: [BLOCK_T, BLOCK_K]."""
    experts, slots = tl.arange(0, source.shape[1]), tl.arange(0, ids.shape[1])
    values = tl.zeros(ids.shape, tl.float32)
    for k in range(TOP_K):
        values = tl.where(slots[None, :] == k, take_values(source, experts, _take_slot(ids, k))[:, None], values)
    return values


@triton.jit
def _scatter_choices(values, ids, TOP_K: tl.constexpr, BLOCK_E: tl.constexpr):
    """The way back, 0 where nobody was chosen: [BLOCK_T, BLOCK_E]."""
    experts = tl.arange(0, BLOCK_E)
    rows = tl.zeros([ids.shape[0], BLOCK_E], tl.float32)
    for k in range(TOP_K):
        rows = tl.where(experts[None, :] == _take_slot(ids, k)[:, None], _take_slot(values, k)[:, None], rows)
    return rows


@triton.jit
def _take_slot(table, k):
    """Each row's entry in the slot k: [BLOCK_T]."""
    slots = tl.arange(0, table.shape[1])
    return tl.sum(tl.where(slots[None, :] == k, table, 0), axis=1)


@triton.jit
def _unscore_rows(d, z, scores, SCORE: tl.constexpr):
    """From the scores' gradient to that of their argument z: [BLOCK_T, BLOCK_E]."""
    decay = exp_of_negative(tl.where(z >= 0, -z, z))
    if SCORE == "softmax":
        return scores * (d - tl.sum(d * scores, axis=1)[:, None])
    elif SCORE == "sigmoid":
        return d * decay / ((1.0 + decay) * (1.0 + decay))
    elif SCORE == "sqrt_softplus":
        slope = tl.where(z >= 0, 1.0, decay) / (1.0 + decay)
        return tl.where(scores == 0, 0.0, d * slope / (2.0 * tl.where(scores == 0, 1.0, scores)))
    else:
        return d


@triton.jit
def _unweigh_rows(
    d, values, is_slot, epsilon, NORMALISE: tl.constexpr, NORM_ORDER: tl.constexpr, CLAMP_NORM: tl.constexpr
):
    """From the gradient of normalised weights to that of the chosen values: [BLOCK_T, BLOCK_K]."""
    if NORMALISE == "softmax":
        weights = softmax_rows(values, is_slot)
        return weights * (d - tl.sum(d * weights, axis=1)[:, None])
    elif NORMALISE == "sum":
        values = tl.where(is_slot, values, 0.0)
        norm = norm_rows(values, NORM_ORDER)
        divisor = bound_norm(norm, epsilon, CLAMP_NORM)
        d_norm = -tl.sum(d * values, axis=1) / (divisor * divisor)
        # A constant divisor passes nothing on: one that was clamped, or 1 in place of 0.
        is_constant = ((norm < epsilon) | (norm == 0)) if CLAMP_NORM else (norm + epsilon == 0)
        d_norm = tl.where(is_constant, 0.0, d_norm)
        return d / divisor[:, None] + d_norm[:, None] * _slope_of_norm(values, norm[:, None], NORM_ORDER)
    else:
        return d


@triton.jit
def _slope_of_norm(values, norm, NORM_ORDER: tl.constexpr):
    """The derivative of `norm_rows` for each value: (value / norm)^(order - 1)."""
    if NORM_ORDER == 1.0:
        return tl.full(values.shape, 1.0, tl.float32)
    elif float("inf") == NORM_ORDER:
        is_largest = (values == norm).to(tl.float32)
        return is_largest / tl.maximum(tl.sum(is_largest, axis=1)[:, None], 1.0)
    else:
        ratio = values / tl.where(norm == 0, 1.0, norm)
        powers = tl.exp2((NORM_ORDER - 1.0) * tl.log2(tl.where(ratio == 0, 1.0, ratio)))
        return tl.where(ratio == 0, 0.0, powers)
