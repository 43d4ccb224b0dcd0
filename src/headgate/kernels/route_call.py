"""A router and its tokens in the native library's terms, and its result in ours."""

from __future__ import annotations

import ctypes
import functools
from typing import NamedTuple

import torch
from torch import Tensor

DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
"""`headgate_dtype` of `csrc/headgate.h`."""

_SCORES = {"softmax": 0, "sigmoid": 1, "sqrt_softplus": 2, "linear": 3}
_ROUNDINGS = {"float32": 0, "model": 1, "rounded": 2}
_NORMALISATIONS = {"none": 0, "sum": 1, "softmax": 2}


class RouterFormula(NamedTuple):
    """What `route` computes besides the sizes. The fields mean what those of `RouterSpec` do.

    Attributes:
        top_k: K.
        score: "softmax", "sigmoid", "sqrt_softplus" or "linear".
        linear_dtype: "float32", or "model": logits are rounded to the dtype of the tokens.
        score_dtype: "float32", "model" or "rounded".
        select_on: "scores" or "logits".
        num_groups: 0 = no groups.
        num_kept: groups that a token may use.
        group_counted: a group is as good as its best so many experts together.
        mask_value: "-inf" or "zero", what experts of other groups get.
        normalise: "none", "sum" or "softmax".
        norm_order, epsilon, epsilon_rule, scale: of the combine weights.
    """

    top_k: int
    score: str
    linear_dtype: str
    score_dtype: str
    select_on: str
    num_groups: int
    num_kept: int
    group_counted: int
    mask_value: str
    normalise: str
    norm_order: float
    epsilon: float
    epsilon_rule: str
    scale: float


class Routed(NamedTuple):
    """What `route` returns: all int64 but the first two and the weights (float32) and the reasons (uint8)."""

    logits: Tensor
    """[T, E]."""
    scores: Tensor
    """[T, E]."""
    expert_ids: Tensor
    """[T, K], best first."""
    combine_weights: Tensor
    """[T, K]."""
    slot_of_row: Tensor
    """[T * K], slots sorted by expert."""
    token_of_row: Tensor
    """[T * K]."""
    expert_offsets: Tensor
    """[E + 1]."""
    row_order: Tensor
    """[T * K], the row of each slot."""
    token_offsets: Tensor
    """[T + 1]."""
    drop_reason: Tensor
    """[T, K], zeros: every slot became a row."""


class _Router(ctypes.Structure):
    """`headgate_router` of `csrc/headgate.h`."""

    _fields_ = (
        *((name, ctypes.c_int64) for name in ("d_model", "num_experts", "top_k")),
        *((name, ctypes.c_int32) for name in ("score", "score_rounding", "round_logits", "select_on_logits")),
        *((name, ctypes.c_int64) for name in ("num_groups", "num_kept", "group_counted")),
        *((name, ctypes.c_int32) for name in ("mask_zero", "normalise", "clamp_norm")),
        *((name, ctypes.c_float) for name in ("norm_order", "epsilon", "scale")),
    )


class _Input(ctypes.Structure):
    """`headgate_router_input` of `csrc/headgate.h`."""

    _fields_ = (
        ("x", ctypes.c_void_p),
        ("num_tokens", ctypes.c_int64),
        ("x_stride", ctypes.c_int64),
        ("x_dtype", ctypes.c_int32),
        ("weight_dtype", ctypes.c_int32),
        ("weight", ctypes.c_void_p),
        ("bias", ctypes.c_void_p),
        ("selection_bias", ctypes.c_void_p),
    )


class Pointers(ctypes.Structure):
    """`headgate_routing` of `csrc/headgate.h`."""

    _fields_ = tuple((name, ctypes.c_void_p) for name in Routed._fields)


def describe_tokens(
    x: Tensor, layout: tuple[int, int], weight: Tensor, bias: Tensor | None, selection_bias: Tensor | None
) -> _Input:
    """What the router reads, as the library does; the tensors must stay alive.

    Args:
        x: tokens whose last axis is contiguous.
        layout: T, and the elements from one token to the next.
        weight, bias, selection_bias: contiguous.
    """
    return _Input(
        x.data_ptr(),
        *layout,
        DTYPES[x.dtype],
        DTYPES[weight.dtype],
        weight.data_ptr(),
        None if bias is None else bias.data_ptr(),
        None if selection_bias is None else selection_bias.data_ptr(),
    )


@functools.lru_cache(maxsize=256)
def describe_router(formula: RouterFormula, d_model: int, num_experts: int) -> _Router:
    """The router as the library reads it."""
    return _Router(
        d_model=d_model,
        num_experts=num_experts,
        top_k=formula.top_k,
        score=_SCORES[formula.score],
        score_rounding=_ROUNDINGS[formula.score_dtype],
        round_logits=formula.linear_dtype == "model",
        select_on_logits=formula.select_on == "logits",
        num_groups=formula.num_groups,
        num_kept=formula.num_kept,
        group_counted=formula.group_counted,
        mask_zero=formula.mask_value == "zero",
        normalise=_NORMALISATIONS[formula.normalise],
        clamp_norm=formula.epsilon_rule == "clamp",
        norm_order=formula.norm_order,
        epsilon=formula.epsilon,
        scale=formula.scale,
    )
