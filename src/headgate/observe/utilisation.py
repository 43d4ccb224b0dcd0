"""The load of experts under the names that trainers log."""

from __future__ import annotations

import torch
from jaxtyping import Float, Int
from torch import Tensor

from headgate.errors import InputError
from headgate.observe.metrics import load_entropy


def utilisation(expert_counts: Int[Tensor, "*L E"]) -> Float[Tensor, "*L E"]:
    """Compute each expert's load as a multiple of an even share.

    Returns:
        [..., E] float64, no unit. 1 at perfect balance; E / K and 0 at full collapse onto K; NaN without rows.

    Example:
        >>> utilisation(torch.tensor([6, 2])).tolist()
        [1.5, 0.5]
    """
    counts = expert_counts.double()
    return counts / counts.mean(-1, keepdim=True)


def dead_expert_fraction(expert_counts: Int[Tensor, "*L E"]) -> Float[Tensor, "*L"]:
    """Compute the part of the experts that got nothing; see `dead_experts` for whether the sample can show it.

    Returns:
        [...] float64 in [0, 1]. 0 at perfect balance, 1 - K / E at full collapse onto K experts.

    Example:
        >>> dead_expert_fraction(torch.tensor([6, 0])).item()
        0.5
    """
    return (expert_counts == 0).double().mean(-1)


def active_fraction(expert_counts: Int[Tensor, "*L E"]) -> Float[Tensor, "*L"]:
    """Compute the part of the experts that got something: 1 - `dead_expert_fraction`."""
    return (expert_counts != 0).double().mean(-1)


def expert_diversity(expert_counts: Int[Tensor, "*L E"]) -> Float[Tensor, "*L"]:
    """Compute the effective part of the experts: exp(entropy of the load) / E.

    Returns:
        [...] float64 in (0, 1]. 1 at perfect balance, K / E at full collapse onto K experts; NaN without rows.

    Example:
        >>> round(expert_diversity(torch.tensor([5, 5, 0, 0])).item(), 6)
        0.5
    """
    return load_entropy(expert_counts).exp() / expert_counts.shape[-1]


def max_share(expert_counts: Int[Tensor, "*L E"]) -> Float[Tensor, "*L"]:
    """Compute the busiest expert's part of the rows.

    Returns:
        [...] float64 in [0, 1]. 1 / E at perfect balance, 1 / K at full collapse onto K experts; NaN without rows.

    Example:
        >>> max_share(torch.tensor([6, 2])).item()
        0.75
    """
    counts = expert_counts.double()
    return counts.amax(-1) / counts.sum(-1)


def balancedness(expert_counts: Int[Tensor, "*L E"], *, num_devices: int) -> Float[Tensor, "*L"]:
    """Compute how evenly devices are loaded that hold equally many experts in id order: mean / max of their rows.

    Returns:
        [...] float64 in (0, 1]. 1 at perfect balance, 1 / devices where one does everything; NaN without rows.

    Raises:
        InputError: the experts can't be dealt out evenly.

    Example:
        >>> balancedness(torch.tensor([3, 1, 0, 0]), num_devices=2).item()
        0.5
    """
    require_even_devices(num_devices, expert_counts.shape[-1])
    loads = expert_counts.view(*expert_counts.shape[:-1], num_devices, -1).sum(-1).double()
    mean: Tensor = loads.mean(-1)
    return mean / loads.amax(-1)


def require_even_devices(num_devices: int, num_experts: int) -> None:
    """Require that experts can be dealt out evenly.

    Raises:
        InputError: they can't.
    """
    if num_devices < 1 or num_experts % num_devices:
        raise InputError(
            f"num_devices (={num_devices}) must divide the number of experts (={num_experts}); give one that does"
        )


def pass_ratios(
    topk_ids: Int[Tensor, "T K"], forward_id: Int[Tensor, " T"], *, num_experts: int
) -> Float[Tensor, " P"]:
    """Compute the busiest expert's load as a multiple of an even share, in each forward pass on its own.

    Small batches are uneven by chance alone, so the largest of a pass is far above that of the total.

    Args:
        topk_ids: [T, K], -1 where there is no row.
        forward_id: [T], which pass each token was in.
        num_experts: E.

    Returns:
        [P] float64, one for each pass that has rows, by rising id.

    Example:
        >>> pass_ratios(torch.tensor([[0], [0], [1]]), torch.tensor([4, 4, 7]), num_experts=2).tolist()
        [2.0, 2.0]
    """
    passes, number = torch.unique(forward_id, return_inverse=True)
    is_row = topk_ids >= 0
    buckets = (number[:, None] * num_experts + topk_ids)[is_row]
    counts = torch.bincount(buckets, minlength=len(passes) * num_experts).view(-1, num_experts).double()
    counts = counts[counts.sum(1) > 0]
    mean: Tensor = counts.mean(1)
    return counts.amax(1) / mean
