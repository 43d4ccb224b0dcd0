"""The reference itself, on an example small enough to work out by hand."""

import math

import torch

from headgate.kernels import reference


def test_a_layer_worked_out_by_hand():
    x = torch.tensor([[1.0, 0.0]])
    router_weight = torch.tensor([[math.log(3.0), 0.0], [0.0, 5.0], [math.log(6.0), 0.0]])
    # Scores 3/10, 1/10, 6/10; the best two are experts 2 and 0 with weights 2/3 and 1/3.
    gate_up = torch.tensor([[[1.0, 0], [2.0, 0]], [[9.0, 9], [9.0, 9]], [[1.0, 0], [5.0, 0]]])
    down = torch.tensor([[[1.0], [0.0]], [[9.0], [9.0]], [[0.0], [1.0]]])
    silu_1 = 1 / (1 + math.exp(-1.0))
    expected = torch.tensor([[silu_1 * 2 / 3, silu_1 * 5 * 2 / 3]])
    torch.testing.assert_close(reference.moe(x, router_weight, gate_up, down, top_k=2), expected)


def test_an_empty_slot_adds_nothing():
    x = torch.randn(3, 4)
    gate_up, down = torch.randn(2, 6, 4), torch.randn(2, 4, 3)
    both = reference.experts(x, torch.tensor([[0, -1]] * 3), torch.ones(3, 2), gate_up, down)
    one = reference.experts(x, torch.tensor([[0]] * 3), torch.ones(3, 1), gate_up, down)
    assert torch.equal(both, one)
