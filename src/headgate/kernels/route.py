"""Route tokens in one pass, native or on a GPU: logits, scores, choice, combine weights and dispatch plan."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor
from torch.autograd import forward_ad

from headgate.errors import BackendError, InputError
from headgate.kernels import native
from headgate.kernels.backends import choose_backend, has_triton
from headgate.kernels.dispatcher import is_seen_by_python
from headgate.kernels.route_call import DTYPES, Pointers, Routed, RouterFormula, describe_router, describe_tokens
from headgate.kernels.threads import Threads, current_threads

_BEST_ISA = -1
MOST_EXPERTS_ON_GPU, MOST_CHOICES_ON_GPU = 512, 16
"""What the registers of one program hold for 16 tokens; more goes operation by operation."""

_ONE_THREAD = Threads(parallel_for=None, num_threads=1)


def runs_natively(device_type: str, x_dtype: torch.dtype, weight_dtype: torch.dtype) -> bool:
    """Whether `route` runs natively on such tokens and weights: not under vmap or forward-mode differentiation."""
    return _backend(device_type, x_dtype, weight_dtype) == "native"


def runs_at_once(
    device_type: str, x_dtype: torch.dtype, weight_dtype: torch.dtype, num_experts: int, top_k: int
) -> bool:
    """Whether `route` can run on such tokens and weights, natively or on a GPU, where sizes have a limit."""
    backend = _backend(device_type, x_dtype, weight_dtype)
    is_in_limits = num_experts <= MOST_EXPERTS_ON_GPU and top_k <= MOST_CHOICES_ON_GPU
    return backend == "native" or (backend == "triton" and is_in_limits)


# What torch.compiler.assume_constant_result does, which also imports torch._dynamo: over a second. Compiled code takes
# the answer as it is; to look for a library is nothing to trace.
runs_natively._dynamo_marked_constant = True  # type: ignore[attr-defined]
runs_at_once._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _backend(device_type: str, x_dtype: torch.dtype, weight_dtype: torch.dtype) -> str:
    is_transformed = torch._C._functorch.maybe_current_level() is not None or forward_ad._current_level >= 0
    if is_transformed or weight_dtype not in DTYPES:
        return "torch"
    return choose_backend("route", device_type=device_type, dtype=x_dtype).backend


def route(
    x: Tensor, weight: Tensor, bias: Tensor | None, selection_bias: Tensor | None, formula: RouterFormula
) -> Routed:
    """Route T tokens, without a graph for gradients.

    Products and sums are float32. On a CPU, what a token gets does not depend on the other tokens or the number of
    threads, to the bit. Ties go to the lowest id, a NaN ranks as -inf.

    Args:
        x: [T, D] float32, float16 or bfloat16, on the CPU or a GPU; a last axis of stride 1 is read in place.
        weight: [E, D], any of these dtypes.
        bias: [E] in the dtype of the weight, or None.
        selection_bias: [E] float32, or None.
        formula: the rest of the router.

    Returns:
        The decision and its plan.

    Raises:
        InputError: shapes or dtypes other than these; more experts or choices than the GPU's kernel takes.
        BackendError: the native library is missing, or for a GPU, Triton.
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
    return _route_now(x, weight, bias, selection_bias, formula)


def _route_now(
    x: Tensor, weight: Tensor, bias: Tensor | None, selection_bias: Tensor | None, formula: RouterFormula
) -> Routed:
    run = route_on_gpu if x.is_cuda else route_native
    return run(x, weight, bias, selection_bias, formula)


def route_on_gpu(
    x: Tensor, weight: Tensor, bias: Tensor | None, selection_bias: Tensor | None, formula: RouterFormula
) -> Routed:
    """Compute `route` now by Triton's kernels: on a GPU, or on a CPU by its interpreter.

    A token's logits can differ in their last bits with the number of tokens, never from one run to the next.

    Args:
        x, weight, bias, selection_bias, formula: as in `route`.

    Returns:
        As `route`.

    Raises:
        InputError, BackendError: as in `route`.
    """
    _require_sound(x, weight, bias, selection_bias, formula)
    if weight.shape[0] > MOST_EXPERTS_ON_GPU or formula.top_k > MOST_CHOICES_ON_GPU:
        raise InputError(
            f"{weight.shape[0]} experts and top_k (={formula.top_k}) must be at most {MOST_EXPERTS_ON_GPU} and "
            f"{MOST_CHOICES_ON_GPU} for the router on a GPU; call headgate.Router, which then goes another way"
        )
    if not has_triton():
        raise BackendError("the router on a GPU needs triton, which is missing; to get it, pip install 'headgate[gpu]'")
    # Here, since triton takes long to import and is not there on every machine.
    from headgate.kernels.triton.route import route_triton

    x, weight, bias, selection_bias = _straighten(x, weight, bias, selection_bias)
    routed = _allocate(x, x.shape[0], weight.shape[0], formula.top_k)
    route_triton(x, weight, bias, selection_bias, formula, routed)
    return routed


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
    if not x.is_cpu:
        raise InputError(f"x ({x.device}) and weight ({weight.device}) must be on the CPU for the native router")
    x, weight, bias, selection_bias = _straighten(x, weight, bias, selection_bias)
    tokens = describe_tokens(x, (x.shape[0], x.stride(0)), weight, bias, selection_bias)
    routed = _allocate(x, x.shape[0], weight.shape[0], formula.top_k)
    pointers = Pointers(*[tensor.data_ptr() for tensor in routed])
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
    return tuple(_route_now(x, weight, bias, selection_bias, formula))  # type: ignore[return-value]


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


def _straighten(
    x: Tensor, weight: Tensor, bias: Tensor | None, selection_bias: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """The tensors with the strides that the kernels read."""
    x = x if x.stride(1) == 1 or x.shape[1] <= 1 else x.contiguous()
    bias = None if bias is None else bias.contiguous()
    return x, weight.contiguous(), bias, None if selection_bias is None else selection_bias.contiguous()


def _require_sound(
    x: Tensor, weight: Tensor, bias: Tensor | None, selection_bias: Tensor | None, formula: RouterFormula
) -> None:
    """What the library can't see for itself: it would read and write past the ends."""
    if x.dim() != 2 or weight.dim() != 2 or x.shape[1] != weight.shape[1]:
        raise InputError(f"x {list(x.shape)} and weight {list(weight.shape)} must be [T, D] and [E, D] of the same D")
    if x.dtype not in DTYPES or weight.dtype not in DTYPES:
        raise InputError(f"x ({x.dtype}) and weight ({weight.dtype}) must be float32, float16 or bfloat16; cast them")
    width = weight.shape[:1]
    if bias is not None and (bias.shape != width or bias.dtype != weight.dtype):
        raise InputError(f"bias {list(bias.shape)} ({bias.dtype}) must be [E] in the dtype of weight ({weight.dtype})")
    if selection_bias is not None and (selection_bias.shape != width or selection_bias.dtype != torch.float32):
        raise InputError(f"selection_bias {list(selection_bias.shape)} ({selection_bias.dtype}) must be [E] float32")
    if x.device != weight.device:
        raise InputError(f"x ({x.device}) and weight ({weight.device}) must be on the same device; move one of them")
    if not 1 <= formula.top_k <= weight.shape[0]:
        raise InputError(f"top_k (={formula.top_k}) must be between 1 and the number of experts (={weight.shape[0]})")
