"""Comparing traces: alignment, figures by hand, buckets, matching, and what is refused."""

import dataclasses
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from headgate.errors import BackendError, InputError
from headgate.observe.agreement import overlap_at_k
from headgate.observe.align import align
from headgate.observe.diff import diff_traces
from headgate.observe.halves import half_histogram, half_quantiles
from headgate.observe.pieces import select
from headgate.observe.reader import open_trace
from headgate.observe.writer import TraceWriter
from traces import random_trace


def changed(trace, **changes):
    return dataclasses.replace(trace, **changes)


def distinct(seed=0, **options):
    """A trace in which every sequence has other tokens."""
    trace = random_trace(seed=seed, **options)
    return changed(trace, token_ids=torch.arange(trace.num_tokens, dtype=torch.int32))


def test_a_trace_agrees_with_itself():
    found = diff_traces(distinct(), distinct())
    assert dataclasses.astuple(found.agreement) == (1.0, 1.0, 1.0, 0.0, 0.0)
    # Three sequences that agree show that most do: Clopper and Pearson's bound for 3 of 3.
    assert found.overlap_interval == (pytest.approx(0.025 ** (1 / 3)), 1.0)
    assert found.flipped_interval == (0.0, pytest.approx(1 - 0.025 ** (1 / 3)))
    assert found.layers[0].overlap_interval == found.overlap_interval
    assert found.buckets[0].flipped_interval == found.flipped_interval
    assert (found.num_tokens, found.num_unmatched, found.is_checked, found.k) == (12, (0, 0), True, 2)
    assert [layer.load_distance for layer in found.layers] == [0.0] * 3
    assert found.tokens == ()
    assert [layer.gained + layer.lost for layer in found.layers] == [()] * 3


def test_a_change_is_found_where_it_is():
    first = distinct(drop=0, token_strings={"7": "seven"})
    ids = first.topk_ids.clone()
    left_out = next(expert for expert in range(6) if expert not in ids[1, 7].tolist())
    was = ids[1, 7, 1].item()
    ids[1, 7, 1] = left_out
    found = diff_traces(first, changed(first, topk_ids=ids))
    assert found.agreement.overlap == pytest.approx(1 - 0.5 / 36)
    assert found.agreement.flipped_fraction == pytest.approx(1 / 36)
    assert [layer.agreement.flipped_fraction for layer in found.layers] == [0.0, pytest.approx(1 / 12), 0.0]
    assert found.layers[1].gained == ((left_out, pytest.approx(1 / 24)),)
    assert found.layers[1].lost == ((was, pytest.approx(-1 / 24)),)
    (token,) = found.tokens
    assert (token.token, token.sequence, token.position, token.text) == (7, 1, 2, "seven")
    assert (token.changed_layers, token.overlap) == (1, pytest.approx(1 - 0.5 / 3))
    assert sum(bucket.share_of_flips for bucket in found.buckets) == pytest.approx(1.0)


def test_sequences_may_come_in_any_order_and_some_be_missing():
    whole = distinct()
    found = diff_traces(whole, select(whole, sequences=[2, 0]))
    assert found.agreement.overlap == 1.0
    assert (found.num_tokens, found.num_unmatched) == (9, (1, 0))


def test_the_last_token_may_be_missing():
    whole = distinct()
    short = select(whole, sequences=[0])
    short = changed(short.take(torch.arange(4).numpy()), seq_offsets=torch.tensor([0, 4]))
    for first, second, unmatched in ((whole, short, (2, 0)), (short, whole, (0, 2))):
        found = diff_traces(first, second)
        assert (found.num_tokens, found.num_unmatched, found.agreement.overlap) == (4, unmatched, 1.0)


def test_padding_is_left_out():
    first = distinct()
    phase = torch.zeros(12, dtype=torch.uint8)
    phase[[3, 4]] = 3
    assert diff_traces(first, changed(first, phase=phase)).num_tokens == 10
    with pytest.raises(InputError, match=r"^the traces share no token that is not padding; record the same text"):
        diff_traces(first, changed(first, phase=torch.full((12,), 3, dtype=torch.uint8)))


