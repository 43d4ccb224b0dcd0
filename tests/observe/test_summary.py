import dataclasses
import math

import pytest
import torch

from headgate.errors import InputError
from headgate.observe.coverage import measure_coverage
from headgate.observe.reader import open_trace
from headgate.observe.summary import summarise_trace
from headgate.observe.trace import RoutingTrace
from headgate.observe.writer import save_trace
from traces import random_trace


def test_a_summary_by_hand():
    # Two passes of two tokens, one layer, four experts; expert 0 is full in the second pass.
    trace = RoutingTrace(
        topk_ids=torch.tensor([[[0, 1], [0, 2], [0, 1], [3, -1]]]),
        layer_index=torch.tensor([7], dtype=torch.int32),
        seq_offsets=torch.tensor([0, 2, 4]),
        counts=torch.tensor([[2, 2, 1, 1]]),
        metadata={},
        topk_weights=torch.tensor([[[0.5, 0.5], [0.75, 0.25], [0.0, 0.5], [1.0, 0.0]]]).half(),
        phase=torch.tensor([0, 0, 1, 1], dtype=torch.uint8),
        forward_id=torch.tensor([0, 0, 1, 1], dtype=torch.int32),
        select_margin=torch.tensor([[0.0, 0.25, 0.5, math.inf]]).half(),
        router_entropy=torch.tensor([[1.0, 2.0, 1.0, math.nan]]).half(),
        is_dropped=torch.tensor([[[False, False], [False, False], [True, False], [False, False]]]),
    )
    found = summarise_trace(trace)
    assert (found.num_layers, found.num_tokens, found.num_sequences, found.num_experts) == (1, 4, 2, 4)
    assert (found.top_k, found.phases, found.num_passes) == (2, {"prompt": 2, "generated": 2}, 2)
    (layer,) = found.layers
    assert (layer.layer, layer.expert_counts, layer.load_ratio) == (7, (2, 2, 1, 1), pytest.approx(2 / 1.5))
    assert layer.drop_fraction == pytest.approx(1 / 7)
    assert layer.weight_mass == pytest.approx((1 + 1 + 0.5 + 1) / 4)
    assert layer.router_entropy == pytest.approx(4 / 3)
    assert layer.tie_fraction == 0.25
    assert layer.num_nan == 1
    assert layer.margin == (0.0, 0.0, 0.25)
    # Choices of each pass: 0, 1, 0, 2 and 0, 1, 3.
    assert layer.pass_load_ratio[0] == pytest.approx((2 / 1 + 1 / 0.75) / 2)


def test_chunks_add_up(tmp_path):
    trace = random_trace(lengths=(40, 30))
    save_trace(tmp_path / "a.safetensors", trace)
    file = open_trace(tmp_path / "a.safetensors")
    whole = summarise_trace(trace)
    chunks = file.chunks
    file.chunks = lambda: chunks(chunk_bytes=1000)
    parts = summarise_trace(file)
    for a, b in zip(whole.layers, parts.layers, strict=True):
        for field in dataclasses.fields(a):
            assert getattr(a, field.name) == pytest.approx(getattr(b, field.name)), field.name


def test_a_trace_with_the_least(tmp_path):
    layer = summarise_trace(random_trace(full=False)).layers[0]
    assert (layer.margin, layer.router_entropy, layer.weight_mass, layer.pass_load_ratio) == (None,) * 4
    empty = summarise_trace(random_trace(full=False, lengths=())).layers[0]
    assert (empty.load_ratio, empty.normalised_entropy) == (None, None)


def test_only_so_many_passes_are_kept(monkeypatch):
    monkeypatch.setattr("headgate.observe.summary.PASS_BYTES", 4 * 3 * 6 * 2)
    assert summarise_trace(random_trace(lengths=(12,))).num_passes == 2


def coverage_trace(counts, *, tokens=100, sequences=4):
    ids = torch.zeros(1, tokens, 1, dtype=torch.int64)
    offsets = torch.arange(sequences + 1) * (tokens // sequences)
    return RoutingTrace(
        topk_ids=ids, layer_index=torch.tensor([5]), seq_offsets=offsets, counts=torch.tensor([counts]), metadata={}
    )


def test_coverage_by_hand():
    found = measure_coverage(coverage_trace([60, 30, 10]), needed=40)
    assert [(e.layer, e.expert, e.num_rows, e.more_tokens) for e in found.poor] == [(5, 2, 10, 300), (5, 1, 30, 34)]
    assert (found.more_tokens, found.more_sequences, found.num_experts) == (300, 12, 3)


def test_an_expert_without_tokens_has_only_a_lower_bound():
    found = measure_coverage(coverage_trace([100, 0]), needed=30)
    # Below 3 in 100 with 95 % confidence, so at least 1000 more for 30.
    assert (found.poor[0].is_seen, found.poor[0].more_tokens) == (False, 1000)
    assert (found.more_tokens, found.more_sequences) == (None, None)


def test_a_text_that_covers_all():
    found = measure_coverage(coverage_trace([50, 50]), needed=50)
    assert (found.poor, found.more_tokens, found.more_sequences) == ((), 0, 0)


def test_what_has_no_rate():
    with pytest.raises(InputError, match=r"^needed \(=0\) must be at least 1; a few hundred rows per expert are usual"):
        measure_coverage(coverage_trace([1]), needed=0)
    with pytest.raises(InputError, match=r"^the trace has no tokens, so there is no rate to go by; record the"):
        measure_coverage(random_trace(lengths=()))
