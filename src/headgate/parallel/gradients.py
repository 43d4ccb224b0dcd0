"""Gradients whose parameters lie on several meshes: experts on one, the rest on another or on none."""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.distributed as dist
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.distributed.device_mesh import DeviceMesh
from torch.distributed.tensor import DTensor

from headgate.errors import InputError
from headgate.parallel.logical import experts_here
from headgate.parallel.spread import find_spread


def group_by_mesh(parameters: Iterable[nn.Parameter]) -> list[list[nn.Parameter]]:
    """Split parameters by the device mesh that they lie on, plain ones first: groups for an optimizer.

    Torch's grouped operations (`foreach=True`, `fused=True`, and the default on a GPU) take DTensors of one mesh, or
    plain tensors, but not both together.

    Args:
        parameters: of a model.

    Returns:
        The groups that are not empty, in the order in which their meshes occur.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 2)
        >>> groups = group_by_mesh(layer.parameters())
        >>> optimizer = torch.optim.AdamW([{"params": group} for group in groups], foreach=True)
        >>> len(groups)
        1
    """
    plain: list[nn.Parameter] = []
    on_mesh: dict[DeviceMesh, list[nn.Parameter]] = {}
    for parameter in parameters:
        group = on_mesh.setdefault(parameter.device_mesh, []) if isinstance(parameter, DTensor) else plain
        group.append(parameter)
    return [group for group in (plain, *on_mesh.values()) if group]


def average_gradients(model: nn.Module, group: dist.ProcessGroup | None = None) -> None:
    """Average the gradients of all parameters but the spread experts', which the exchange has added up already.

    For loops without DDP or FSDP. One message, and the same bits on every rank.

    Args:
        model: after `backward`; every rank has gradients of the same parameters, or zero tokens.
        group: the ranks; None = all.

    Example:
        >>> import headgate, torch
        >>> from torch.distributed import HashStore, destroy_process_group, init_process_group
        >>> init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
        >>> layer = headgate.MoE(8, 16, num_experts=4, top_k=2)
        >>> layer(torch.randn(3, 8)).sum().backward()
        >>> average_gradients(layer)
        >>> destroy_process_group()
    """
    own = [p for p in model.parameters() if p.requires_grad and not isinstance(p, DTensor)]
    for parameter in own:
        if parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)
    gradients = [parameter.grad for parameter in own if parameter.grad is not None]
    flat = torch.cat([gradient.flatten() for gradient in gradients])
    dist.all_reduce(flat, group=group)
    flat /= dist.get_world_size(group)
    parts = torch.split(flat, [gradient.numel() for gradient in gradients])
    for gradient, part in zip(gradients, parts, strict=True):
        gradient.copy_(part.view_as(gradient))


@torch.no_grad()
def clip_grad_norm_(model: nn.Module, max_norm: float, *, norm_type: float = 2.0) -> Float[Tensor, ""]:
    """Scale all gradients of a model so that their norm together is at most `max_norm`, whatever mesh each lies on.

    It is the norm that one process computes, (sum_i |g_i|^p)^(1/p) over all entries i of all gradients; an expert with
    replicas, whose gradients are equal, counts once. In the place of `torch.nn.utils.clip_grad_norm_`, which takes
    parameters of one mesh; every rank must call it.

    Args:
        model: after `backward`; plain parameters must have equal gradients on all ranks, as DDP leaves them.
        max_norm: positive.
        norm_type: p, positive; may be infinite.

    Returns:
        The norm before clipping.

    Raises:
        InputError: `max_norm` or `norm_type` isn't positive.

    Example:
        >>> import torch
        >>> layer = torch.nn.Linear(2, 1, bias=False)
        >>> layer.weight.grad = torch.tensor([[3.0, 4.0]])
        >>> clip_grad_norm_(layer, 1.0).item(), layer.weight.grad.norm().item()  # doctest: +ELLIPSIS
        (5.0, 0.99999...)
    """
    for name, value, usual in (("max_norm", max_norm, "1.0"), ("norm_type", norm_type, "2.0")):
        if not value > 0:
            raise InputError(f"{name} (={value}) must be positive; {usual} is usual")
    counted = _rows_that_count(model)
    groups = group_by_mesh(parameter for parameter in model.parameters() if parameter.grad is not None)
    norms = [_norm_of([_gradient(p, counted.get(p)) for p in group], norm_type) for group in groups]
    total = torch.linalg.vector_norm(torch.stack(norms), norm_type) if norms else torch.zeros(())
    for group in groups:
        nn.utils.clip_grads_with_norm_(group, max_norm, total)
    return total


def _rows_that_count(model: nn.Module) -> dict[nn.Parameter, Bool[Tensor, " n"]]:
    """For each weight of experts with replicas, which of its rows on this rank are an expert's first replica."""
    found = {}
    for path, (module, spread) in find_spread(model).items():
        placement, rank = spread.placement, spread.exchange.rank
        if placement.has_replicas:
            is_first_here = placement.rank_of_physical[placement.replicas[:, 0]] == rank
            for name in spread.weights:
                parameter = module.get_parameter(name)
                experts = experts_here(f"{path}.{name}", parameter, spread)
                found[parameter] = is_first_here[list(experts)]
    return found


def _gradient(parameter: nn.Parameter, counts: Bool[Tensor, " n"] | None) -> Tensor:
    """A parameter's gradient; rows that don't count are zero."""
    gradient = parameter.grad
    assert gradient is not None  # Others have been left out.
    if counts is None:
        return gradient
    assert isinstance(gradient, DTensor)  # As its parameter, a weight of spread experts.
    local = gradient.to_local().clone()
    local[~counts.to(local.device)] = 0
    shape, stride = gradient.shape, gradient.stride()
    mesh, placements = gradient.device_mesh, gradient.placements
    return DTensor.from_local(local, mesh, placements, run_check=False, shape=shape, stride=stride)


def _norm_of(gradients: list[Tensor], norm_type: float) -> Float[Tensor, ""]:
    """Of gradients on one mesh, over all its ranks."""
    norm = nn.utils.get_total_norm(gradients, norm_type)
    return norm.full_tensor() if isinstance(norm, DTensor) else norm
