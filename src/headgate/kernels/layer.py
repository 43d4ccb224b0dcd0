"""A whole layer for inference in one C++ call: router, plan and experts. What was decided is not kept."""

from __future__ import annotations

import ctypes

from torch import Tensor

from headgate.kernels.experts_call import Call, Weights
from headgate.kernels.function import ExpertFunction
from headgate.kernels.route_call import RouterFormula, describe_router, describe_tokens

RouterTensors = tuple[Tensor, Tensor | None, Tensor | None]
"""weight [E, D], bias [E] in its dtype or None, selection_bias [E] float32 or None; E includes zero-compute experts."""


def run_layer(
    x: Tensor, router: RouterTensors, formula: RouterFormula, weights: Weights, function: ExpertFunction
) -> Tensor:
    """Route tokens and run their experts, without a graph, past PyTorch's dispatcher.

    Args:
        x: [..., D] float32, float16 or bfloat16 on the CPU.
        router: its tensors.
        formula: how it decides.
        weights: of the experts, in the dtype of `x`; the router's experts beyond them return their input.
        function: what an expert computes between its projections.

    Returns:
        The shape and dtype of `x`: the bits that `route`, then `experts` give.

    Raises:
        BackendError: the native library is missing.
        MemoryError: no room for the rows' intermediate results.
    """
    weight, bias, selection_bias = (None if tensor is None else tensor.contiguous() for tensor in router)
    assert weight is not None
    call = Call(x, None, weights, function)
    y = call.x.new_empty(x.shape)
    tokens = describe_tokens(call.x, call.layout, weight, bias, selection_bias)
    decider = describe_router(formula, weight.shape[1], weight.shape[0])
    at = ctypes.byref
    call.check(call.library.headgate_layer_forward(at(decider), at(tokens), call.problem, y.data_ptr()))
    return y
