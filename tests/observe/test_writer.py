"""The writer: what was flushed survives a kill at any moment and a disk that refuses."""

import json
import os
import random
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from headgate.errors import ArtifactError, InputError
from headgate.observe.reader import load_trace, open_trace
from headgate.observe.writer import TraceWriter, save_trace
from traces import random_trace

# Writes pieces whose token ids are their numbers, flushes after each second one, and says so.
CHILD = """
import sys
sys.path[:0] = sys.argv[2:]
from traces import random_trace
from headgate.observe.writer import TraceWriter
writer = TraceWriter(sys.argv[1])
for number in range(10**6):
    writer.append(random_trace(seed=number))
    if number % 2:
        writer.flush()
        print(number + 1, flush=True)
"""


def pieces(count):
    return [random_trace(seed=number) for number in range(count)]


def assert_holds(path, parts):
    found = load_trace(path)
    assert torch.equal(found.topk_ids, torch.cat([part.topk_ids for part in parts], dim=1))
    assert torch.equal(found.token_ids, torch.cat([part.token_ids for part in parts]))
    assert torch.equal(found.counts, sum(part.counts for part in parts))


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_pieces_become_one_file_where_they_fit_in_one(tmp_path):
    with TraceWriter(tmp_path / "a.safetensors") as writer:
        for piece in pieces(3):
            writer.append(piece)
    assert names(tmp_path) == ["a.safetensors"]
    assert_holds(tmp_path / "a.safetensors", pieces(3))
    assert open_trace(tmp_path / "a.safetensors").is_complete


def test_pieces_become_shards_with_an_index(tmp_path):
    with TraceWriter(tmp_path / "a.safetensors", shard_bytes=1) as writer:
        for piece in pieces(3):
            writer.append(piece)
        assert not open_trace(tmp_path / "a.safetensors").is_complete
    assert names(tmp_path) == [
        "a-00000.safetensors",
        "a-00001.safetensors",
        "a-00002.safetensors",
        "a.safetensors.index.json",
    ]
    for name in ("a.safetensors", "a.safetensors.index.json"):
        assert_holds(tmp_path / name, pieces(3))
    found = open_trace(tmp_path / "a.safetensors")
    assert found.is_complete
    assert found.seq_offsets.tolist() == [0, 5, 8, 12, 17, 20, 24, 29, 32, 36]
    # Each shard is a trace by itself.
    assert_holds(tmp_path / "a-00001.safetensors", pieces(3)[1:2])


def test_a_sequence_may_go_on_in_the_next_piece(tmp_path):
    with TraceWriter(tmp_path / "a.safetensors") as writer:
        writer.append(pieces(1)[0])
        writer.append(pieces(1)[0], continues=True)
        writer.flush()
        writer.append(pieces(1)[0], continues=True)
        writer.append(pieces(1)[0])
    assert load_trace(tmp_path / "a.safetensors").seq_offsets.tolist() == [0, 5, 8, 17, 20, 29, 32, 36, 41, 44, 48]
    assert open_trace(tmp_path / "a.safetensors").seq_offsets.tolist() == [0, 5, 8, 17, 20, 29, 32, 36, 41, 44, 48]


@pytest.mark.parametrize("seed", range(4))
def test_a_killed_writer_leaves_what_it_flushed(tmp_path, seed):
    path = tmp_path / "a.safetensors"
    child = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(path), str(Path(__file__).parents[1])], stdout=subprocess.PIPE, text=True
    )
    # At least one flush, then a random moment: within a write, a sync, a rename, or between.
    flushed = [child.stdout.readline()]
    time.sleep(random.Random(seed).random() * 0.1)
    child.send_signal(signal.SIGKILL)
    flushed += child.communicate()[0].splitlines()
    acknowledged = int(flushed[-1])
    found = open_trace(path)
    assert not found.is_complete
    number = found.num_tokens // 12
    # The kill may have come between a shard's rename and the word about it, at most.
    assert acknowledged <= number <= acknowledged + 2
    assert_holds(path, pieces(number))
    TraceWriter(path, overwrite=True)
    assert [name for name in names(tmp_path) if not name.startswith(".")] == ["a.safetensors.index.json"]


def test_a_full_disk_loses_nothing(tmp_path):
    path = tmp_path / "a.safetensors"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    writer = TraceWriter(path)
    writer.append(pieces(1)[0])
    writer.flush()
    room = path.with_name("a-00000.safetensors").stat().st_size
    writer.append(pieces(2)[1])
    writer.append(pieces(3)[2])
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, hard))
    try:
        for _ in range(2):
            with pytest.raises(ArtifactError, match=r"^can't write .*a-00001.safetensors: File too large; raise the"):
                writer.flush()
            assert_holds(path, pieces(1))
            assert names(tmp_path) == ["a-00000.safetensors", "a.safetensors.index.json"]
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    writer.close()
    assert_holds(path, pieces(3))


def test_an_error_in_the_recording_keeps_what_was_recorded(tmp_path):
    path = tmp_path / "a.safetensors"

    def record():
        with TraceWriter(path) as writer:
            writer.append(pieces(1)[0])
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        record()
    assert_holds(path, pieces(1))
    assert not open_trace(path).is_complete


