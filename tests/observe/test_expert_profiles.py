import dataclasses
import json

import pytest
import torch

from headgate.errors import InputError
from headgate.observe.expert_profiles import profile_trace
from headgate.observe.noted import layer_widths
from headgate.observe.reader import open_trace
from headgate.observe.sample import sample_tokens
from headgate.observe.trace import Phase
from headgate.observe.writer import save_trace
from traces import random_trace


def test_a_small_trace_is_taken_whole():
    trace = random_trace(lengths=(5, 3, 4))
    sample = sample_tokens(trace)
    assert torch.equal(sample.topk_ids.long(), trace.topk_ids)
    assert torch.equal(sample.token_ids, trace.token_ids)
    assert sample.seq_offsets.tolist() == [0, 5, 8, 12]
    assert sample.sequence.tolist() == [0] * 5 + [1] * 3 + [2] * 4
    assert (sample.num_tokens, sample.num_sampled, sample.num_experts) == (12, 12, (6, 6, 6))


def test_padding_is_left_out():
    trace = random_trace(lengths=(4, 3))
    phase = torch.tensor([3, 3, 0, 0, 0, 3, 1], dtype=torch.uint8)
    sample = sample_tokens(dataclasses.replace(trace, phase=phase))
    assert torch.equal(sample.token_ids, trace.token_ids[phase != Phase.PADDING])
    # A token beyond padding is no neighbour.
    assert sample.seq_offsets.tolist() == [0, 2, 3, 4]
    with pytest.raises(InputError, match=r"^the trace holds no token that is not padding, so only its counts say"):
        sample_tokens(dataclasses.replace(trace, phase=torch.full_like(phase, Phase.PADDING)))


def test_a_long_trace_is_sampled_in_runs(tmp_path):
    trace = random_trace(lengths=(700, 1, 999, 1300), layers=(3,))
    save_trace(tmp_path / "a.safetensors", trace)
    for source in (trace, open_trace(tmp_path / "a.safetensors")):
        sample = sample_tokens(source, max_tokens=1024)
        places = torch.cat([torch.arange(256) + begin for begin in (0, 914, 1829, 2744)])
        assert torch.equal(sample.topk_ids.long(), trace.topk_ids[:, places])
        # A new run begins where tokens were left out, and with each sequence.
        assert sample.seq_offsets.tolist() == [0, 256, 512, 768, 1024]
        assert (sample.num_tokens, sample.num_sampled) == (3000, 1024)
    with pytest.raises(InputError, match=r"^max_tokens \(=9\) must be at least 256, the length of a run$"):
        sample_tokens(trace, max_tokens=9)


def test_layers_with_fewer_experts():
    layers = [{"router": {"num_experts": 6}}, {"router": None}, {"router": {"num_experts": 2}}]
    trace = random_trace(num_experts=6, metadata_layers=None)
    assert layer_widths(dataclasses.replace(trace, metadata={"layers": layers})) == (6, 6, 6)
    counts = trace.counts.clone()
    counts[2, 2:] = 0
    assert layer_widths(dataclasses.replace(trace, metadata={"layers": layers}, counts=counts)) == (6, 6, 2)


def planted():
    """Random routing, in which layer 2 sends token 7 to expert 5, and experts 0 and 1 go together."""
    trace = random_trace(lengths=(60,) * 30, top_k=2, num_experts=8, token_strings={"7": "<b>"})
    ids = trace.topk_ids.clone()
    ids[1][ids[1][:, 0] == 0] = torch.tensor([0, 1])
    ids[1][trace.token_ids == 7] = torch.tensor([5, 2])
    return dataclasses.replace(trace, topk_ids=ids)


def test_what_was_planted_is_found():
    found = profile_trace(planted())
    assert [layer.layer for layer in found.layers] == [1, 2, 4]
    chance, layer = found.layers[0], found.layers[1]
    assert chance.pairs == ()
    assert all(expert.tokens == () for expert in chance.experts)
    assert chance.specialisation.p_value > 0.05
    assert layer.specialisation.p_value < 0.05
    assert layer.specialisation.excess_interval[0] > 0
    (token,) = layer.experts[5].tokens
    assert (token.token_id, token.text, token.lift > 2) == (7, "<b>", True)
    assert (layer.pairs[0].first, layer.pairs[0].second, layer.pairs[0].lift > 1.5) == (0, 1, True)
    assert [pair.second for pair in layer.experts[1].partners] == [0]


def test_figures_that_must_add_up():
    trace = planted()
    found = profile_trace(trace, layers=[2], num_bins=7)
    (layer,) = found.layers
    assert sum(expert.num_choices for expert in layer.experts) == trace.num_tokens * 2
    assert sum(expert.share for expert in layer.experts) == pytest.approx(1)
    for shares in zip(*(expert.share_over_time for expert in layer.experts), strict=True):
        assert sum(shares) == pytest.approx(1)
    assert len(layer.experts[0].share_over_time) == 7
    assert found.to_dict()["layers"][0]["layer"] == 2
    json.dumps(found.to_dict(), allow_nan=False)


def test_independent_choices_persist_as_chance_says():
    layer = profile_trace(planted()).layers[0]
    for persistence in (layer.token_persistence, layer.layer_persistence):
        low, high = persistence.interval
        assert low < persistence.chance < high
        assert low < persistence.overlap < high
    assert profile_trace(planted()).layers[-1].layer_persistence is None


def test_a_trace_with_the_least():
    trace = random_trace(full=False, lengths=(1, 1))
    layer = profile_trace(trace).layers[0]
    assert (layer.specialisation, layer.token_persistence) == (None, None)
    assert layer.experts[0].tokens == ()
    # Fewer tokens than bins: one bin each.
    assert len(layer.experts[0].share_over_time) == 2
    with pytest.raises(InputError, match=r"^layers \(=\[9\]\) are not in the trace"):
        profile_trace(trace, layers=[9])