def test_files_and_values_give_the_same(tmp_path):
    first, second = distinct(), changed(distinct(seed=1), select_bias=None)
    with TraceWriter(tmp_path / "a.safetensors", shard_bytes=1) as writer:
        for sequence in range(3):
            writer.append(select(first, sequences=[sequence]))
    assert diff_traces(open_trace(tmp_path / "a.safetensors"), second) == diff_traces(first, second)


def test_chunks_add_up(monkeypatch):
    first, second = distinct(), distinct(seed=1)
    whole = diff_traces(first, second)
    monkeypatch.setattr("headgate.observe.diff._CHUNK_TOKENS", 5)
    parts = diff_traces(first, second)
    assert parts.agreement.overlap == pytest.approx(whole.agreement.overlap)
    assert parts.agreement.overlap == pytest.approx(overlap_at_k(first.topk_ids, second.topk_ids).mean().item())
    assert [token.token for token in parts.tokens] == [token.token for token in whole.tokens]
    assert parts.buckets == whole.buckets


def test_the_best_k_alone():
    first = distinct(top_k=3)
    swapped = changed(first, topk_ids=first.topk_ids[..., [0, 2, 1]])
    assert diff_traces(first, swapped).agreement.overlap == 1.0
    assert diff_traces(first, swapped, k=1).agreement.overlap == 1.0
    assert diff_traces(first, swapped, k=2).agreement.overlap == 0.5
    # Of three pairs of experts one is the other way round.
    assert diff_traces(first, swapped).agreement.rank_correlation == pytest.approx(1 / 3)


def test_choices_without_order_have_no_ranks():
    first = distinct(top_k=3)
    second = changed(first, metadata={**first.metadata, "is_ordered": False})
    assert diff_traces(first, second).agreement.rank_correlation is None
    with pytest.raises(InputError, match=r"^k \(=2\) needs choices in order, and a trace says that it has none; comp"):
        diff_traces(first, second, k=2)


def test_flips_at_small_margins_are_in_the_first_buckets():
    first = distinct(lengths=(50, 50), seed=3)
    ids = first.topk_ids.clone()
    order = first.select_margin[0].argsort()
    for token in order[:20].tolist():
        ids[0, token, 1] = next(expert for expert in range(6) if expert not in ids[0, token].tolist())
    found = diff_traces(first, changed(first, topk_ids=ids))
    assert [bucket.share_of_flips for bucket in found.buckets] == [1.0, 0.0, 0.0, 0.0, 0.0]
    # 20 of the 60 tokens of the lowest fifth of three layers.
    assert found.buckets[0].flipped_fraction == pytest.approx(1 / 3)
    assert found.buckets[0].mean_margin < found.buckets[4].mean_margin


def test_permuted_experts_are_matched():
    first = distinct(lengths=(100, 100))
    renaming = torch.stack([torch.randperm(6, generator=torch.Generator().manual_seed(seed)) for seed in range(3)])
    renamed = changed(first, topk_ids=renaming.gather(1, first.topk_ids.flatten(1)).view_as(first.topk_ids))
    assert diff_traces(first, renamed).agreement.overlap < 0.9
    found = diff_traces(first, renamed, match_experts=True)
    assert found.agreement.overlap == 1.0
    for layer, names in zip(found.layers, renaming, strict=True):
        # The second trace calls expert e of the first names[e].
        assert [layer.matched[name] for name in names.tolist()] == list(range(6))
        assert layer.load_distance == 0.0


def test_what_was_not_recorded_is_not_compared():
    first = changed(distinct(full=True), topk_weights=None, select_margin=None)
    found = diff_traces(first, first)
    assert found.agreement.weight_moved is None
    assert found.buckets == ()


