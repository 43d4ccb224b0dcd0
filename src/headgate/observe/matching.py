"""Find which expert of one model corresponds to which of another, from how often they get the same tokens."""

from __future__ import annotations

import torch
from jaxtyping import Int
from torch import Tensor

from headgate.errors import BackendError


def match_counts(common: Int[Tensor, "L E E"]) -> Int[Tensor, "L E"]:
    """Assign experts one to one so that those assigned share the most tokens in total.

    Args:
        common: [L, E, E] tokens that chose expert e of the second model (axis 1) and expert f of the first (axis 2).

    Returns:
        [L, E] for each expert of the second model, that of the first.

    Raises:
        BackendError: scipy is not installed.

    Example:
        >>> match_counts(torch.tensor([[[1, 9], [5, 6]]])).tolist()
        [[1, 0]]
    """
    try:
        from scipy.optimize import linear_sum_assignment
    except ImportError as error:
        raise BackendError("scipy is not installed; pip install 'headgate[observe]'") from error
    found = [linear_sum_assignment(layer.numpy(), maximize=True)[1] for layer in common]
    return torch.stack([torch.from_numpy(columns).long() for columns in found])
