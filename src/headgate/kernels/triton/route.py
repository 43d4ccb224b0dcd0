"""Route tokens on a GPU: logits, scores, choice, combine weights and dispatch plan, without waiting for the device.

One launch for the products, one to decide; for few tokens (up to 8192 / E, at most 64), which is decoding, the latter
plans, too. For more tokens it counts what each block chose, and a third launch plans from these counts (`plan.py`).

The products are bound by the weight's bytes where tokens are few: 3.7 MB for 256 experts of width 7168 in bfloat16,
which one multiprocessor would read for tens of microseconds. So experts and width are split over programs, as many as
an H100 has multiprocessors, and the parts of a logit are added in order by whoever decides for the token. Many tokens
fill the device by themselves: then there is one part, and tiles are large enough for reuse.
"""

from __future__ import annotations

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton import knobs

from headgate.kernels.route_call import Routed, RouterFormula
from headgate.kernels.triton.decide import allow_groups, choose_rows, rank_rows, score_rows, weigh_rows
from headgate.kernels.triton.plan import Places, place_slots

FEW_TOKENS = 256
"""Up to here, small tiles of the product: there are too few large ones to fill the device."""

_PROGRAMS = 128  # an H100 or H200 has 132 multiprocessors
_TABLE = 8192  # entries of a program's [tokens, experts] rows: 32 registers for each of 256 threads
_MOST_TOKENS_AT_ONCE = 64
_DTYPES = {torch.float32: tl.float32, torch.float16: tl.float16, torch.bfloat16: tl.bfloat16}


def route_triton(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    selection_bias: Tensor | None,
    formula: RouterFormula,
    routed: Routed,
) -> None:
    """Compute `route` on a GPU into `routed`, whose memory is there.

    Args:
        x: [T, D] float32, float16 or bfloat16, last axis of stride 1.
        weight: [E, D] contiguous, any of these dtypes.
        bias: [E] in the dtype of the weight, or None.
        selection_bias: [E] float32, or None.
        formula: the rest of the router.
        routed: as `route` returns.
    """
    num_tokens, num_experts = x.shape[0], weight.shape[0]
    if num_tokens == 0:
        routed.expert_offsets.zero_()
        routed.token_offsets.zero_()
        return
    with torch.cuda.device_of(x):
        parts, blocks = _multiply(x, weight), choose_blocks(num_tokens, num_experts, formula)
        num_blocks = triton.cdiv(num_tokens, blocks["BLOCK_T"])
        # A token's experts are distinct, so no count is more than the tokens of a block.
        counts = x.new_empty((num_blocks, num_experts), dtype=torch.uint8) if num_blocks > 1 else None
        options = describe(formula, num_experts, x.dtype)
        numbers = (num_tokens, parts.shape[0], float(formula.epsilon), float(formula.scale))
        _decide[(num_blocks,)](parts, bias, selection_bias, *routed, counts, *numbers, **options, **blocks, num_warps=8)
        if counts is not None:
            rows = (routed.slot_of_row, routed.expert_offsets, routed.token_of_row, routed.row_order)
            places, slots = Places(*rows, routed.token_offsets), blocks["BLOCK_T"] * formula.top_k
            place_slots(routed.expert_ids, counts, slots, places, top_k=formula.top_k)