def test_the_figures_for_a_gate():
    found = diff_traces(distinct(), distinct(seed=1))
    assert found.similarities()["overlap@2"] == found.similarities()["overlap@k"] == found.agreement.overlap
    assert found.distances()["load_distance"] == max(layer.load_distance for layer in found.layers)
    assert found.to_dict()["agreement"]["overlap"] == found.agreement.overlap


@pytest.mark.parametrize(
    ("first", "second", "said"),
    [
        ({}, {"layers": (1, 2, 5)}, r"the first trace has the decoder layers \[1, 2, 4\], and the second \[1, 2, 5\]"),
        ({}, {"layers": tuple(range(9))}, r"and the second \[0, 1, 2, 3\] \.\.\. \[7, 8\] \(9\); record the same"),
        ({}, {"num_experts": 7}, r"the traces have 6 and 7 experts; compare models of one shape"),
        (
            {"tokenizer_hash": "a"},
            {"tokenizer_hash": "b\x1b"},
            r"the traces have tokenizers 'a' and 'b\\x1b', so their",
        ),
        (
            {"token_strings": {"3": "x", "4": "y"}},
            {"token_strings": {"4": "\u202e"}},
            r"token id '4' is 'y' in the first trace and '\\u202e' in the second, so they have different tokenizers",
        ),
        ({}, {"seed": 5}, r"none of the 3 and 3 sequences have the same token ids, so the traces are of different"),
        ({"full": False}, {}, r"a trace without token_ids can't be aligned safely; record token ids, or say that"),
    ],
)
def test_what_is_not_comparable_is_refused(first, second, said):
    with pytest.raises(InputError, match=said):
        diff_traces(random_trace(**first), random_trace(**second))


def test_the_caller_may_vouch_for_the_tokens():
    first = random_trace(full=False)
    found = diff_traces(first, first, assume_aligned=True)
    assert (found.agreement.overlap, found.is_checked) == (1.0, False)
    with pytest.raises(InputError, match=r"^the traces have 12 and 11 tokens in sequences of other lengths, so they"):
        diff_traces(first, random_trace(full=False, lengths=(11,)), assume_aligned=True)
    with pytest.raises(InputError, match=r"^k \(=3\) must be between 1 and the choices that were recorded \(=2\)$"):
        diff_traces(first, first, assume_aligned=True, k=3)


def test_repeated_sequences_are_matched_one_to_one():
    ids = torch.tensor([1, 2, 1, 2, 9, 9], dtype=torch.int32)
    first = changed(random_trace(lengths=(2, 2, 2)), token_ids=ids)
    second = changed(first, token_ids=ids[[4, 5, 0, 1, 2, 3]])
    found = align(first, second)
    assert found.first.tolist() == [0, 1, 2, 3, 4, 5]
    assert found.second.tolist() == [2, 3, 4, 5, 0, 1]


def test_without_scipy_there_is_no_interval_and_no_matching(monkeypatch):
    monkeypatch.setitem(sys.modules, "scipy", None)
    monkeypatch.setitem(sys.modules, "scipy.optimize", None)
    assert diff_traces(distinct(), distinct()).overlap_interval is None
    with pytest.raises(BackendError, match=r"^scipy is not installed; pip install 'headgate\[observe\]'$"):
        diff_traces(distinct(), distinct(), match_experts=True)


@given(st.lists(st.floats(width=16, allow_nan=True), min_size=1, max_size=30), st.sampled_from([0.1, 0.5, 0.9]))
@settings(deadline=None, max_examples=100)
def test_quantiles_of_halves_are_exact(values, fraction):
    known = sorted(value for value in values if value == value)
    found = half_quantiles(half_histogram(torch.tensor([values])), [fraction]).item()
    if not known:
        assert found != found
        return
    # The least value that at least this part of all is not above.
    assert found == next(v for v in known if sum(w <= v for w in known) >= fraction * len(known))
