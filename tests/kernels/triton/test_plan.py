"""The counting sort for GPUs against PyTorch's stable sort: equal, for every number of slots and buckets."""

import pytest
import torch

from compare import assert_integers_equal
from headgate.kernels.plan import plan_choice, sort_slots_torch

plan = pytest.importorskip("headgate.kernels.triton.plan", reason="Triton is not installed")


def check(ids: torch.Tensor, num_buckets: int) -> None:
    found = plan.sort_slots_triton(ids, num_buckets)
    for name, ours, theirs in zip(("order", "offsets"), found, sort_slots_torch(ids, num_buckets), strict=True):
        assert_integers_equal(name, ours.cpu(), theirs.cpu())
        assert ours.dtype == torch.int64


@pytest.mark.parametrize("num_slots", [0, 1, 7, 131])
@pytest.mark.parametrize("num_buckets", [1, 3, 64, 257])
def test_one_program_sorts_few_slots(num_slots, num_buckets, device, monkeypatch):
    monkeypatch.setattr(plan, "ALONE_STEPS", 100)
    generator = torch.Generator().manual_seed(num_slots)
    check(torch.randint(-2, num_buckets + 2, (num_slots,), generator=generator).to(device), num_buckets)


@pytest.mark.parametrize("num_buckets", [1, 5, 40])
def test_several_programs_sort_many(num_buckets, device, monkeypatch):
    monkeypatch.setattr(plan, "ALONE_STEPS", 0)
    # More slots than programs take in a step each, so that a program takes several.
    monkeypatch.setattr(plan, "MOST_PROGRAMS", 3)
    monkeypatch.setattr(plan, "_TABLE", 16)
    ids = torch.randint(-1, num_buckets + 1, (71,), generator=torch.Generator().manual_seed(1))
    check(ids.to(device), num_buckets)
    check(torch.zeros_like(ids).to(device), num_buckets)
    check(torch.full_like(ids, -1).to(device), num_buckets)


def test_counts_of_more_runs_than_are_summed_in_a_step(device, monkeypatch):
    monkeypatch.setattr(plan, "ALONE_STEPS", 0)
    monkeypatch.setattr(plan, "_TABLE", 8)
    ids = torch.arange(8 * (8 + 3) + 5).remainder(3)
    check(ids.to(device), 2)


@pytest.mark.parametrize("alone", [0, 4])
@pytest.mark.parametrize(("num_tokens", "top_k"), [(0, 2), (1, 1), (37, 3)])
def test_a_whole_plan_is_that_of_the_operations(num_tokens, top_k, alone, device, monkeypatch):
    monkeypatch.setattr(plan, "ALONE_STEPS", alone)
    scores = torch.rand(num_tokens, 11, generator=torch.Generator().manual_seed(2))
    ids = scores.argsort(dim=1)[:, :top_k].to(device)
    found, expected = plan.plan_choice_triton(ids, 11), plan_choice(ids.cpu(), 11)
    for name, ours, theirs in zip(expected._fields, found, expected, strict=True):
        assert_integers_equal(name, ours.cpu(), theirs)


@pytest.mark.parametrize("alone", [0, 4])
def test_slots_of_nobody_get_the_rows_behind_the_last_expert(alone, device, monkeypatch):
    monkeypatch.setattr(plan, "ALONE_STEPS", alone)
    ids = torch.tensor([[3, 1], [9, 0], [1, -1]])
    found, expected = plan.plan_choice_triton(ids.to(device), 3), plan_choice(ids, 3)
    assert expected.expert_offsets.tolist() == [0, 1, 3, 3]
    assert expected.slot_of_row.tolist() == [3, 1, 4, 0, 2, 5]
    for name, ours, theirs in zip(expected._fields, found, expected, strict=True):
        assert_integers_equal(name, ours.cpu(), theirs)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_million_tokens():
    ids = torch.rand(1 << 20, 64, device="cuda").topk(16, dim=1).indices
    check(ids.flatten(), 64)
    check(ids.flatten() * 8, 512)
