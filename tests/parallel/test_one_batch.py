"""W ranks are one process: ids equal, outputs and every gradient to rounding, whatever lies where."""

import pytest
import torch

import headgate
from parallel.layers import Case, check_parts, run_on_rank

EMPTY = (-1,) * 6
ALL = tuple(range(6))

# By the number of ranks: another one takes a new group.
PLACES = {
    "alike": Case((5, 3)),
    "no tokens at all": Case((0, 0)),
    "a rank with all experts": Case((4, 3), slots=(ALL, EMPTY)),
    "all tokens here, all experts there": Case((4, 0), slots=(EMPTY, ALL)),
    "two replicas": Case((4, 3), slots=((0, 1, 2, 3), (3, 4, 5, 0))),
    "three ranks": Case((5, 3, 7)),
    "a rank without tokens": Case((5, 0, 3)),
    "tokens on one rank only": Case((0, 0, 6)),
    "unequal": Case((4, 3, 5), slots=((5, -1, -1), (-1, 0, 3), (4, 1, 2)), skew=0.3),
    "replicas on some ranks, unequal": Case((6, 3, 5), slots=((0, 1, -1), (3, 4, 0), (0, 5, 2))),
    "replicas of all on all": Case((6, 3, 5), slots=(ALL, ALL, ALL)),
    "four ranks, the last without an expert": Case((2, 3, 1, 4), num_experts=5),
}


def check(ranks, case):
    check_parts(case, ranks.begin(case.num_ranks, run_on_rank, case))


@pytest.mark.parametrize("case", PLACES.values(), ids=PLACES)
def test_wherever_tokens_and_experts_are(ranks, case):
    check(ranks, case)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_narrower_numbers(ranks, dtype):
    check(ranks, Case((5, 0, 30), dtype=dtype, slots=((0, 1, -1), (3, 4, 0), (0, 5, 2))))


def make_spec(name):
    return headgate.preset(name, num_experts=16, **({"vocab_size": 50} if "hash" in name else {}))


# Of a family that drops tokens, the choice without a limit: the tokens of a batch then don't look at each other.
SPECS = {name: make_spec(name) for name in headgate.preset_names()}
ALONE = {name: spec for name, spec in SPECS.items() if spec.selection not in ("expert_choice", "sinkhorn")}


@pytest.mark.parametrize("name", ALONE)
def test_every_family(ranks, name):
    options = {"vocab_size": 50} if ALONE[name].vocab_size else {}
    if ALONE[name].capacity is not None:
        options["capacity"] = None
    check(ranks, Case((5, 3, 4), router=name, num_experts=16, options=options))
