"""Exact quantiles of any number of float16 values in bounded memory: there are only 65536 different ones."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor

_NUM_HALVES = 2**16


def half_histogram(values: Float[Tensor, "L T"]) -> Int[Tensor, "L 65536"]:
    """Count each float16 value, by its bits.

    Returns:
        [L, 65536] int64; histograms of parts add up to that of the whole.
    """
    # The bits as an unsigned number.
    bits = values.half().contiguous().view(torch.int16).long() & (_NUM_HALVES - 1)
    return torch.stack([torch.bincount(row, minlength=_NUM_HALVES) for row in bits])


def half_quantiles(histogram: Int[Tensor, "L 65536"], fractions: Sequence[float]) -> Float[Tensor, "L Q"]:
    """Read quantiles off a histogram: the least value that at least this part of all is not above. NaN does not count.

    Returns:
        [L, Q] float32; NaN where there are no values.

    Example:
        >>> half_quantiles(half_histogram(torch.tensor([[4.0, 1.0, 3.0, 2.0]])), [0.25, 0.5, 1.0]).tolist()
        [[1.0, 2.0, 4.0]]
    """
    bits = torch.arange(_NUM_HALVES, dtype=torch.int32)
    values = torch.where(bits < 2**15, bits, bits - _NUM_HALVES).short().view(torch.float16).float()
    order = values.nan_to_num(nan=float("inf"), posinf=float("inf")).argsort(stable=True)
    order = order[~values[order].isnan()]
    reached = histogram[:, order].cumsum(1)
    total = reached[:, -1:]
    found = []
    for fraction in fractions:
        wanted = (fraction * total).ceil().clamp(min=1)
        place = torch.searchsorted(reached, wanted.long()).clamp(max=len(order) - 1)
        found.append(torch.where(total > 0, values[order][place], float("nan")))
    return torch.cat(found, dim=1)
