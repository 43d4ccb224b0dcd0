"""When a layer's inference is one native call: nothing asks for the decision, so it needn't become tensors."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.modules import module as nn_module

from headgate.kernels.dispatcher import is_seen_by_python
from headgate.kernels.experts import is_backend
from headgate.kernels.experts_call import Weights
from headgate.kernels.layer import run_layer
from headgate.nn.experts import Experts
from headgate.nn.native_route import cast_router, make_formula
from headgate.nn.router import Router

# A subclass, such as a weight sharded over ranks, has memory of its own kind.
_PLAIN = (Tensor, nn.Parameter)


def run_at_once(x: Tensor, router: Router, experts: Experts) -> Tensor | None:
    """Route the tokens and run their experts in one call, if that is possible and nobody wants to see more.

    Args:
        x: [..., D].
        router: whose decision would be dropped.
        experts: of the layer.

    Returns:
        The shape and dtype of `x`: the bits of `router`, then `experts`; or None where the modules must be called.
    """
    spec = router.spec
    if is_seen_by_python() or spec.apply_to != "output" or not _is_unobserved(router, experts):
        return None
    weights = experts.matrices()
    num_rows = x.numel() // x.shape[-1] * spec.top_k
    is_native = x.is_cpu and is_backend(x, num_rows, experts.num_experts) and router.decides_at_once(x)
    if not is_native or not _is_plain(x, weights):
        return None
    assert router.weight is not None  # Every spec that is decided natively has one.
    decider = cast_router((router.weight, router.bias, router.selection_bias), spec, x.dtype)
    return run_layer(x, decider, make_formula(spec), weights, experts.spec.function)


def _is_unobserved(*modules: nn.Module) -> bool:
    if type(modules[0]) is not Router or type(modules[1]) is not Experts or nn_module._has_any_global_hook():  # type: ignore[no-untyped-call]
        return False
    return not any(module._forward_hooks or module._forward_pre_hooks for module in modules)


def _is_plain(x: Tensor, weights: Weights) -> bool:
    tensors = [x, *(tensor for tensor in weights if tensor is not None)]
    if any(type(tensor) not in _PLAIN or tensor.dtype != x.dtype for tensor in tensors):
        return False
    if torch.is_autocast_enabled(x.device.type):
        return False
    return not (torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors))
