"""What one program does to decide for a block of tokens: scores, groups, the best K, and their weights.

Functions of a block's rows [BLOCK_T, BLOCK_E], which stay in registers; a mask says which columns are experts. They
follow the C++ router line by line, in float32, with the same outcomes for ties, NaN and infinity.
"""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def exp_of_negative(x):
    """exp(x) for x <= 0 or NaN, right to about two roundings.

    `tl.exp` is the hardware's 2^(x log2 e), and rounds that product: at x = -80 the result is wrong by 60 roundings.
    Here x = n log 2 + r with |r| < 0.35, log 2 in two pieces of which n times the first is exact (Cody and Waite,
    "Software Manual for the Elementary Functions", 1980, chapter 6).
    """
    x = tl.where(x < -110.0, -110.0, x)  # exp(-104) is 0 in float32
    n = tl.floor(x * 1.4426950408889634 + 0.5)
    r = (x - n * 0.693145751953125) - n * 1.428606765330187e-06
    return tl.exp2(n) * tl.exp(r)


@triton.jit
def log_of_one_plus(x):
    """log(1 + x) for x in [0, 1] or NaN: log(u) x / (u - 1) with u = 1 + x rounded (Kahan)."""
    u = 1.0 + x
    is_lost = u == 1.0
    return tl.where(is_lost, x, tl.log(u) * tl.div_rn(x, tl.where(is_lost, 1.0, u - 1.0)))


@triton.jit
def softmax_rows(values, is_column):
    """Each row's softmax over the columns that are there; 0 in the others. All -inf, or a NaN: a row of NaN."""
    values = tl.where(is_column, values, float("-inf"))
    powers = exp_of_negative(values - tl.max(values, axis=1)[:, None])
    powers = tl.where(is_column, powers, 0.0)
    return tl.div_rn(powers, tl.broadcast_to(tl.sum(powers, axis=1)[:, None], powers.shape))


@triton.jit
def score_rows(logits, is_expert, SCORE: tl.constexpr, INNER: tl.constexpr, OUTER: tl.constexpr):
    """The scores of logits; computed on logits rounded to INNER, and rounded to OUTER."""
    z = logits.to(INNER).to(tl.float32)
    if SCORE == "softmax":
        scores = softmax_rows(z, is_expert)
    elif SCORE == "sigmoid":
        decay = exp_of_negative(tl.where(z >= 0, -z, z))
        scores = tl.div_rn(tl.where(z >= 0, 1.0, decay), 1.0 + decay)
    elif SCORE == "sqrt_softplus":
        decay = exp_of_negative(tl.where(z >= 0, -z, z))
        softplus = log_of_one_plus(decay) + tl.where(z >= 0, z, 0.0)
        scores = tl.sqrt_rn(softplus.to(INNER).to(tl.float32))
    else:
        scores = z
    return scores.to(OUTER).to(tl.float32)


@triton.jit
def take_best(ranked, is_left, columns, NONE: tl.constexpr):
    """Of what is left in each row, the first of the largest, its value, and what is left then. No NaN in `ranked`."""
    best = tl.max(tl.where(is_left, ranked, float("-inf")), axis=1)
    is_best = is_left & (ranked == best[:, None])
    index = tl.min(tl.where(is_best, columns[None, :], NONE), axis=1)
    return index, best, is_left & (columns[None, :] != index[:, None])


@triton.jit
def rank_rows(
    logits, scores, selection_bias_at, SELECT_ON_LOGITS: tl.constexpr, NUM_EXPERTS: tl.constexpr, BLOCK_E: tl.constexpr
):
    """What selection ranks, before groups: scores or logits with the selection bias, -inf for NaN."""
    ranked = logits if SELECT_ON_LOGITS else scores
    if selection_bias_at is not None:
        experts = tl.arange(0, BLOCK_E)
        ranked += tl.load(selection_bias_at + experts, mask=experts < NUM_EXPERTS, other=0.0)[None, :]
    return tl.where(ranked != ranked, float("-inf"), ranked)


