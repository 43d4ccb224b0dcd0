"""Batches in turns: one computes while the other's tokens travel, and each gets what it gets alone."""

import threading

import pytest
import torch

from compare import assert_close
from headgate.parallel import run_in_turns
from headgate.parallel.turns import give_way
from parallel import turn_taking
from parallel.layers import Case, D

CASE = Case((6, 0, 5), slots=((0, 1, -1), (3, 4, 0), (0, 5, 2)), dtype=torch.float32)
NODES = Case((5, 3, 7, 2), dtype=torch.float32)


def test_calls_take_turns_in_their_order():
    said = []

    def count(name, num_words):
        for number in range(num_words):
            said.append(f"{name}{number}")
            give_way()
        return name

    assert run_in_turns([lambda: count("a", 3), lambda: count("b", 1), lambda: count("c", 2)]) == ["a", "b", "c"]
    assert said == ["a0", "b0", "c0", "a1", "c1", "a2"]
    assert run_in_turns([]) == []
    give_way()


def test_a_failure_is_raised_and_ends_the_others():
    ended = []

    def wait_for_ever():
        try:
            while True:
                give_way()
        finally:
            ended.append(True)

    def fail():
        give_way()
        raise KeyError("x")

    before = threading.active_count()
    with pytest.raises(KeyError, match="x"):
        run_in_turns([wait_for_ever, fail, wait_for_ever])
    assert ended == [True, True]
    assert threading.active_count() == before


def test_the_gate_of_the_next_batch_runs_while_tokens_travel(ranks):
    rows, labels, weights = f"torch.float32 x {D}", "torch.int32 x 2", "torch.float32"
    leaving = [f"begin {kind}" for kind in (rows, labels, weights)]
    arriving = [f"wait {kind}" for kind in (rows, labels, weights)]
    for events in ranks.run(3, turn_taking.order_of_events, CASE):
        # Then the experts of each, while the other's tokens or partial sums travel.
        experts = [*arriving, f"begin {rows}"]
        assert events == ["gate", *leaving, "gate", *leaving, *experts, *experts, f"wait {rows}", f"wait {rows}"]


@pytest.mark.parametrize(("case", "num_nodes"), [(CASE, None), (NODES, 2)], ids=["flat", "two levels"])
def test_outputs_have_the_same_bits(ranks, case, num_nodes):
    for plain, in_turns in ranks.run(case.num_ranks, turn_taking.outputs, case, num_nodes):
        assert all(torch.equal(y, expected) for y, expected in zip(in_turns, plain, strict=True))


def test_gradients_are_those_of_one_batch_after_the_other(ranks):
    for plain, in_turns, again in ranks.run(3, turn_taking.train, CASE):
        for name, expected in plain.items():
            assert torch.equal(in_turns[name], again[name]), name
            assert_close(name, in_turns[name], expected, dtype=CASE.dtype, terms=sum(CASE.tokens) * D, scale=0.1)


def test_a_call_finds_its_callers_autocast_and_gradient_mode(ranks):
    for needs, row_bytes in ranks.run(3, turn_taking.see_conditions, CASE):
        assert needs == [True, False, False]
        assert row_bytes == [2 * D] * 2


def test_ranks_go_on_after_a_call_that_failed(ranks):
    assert ranks.run(3, turn_taking.fail_in_the_second, CASE) == [("no such batch", 3)] * 3
