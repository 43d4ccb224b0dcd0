import dataclasses
import math
import sys

import pytest
import torch

import headgate
from headgate.errors import ArtifactError, InputError
from headgate.observe.coverage import measure_coverage
from headgate.observe.pieces import recount
from headgate.observe.reader import open_trace
from headgate.observe.trace import Phase, RoutingTrace
from headgate.observe.writer import save_trace
from traces import random_trace


def trace_of(sequences, *, num_experts, **fields):
    """One layer, K = 1: the expert of each token, sequence by sequence."""
    lengths = torch.tensor([0, *map(len, sequences)])
    trace = RoutingTrace(
        topk_ids=torch.tensor([token for sequence in sequences for token in sequence])[None, :, None],
        layer_index=torch.tensor([5]),
        seq_offsets=lengths.cumsum(0),
        counts=torch.zeros(1, num_experts, dtype=torch.int64),
        metadata={},
        **fields,
    )
    return dataclasses.replace(trace, counts=recount(trace))


def even(counts):
    """Four sequences of 25 tokens, over which each expert's tokens are spread evenly."""
    tokens = [expert for expert, number in enumerate(counts) for _ in range(number)]
    return trace_of([tokens[start::4] for start in range(4)], num_experts=len(counts))


def test_by_hand():
    found = measure_coverage(even([60, 30, 10]), needed=40)
    assert [(e.layer, e.expert, e.num_rows, e.more_tokens) for e in found.poor] == [(5, 2, 10, 300), (5, 1, 30, 34)]
    assert (found.more_tokens, found.more_sequences, found.num_experts) == (300, 12, 3)
    for expert in found.poor:
        low, high = expert.more_interval
        assert low < expert.more_tokens < high
    # That of all at once is wider than that of the poorest.
    low, high = found.more_interval
    assert low < found.poor[0].more_interval[0] < found.poor[0].more_interval[1] < high


def test_the_interval_covers_the_truth_where_sequences_differ():
    generator = torch.Generator().manual_seed(0)
    hits = 0
    for _ in range(60):
        # Each sequence gives expert 1 a fraction of its own, around 0.1: on average 20 rows take 200 tokens.
        rates = (0.1 + 0.05 * torch.randn(30, generator=generator)).clamp(0, 1)
        tokens = (torch.rand(30, 40, generator=generator) < rates[:, None]).long().tolist()
        (poor,) = measure_coverage(trace_of(tokens, num_experts=2), needed=1000).poor[:1]
        missing = (1000 - poor.num_rows) / 0.1
        low, high = poor.more_interval
        hits += low <= missing <= high
        assert poor.expert == 1
    # A binomial of 60 with p = 0.95 is below 51 less than once in 500.
    assert hits >= 51


def test_an_expert_without_tokens_has_only_a_lower_bound():
    found = measure_coverage(even([100, 0]), needed=30)
    # Nothing shows how alike the tokens of a sequence are, so each of the four counts once: 0.025 = (1 - rate)^4.
    least = math.ceil(30 / (1 - 0.025**0.25))
    assert (found.poor[0].is_seen, found.poor[0].more_tokens) == (False, least)
    assert (found.poor[0].more_interval, found.more_interval) == ((least, None), (least, None))
    assert (found.more_tokens, found.more_sequences) == (None, None)


def test_one_sequence_has_no_interval():
    found = measure_coverage(trace_of([[0] * 99 + [1]], num_experts=3), needed=30)
    # Below 3 in 100 with 95 % confidence, so at least 1000 more for 30, if tokens were independent.
    assert [(e.expert, e.more_tokens, e.more_interval) for e in found.poor] == [(2, 1000, None), (1, 2900, None)]
    assert found.more_interval is None


def test_without_scipy_there_is_no_interval(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    found = measure_coverage(even([60, 30, 10]), needed=40)
    assert (found.more_tokens, found.more_interval) == (300, None)
    assert {expert.more_interval for expert in found.poor} == {None}


def test_a_text_that_covers_all():
    found = measure_coverage(even([50, 50]), needed=50)
    assert (found.poor, found.more_tokens, found.more_sequences, found.more_interval) == ((), 0, 0, None)


def test_padding_is_no_text():
    phase = torch.tensor([Phase.PROMPT, Phase.PROMPT, Phase.PADDING, Phase.PADDING], dtype=torch.uint8)
    found = measure_coverage(trace_of([[0, 1, -1, -1]], num_experts=2, phase=phase), needed=2)
    assert (found.num_tokens, [expert.more_tokens for expert in found.poor]) == (2, [2, 2])


def test_dropped_choices_reach_no_expert():
    trace = trace_of([[0, 1]] * 4, num_experts=2)
    is_dropped = torch.tensor([False, True] * 3 + [False, False])[None, :, None]
    trace = dataclasses.replace(trace, is_dropped=is_dropped)
    trace = dataclasses.replace(trace, counts=recount(trace))
    found = measure_coverage(trace, needed=2)
    assert [(e.expert, e.num_rows, e.more_tokens) for e in found.poor] == [(1, 1, 8)]
    # As where nothing was chosen.
    empty = trace_of([[0, -1]] * 3 + [[0, 1]], num_experts=2)
    assert found == measure_coverage(empty, needed=2)


def test_columns_without_an_expert_that_has_weights_need_nothing():
    spec = headgate.preset("longcat_flash", num_experts=2, num_zero_experts=1, top_k=1)
    trace = trace_of([[0, 1, 2]], num_experts=4)
    trace.metadata["layers"] = [{"router": spec.to_dict()}]
    found = measure_coverage(trace, needed=3)
    assert (found.num_experts, [expert.expert for expert in found.poor]) == (2, [0, 1])


def test_what_has_no_rate():
    with pytest.raises(InputError, match=r"^needed \(=0\) must be at least 1; a few hundred rows per expert are usual"):
        measure_coverage(even([4]), needed=0)
    with pytest.raises(InputError, match=r"^the trace has no tokens, so there is no rate to go by; record the"):
        measure_coverage(random_trace(lengths=()))


def test_an_expert_that_there_is_not_is_found_also_where_the_counts_suffice(tmp_path):
    path = tmp_path / "a.safetensors"
    trace = random_trace()
    wrong = trace.topk_ids.clone()
    wrong[-1, -1, -1] = trace.num_experts
    save_trace(path, dataclasses.replace(trace, topk_ids=wrong, counts=trace.counts + 1000))
    with pytest.raises(ArtifactError, match="topk_ids holds expert id 6, and counts has 6 experts"):
        measure_coverage(open_trace(path), needed=1)
