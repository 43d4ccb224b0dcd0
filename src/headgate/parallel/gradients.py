"""What a training loop does with gradients where some are of experts that other ranks do not have."""

from __future__ import annotations

import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from headgate.parallel.experts import ShardedExperts


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


def clip_gradients(model: nn.Module, max_norm: float) -> Float[Tensor, ""]:
    """Scale all gradients down to a norm, as `torch.nn.utils.clip_grad_norm_` does in one process.

    The norm is that of the whole model: each expert counts once, wherever it is and however many replicas it has.

    Args:
        model: after `backward` and `average_gradients`; experts spread over one mesh, all else on every rank.
        max_norm: above 0.

    Returns:
        The norm before, the same on all ranks.

    Example:
        >>> import headgate, torch
        >>> layer = headgate.MoE(8, 16, num_experts=4, top_k=2)
        >>> layer(torch.randn(3, 8)).sum().backward()
        >>> norm = clip_gradients(layer, 0.5)
        >>> after = torch.nn.utils.get_total_norm([p.grad for p in layer.parameters()])
        >>> bool(after < 0.5001)
        True
    """
    plain = [p.grad for p in model.parameters() if p.grad is not None and not isinstance(p, DTensor)]
    squares = torch.nn.utils.get_total_norm(plain).square()
    for module in model.modules():
        if isinstance(module, ShardedExperts):
            of_layer = _squares_of_experts(module).to(squares)
            for dimension in range(module.mesh.ndim):
                dist.all_reduce(of_layer, group=module.mesh.get_group(dimension))
            squares = squares + of_layer
    norm = squares.sqrt()
    # As torch has it: the epsilon keeps a norm of 0 from dividing, and nothing is scaled up.
    scale = (max_norm / (norm + 1e-6)).clamp(max=1.0)
    for parameter in model.parameters():
        if parameter.grad is not None:
            gradient = parameter.grad
            (gradient.to_local() if isinstance(gradient, DTensor) else gradient).mul_(scale)
    return norm


def _squares_of_experts(experts: ShardedExperts) -> Float[Tensor, ""]:
    """Sum of squares of this rank's gradients; a replica counts as its part of the expert."""
    held = [expert for rank in experts.placement.rank_experts for expert in rank]
    share = torch.tensor([1.0 / held.count(expert) for expert in experts.local_experts])
    total = torch.zeros((), device=experts.down_proj.device)
    for parameter in experts.parameters(recurse=False):
        if isinstance(parameter.grad, DTensor):
            rows = parameter.grad.to_local()
            total = total + (rows.flatten(1).float().square().sum(1) * share.to(rows.device)).sum()
    return total
