"""A training run on W ranks is that of one process: its losses to rounding, and the same bits every time."""

import math

import pytest
import torch
from support.parallel_run import RECIPES, B, S, loss_of, make_model, make_tokens, train_whole

import headgate
from compare import assert_close
from headgate.errors import InputError
from headgate.parallel import clip_grad_norm_
from parallel import training
from parallel.training import STEPS, train_twice

# Adam divides a gradient by its own size, so an error of rounding in the one is one of the same relative size in the
# step. A loss is a mean of cross entropies near 4 over sums of some hundred terms, and each step adds its error to it.
TOLERANCE = 8 * torch.finfo(torch.float32).eps * 4 * math.sqrt(100 * STEPS)


def assert_same_losses(losses: list[float], whole: list[float]) -> None:
    assert max(abs(a - b) for a, b in zip(losses, whole, strict=True)) <= TOLERANCE


# Three ranks have 3, 3 and 2 of the 8 sequences.
@pytest.mark.parametrize("name", list(RECIPES))
@pytest.mark.parametrize(("num_ranks", "arrangement"), [(1, "ddp"), (2, "ddp"), (2, "fsdp"), (3, "ddp")])
def test_ranks_train_as_one_process(ranks, name, num_ranks, arrangement):
    recipe = RECIPES[name]
    begun = ranks.begin(num_ranks, train_twice, recipe, arrangement)
    whole = train_whole(recipe, steps=STEPS, dtype=torch.float32)
    for first, second in begun():
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


def run_whole(name, num_batches=1):
    """One process's model after the backward passes of the first step."""
    model = make_model(RECIPES[name], torch.float32)
    headgate.set_balance_scale(model, 1 / num_batches)
    for ids in make_tokens(0).chunk(num_batches):
        (loss_of(model, ids) / num_batches).backward()
    return model


LOOK_AT_ALL = ["switch", "expert_choice"]


# On the mesh of two dimensions each of its two rows has a batch of its own.
ARRANGED = [("ddp", 2, 1), ("fsdp", 2, 1), ("fsdp_2d", 4, 2)]


@pytest.mark.parametrize("name", LOOK_AT_ALL)
@pytest.mark.parametrize(("arrangement", "num_ranks"), [case[:2] for case in ARRANGED])
def test_recomputed_decisions_are_the_same(ranks, name, arrangement, num_ranks):
    for plain, recomputed in ranks.run(num_ranks, training.recompute, name, arrangement):
        assert all(torch.equal(recomputed[key], gradient) for key, gradient in plain.items())


@pytest.mark.parametrize("name", LOOK_AT_ALL)
@pytest.mark.parametrize(("arrangement", "num_ranks", "num_rows"), ARRANGED)
def test_accumulated_batches_are_those_of_one_process(ranks, name, arrangement, num_ranks, num_rows):
    model = run_whole(name, num_batches=2 * num_rows)
    for gradients in ranks.run(num_ranks, training.accumulate, name, arrangement, 2):
        for key, parameter in model.named_parameters():
            wanted = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
            # Gradients of about 0.01 per entry, whose terms may cancel.
            assert_close(key, gradients[key], wanted, dtype=torch.float32, terms=B * S, scale=0.01)


@pytest.mark.parametrize("name", LOOK_AT_ALL)
def test_evaluation_is_that_of_one_process(ranks, name):
    model = make_model(RECIPES[name], torch.float32).eval()
    with torch.no_grad():
        whole = loss_of(model, make_tokens(0)).item()
    assert ranks.run(2, training.evaluate, name) == pytest.approx([whole] * 2, rel=1e-6)


@pytest.mark.parametrize("name", LOOK_AT_ALL)
def test_autocast_is_that_of_one_process(ranks, name):
    model = make_model(RECIPES[name], torch.float32)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        whole = loss_of(model, make_tokens(0)).item()
    for loss, is_finite in ranks.run(2, training.autocast, name):
        # Partial sums are rounded to bfloat16 before they are added, so a token's output differs by its rounding.
        assert loss == pytest.approx(whole, rel=torch.finfo(torch.bfloat16).eps)
        assert is_finite


