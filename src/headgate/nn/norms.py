"""`measure_norms`: how much each expert's output adds to a token, from outside, while a model runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from headgate.errors import InputError
from headgate.flow import DispatchPlan, DropReason
from headgate.nn.moe import MoE
from headgate.nn.tape import is_compiled, is_recomputing


@dataclass(frozen=True, slots=True, kw_only=True)
class PassNorms:
    """L2 norms of what one layer's parts returned in one forward pass; NaN where a norm can't be had exactly.

    Attributes:
        contributions: float32, of each slot's output, weight included, shaped as the choice's `combine_weights`; 0
            where a slot has no row.
        shared: [T] float32, of the shared experts' output; 0 in a layer without.
        output: [T] float32, of what the layer returned.
        sum_error: [T] float32, of `output - sum of the parts`, over that of the output; see `sum_error`.
    """

    contributions: Float[Tensor, "A B"]
    shared: Float[Tensor, " T"]
    output: Float[Tensor, " T"]
    sum_error: Float[Tensor, " T"]


Norms = dict[str, list[PassNorms]]
"""Each layer's norms, one value per forward pass, by module path as in a tape."""


@contextmanager
def measure_norms(model: nn.Module) -> Iterator[Norms]:
    """Measure the contributions to each token in every `MoE` of a model, for as long as the context lasts.

    Experts run a second time for it, row by row. What the model returns is unchanged.

    Args:
        model: any module that holds `MoE` layers.

    Raises:
        InputError: the model holds none.

    Example:
        >>> import torch, headgate
        >>> layer = headgate.MoE(8, 16, num_experts=4, top_k=2)
        >>> with measure_norms(layer) as norms:
        ...     y = layer(torch.randn(3, 8))
        >>> torch.allclose(norms[""][0].output, y.norm(dim=-1))
        True
    """
    layers = {_clean(path): part for path, part in model.named_modules() if isinstance(part, MoE)}
    if not layers:
        raise InputError(f"model (={type(model).__name__}) holds no MoE layer to measure; put a headgate.MoE in it")
    norms: Norms = {path: [] for path in layers}
    with ExitStack() as stack:
        if any(map(is_compiled, model.modules())):
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        for path, layer in layers.items():
            stack.enter_context(_measured(layer, norms[path]))
        yield norms


@contextmanager
def _measured(layer: MoE, record: list[PassNorms]) -> Iterator[None]:
    found: dict[str, Tensor] = {}

    def see_experts(module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        if not is_recomputing():
            found["contributions"], found["parts"] = _measure_slots(module, *args)

    def see_shared(module: nn.Module, args: Any, y: Tensor) -> None:
        found["shared"] = y.detach()

    def see_layer(module: nn.Module, args: Any, y: Tensor) -> None:
        if not is_recomputing():
            parts = found["parts"]
            y = y.detach().reshape(parts.shape)
            shared = found.get("shared", torch.zeros_like(y)).reshape(parts.shape)
            record.append(
                PassNorms(
                    contributions=found["contributions"],
                    shared=norm_of(shared),
                    output=norm_of(y),
                    sum_error=sum_error(y, parts + shared),
                )
            )

    handles: list[Any] = [
        layer.experts.register_forward_pre_hook(see_experts, with_kwargs=True),
        layer.register_forward_hook(see_layer),
    ]
    if layer.shared_expert is not None:
        handles.append(layer.shared_expert.register_forward_hook(see_shared))
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


@torch.no_grad()
def _measure_slots(
    experts: nn.Module, x: Float[Tensor, "T D"], plan: DispatchPlan, weights: Float[Tensor, "A B"], *options: Any
) -> tuple[Float[Tensor, "A B"], Float[Tensor, "T D"]]:
    """The norm of each slot's output, and the sum of each token's outputs in float64."""
    # Not called as a module, for this call is none of the model's: no hook may see it.
    y = experts.forward(x[plan.token_of_row], _each_row(plan), weights.flatten()[plan.slot_of_row, None], *options)
    norms = torch.zeros(weights.numel(), device=x.device)
    total = torch.zeros(x.shape, dtype=torch.float64, device=x.device).index_add(0, plan.token_of_row, y.double())
    return norms.index_copy(0, plan.slot_of_row, norm_of(y)).view_as(weights), total


def _each_row(plan: DispatchPlan) -> DispatchPlan:
    """The same rows, each as a token of its own."""
    rows = torch.arange(plan.num_rows, device=plan.token_of_row.device)
    kept = torch.full((plan.num_rows, 1), int(DropReason.KEPT), dtype=torch.uint8, device=rows.device)
    return DispatchPlan(
        slot_of_row=rows,
        token_of_row=rows,
        expert_offsets=plan.expert_offsets,
        row_order=rows,
        token_offsets=torch.arange(plan.num_rows + 1, device=rows.device),
        drop_reason=kept,
        max_rows_per_token=1,
    )


def _clean(path: str) -> str:
    """A module path as a tape has it: without what compiling adds."""
    return f"{path}.".replace("_orig_mod.", "").removesuffix(".")


def norm_of(y: Tensor) -> Tensor:
    """The L2 norm over the last axis, in float32."""
    norms: Tensor = torch.linalg.vector_norm(y.detach(), dim=-1, dtype=torch.promote_types(y.dtype, torch.float32))
    return norms.float()


def sum_error(y: Float[Tensor, "T D"], parts: Float[Tensor, "T D"]) -> Float[Tensor, " T"]:
    """How far a layer's output is from the sum of its parts: |y - parts| / |y|; 0 where both are zero.

    Args:
        y: what the layer returned.
        parts: float64, the sum of what the experts and the shared experts returned.

    Returns:
        [T] float32; infinite where the output is zero and its parts' sum is not.
    """
    error = norm_of(y.double() - parts)
    return torch.where(error == 0, error, error / norm_of(y))
