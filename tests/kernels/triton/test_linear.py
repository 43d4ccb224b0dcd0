"""One linear map per expert by the GPU's kernels, and its gradients, against the same in float64 by PyTorch."""

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="no Triton: pip install 'headgate[gpu]'")

from compare import assert_close
from headgate.kernels import grouped
from headgate.kernels.triton import experts

COUNTS = {"gaps": [3, 0, 19, 0, 5], "one takes all": [0, 40, 0], "no rows": [0, 0]}


@pytest.fixture
def _in_triton(monkeypatch: pytest.MonkeyPatch) -> None:
    """As on a GPU."""
    monkeypatch.setattr(grouped, "runs_in_triton", lambda *_: True)


def run(leaves: list[Tensor], offsets: Tensor, *, is_transposed: bool) -> tuple[Tensor, ...]:
    """The output, and the gradients of rows, weight and bias."""
    rows, weight, bias = (leaf.detach().requires_grad_() for leaf in leaves)
    y = grouped.grouped_linear(rows, weight.transpose(1, 2) if is_transposed else weight, bias, offsets)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y)
    return y, *torch.autograd.grad(y, (rows, weight, bias), upstream)


@pytest.mark.parametrize("is_transposed", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("counts", COUNTS)
def test_equals_float64(
    counts: str, dtype: torch.dtype, is_transposed: bool, device: torch.device, monkeypatch: pytest.MonkeyPatch
) -> None:
    generator, num_experts = torch.Generator().manual_seed(0), len(COUNTS[counts])
    shapes = ((sum(COUNTS[counts]), 37), (num_experts, 37, 21) if is_transposed else (num_experts, 21, 37))
    leaves = [torch.randn(shape, generator=generator).to(dtype) for shape in (*shapes, (num_experts, 21))]
    offsets = torch.tensor([0, *COUNTS[counts]]).cumsum(0)
    exact = run([leaf.double() for leaf in leaves], offsets, is_transposed=is_transposed)
    monkeypatch.setattr(grouped, "runs_in_triton", lambda *_: True)
    found = run([leaf.to(device) for leaf in leaves], offsets.to(device), is_transposed=is_transposed)
    for name, ours, theirs in zip(("y", "rows", "weight", "bias"), found, exact, strict=True):
        assert ours.dtype == dtype
        if ours.numel():
            scale = theirs.square().mean().sqrt().item()
            assert_close(name, ours.detach().cpu(), theirs.detach(), dtype=dtype, terms=40, scale=scale)


@pytest.mark.usefixtures("_in_triton")
def test_a_sum_in_parts_is_added_up(device: torch.device, monkeypatch: pytest.MonkeyPatch) -> None:
    generator = torch.Generator().manual_seed(0)
    rows, weight = torch.randn(3, 390, generator=generator), torch.randn(2, 5, 390, generator=generator)
    offsets = torch.tensor([0, 1, 3])
    exact = torch.cat([rows[:1].double() @ weight[0].double().t(), rows[1:].double() @ weight[1].double().t()])
    monkeypatch.setattr(experts, "count_splits", lambda *_: 2)
    found = grouped.grouped_linear(rows.to(device), weight.to(device), None, offsets.to(device))
    assert_close("y", found.cpu(), exact, dtype=torch.float32, terms=390, scale=exact.square().mean().sqrt().item())
