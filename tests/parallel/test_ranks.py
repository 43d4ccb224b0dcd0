"""The harness itself: results by rank, groups of every size, and failures that are told, not waited for."""

import pytest

from parallel import calls
from parallel.ranks import RanksError


@pytest.mark.parametrize("num_ranks", [1, 2, 4, 3])
def test_every_rank_answers_from_a_group_of_the_size(ranks, num_ranks):
    total = sum(10 * rank for rank in range(num_ranks))
    assert ranks.run(num_ranks, calls.add_over_ranks, 10) == [(rank, total) for rank in range(num_ranks)]


def test_a_failure_names_its_rank_and_the_next_call_works(ranks):
    with pytest.raises(RanksError, match=r"(?s)rank 1: .*ValueError: no good.*rank 0: no answer"):
        ranks.run(2, calls.fail_on, 1)
    assert ranks.run(2, calls.add_over_ranks, 1) == [(0, 1), (1, 1)]


def test_a_call_that_nobody_waited_for_leaves_nothing_behind(ranks):
    ranks.begin(2, calls.add_over_ranks, 5)
    assert ranks.run(2, calls.add_over_ranks, 1) == [(0, 1), (1, 1)]