def choose_blocks(
    num_tokens: int, num_experts: int, formula: RouterFormula, *, num_cells: int = _TABLE
) -> dict[str, int]:
    """The powers of 2 in which a program works: tokens, experts, choices, groups; tokens times experts in cells."""
    block_e = max(16, triton.next_power_of_2(num_experts))
    return {
        "BLOCK_T": triton.next_power_of_2(min(num_tokens, _MOST_TOKENS_AT_ONCE, max(1, num_cells // block_e))),
        "BLOCK_E": block_e,
        "BLOCK_K": triton.next_power_of_2(formula.top_k),
        "BLOCK_G": triton.next_power_of_2(max(formula.num_groups, 1)),
    }


def describe(formula: RouterFormula, num_experts: int, dtype: torch.dtype) -> dict[str, Any]:
    """The formula as the kernels read it."""
    group_size = num_experts // max(formula.num_groups, 1)
    narrow = _DTYPES[dtype]
    return {
        "NUM_EXPERTS": num_experts,
        "TOP_K": formula.top_k,
        "LOGITS": narrow if formula.linear_dtype == "model" else tl.float32,
        "SCORE": formula.score,
        "INNER": narrow if formula.score_dtype == "model" else tl.float32,
        "OUTER": tl.float32 if formula.score_dtype == "float32" else narrow,
        "SELECT_ON_LOGITS": formula.select_on == "logits",
        "NUM_GROUPS": formula.num_groups,
        "NUM_KEPT": formula.num_kept,
        "GROUP_COUNTED": min(formula.group_counted, group_size),
        "GROUP_SIZE": group_size,
        "MASK_ZERO": formula.mask_value == "zero",
        "NORMALISE": formula.normalise,
        "NORM_ORDER": formula.norm_order,
        "CLAMP_NORM": formula.epsilon_rule == "clamp",
    }


def _multiply(x: Tensor, weight: Tensor) -> Tensor:
    """The logits in parts, to be added up: [parts, T, E] float32."""
    num_tokens, d_model = x.shape
    num_experts = weight.shape[0]
    is_small = num_tokens <= FEW_TOKENS
    block_t, widest = (16, 16) if is_small else (64, 128)
    num_warps = 4 if is_small else 8
    block_e = min(widest, max(16, triton.next_power_of_2(num_experts)))
    # Products of two narrow numbers of one dtype are exact in float32, so that tensor cores add up no less precisely.
    # (The interpreter multiplies the bits of bfloat16 as integers, so it widens first: the same numbers.)
    is_wide = x.dtype != weight.dtype or x.dtype == torch.float32 or knobs.runtime.interpret
    block_d = (64 if is_small else 32) if is_wide else (128 if is_small else 64)
    grid = (triton.cdiv(num_tokens, block_t), triton.cdiv(num_experts, block_e))
    steps = max(1, triton.cdiv(d_model, block_d))
    most_parts = max(1, min(steps, _PROGRAMS // (grid[0] * grid[1])))
    width = triton.cdiv(steps, most_parts) * block_d  # of a part
    num_parts = triton.cdiv(steps * block_d, width)
    parts = x.new_empty((num_parts, num_tokens, num_experts), dtype=torch.float32)
    blocks = {"BLOCK_T": block_t, "BLOCK_E": block_e, "BLOCK_D": block_d}
    sizes = (num_tokens, num_experts, d_model, x.stride(0), width)
    _multiply_parts[(*grid, num_parts)](
        x, weight, parts, *sizes, IS_WIDE=is_wide, **blocks, num_stages=3, num_warps=num_warps
    )
    return parts


# Not specialised for T = 1 or T divisible by 16: that would compile the kernel once more for nothing.
@triton.jit(do_not_specialize=["num_tokens"])
def _multiply_parts(
    x_at, weight_at, parts_at, num_tokens, num_experts, d_model, x_stride, width,
    IS_WIDE: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    """A tile of one part of the logits: the sum over `width` of D, from where the program's part begins."""
    tokens = (tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)).to(tl.int64)[:, None]
    experts = (tl.program_id(1) * BLOCK_E + tl.arange(0, BLOCK_E)).to(tl.int64)
    begin = tl.program_id(2) * width
    end = tl.minimum(begin + width, d_model)
    total = tl.zeros([BLOCK_T, BLOCK_E], tl.float32)
    for first in range(begin, end, BLOCK_D):
        places = first + tl.arange(0, BLOCK_D)
        x_mask = (tokens < num_tokens) & (places < end)[None, :]
        weight_mask = (experts < num_experts)[None, :] & (places < end)[:, None]
        x = tl.load(x_at + tokens * x_stride + places[None, :], mask=x_mask, other=0.0)
        weight = tl.load(weight_at + experts[None, :] * d_model + places[:, None], mask=weight_mask, other=0.0)
        if IS_WIDE:
            x, weight = x.to(tl.float32), weight.to(tl.float32)
        # Never tf32: ten bits of mantissa would change the experts of many tokens.
        total = tl.dot(x, weight, total, input_precision="ieee")
    at = parts_at + (tl.program_id(2) * num_tokens.to(tl.int64) + tokens) * num_experts + experts[None, :]
    tl.store(at, total, mask=(tokens < num_tokens) & (experts < num_experts)[None, :])


@triton.jit(do_not_specialize=["num_tokens", "num_parts"])
def _decide(
    parts_at, bias_at, selection_bias_at, logits_at, scores_at, expert_ids_at, combine_weights_at, slot_of_row_at,
    token_of_row_at, expert_offsets_at, row_order_at, token_offsets_at, drop_reason_at, counts_at,
    num_tokens, num_parts, epsilon, scale,
    NUM_EXPERTS: tl.constexpr, TOP_K: tl.constexpr, LOGITS: tl.constexpr, SCORE: tl.constexpr, INNER: tl.constexpr,
    OUTER: tl.constexpr, SELECT_ON_LOGITS: tl.constexpr, NUM_GROUPS: tl.constexpr, NUM_KEPT: tl.constexpr,
    GROUP_COUNTED: tl.constexpr, GROUP_SIZE: tl.constexpr, MASK_ZERO: tl.constexpr, NORMALISE: tl.constexpr,
    NORM_ORDER: tl.constexpr, CLAMP_NORM: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """All that `Routed` holds for a block of tokens but the plan: with `counts` [blocks, E], what that is made of.

    Without `counts` there is one block, and the plan is made here.
    """
    tokens = (tl.program_id(0) * BLOCK_T + tl.arange(0, BLOCK_T)).to(tl.int64)
    experts, slots = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_K)
    is_token, is_expert = (tokens < num_tokens)[:, None], (experts < NUM_EXPERTS)[None, :]
    sums = _add_parts(parts_at, bias_at, tokens, num_tokens, num_parts, NUM_EXPERTS, BLOCK_T, BLOCK_E)
    logits = sums.to(LOGITS).to(tl.float32)
    scores = score_rows(logits, is_expert, SCORE, INNER, OUTER)
    cells = tokens[:, None] * NUM_EXPERTS + experts[None, :]
    tl.store(logits_at + cells, logits, mask=is_token & is_expert)
    tl.store(scores_at + cells, scores, mask=is_token & is_expert)
    ranked = rank_rows(logits, scores, selection_bias_at, SELECT_ON_LOGITS, NUM_EXPERTS, BLOCK_E)
    if NUM_GROUPS > 0:
        is_allowed = allow_groups(
            ranked, is_expert, NUM_GROUPS, NUM_KEPT, GROUP_COUNTED, GROUP_SIZE, BLOCK_T, BLOCK_E, BLOCK_G
        )
        ranked = tl.where(is_allowed, ranked, 0.0 if MASK_ZERO else float("-inf"))
        scores = tl.where(is_allowed, scores, 0.0) if MASK_ZERO else scores
    source = logits if NORMALISE == "softmax" else scores
    ids, values, is_left = choose_rows(ranked, source, is_expert, TOP_K, BLOCK_T, BLOCK_E, BLOCK_K)
    weights = weigh_rows(values, slots[None, :] < TOP_K, epsilon, scale, NORMALISE, NORM_ORDER, CLAMP_NORM)
    _store_choice(expert_ids_at, combine_weights_at, drop_reason_at, ids, weights, tokens, is_token, TOP_K)
    chosen = (is_token & is_expert & (is_left == 0)).to(tl.int32)
    if counts_at is None:
        _plan_alone(
            chosen, ids,
            slot_of_row_at, token_of_row_at, expert_offsets_at, row_order_at, token_offsets_at, num_tokens,
            NUM_EXPERTS, TOP_K, BLOCK_T, BLOCK_E, BLOCK_K,
        )  # fmt: skip
    else:
        counts = tl.sum(chosen, axis=0).to(tl.uint8)
        tl.store(counts_at + tl.program_id(0) * NUM_EXPERTS + experts, counts, mask=experts < NUM_EXPERTS)


@triton.jit
def _add_parts(
    parts_at, bias_at, tokens, num_tokens, num_parts,
    NUM_EXPERTS: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr,
):  # fmt: skip
    """The sum of a logit's parts, in order, and the bias."""
    experts = tl.arange(0, BLOCK_E)
    mask = (tokens < num_tokens)[:, None] & (experts < NUM_EXPERTS)[None, :]
    at = parts_at + tokens[:, None] * NUM_EXPERTS + experts[None, :]
    total = tl.zeros([BLOCK_T, BLOCK_E], tl.float32)
    for part in range(num_parts):
        total += tl.load(at + part * num_tokens.to(tl.int64) * NUM_EXPERTS, mask=mask, other=0.0)
    if bias_at is not None:
        total += tl.load(bias_at + experts, mask=experts < NUM_EXPERTS, other=0.0).to(tl.float32)[None, :]
    return total


@triton.jit
def _store_choice(
    expert_ids_at, combine_weights_at, drop_reason_at, ids, weights, tokens, is_token, TOP_K: tl.constexpr
):
    """Write the choices [BLOCK_T, BLOCK_K] of a block of tokens; no slot is dropped."""
    slots = tl.arange(0, ids.shape[1])[None, :]
    cells, mask = tokens[:, None] * TOP_K + slots, is_token & (slots < TOP_K)
    tl.store(expert_ids_at + cells, ids, mask=mask)
    tl.store(combine_weights_at + cells, weights, mask=mask)
    tl.store(drop_reason_at + cells, tl.zeros(ids.shape, tl.uint8), mask=mask)


@triton.jit
def _plan_alone(
    chosen, ids, slot_of_row_at, token_of_row_at, expert_offsets_at, row_order_at, token_offsets_at, num_tokens,
    NUM_EXPERTS: tl.constexpr, TOP_K: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The whole plan, by the only program, from its table [BLOCK_T, BLOCK_E] of ones where a token chose an expert.

    A token's experts are distinct, so the row of (token, expert) is the expert's first row plus how many earlier
    tokens chose it.
    """
    tokens, experts, slots = tl.arange(0, BLOCK_T), tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_K)
    counts = tl.sum(chosen, axis=0)
    ends = tl.cumsum(counts, axis=0)
    tl.store(expert_offsets_at, 0)
    tl.store(expert_offsets_at + 1 + experts, ends, mask=experts < NUM_EXPERTS)
    tl.store(token_offsets_at, 0)
    tl.store(token_offsets_at + 1 + tokens, (tokens + 1) * TOP_K, mask=tokens < num_tokens)
    row_of = (ends - counts)[None, :] + tl.cumsum(chosen, axis=0) - chosen
    for k in range(TOP_K):
        index = tl.sum(tl.where(slots[None, :] == k, ids, 0), axis=1)
        row = tl.sum(tl.where(experts[None, :] == index[:, None], row_of, 0), axis=1)
        slot = tokens * TOP_K + k
        tl.store(slot_of_row_at + row, slot, mask=tokens < num_tokens)
        tl.store(token_of_row_at + row, tokens, mask=tokens < num_tokens)
        tl.store(row_order_at + slot, row, mask=tokens < num_tokens)
