"""Reading parts of a trace: the same as cutting the whole, whatever the shards."""

import dataclasses

import numpy as np
import pytest
import torch

from headgate.errors import ArtifactError, InputError
from headgate.observe.container import map_container, write_arrays
from headgate.observe.pieces import concatenate, count_rows, select
from headgate.observe.reader import load_trace, open_trace
from headgate.observe.trace import Phase, RoutingTrace
from headgate.observe.writer import TraceWriter, save_trace
from traces import random_trace


def assert_same(first, second):
    for field in dataclasses.fields(RoutingTrace):
        a, b = getattr(first, field.name), getattr(second, field.name)
        if field.name != "metadata":
            assert (a is None) == (b is None), field.name
            assert a is None or (torch.equal(a, b) and a.dtype == b.dtype), field.name


def layered(seed):
    layers = [{"path": f"layers.{number}", "router": None} for number in (1, 2, 4)]
    return dataclasses.replace(random_trace(seed=seed), metadata={"model": "made up", "layers": layers})


@pytest.fixture(params=["one file", "shards"])
def stored(request, tmp_path):
    """A trace of three pieces in memory, and the same on the disk."""
    parts = [layered(seed) for seed in range(3)]
    whole = concatenate(parts)
    path = tmp_path / "a.safetensors"
    if request.param == "one file":
        save_trace(path, whole)
    else:
        with TraceWriter(path, shard_bytes=1) as writer:
            for part in parts:
                writer.append(part)
    return whole, open_trace(path)


@pytest.mark.parametrize(
    "wanted",
    [
        {},
        {"layers": [4, 1]},
        {"sequences": [7, 0, 3]},
        {"sequences": []},
        {"phases": [Phase.GENERATED]},
        {"layers": [2], "sequences": range(2, 6), "phases": [Phase.PROMPT, Phase.PADDING]},
    ],
    ids=str,
)
def test_a_slice_of_the_file_is_the_slice_of_the_whole(stored, wanted):
    whole, file = stored
    part = file.select(**wanted)
    assert_same(part, select(whole, **wanted))
    assert part.metadata["layers"] == select(whole, **wanted).metadata["layers"]
    kept = {"is_dropped": part.is_dropped, "phase": part.phase}
    assert torch.equal(part.counts, count_rows(part.topk_ids, num_experts=6, **kept))


def test_a_slice_is_what_it_says(stored):
    whole, file = stored
    part = file.select(layers=[4], sequences=[4], phases=[Phase.GENERATED])
    tokens = [t for t in range(17, 20) if whole.phase[t] == Phase.GENERATED]
    assert torch.equal(part.topk_ids[0], whole.topk_ids[2, tokens])
    assert torch.equal(part.position, whole.position[tokens])
    assert part.seq_offsets.tolist() == [0, len(tokens)]
    assert [layer["path"] for layer in part.metadata["layers"]] == ["layers.4"]


def test_the_whole_and_its_sizes(stored):
    whole, file = stored
    assert_same(file.load(), whole)
    assert (file.sizes.L, file.sizes.T, file.sizes.K, file.sizes.E, file.sizes.S) == (3, 36, 2, 6, 9)
    assert torch.equal(file.counts, whole.counts)
    assert torch.equal(file.select_bias, whole.select_bias)
    assert (file.num_tokens, file.num_experts) == (36, 6)


@pytest.mark.parametrize("chunk_bytes", [1, 500, 10**9])
def test_chunks_add_up_to_the_whole(stored, chunk_bytes):
    whole, file = stored
    chunks = list(file.chunks(chunk_bytes=chunk_bytes))
    assert len(chunks) == {1: 36, 10**9: 1}.get(chunk_bytes, len(chunks))
    assert torch.equal(torch.cat([chunk.topk_ids for chunk in chunks], 1), whole.topk_ids)
    assert torch.equal(sum(chunk.counts for chunk in chunks), whole.counts)
    assert all(chunk.seq_offsets[-1] == chunk.num_tokens for chunk in chunks)


def test_what_the_trace_lacks_is_refused(stored):
    _, file = stored
    with pytest.raises(InputError, match=r"^layers \(=\[3\]\) are not in the trace, which has \[1, 2, 4\]; name some"):
        file.select(layers=[1, 3])
    with pytest.raises(InputError, match=r"^sequence \(=9\) is not in the trace, which has 9; count from 0$"):
        file.select(sequences=[0, 9])
    with pytest.raises(InputError, match=r"^phases were asked for, and the trace records none; leave them out$"):
        select(random_trace(full=False), phases=[Phase.PROMPT])