def test_a_trace_that_is_there_is_not_overwritten_unasked(tmp_path):
    path = tmp_path / "a.safetensors"
    save_trace(path, pieces(1)[0])
    with pytest.raises(ArtifactError, match=r"a\.safetensors is there already; choose another name, or say that it"):
        TraceWriter(path)
    with TraceWriter(path, overwrite=True) as writer:
        writer.append(pieces(2)[1])
    assert_holds(path, pieces(2)[1:])


def test_pieces_must_be_of_one_kind(tmp_path):
    writer = TraceWriter(tmp_path / "a.safetensors")
    with pytest.raises(InputError, match=r"^continues \(=True\) needs a sequence before it and one to go on with"):
        writer.append(pieces(1)[0], continues=True)
    writer.append(pieces(1)[0])
    writer.flush()
    for other, said in (
        (random_trace(layers=(1, 2, 5)), r"trace 1 has another layer_index than trace 0; put traces of one model"),
        (random_trace(full=False), r"trace 1 has another select_bias than trace 0"),
        (random_trace(num_experts=7), r"trace 1 has another select_bias than trace 0"),
        (random_trace(model="other"), r"trace 1 has model 'other', and trace 0 has 'made up'; put traces of one model"),
    ):
        with pytest.raises(InputError, match=said):
            writer.append(other)
    writer.close()
    with pytest.raises(InputError, match=r"^the writer of .*a\.safetensors is closed; open another one$"):
        writer.append(pieces(1)[0])


def test_nothing_recorded_is_an_error_and_leaves_nothing(tmp_path):
    with (
        pytest.raises(InputError, match=r"^nothing was appended, so there is no trace; record at least one"),
        TraceWriter(tmp_path / "a.safetensors"),
    ):
        pass
    assert names(tmp_path) == []


def damage(path, **changes):
    value = json.loads(path.read_text())
    path.write_text(json.dumps({**value, **changes}))


def test_a_damaged_index_says_so(tmp_path):
    path = tmp_path / "a.safetensors"
    with TraceWriter(path, shard_bytes=1) as writer:
        for piece in pieces(2):
            writer.append(piece)
    index = tmp_path / "a.safetensors.index.json"
    good = index.read_text()
    damage(index, num_shards=3)
    with pytest.raises(ArtifactError, match=r"speaks of 3 shards, and there are 2 in a row; a-00002.safetensors is"):
        open_trace(path)
    damage(index, num_shards="2")
    with pytest.raises(ArtifactError, match=r"does not say how many shards there are; name one of the shards instead"):
        open_trace(path)
    damage(index, version=2)
    with pytest.raises(ArtifactError, match=r"index.json has trace version 2, this Headgate reads 1"):
        open_trace(path)
    for content in ("", "[]", "[" * 100_000, '{"format": "other"}'):
        index.write_text(content)
        with pytest.raises(ArtifactError, match=r"is not the index of a routing trace; name one of the shards"):
            open_trace(path)
    index.write_text(good)
    save_trace(tmp_path / "a-00001.safetensors", random_trace(full=False))
    with pytest.raises(ArtifactError, match=r"a-00001.safetensors is no shard of the same trace as .*a-00000"):
        open_trace(path)
    os.remove(tmp_path / "a-00000.safetensors")
    damage(index, is_complete=False, num_shards=None)
    with pytest.raises(ArtifactError, match=r"a.safetensors holds nothing yet: its writer is still at work, or was"):
        open_trace(path)
    index.write_text(good)
    with pytest.raises(ArtifactError, match=r"speaks of 2 shards, and there are 0 in a row; a-00000.safetensors is"):
        open_trace(path)


def test_a_writer_goes_on_where_another_was_killed(tmp_path):
    path = tmp_path / "a.safetensors"
    killed = TraceWriter(path)
    killed.append(random_trace(seed=0))
    killed.flush()
    killed.append(random_trace(seed=1))  # never flushed, so lost
    with TraceWriter(path, resume=True) as writer:
        for number in (2, 3):
            writer.append(random_trace(seed=number))
            writer.flush()
        with pytest.raises(InputError, match="another layer_index than trace 0"):
            writer.append(random_trace(layers=(1, 2, 3)))
    found = open_trace(path)
    assert found.is_complete
    assert_holds(path, [random_trace(seed=number) for number in (0, 2, 3)])


def test_a_writer_that_has_written_nothing_is_gone_on_with_too(tmp_path):
    TraceWriter(tmp_path / "a.safetensors")
    with TraceWriter(tmp_path / "a.safetensors", resume=True) as writer:
        writer.append(random_trace())
    assert load_trace(tmp_path / "a.safetensors").num_tokens == random_trace().num_tokens


def test_what_is_complete_or_missing_can_not_be_gone_on_with(tmp_path):
    save_trace(tmp_path / "a.safetensors", random_trace())
    with pytest.raises(ArtifactError, match=r"a\.safetensors is complete; there is nothing to go on with"):
        TraceWriter(tmp_path / "a.safetensors", resume=True)
    with pytest.raises(ArtifactError, match=r"b\.safetensors"):
        TraceWriter(tmp_path / "b.safetensors", resume=True)
    with pytest.raises(InputError, match=r"overwrite \(=True\) removes what resume \(=True\) would go on with"):
        TraceWriter(tmp_path / "a.safetensors", resume=True, overwrite=True)
