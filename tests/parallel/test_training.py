"""A training run on W ranks is that of one process: its losses to rounding, and the same bits every time."""

import math

import pytest
import torch
from support.parallel_run import RECIPES, train_whole

from parallel.training import STEPS, train_twice

# Adam divides a gradient by its own size, so an error of rounding in the one is one of the same relative size in the
# step. A loss is a mean of cross entropies near 4 over sums of some hundred terms, and each step adds its error to it.
TOLERANCE = 8 * torch.finfo(torch.float32).eps * 4 * math.sqrt(100 * STEPS)


def assert_same_losses(losses: list[float], whole: list[float]) -> None:
    assert max(abs(a - b) for a, b in zip(losses, whole, strict=True)) <= TOLERANCE


@pytest.mark.parametrize("arrangement", ["ddp", "fsdp"])
@pytest.mark.parametrize("name", list(RECIPES))
def test_two_ranks_train_as_one(ranks, name, arrangement):
    recipe = RECIPES[name]
    both = ranks.run(2, train_twice, recipe, arrangement)
    whole = train_whole(recipe, steps=STEPS, dtype=torch.float32)
    for first, second in both:
        assert first == second
        assert_same_losses(first, whole)


@pytest.mark.parametrize("name", ["switch", "deepseek_v3"])
def test_four_ranks_on_a_mesh_of_two_dimensions_train_as_one(ranks, name):
    recipe = RECIPES[name]
    whole = train_whole(recipe, num_batches=2, steps=STEPS, dtype=torch.float32)
    for first, second in ranks.run(4, train_twice, recipe, "fsdp_2d"):
        assert first == second
        assert_same_losses(first, whole)


def test_the_comparison_sees_another_batch():
    recipe = RECIPES["switch"]
    whole, halves = (train_whole(recipe, num_batches=n, steps=STEPS, dtype=torch.float32) for n in (1, 2))
    with pytest.raises(AssertionError):
        assert_same_losses(halves, whole)