def test_shards_of_different_widths(tmp_path):
    with TraceWriter(tmp_path / "a.safetensors", shard_bytes=1) as writer:
        for top_k in (1, 3):
            writer.append(random_trace(top_k=top_k, seed=top_k, full=False))
    file = open_trace(tmp_path / "a.safetensors")
    assert file.sizes.K == 3
    assert [chunk.topk_ids.shape for chunk in file.chunks(chunk_bytes=1)] == [(3, 1, 3)] * 24
    assert (file.load().topk_ids[:, :12, 1:] == -1).all()


def test_a_trace_without_tokens(tmp_path):
    save_trace(tmp_path / "a.safetensors", random_trace(lengths=()))
    assert load_trace(tmp_path / "a.safetensors").num_tokens == 0
    assert list(open_trace(tmp_path / "a.safetensors").chunks()) == []
    assert open_trace(tmp_path / "a.safetensors").select().num_tokens == 0


def test_a_folder_stands_for_the_trace_in_it(tmp_path):
    save_trace(tmp_path / "routing.safetensors", random_trace())
    assert open_trace(tmp_path).num_tokens == 12


def rewrite(path, change, **metadata):
    """Apply a change to the arrays of a file."""
    arrays, texts = map_container(path)
    copies = {name: array.copy() for name, array in arrays.items()}
    change(copies)
    with path.open("wb") as file:
        write_arrays(file, copies, metadata or texts)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda a: a.pop("counts"), "lacks the array 'counts'; record it again with this version"),
        (lambda a: a.update(topk_ids=a["topk_ids"].astype(np.int32)), "topk_ids has dtype int32, not uint8 or uint16"),
        (lambda a: a.update(phase=a["phase"][:, None]), r"phase has 2 axes, not 1 \[T\]; record it again"),
        (lambda a: a.update(phase=a["phase"][1:]), "phase has T = 11, and other arrays have 12; record it again"),
        (lambda a: a.update(dropped=a["dropped"].repeat(2, 2)), "dropped has B = 2, and other arrays have 1; record"),
        (lambda a: a["seq_offsets"].__setitem__(0, 1), r"seq_offsets must rise from 0 to the number of tokens \(=12\)"),
        (lambda a: a["seq_offsets"].__setitem__(1, 11), "seq_offsets must rise from 0 to the number of tokens"),
        (lambda a: a["seq_offsets"].__setitem__(-1, 13), "seq_offsets must rise from 0 to the number of tokens"),
        (lambda a: a.update(seq_offsets=a["seq_offsets"][:0]), "seq_offsets must rise from 0 to the number of tokens"),
    ],
)
def test_arrays_that_are_no_trace_are_refused(tmp_path, change, said):
    path = tmp_path / "a.safetensors"
    save_trace(path, random_trace())
    rewrite(path, change)
    with pytest.raises(ArtifactError, match=said):
        open_trace(path)


def test_without_experts_no_id_is_right(tmp_path):
    path = tmp_path / "a.safetensors"
    save_trace(path, random_trace(full=False))

    def remove_experts(arrays):
        arrays["topk_ids"][:] = 0
        arrays["counts"] = arrays["counts"][:, :0].copy()

    rewrite(path, remove_experts)
    with pytest.raises(ArtifactError, match=r"topk_ids holds expert id 0, and counts has 0 experts; the file is"):
        load_trace(path)


def test_an_expert_that_does_not_exist_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_trace(path, random_trace())
    rewrite(path, lambda arrays: arrays["topk_ids"].__setitem__((1, 7, 0), 6))
    file = open_trace(path)
    assert file.select(layers=[1]).num_tokens == 12
    for read in (file.load, file.select, lambda: list(file.chunks())):
        with pytest.raises(ArtifactError, match=r"topk_ids holds expert id 6, and counts has 6 experts; the file is"):
            read()


@pytest.mark.parametrize(
    ("header", "said"),
    [
        ("{", "is not a routing trace"),
        ("[1]", "is not a routing trace"),
        ("[" * 100_000, "is not a routing trace"),
        ('{"format": "headgate-routing", "version": "1\\u001b"}', r"has trace version '1\\x1b', this Headgate reads 1"),
        (
            '{"format": "headgate-routing", "version": 1, "layers": 3}',
            "the metadata's layers are not a list of objects",
        ),
        ('{"format": "headgate-routing", "version": 1, "layers": [{}]}', "the metadata has 1 layers, and the arrays 3"),
        (
            '{"format": "headgate-routing", "version": 1, "layers": [{}, {}, {"path": 1}]}',
            "a layer of the metadata has no path or router of text",
        ),
        (
            '{"format": "headgate-routing", "version": 1, "token_strings": {"1": 2}}',
            "the metadata's token_strings do not map ids to strings",
        ),
    ],
)
def test_metadata_that_is_no_traces_is_refused(tmp_path, header, said):
    path = tmp_path / "a.safetensors"
    save_trace(path, random_trace())
    rewrite(path, lambda arrays: None, headgate=header)
    with pytest.raises(ArtifactError, match=said):
        open_trace(path)
