"""What each rank of the tests of training runs."""

from __future__ import annotations

import torch
from support.parallel_run import Arrangement, Recipe, train_on_rank

STEPS = 4


def train_twice(recipe: Recipe, arrangement: Arrangement) -> tuple[list[float], list[float]]:
    """The losses of two runs."""
    first, second = (train_on_rank(recipe, arrangement, steps=STEPS, dtype=torch.float32) for _ in range(2))
    return first, second
