"""Route tokens in one pass, native or on a GPU: logits, scores, choice, combine weights and dispatch plan."""

from __future__ import annotations

import ctypes
from typing import Any, get_type_hints

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
    kinds = (device_type, x_dtype, weight_dtype)
    return runs_natively(*kinds) or runs_with_gradients(*kinds, num_experts, top_k)


def runs_with_gradients(
    device_type: str, x_dtype: torch.dtype, weight_dtype: torch.dtype, num_experts: int, top_k: int
) -> bool:
    """Whether `route` has gradients on such tokens and weights: on a GPU, where sizes have a limit."""
    is_in_limits = num_experts <= MOST_EXPERTS_ON_GPU and top_k <= MOST_CHOICES_ON_GPU
    return is_in_limits and _backend(device_type, x_dtype, weight_dtype) == "triton"


# What torch.compiler.assume_constant_result does, which also imports torch._dynamo: over a second. Compiled code takes
# the answer as it is; to look for a library is nothing to trace.
runs_natively._dynamo_marked_constant = True  # type: ignore[attr-defined]
runs_at_once._dynamo_marked_constant = True  # type: ignore[attr-defined]
runs_with_gradients._dynamo_marked_constant = True  # type: ignore[attr-defined]


def _backend(device_type: str, x_dtype: torch.dtype, weight_dtype: torch.dtype) -> str:
    is_transformed = torch._C._functorch.maybe_current_level() is not None or forward_ad._current_level >= 0
    if is_transformed or weight_dtype not in DTYPES:
        return "torch"
    return choose_backend("route", device_type=device_type, dtype=x_dtype).backend


def route(
    x: Tensor, weight: Tensor, bias: Tensor | None, selection_bias: Tensor | None, formula: RouterFormula
) -> Routed:
    """Route T tokens; on a GPU with gradients of logits, scores and combine weights for x, weight and bias.

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
    given = (x, weight, bias)
    is_trained = torch.is_grad_enabled() and any(tensor is not None and tensor.requires_grad for tensor in given)
    has_gradients = is_trained and _backend(x.device.type, x.dtype, weight.dtype) == "triton"
    if has_gradients or is_seen_by_python():
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
_FORMULA = ", ".join(f"{kind.__name__} {name}" for name, kind in get_type_hints(RouterFormula).items())
_NUM_TENSORS = 4


@torch.library.custom_op(
    "headgate::route",
    mutates_args=(),
    schema=f"(Tensor x, Tensor weight, Tensor? bias, Tensor? selection_bias, {_FORMULA}) -> "
    f"({', '.join(['Tensor'] * len(Routed._fields))})",
)
def _route_op(
    x: Tensor, weight: Tensor, bias: Tensor | None, selection_bias: Tensor | None, *formula: Any
) -> tuple[Tensor, ...]:
    return tuple(_route_now(x, weight, bias, selection_bias, RouterFormula(*formula)))


@_route_op.register_fake
def _(
    x: Tensor, weight: Tensor, bias: Tensor | None, selection_bias: Tensor | None, top_k: int, *_: object
) -> tuple[Tensor, ...]:
    return tuple(_allocate(x, x.shape[0], weight.shape[0], top_k))


@torch.library.custom_op(
    "headgate::route_gradients",
    mutates_args=(),
    schema="(Tensor? d_logits, Tensor? d_scores, Tensor? d_weights, Tensor x, Tensor weight, Tensor? selection_bias, "
    f"Tensor logits, Tensor expert_ids, {_FORMULA}, bool[] wanted) -> (Tensor, Tensor, Tensor)",
)
def _route_gradients_op(
    d_logits: Tensor | None,
    d_scores: Tensor | None,
    d_weights: Tensor | None,
    x: Tensor,
    weight: Tensor,
    selection_bias: Tensor | None,
    logits: Tensor,
    expert_ids: Tensor,
    *rest: Any,
) -> tuple[Tensor, Tensor, Tensor]:
    """The gradients of x, weight and bias by Triton's kernels, each empty where it is not wanted."""
    from headgate.kernels.triton.route_gradient import differentiate_logits

    *formula, wanted = rest
    gradients = (d_logits, d_scores, d_weights)
    d = differentiate_logits(gradients, logits, selection_bias, expert_ids, RouterFormula(*formula), x.dtype)
    d_x, d_weight, d_bias = _empty_gradients(x, weight, wanted)
    with torch.autocast(device_type=x.device.type, enabled=False):
        if wanted[0]:
            d_x = (d @ weight.to(d.dtype)).to(x.dtype)
        if wanted[1]:
            d_weight = (d.t() @ x.to(d.dtype)).to(weight.dtype)
    if wanted[2]:
        d_bias = d.sum(dim=0, dtype=torch.float32).to(weight.dtype)
    return d_x, d_weight, d_bias


@_route_gradients_op.register_fake
def _(*arguments: Any) -> tuple[Tensor, Tensor, Tensor]:
    return _empty_gradients(arguments[3], arguments[4], arguments[-1])


def _empty_gradients(x: Tensor, weight: Tensor, wanted: list[bool]) -> tuple[Tensor, Tensor, Tensor]:
    return (
        x.new_empty(x.shape if wanted[0] else 0),
        weight.new_empty(weight.shape if wanted[1] else 0),
        weight.new_empty(weight.shape[:1] if wanted[2] else 0),
    )


def _setup(ctx: torch.autograd.function.FunctionCtx, inputs: tuple[Any, ...], output: tuple[Tensor, ...]) -> None:
    routed, (x, weight, _, selection_bias) = Routed(*output), inputs[:_NUM_TENSORS]
    ctx.save_for_backward(x, weight, selection_bias, routed.logits, routed.expert_ids)
    ctx.formula = inputs[_NUM_TENSORS:]  # type: ignore[attr-defined]
    ctx.set_materialize_grads(False)


def _backward(ctx: torch.autograd.function.FunctionCtx, *gradients: Tensor | None) -> tuple[Tensor | None, ...]:
    given = Routed(*gradients)  # type: ignore[arg-type]
    of_floats = (given.logits, given.scores, given.combine_weights)
    wanted = list(ctx.needs_input_grad[:3])  # type: ignore[attr-defined]
    found = _route_gradients_op(*of_floats, *ctx.saved_tensors, *ctx.formula, wanted)  # type: ignore[attr-defined]
    own = [gradient if want else None for gradient, want in zip(found, wanted, strict=True)]
    return (*own, *[None] * (1 + len(ctx.formula)))  # type: ignore[attr-defined]


_route_op.register_autograd(_backward, setup_context=_setup)


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
