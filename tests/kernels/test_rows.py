"""gather_rows and combine_rows: opcheck, gradients, laws, and the two ways through combine."""

import pytest
import torch

from headgate.kernels.rows import combine_rows, gather_rows


def make_plan(tokens_of_rows: list[int], num_tokens: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor, int]:
    """The way back for rows that belong to these tokens, rows in any order."""
    token_of_row = torch.tensor(tokens_of_rows, dtype=torch.int64)
    row_order = token_of_row.sort(stable=True).indices
    counts = torch.bincount(token_of_row, minlength=num_tokens)
    offsets = torch.cat([counts.new_zeros(1), counts.cumsum(0)])
    return token_of_row, row_order, offsets, int(counts.max()) if num_tokens else 0


PLANS = {
    "even": make_plan([1, 0, 2, 2, 0, 1], 3),
    "uneven": make_plan([3, 3, 0, 3, 1], 4),
    "token without rows": make_plan([0, 2], 3),
    "no rows": make_plan([], 3),
    "no tokens": make_plan([], 0),
    "one": make_plan([0], 1),
}


def combine_by_loop(rows, weights, plan):
    token_of_row, row_order, offsets, _ = plan
    y = rows.new_zeros(offsets.shape[0] - 1, rows.shape[1])
    for row in row_order.tolist():
        y[token_of_row[row]] += weights[row] * rows[row]
    return y


@pytest.mark.parametrize("name", PLANS)
def test_combine_equals_the_loop(name):
    plan = PLANS[name]
    torch.manual_seed(0)
    rows, weights = torch.randn(plan[0].shape[0], 5), torch.randn(plan[0].shape[0])
    torch.testing.assert_close(combine_rows(rows, weights, *plan), combine_by_loop(rows, weights, plan))


@pytest.mark.parametrize("name", PLANS)
def test_operators_are_well_formed(name):
    plan = PLANS[name]
    num_rows, num_tokens = plan[0].shape[0], plan[2].shape[0] - 1
    rows = torch.randn(num_rows, 4, requires_grad=True)
    weights = torch.randn(num_rows, requires_grad=True)
    torch.library.opcheck(combine_rows, (rows, weights, *plan))
    torch.library.opcheck(gather_rows, (torch.randn(num_tokens, 4, requires_grad=True), *plan))


@pytest.mark.parametrize("name", ["even", "uneven", "token without rows", "one"])
def test_gradients_are_right(name):
    plan = PLANS[name]
    num_rows, num_tokens = plan[0].shape[0], plan[2].shape[0] - 1
    rows = torch.randn(num_rows, 3, dtype=torch.float64, requires_grad=True)
    weights = torch.randn(num_rows, dtype=torch.float64, requires_grad=True)
    x = torch.randn(num_tokens, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda r, w: combine_rows(r, w, *plan), (rows, weights))
    assert torch.autograd.gradcheck(lambda v: gather_rows(v, *plan), (x,))


def test_gather_then_combine_with_weights_that_sum_to_one_gives_back_x():
    token_of_row, row_order, offsets, most = PLANS["uneven"]
    x = torch.randn(4, 6)
    counts = offsets.diff()
    weights = 1.0 / counts[token_of_row]
    y = combine_rows(gather_rows(x, *PLANS["uneven"]), weights, token_of_row, row_order, offsets, most)
    torch.testing.assert_close(y[counts > 0], x[counts > 0])
    assert not y[counts == 0].any()


def test_bfloat16_rows_are_added_in_float32():
    plan = make_plan([0] * 257, 1)
    rows = torch.ones(257, 1, dtype=torch.bfloat16)
    # 1 + 256 * 2^-9 is 1.5; in bfloat16 each addition of 2^-9 to 1 would round back to 1.
    weights = torch.full((257,), 2.0**-9)
    weights[0] = 1.0
    assert combine_rows(rows, weights, *plan).item() == 1.5


def test_nothing_is_left_unwritten(monkeypatch):
    plan = PLANS["token without rows"]
    real_empty = torch.Tensor.new_empty
    monkeypatch.setattr(torch.Tensor, "new_empty", lambda self, *a, **k: real_empty(self, *a, **k).fill_(float("nan")))
    assert combine_rows(torch.randn(2, 3), torch.randn(2), *plan).isfinite().all()
