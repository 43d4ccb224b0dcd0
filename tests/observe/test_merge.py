import dataclasses

import pytest
import torch

from headgate.errors import InputError
from headgate.observe.merge import merge_files
from headgate.observe.pieces import concatenate, select
from headgate.observe.reader import TraceFile, load_trace, open_trace
from headgate.observe.writer import save_trace
from traces import random_trace

PATHS = [{"path": f"layers.{number}"} for number in range(5)]


def whole_trace():
    return dataclasses.replace(random_trace(layers=range(5)), metadata={"model": "made up", "layers": PATHS})


def open_all(folder, traces):
    for rank, trace in enumerate(traces):
        save_trace(folder / f"rank{rank}.safetensors", trace)
    return [open_trace(folder / f"rank{rank}.safetensors") for rank in range(len(traces))]


def assert_same(first, second):
    for name in ("topk_ids", "counts", "seq_offsets", "layer_index", "topk_weights", "is_dropped", "select_bias"):
        assert torch.equal(getattr(first, name), getattr(second, name)), name
    assert first.metadata["layers"] == second.metadata["layers"]


def test_ranks_with_their_own_tokens(tmp_path):
    whole = whole_trace()
    ranks = [select(whole, sequences=[0]), select(whole, sequences=[1, 2])]
    merge_files(open_all(tmp_path, ranks), tmp_path / "all.safetensors", by="tokens")
    assert_same(load_trace(tmp_path / "all.safetensors"), whole)


def test_a_sequence_that_chunks_cut_stays_whole(tmp_path, monkeypatch):
    chunks = TraceFile.chunks
    monkeypatch.setattr(TraceFile, "chunks", lambda self: chunks(self, chunk_bytes=1))
    whole = whole_trace()
    merge_files(open_all(tmp_path, [whole, whole]), tmp_path / "all.safetensors", by="tokens", shard_bytes=1)
    assert_same(load_trace(tmp_path / "all.safetensors"), concatenate([whole, whole]))


def test_ranks_with_their_own_layers(tmp_path, monkeypatch):
    monkeypatch.setattr("headgate.observe.merge.CHUNK_BYTES", 1)
    whole = whole_trace()
    ranks = [select(whole, layers=[3, 4]), select(whole, layers=[0, 1, 2])]
    merge_files(open_all(tmp_path, ranks), tmp_path / "all.safetensors", by="layers")
    assert_same(load_trace(tmp_path / "all.safetensors"), whole)


def test_ranks_that_do_not_fit_together(tmp_path):
    first = whole_trace()
    said = {
        r"^layers \(=\[0, 1, 2, 3, 4, 0, 1, 2, 3, 4\]\) must differ between the traces to merge; drop": first,
        r"rank1.safetensors has another seq_offsets than .*rank0.safetensors, so they do not hold": random_trace(
            layers=[9], lengths=(12,)
        ),
        r"rank1.safetensors has another token_ids than": random_trace(layers=[9], full=False),
    }
    for number, (message, other) in enumerate(said.items()):
        with pytest.raises(InputError, match=message):
            merge_files(open_all(tmp_path, [first, other]), tmp_path / f"{number}.safetensors", by="layers")
    with pytest.raises(InputError, match=r"^there are no traces to merge; name at least one$"):
        merge_files([], tmp_path / "none.safetensors", by="tokens")


def test_only_some_record_weights(tmp_path):
    first = random_trace(layers=[0])
    ranks = open_all(tmp_path, [first, dataclasses.replace(random_trace(layers=[1]), topk_weights=None)])
    with pytest.raises(InputError, match=r"^only some of the traces record topk_weights; record all ranks alike$"):
        merge_files(ranks, tmp_path / "all.safetensors", by="layers")


def test_layers_of_different_widths(tmp_path):
    options = {"lengths": (2,), "full": False}
    ranks = open_all(
        tmp_path,
        [
            random_trace(layers=[0], top_k=1, num_experts=3, **options),
            random_trace(layers=[1], top_k=2, num_experts=5, **options),
        ],
    )
    merge_files(ranks, tmp_path / "all.safetensors", by="layers")
    merged = load_trace(tmp_path / "all.safetensors")
    assert (merged.topk_ids[0, :, 1] == -1).all()
    assert merged.counts.shape == (2, 5)
    assert merged.counts.sum(1).tolist() == [2, 4]


def counts_of_stage(numbers, *, seed, **metadata):
    """What an engine that keeps counts alone says of one pipeline stage."""
    trace = random_trace(layers=numbers, full=False, seed=seed)
    return dataclasses.replace(
        trace,
        topk_ids=trace.topk_ids[:, :0],
        seq_offsets=torch.zeros(1, dtype=torch.int64),
        metadata={"content": "counts", **metadata},
    )


def test_stages_that_kept_counts_alone(tmp_path):
    stages = [counts_of_stage([3, 4], seed=1), counts_of_stage([0, 1, 2], seed=2)]
    merge_files(open_all(tmp_path, stages), tmp_path / "all.safetensors", by="layers")
    merged = load_trace(tmp_path / "all.safetensors")
    assert merged.layer_index.tolist() == [0, 1, 2, 3, 4]
    assert torch.equal(merged.counts, torch.cat([stages[1].counts, stages[0].counts]))
    assert merged.num_tokens == 0


def test_stages_of_different_models(tmp_path):
    ranks = open_all(tmp_path, [counts_of_stage([0], seed=1, model="a"), counts_of_stage([1], seed=2, model="b")])
    with pytest.raises(InputError, match=r"^trace 1 has model 'b', and trace 0 has 'a'; put traces of one model"):
        merge_files(ranks, tmp_path / "all.safetensors", by="layers")


def test_only_some_name_their_layers(tmp_path):
    named = counts_of_stage([0], seed=1, layers=[{"path": "layers.0"}])
    ranks = open_all(tmp_path, [named, counts_of_stage([1], seed=2)])
    with pytest.raises(InputError, match=r"^only some of the traces name their layers; record all ranks alike$"):
        merge_files(ranks, tmp_path / "all.safetensors", by="layers")
