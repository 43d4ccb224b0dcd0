"""Route tokens on the CPU in one native pass: logits, scores, choice, combine weights and dispatch plan."""

from __future__ import annotations

import ctypes
import functools
from typing import NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad

from headgate.errors import BackendError, InputError
from headgate.kernels import native
from headgate.kernels.backends import choose_backend
from headgate.kernels.dispatcher import is_seen_by_python
from headgate.kernels.threads import Threads, current_threads

_DTYPES = {torch.float32: 0, torch.float16: 1, torch.bfloat16: 2}
_SCORES = {"softmax": 0, "sigmoid": 1, "sqrt_softplus": 2, "linear": 3}
_ROUNDINGS = {"float32": 0, "model": 1, "rounded": 2}
_NORMALISATIONS = {"none": 0, "sum": 1, "softmax": 2}
_BEST_ISA = -1
_ONE_THREAD = Threads(parallel_for=None, num_threads=1)


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


def runs_natively(device_type: str, x_dtype: torch.dtype, weight_dtype: torch.dtype) -> bool:
    """Whether `route` can run on such tokens and weights here: not under vmap or forward-mode differentiation."""
    if torch._C._functorch.maybe_current_level() is not None or forward_ad._current_level >= 0:
        return False
    choice = choose_backend("route", device_type=device_type, dtype=x_dtype)
    return choice.backend == "native" and weight_dtype in _DTYPES


# What torch.compiler.assume_constant_result does, which also imports torch._dynamo: over a second. Compiled code takes
# the answer as it is; to look for a library is nothing to trace.
runs_natively._dynamo_marked_constant = True  # type: ignore[attr-defined]


def route(
    x: Tensor, weight: Tensor, bias: Tensor | None, selection_bias: Tensor | None, formula: RouterFormula
) -> Routed:
    """Route T tokens, without a graph for gradients.

    Products and sums are float32. What a token gets does not depend on the other tokens or the number of threads, to
    the bit. Ties go to the lowest id, a NaN ranks as -inf.

    Args:
        x: [T, D] float32, float16 or bfloat16 on the CPU; a last axis of stride 1 is read in place.
        weight: [E, D], any of these dtypes.
        bias: [E] in the dtype of the weight, or None.
        selection_bias: [E] float32, or None.
        formula: the rest of the router.

    Returns:
        The decision and its plan.

    Raises:
        InputError: shapes or dtypes other than these.
        BackendError: the native library is missing.
        MemoryError: no room for a few tokens per thread.

    Example:
        >>> import torch
        >>> formula = RouterFormula(
        ...     2, "softmax", "float32", "float32", "scores", 0, 0, 0, "-inf", "sum", 1.0, 0.0, "add", 1.0
        ... )
        >>> x, weight = torch.tensor([[1.0, 2.0]]), torch.tensor([[1.0, 0.0], [0.0, 1.0], [0.0, 0.0]])
        >>> route(x, weight, None, None, formula).expert_ids.tolist() if native.library() else [[1, 0]]
        [[1, 0]]
    """
    if is_seen_by_python():
        return Routed(*_route_op(x, weight, bias, selection_bias, *formula))
    return route_native(x, weight, bias, selection_bias, formula)


def route_native(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    selection_bias: Tensor | None,
    formula: RouterFormula,
    *,
    isa: int = _BEST_ISA,
) -> Routed:
    """Compute `route` now, with a given instruction set.

    Args:
        x, weight, bias, selection_bias, formula: as in `route`.
        isa: a `headgate_isa` of `csrc/headgate.h`.

    Returns:
        As `route`.

    Raises:
        InputError: as in `route`, or an instruction set that this processor lacks.
        BackendError: as in `route`.
        MemoryError: as in `route`.
    """
    _require_sound(x, weight, bias, selection_bias, formula)
    library = native.library()
    if library is None:
        raise BackendError(
            f"the native router is not available: {native.why_missing()}; to get it, {native.HOW_TO_GET}"
        )
    x = x if x.stride(1) == 1 or x.shape[1] <= 1 else x.contiguous()
    weight = weight.contiguous()
    bias = None if bias is None else bias.contiguous()
    selection_bias = None if selection_bias is None else selection_bias.contiguous()
    tokens = describe_tokens(x, (x.shape[0], x.stride(0)), weight, bias, selection_bias)
    routed = _allocate(x, x.shape[0], weight.shape[0], formula.top_k)
    pointers = _Pointers(*[tensor.data_ptr() for tensor in routed])
    router = describe_router(formula, weight.shape[1], weight.shape[0])
    at, threads = ctypes.byref, _ONE_THREAD if x.shape[0] == 1 else current_threads()
    status = library.headgate_route(at(router), at(tokens), at(pointers), at(threads), isa)
    if status == native.OUT_OF_MEMORY:
        raise MemoryError(f"no memory to route tokens of width {x.shape[1]} (status {status})")
    if status != 0:
        raise InputError(f"isa (={isa}) must be one that this processor has, and {formula} in range; pass isa=-1")
    return routed


