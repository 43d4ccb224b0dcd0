"""grouped_linear: opcheck, forward and gradients against one product per expert, and experts without rows."""

import pytest
import torch

from headgate.kernels import grouped
from headgate.kernels.grouped import grouped_linear

COUNTS = {"even": [2, 2, 2], "one takes all": [0, 7, 0], "gaps": [3, 0, 1, 0, 5], "no rows": [0, 0], "one": [1]}


def make_case(counts: list[int], *, bias: bool, dtype: torch.dtype = torch.float64):
    torch.manual_seed(0)
    num_experts, wide, narrow = len(counts), 5, 3
    rows = torch.randn(sum(counts), wide, dtype=dtype, requires_grad=True)
    weight = torch.randn(num_experts, narrow, wide, dtype=dtype, requires_grad=True)
    offset = torch.randn(num_experts, narrow, dtype=dtype, requires_grad=True) if bias else None
    offsets = torch.tensor([0, *torch.tensor(counts).cumsum(0).tolist()])
    return rows, weight, offset, offsets


def by_expert(rows, weight, bias, offsets):
    parts = []
    for e in range(weight.shape[0]):
        part = rows[offsets[e] : offsets[e + 1]] @ weight[e].T
        parts.append(part if bias is None else part + bias[e])
    return torch.cat(parts)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", COUNTS)
def test_forward_and_gradients(name, bias):
    case = make_case(COUNTS[name], bias=bias)
    leaves = [t for t in case[:3] if t is not None]
    y, expected = grouped_linear(*case), by_expert(*case)
    torch.testing.assert_close(y, expected)
    upstream = torch.randn_like(y)
    got = torch.autograd.grad(y, leaves, upstream)
    want = torch.autograd.grad(expected, leaves, upstream)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("name", COUNTS)
def test_operators_are_well_formed(name, bias):
    rows, weight, offset, offsets = make_case(COUNTS[name], bias=bias)
    torch.library.opcheck(grouped_linear, (rows, weight, offset, offsets))
    grad = torch.randn(rows.shape[0], weight.shape[1], dtype=torch.float64)
    frozen = (rows.detach(), weight.detach())
    torch.library.opcheck(grouped.grouped_linear_input_gradient, (grad, frozen[1], offsets))
    torch.library.opcheck(grouped.grouped_linear_weight_gradient, (grad, frozen[0], offsets))
    torch.library.opcheck(grouped.grouped_sum, (grad, offsets))


def test_only_wanted_gradients_are_computed():
    rows, weight, _, offsets = make_case([2, 3], bias=False)
    rows = rows.detach()
    grouped_linear(rows, weight, None, offsets).sum().backward()
    assert weight.grad is not None
    assert rows.grad is None


def test_a_transposed_gradient_is_taken_as_it_comes():
    rows, weight, _, offsets = make_case([2, 3], bias=False)
    upstream = torch.randn(weight.shape[1], rows.shape[0], dtype=torch.float64).T
    y, expected = grouped_linear(rows, weight, None, offsets), by_expert(rows, weight, None, offsets)
    got = torch.autograd.grad(y, (rows, weight), upstream)
    want = torch.autograd.grad(expected, (rows, weight), upstream)
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b)


def test_every_entry_is_written(monkeypatch):
    rows, weight, offset, offsets = make_case(COUNTS["gaps"], bias=True, dtype=torch.float32)
    real_empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *a, **k: real_empty(self, *a, **k).fill_(float("nan")))
    y = grouped_linear(rows, weight, offset, offsets)
    y.sum().backward()
    assert y.isfinite().all()
    assert all(leaf.grad.isfinite().all() for leaf in (rows, weight, offset))
    assert not weight.grad[1].any()