# Experts on one rank of each row, or on two; with one row, FSDP shards them over no rank, and still casts them.
@pytest.mark.parametrize("num_rows", [1, 2])
def test_mixed_precision_of_fsdp_is_that_of_experts_on_one_rank(ranks, num_rows):
    whole = ranks.run(num_rows, training.train_mixed, "fsdp_2d", num_rows)[0]
    assert whole[-1] < whole[0]
    for losses in ranks.run(2 * num_rows, training.train_mixed, "fsdp_2d", num_rows):
        assert losses == pytest.approx(whole, rel=torch.finfo(torch.bfloat16).eps)


def test_experts_that_fsdp_ignores_it_does_not_cast(ranks):
    for message in ranks.run(2, training.train_mixed, "fsdp", 1):
        assert message.startswith("x.dtype (=torch.bfloat16) must be that of the experts' weights (=torch.float32)")


@pytest.mark.parametrize("norm_type", [2.0, float("inf")])
@pytest.mark.parametrize("arrangement", ["ddp", "fsdp"])
def test_clipping_goes_by_the_norm_of_one_process(ranks, arrangement, norm_type):
    whole = whole_norm(norm_type)
    for norm, left in ranks.run(2, training.clip, arrangement, norm_type, whole / 4):
        assert norm == pytest.approx(whole, rel=1e-5)
        assert left == pytest.approx(whole / 4, rel=1e-4)


LAYOUTS = {
    "ddp, all on one of two": ("ddp", [list(range(8)), [-1] * 8]),
    "ddp, all on two": ("ddp", [list(range(8)), list(range(8))]),
    "ddp, some on three": ("ddp", [[0, 1, 2, 3, 7], [4, 5, 6, 7, 0], [7, 2, -1, -1, -1]]),
    "fsdp, some on two": ("fsdp", [[0, 1, 2, 3, 7], [4, 5, 6, 7, 0]]),
}


@pytest.mark.parametrize("norm_type", [2.0, float("inf")])
@pytest.mark.parametrize(("arrangement", "slots"), LAYOUTS.values(), ids=LAYOUTS)
def test_clipping_counts_each_expert_once_wherever_it_is(ranks, arrangement, slots, norm_type):
    whole = whole_norm(norm_type)
    for norm, left in ranks.run(len(slots), training.clip, arrangement, norm_type, whole / 4, slots):
        assert norm == pytest.approx(whole, rel=1e-5)
        assert left == pytest.approx(whole / 4, rel=1e-4)


@pytest.mark.parametrize("slots", [None, LAYOUTS["fsdp, some on two"][1]], ids=["dealt", "with replicas"])
def test_clipping_on_a_mesh_of_two_dimensions(ranks, slots):
    whole = whole_norm(2.0, num_batches=2)
    for norm, left in ranks.run(4, training.clip, "fsdp_2d", 2.0, whole / 4, slots):
        assert norm == pytest.approx(whole, rel=1e-5)
        assert left == pytest.approx(whole / 4, rel=1e-4)


def whole_norm(norm_type, num_batches=1):
    """Of one process's gradients."""
    gradients = [parameter.grad for parameter in run_whole("top-2", num_batches).parameters()]
    return torch.nn.utils.get_total_norm(gradients, norm_type).item()


def test_clipping_refuses_a_norm_that_is_not_positive_and_takes_no_gradients():
    model = torch.nn.Linear(2, 2)
    with pytest.raises(InputError, match=r"max_norm \(=0\.0\) must be positive; 1\.0 is usual"):
        clip_grad_norm_(model, 0.0)
    with pytest.raises(InputError, match=r"norm_type \(=0\.0\) must be positive; 2\.0 is usual"):
        clip_grad_norm_(model, 1.0, norm_type=0.0)
    assert clip_grad_norm_(model, 1.0).item() == 0.0


@pytest.mark.parametrize("kind", ["foreach", "fused"])
@pytest.mark.parametrize(("arrangement", "num_groups"), [("ddp", 2), ("fsdp", 1)])
def test_fast_optimizers_take_groups_of_one_mesh(ranks, arrangement, num_groups, kind):
    for found, difference in ranks.run(2, training.step_in_groups, arrangement, kind):
        assert found == num_groups
        # A step of AdamW is about lr (= 0.01) in size.
        assert difference < 0.01 * 1e-4


def test_a_gradient_scaler_steps_on_all_ranks_or_on_none(ranks):
    for scale, change in ranks.run(2, training.scale_gradients, False):
        assert scale == 1024.0
        assert change > 0
    for scale, change in ranks.run(2, training.scale_gradients, True):
        assert scale == 512.0
        assert change == 0