# The formula's fields one by one: an operator takes plain values only.
@torch.library.custom_op("headgate::route", mutates_args=())
def _route_op(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    selection_bias: Tensor | None,
    top_k: int,
    score: str,
    linear_dtype: str,
    score_dtype: str,
    select_on: str,
    num_groups: int,
    num_kept: int,
    group_counted: int,
    mask_value: str,
    normalise: str,
    norm_order: float,
    epsilon: float,
    epsilon_rule: str,
    scale: float,
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    formula = RouterFormula(
        top_k,
        score,
        linear_dtype,
        score_dtype,
        select_on,
        num_groups,
        num_kept,
        group_counted,
        mask_value,
        normalise,
        norm_order,
        epsilon,
        epsilon_rule,
        scale,
    )
    return tuple(route_native(x, weight, bias, selection_bias, formula))  # type: ignore[return-value]


@_route_op.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor | None, selection_bias: Tensor | None, top_k: int, *_: object
) -> tuple[Tensor, ...]:
    return tuple(_allocate(x, x.shape[0], weight.shape[0], top_k))


def _allocate(x: Tensor, num_tokens: int, num_experts: int, top_k: int) -> Routed:
    num_rows = num_tokens * top_k
    integer, real = torch.int64, torch.float32
    return Routed(
        logits=x.new_empty((num_tokens, num_experts), dtype=real),
        scores=x.new_empty((num_tokens, num_experts), dtype=real),
        expert_ids=x.new_empty((num_tokens, top_k), dtype=integer),
        combine_weights=x.new_empty((num_tokens, top_k), dtype=real),
        slot_of_row=x.new_empty(num_rows, dtype=integer),
        token_of_row=x.new_empty(num_rows, dtype=integer),
        expert_offsets=x.new_empty(num_experts + 1, dtype=integer),
        row_order=x.new_empty(num_rows, dtype=integer),
        token_offsets=x.new_empty(num_tokens + 1, dtype=integer),
        drop_reason=x.new_empty((num_tokens, top_k), dtype=torch.uint8),
    )


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


class _Pointers(ctypes.Structure):
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
        _DTYPES[x.dtype],
        _DTYPES[weight.dtype],
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


def _require_sound(
    x: Tensor, weight: Tensor, bias: Tensor | None, selection_bias: Tensor | None, formula: RouterFormula
) -> None:
    """What the library can't see for itself: it would read and write past the ends."""
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1]:
        raise InputError(f"x {list(x.shape)} and weight {list(weight.shape)} must be [T, D] and [E, D] of the same D")
    if x.dtype not in _DTYPES or weight.dtype not in _DTYPES:
        raise InputError(f"x ({x.dtype}) and weight ({weight.dtype}) must be float32, float16 or bfloat16; cast them")
    width = weight.shape[:1]
    if bias is not None and (bias.shape != width or bias.dtype != weight.dtype):
        raise InputError(f"bias {list(bias.shape)} ({bias.dtype}) must be [E] in the dtype of weight ({weight.dtype})")
    if selection_bias is not None and (selection_bias.shape != width or selection_bias.dtype != torch.float32):
        raise InputError(f"selection_bias {list(selection_bias.shape)} ({selection_bias.dtype}) must be [E] float32")
    if not (x.is_cpu and weight.is_cpu):
        raise InputError(f"x ({x.device}) and weight ({weight.device}) must be on the CPU for the native router")
    if not 1 <= formula.top_k <= weight.shape[0]:
        raise InputError(f"top_k (={formula.top_k}) must be between 1 and the number of experts (={weight.shape[0]})")
