import dataclasses

import numpy as np
import pytest
import torch

from headgate.observe.align import align
from headgate.observe.page.cut import cut_alignment, cut_trace
from headgate.observe.trace import Phase
from traces import random_trace


@pytest.mark.parametrize(
    ("limit", "tokens", "offsets", "said"),
    [
        (100, 12, [0, 5, 8, 12], None),
        (12, 12, [0, 5, 8, 12], None),
        (11, 8, [0, 5, 8], "8 of 12 tokens, the first 2 of 3 sequences;"),
        (7, 5, [0, 5], "5 of 12 tokens, the first of 3 sequences;"),
        (3, 3, [0, 3], "3 of 12 tokens, the beginning of the first of 3 sequences;"),
    ],
)
def test_whole_sequences_are_kept_where_one_fits(limit, tokens, offsets, said):
    cut = cut_trace(random_trace(lengths=(5, 3, 4)), limit=limit)
    assert cut.tokens.tolist() == list(range(tokens))
    assert cut.seq_offsets.tolist() == offsets
    assert cut.sentence() is None if said is None else said in cut.sentence()


def test_padding_is_left_out_and_counted():
    trace = random_trace(lengths=(3, 2, 4))
    phase = torch.tensor([0, 0, 3, 3, 3, 1, 1, 3, 1], dtype=torch.uint8)
    cut = cut_trace(dataclasses.replace(trace, phase=phase), limit=100)
    assert cut.tokens.tolist() == [0, 1, 5, 6, 8]
    # The second sequence was padding alone.
    assert cut.seq_offsets.tolist() == [0, 2, 5]
    assert cut.sentence() == "4 tokens of padding are left out."
    assert cut.num_sequences == 2


def test_nothing_but_padding():
    trace = random_trace(lengths=(3,))
    cut = cut_trace(dataclasses.replace(trace, phase=torch.full((3,), Phase.PADDING, dtype=torch.uint8)), limit=9)
    assert (cut.tokens.tolist(), cut.seq_offsets.tolist()) == ([], [0])


def test_a_trace_without_tokens():
    cut = cut_trace(random_trace(lengths=()), limit=0)
    assert (cut.tokens.tolist(), cut.seq_offsets.tolist(), cut.sentence()) == ([], [0], None)


def test_two_traces_hold_the_same_tokens_in_the_same_order():
    first = random_trace(lengths=(5, 3, 4))
    # The same sequences in another order.
    order = np.array([*range(8, 12), *range(5), *range(5, 8)])
    second = dataclasses.replace(first.take(order), seq_offsets=torch.tensor([0, 4, 9, 12]))
    cuts = cut_alignment(align(first, second), limit=9)
    assert cuts[0].seq_offsets.tolist() == cuts[1].seq_offsets.tolist() == [0, 5, 8]
    assert torch.equal(first.token_ids[cuts[0].tokens], second.token_ids[cuts[1].tokens])
    assert "8 of 12 tokens, the first 2 of 3 sequences" in cuts[1].sentence()