@triton.jit
def allow_groups(
    ranked, is_expert,
    NUM_GROUPS: tl.constexpr, NUM_KEPT: tl.constexpr, GROUP_COUNTED: tl.constexpr, GROUP_SIZE: tl.constexpr,
    BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_G: tl.constexpr,
):  # fmt: skip
    """Which experts are in each token's best groups, a group being as good as its best members together."""
    experts, groups = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_G)
    group_of_expert = experts // GROUP_SIZE
    goodness = tl.full([BLOCK_T, BLOCK_G], float("-inf"), tl.float32)
    for group in range(NUM_GROUPS):
        is_left = tl.broadcast_to(is_expert & (group_of_expert == group)[None, :], [BLOCK_T, BLOCK_E])
        total = tl.zeros([BLOCK_T], tl.float32)
        for _ in range(GROUP_COUNTED):
            _, best, is_left = take_best(ranked, is_left, experts, BLOCK_E)
            total += best
        total = tl.where(total != total, float("-inf"), total)
        goodness = tl.where(groups[None, :] == group, total[:, None], goodness)
    is_allowed = tl.zeros([BLOCK_T, BLOCK_E], tl.int1)
    is_left = tl.broadcast_to((groups < NUM_GROUPS)[None, :], [BLOCK_T, BLOCK_G])
    for _ in range(NUM_KEPT):
        kept, _, is_left = take_best(goodness, is_left, groups, BLOCK_G)
        is_allowed = is_allowed | (group_of_expert[None, :] == kept[:, None])
    return is_allowed


@triton.jit
def take_values(source, columns, index):
    """Each row's entry in the column `index`: [BLOCK_T]."""
    return tl.sum(tl.where(columns[None, :] == index[:, None], source, 0.0), axis=1)


@triton.jit
def choose_rows(
    ranked, source, is_expert,
    TOP_K: tl.constexpr, BLOCK_T: tl.constexpr, BLOCK_E: tl.constexpr, BLOCK_K: tl.constexpr,
):  # fmt: skip
    """The K best experts of each row, best first, what `source` has for them, and which experts are left."""
    experts, slots = tl.arange(0, BLOCK_E), tl.arange(0, BLOCK_K)
    ids = tl.zeros([BLOCK_T, BLOCK_K], tl.int32)
    values = tl.zeros([BLOCK_T, BLOCK_K], tl.float32)
    is_left = tl.broadcast_to(is_expert, [BLOCK_T, BLOCK_E])
    for k in range(TOP_K):
        index, _, is_left = take_best(ranked, is_left, experts, BLOCK_E)
        ids = tl.where(slots[None, :] == k, index[:, None], ids)
        values = tl.where(slots[None, :] == k, take_values(source, experts, index)[:, None], values)
    return ids, values, is_left


@triton.jit
def norm_rows(values, NORM_ORDER: tl.constexpr):
    """The norm of each row of values >= 0: [BLOCK_T]."""
    total = tl.sum(values, axis=1)
    if NORM_ORDER == 1.0:
        norm = total
    elif float("inf") == NORM_ORDER:
        norm = tl.where(total != total, total, tl.max(values, axis=1))
    elif NORM_ORDER == 2.0:
        norm = tl.sqrt_rn(tl.sum(values * values, axis=1))
    else:
        powers = tl.where(values == 0, 0.0, tl.exp2(NORM_ORDER * tl.log2(values)))
        norm = tl.exp2(tl.log2(tl.sum(powers, axis=1)) / NORM_ORDER)
    return norm


@triton.jit
def bound_norm(norm, epsilon, CLAMP_NORM: tl.constexpr):
    """What values are divided by: never 0."""
    if CLAMP_NORM:
        norm = tl.where(norm < epsilon, epsilon, norm)
    else:
        norm += epsilon
    return tl.where(norm == 0, 1.0, norm)


@triton.jit
def weigh_rows(
    values, is_slot, epsilon, scale, NORMALISE: tl.constexpr, NORM_ORDER: tl.constexpr, CLAMP_NORM: tl.constexpr
):
    """Combine weights of the chosen values [BLOCK_T, BLOCK_K], as `weigh_choices`."""
    weights = values
    if NORMALISE == "softmax":
        weights = softmax_rows(values, is_slot)
    elif NORMALISE == "sum":
        values = tl.where(is_slot, values, 0.0)
        divisor = bound_norm(norm_rows(values, NORM_ORDER), epsilon, CLAMP_NORM)
        weights = tl.div_rn(values, tl.broadcast_to(divisor[:, None], values.shape))
    return weights * scale
