import dataclasses
import math

import numpy as np
import pytest
import torch

from headgate.errors import InputError
from headgate.observe.pieces import recount, select
from headgate.observe.reader import open_trace
from headgate.observe.summary import summarise_trace
from headgate.observe.trace import Phase, RoutingTrace
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


def test_chunks_add_up(tmp_path, monkeypatch):
    trace = random_trace(lengths=(40, 30))
    save_trace(tmp_path / "a.safetensors", trace)
    file = open_trace(tmp_path / "a.safetensors")
    whole = summarise_trace(trace)
    chunks = file.uncounted_chunks
    file.uncounted_chunks = lambda: chunks(chunk_bytes=1000)
    # Chunks are cut further, so that the table of their sequences by experts stays small.
    monkeypatch.setattr("headgate.observe.summary.TABLE_CELLS", 7 * 5)
    parts = summarise_trace(file)
    for a, b in zip(whole.layers, parts.layers, strict=True):
        assert a.dead == b.dead
        for field in dataclasses.fields(a):
            if field.name != "dead":
                np.testing.assert_allclose(values(a, field), values(b, field), err_msg=field.name)


def values(layer, field):
    value = getattr(layer, field.name)
    return np.array(np.nan if value is None else value, dtype=float)


def test_padding_counts_for_nothing():
    trace = random_trace(lengths=(6, 5))
    phase = torch.tensor([3, 3, 0, 0, 1, 1, 0, 3, 0, 1, 3], dtype=torch.uint8)
    padded = dataclasses.replace(trace, phase=phase)
    padded = dataclasses.replace(padded, counts=recount(padded))
    short = select(padded, phases=[Phase.PROMPT, Phase.GENERATED])
    for with_padding, without in zip(summarise_trace(padded).layers, summarise_trace(short).layers, strict=True):
        assert with_padding.to_dict() == without.to_dict()


def sequences_of(shares, *, length=200, seed=0):
    """One layer with one choice a token; each sequence goes by its own shares."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.cat([torch.multinomial(torch.tensor(s), length, replacement=True, generator=generator) for s in shares])
    return RoutingTrace(
        topk_ids=ids[None, :, None],
        layer_index=torch.tensor([0]),
        seq_offsets=torch.arange(len(shares) + 1) * length,
        counts=torch.bincount(ids, minlength=4)[None],
        metadata={},
    )


def test_the_intervals_of_the_load_follow_the_spread_between_sequences():
    alike = summarise_trace(sequences_of([[0.4, 0.2, 0.2, 0.2]] * 10)).layers[0]
    torn = summarise_trace(sequences_of([[0.7, 0.1, 0.1, 0.1], [0.1, 0.3, 0.3, 0.3]] * 5)).layers[0]
    for layer in (alike, torn):
        low, high = layer.max_share_interval
        assert low < 0.4 < high
        assert layer.load_ratio_interval == (4 * low, 4 * high)
        # One share alone is surer than the largest of all.
        assert layer.share_intervals[0][1] < high
    assert torn.max_share_interval[1] - torn.max_share_interval[0] > 3 * (high_minus_low(alike))


def high_minus_low(layer):
    return layer.max_share_interval[1] - layer.max_share_interval[0]


def test_a_death_that_few_sequences_can_not_show():
    # 182 rows would do if tokens were independent, but whole sequences go to single experts.
    torn = summarise_trace(sequences_of([[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0]] * 3)).layers[0]
    assert (torn.dead.expert_ids, torn.dead.is_sample_sufficient, torn.is_death_shown) == ((3,), True, False)
    assert torn.dead_bound > 0.1
    even = summarise_trace(sequences_of([[0.3, 0.3, 0.4, 0.0]] * 9)).layers[0]
    assert (even.dead_expert_fraction, even.active_fraction, even.is_death_shown) == (0.25, 0.75, True)
    assert even.dead_bound < 0.1


def test_the_load_of_devices():
    assert summarise_trace(sequences_of([[0.5, 0.5, 0, 0]]), num_devices=2).layers[0].balancedness == 0.5
    with pytest.raises(InputError, match=r"^num_devices \(=3\) must divide the number of experts \(=4\); give one"):
        summarise_trace(sequences_of([[0.5, 0.5, 0, 0]]), num_devices=3)


def test_margins_that_nobody_knows_are_not_nan():
    trace = random_trace()
    unknown = torch.full_like(trace.select_margin[0], math.nan)
    margins = torch.stack([unknown, trace.select_margin[1], trace.select_margin[2]])
    margins[1, 3] = math.nan
    layers = summarise_trace(dataclasses.replace(trace, select_margin=margins)).layers
    assert [layer.num_nan for layer in layers] == [0, 1, 0]
    assert (layers[0].margin, layers[0].tie_fraction) == (None, None)
    assert layers[1].margin is not None
    weights = torch.full_like(trace.topk_weights, math.nan)
    assert summarise_trace(dataclasses.replace(trace, topk_weights=weights)).layers[0].num_nan == trace.num_tokens


def test_a_trace_with_the_least(tmp_path):
    layer = summarise_trace(random_trace(full=False)).layers[0]
    assert (layer.margin, layer.router_entropy, layer.weight_mass, layer.pass_load_ratio) == (None,) * 4
    empty = summarise_trace(random_trace(full=False, lengths=())).layers[0]
    assert (empty.load_ratio, empty.normalised_entropy) == (None, None)


def test_only_so_many_passes_are_kept(monkeypatch):
    monkeypatch.setattr("headgate.observe.summary.PASS_BYTES", 4 * 3 * 6 * 2)  # 3 layers of 6 experts
    assert summarise_trace(random_trace(lengths=(12,))).num_passes == 2
