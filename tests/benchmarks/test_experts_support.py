"""What the experts' benchmark computes before and after it times anything."""

import math

import pytest
import torch
from support.case import least_busy_expert
from support.contenders import list_contenders, rival_names
from support.exact import (
    choose_tokens,
    error_bound,
    exact_input_gradient,
    exact_output,
    exact_weight_gradients,
    relative_error,
)
from support.floor import forward_work, geometric_mean, scratch_bound_bytes, training_work
from support.problem import ROUTINGS, SHAPES, Shape, choose_experts, make_problem, make_weights
from support.timing import time_interleaved

TINY = Shape(family="olmoe", d_model=16, d_ff=8, num_experts=5, top_k=2)


def tiny_problem(routing="uniform", num_tokens=7, *, is_trained=False):
    weights = make_weights(TINY, torch.float32, is_trained=is_trained)
    return make_problem(TINY, weights, num_tokens=num_tokens, routing=routing)


@pytest.mark.parametrize("routing", ROUTINGS)
@pytest.mark.parametrize("num_tokens", [1, 50])
def test_each_token_gets_k_distinct_experts(routing, num_tokens):
    ids = choose_experts(routing, num_tokens, TINY, torch.Generator().manual_seed(0))
    assert ids.shape == (num_tokens, TINY.top_k)
    assert ids.min() >= 0
    assert ids.max() < TINY.num_experts
    assert all(row.unique().numel() == TINY.top_k for row in ids)


def test_all_to_one_touches_k_experts_and_counts_all_tokens_there():
    ids = choose_experts("all_to_one", 9, TINY, torch.Generator())
    assert ids.flatten().bincount(minlength=5).tolist() == [9, 9, 0, 0, 0]
    assert (ids[:, 0] == 0).all()


def test_zipf_draws_in_proportion_to_one_over_rank():
    shape = Shape(family="olmoe", d_model=1, d_ff=1, num_experts=5, top_k=1)
    n = 20_000
    counts = choose_experts("zipf", n, shape, torch.Generator().manual_seed(0)).flatten().bincount(minlength=5)
    expected = 1 / torch.arange(1, 6)
    expected = expected / expected.sum()
    # Five standard deviations of a binomial count.
    assert ((counts / n - expected).abs() < 5 * (expected * (1 - expected) / n).sqrt()).all()


def test_an_unknown_routing_is_refused():
    with pytest.raises(ValueError, match=r"routing \(='other'\) must be one of uniform, zipf, all_to_one"):
        choose_experts("other", 1, TINY, torch.Generator())


def test_the_floor_is_the_longer_of_bytes_and_operations():
    work = forward_work(TINY, num_tokens=3, num_distinct=4, item_bytes=2)
    assert work.num_bytes == 4 * 3 * 16 * 8 * 2
    assert work.flops == 2 * 3 * 2 * 3 * 16 * 8
    assert work.floor_s(bandwidth=1.0, peak=1e12) == work.num_bytes
    assert work.floor_s(bandwidth=1e12, peak=1.0) == work.flops
    assert (work.bound(1.0, 1e12), work.bound(1e12, 1.0)) == ("memory", "arithmetic")


def test_training_is_three_times_the_operations_and_no_bytes():
    forward = forward_work(TINY, num_tokens=3, num_distinct=4, item_bytes=2)
    training = training_work(TINY, num_tokens=3)
    assert (training.num_bytes, training.flops) == (0, 3 * forward.flops)


def test_scratch_counts_rows_and_tokens():
    assert scratch_bound_bytes(TINY, num_tokens=7) == 3 * (14 * 8 + 7 * 16) * 4


def test_the_geometric_mean_of_nothing_is_none():
    assert geometric_mean([]) is None
    assert math.isclose(geometric_mean([1.0, 4.0]), 2.0)


def test_batched_copies_bound_who_takes_part():
    assert "batched_mm" in rival_names(SHAPES["olmoe"], 16, torch.bfloat16)
    assert "batched_mm" not in rival_names(SHAPES["olmoe"], 17, torch.bfloat16)
    assert "batched_mm" not in rival_names(SHAPES["mixtral"], 16, torch.bfloat16)


def test_the_least_busy_expert_has_rows():
    problem = tiny_problem("all_to_one")
    assert least_busy_expert(problem) == 0


def test_checked_tokens_are_distinct_and_in_range():
    tokens = choose_tokens(tiny_problem(num_tokens=100))
    assert tokens.unique().numel() == tokens.numel() == 16
    assert (tokens[0], tokens[-1]) == (0, 99)


@pytest.mark.parametrize("routing", ROUTINGS)
def test_the_exact_values_are_those_of_autograd_in_float64(routing):
    problem = tiny_problem(routing, is_trained=True)
    x, gate_up, down = (t.detach().double().requires_grad_() for t in (problem.x, problem.gate_up, problem.down))
    y = torch.zeros_like(x)
    for k in range(TINY.top_k):
        ids = problem.expert_ids[:, k]
        gate, up = torch.einsum("td,tud->tu", x, gate_up[ids]).chunk(2, dim=1)
        hidden = torch.nn.functional.silu(gate) * up
        y = y + problem.combine_weights[:, k, None].double() * torch.einsum("tf,tdf->td", hidden, down[ids])
    grad_y = torch.randn(y.shape, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    y.backward(grad_y)
    tokens = torch.arange(problem.x.shape[0])
    expert = least_busy_expert(problem)
    found = [exact_output(problem, tokens), exact_input_gradient(problem, tokens, grad_y)]
    found += exact_weight_gradients(problem, expert, grad_y)
    expected = [y.detach(), x.grad, gate_up.grad[expert], down.grad[expert]]
    # 2^-52 times the square root of a few hundred products in a row.
    assert all(relative_error(a, b) < 1e-14 for a, b in zip(found, expected, strict=True))


def test_every_contender_is_right_and_a_wrong_one_is_found():
    pytest.importorskip("transformers")
    problem = tiny_problem()
    tokens = choose_tokens(problem)
    exact = exact_output(problem, tokens)
    contenders = list_contenders(problem)
    assert [c.name for c in contenders] == ["headgate", "eager", "grouped_mm", "batched_mm"]
    for contender in contenders:
        assert contender.leaves[1] is problem.gate_up
        y = contender.run()[tokens]
        assert relative_error(y, exact) < error_bound(problem)
        assert not relative_error(y * 1.001, exact) < error_bound(problem)
        assert not relative_error(y * math.nan, exact) < error_bound(problem)


def test_what_runs_between_runs_before_every_call():
    order = []
    calls = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    times = time_interleaved(calls, rounds=2, warm_up=1, between={"-": lambda: order.append("-")})
    assert "".join(order) == "-a-b" + "-b-a" + "-a-b"
    assert set(times) == {"a", "b", "-"}
