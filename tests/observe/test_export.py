import dataclasses
import json
import sys

import pyarrow.parquet
import pytest
import torch

from headgate.errors import BackendError, InputError
from headgate.observe.export import export_trace, to_arrow, to_pandas
from headgate.observe.pieces import concatenate
from headgate.observe.reader import open_trace
from headgate.observe.writer import TraceWriter
from traces import random_trace

HOSTILE = "<b>\x1b[31m\n\u202e\ud800"


@pytest.fixture
def stored(tmp_path):
    parts = [random_trace(seed=seed, token_strings={"7": HOSTILE, "8": "caf\u00e9"}) for seed in range(2)]
    with TraceWriter(tmp_path / "a.safetensors", shard_bytes=1) as writer:
        for part in parts:
            writer.append(part)
    return concatenate(parts), open_trace(tmp_path / "a.safetensors")


def test_a_table_has_one_row_per_token_and_layer(stored):
    whole, file = stored
    table = to_arrow(file)
    assert table.equals(to_arrow(whole))
    assert table.num_rows == 24 * 3
    rows = table.to_pylist()
    row = rows[19 * 3 + 1]  # Token 19, the second layer.
    strings = whole.metadata["token_strings"]
    assert row == {
        "layer": 2,
        "token": 19,
        "sequence": 4,
        "position": 2,
        "token_id": whole.token_ids[19].item(),
        "phase": whole.phase[19].item(),
        "forward_id": whole.forward_id[19].item(),
        "text": strings.get(str(whole.token_ids[19].item())),
        "expert_ids": whole.topk_ids[1, 19].tolist(),
        "combine_weights": whole.topk_weights[1, 19].tolist(),
        "is_dropped": whole.is_dropped[1, 19].tolist(),
        "select_margin": whole.select_margin[1, 19].item(),
        "router_entropy": whole.router_entropy[1, 19].item(),
    }


def test_parquet_and_json_lines_say_the_same(stored, tmp_path, monkeypatch):
    whole, file = stored
    chunks = type(file).chunks
    monkeypatch.setattr(type(file), "chunks", lambda self: chunks(self, chunk_bytes=100))
    export_trace(file, tmp_path / "a.parquet")
    export_trace(file, tmp_path / "a.jsonl")
    table = pyarrow.parquet.read_table(tmp_path / "a.parquet")
    assert table.replace_schema_metadata().combine_chunks().equals(to_arrow(whole))
    assert json.loads(table.schema.metadata[b"headgate"])["model"] == "made up"
    text = (tmp_path / "a.jsonl").read_text(encoding="ascii")
    assert "\x1b" not in text
    assert [json.loads(line) for line in text.splitlines()] == table.to_pylist()


def test_a_margin_that_is_infinite_is_null_in_json(tmp_path):
    trace = random_trace()
    margin = trace.select_margin.clone()
    margin[0, 0] = float("inf")
    weights = trace.topk_weights.clone()
    weights[0, 0, 1] = float("nan")
    export_trace(dataclasses.replace(trace, select_margin=margin, topk_weights=weights), tmp_path / "a.jsonl")
    first = json.loads((tmp_path / "a.jsonl").read_text().splitlines()[0])
    assert first["select_margin"] is None
    assert first["combine_weights"] == [trace.topk_weights[0, 0, 0].item(), None]


def test_a_frame(stored):
    whole, file = stored
    assert whole.to_arrow().equals(file.to_arrow())
    frame = file.to_pandas()
    assert len(frame) == 72
    assert frame[frame.layer == 4].expert_ids.iloc[0].tolist() == whole.topk_ids[2, 0].tolist()


def test_what_was_not_recorded_has_no_column():
    assert to_arrow(random_trace(full=False)).column_names == ["layer", "token", "sequence", "expert_ids"]


def test_counts_alone_are_a_table_of_counts(tmp_path):
    trace = dataclasses.replace(random_trace(lengths=(), full=False), counts=torch.arange(18).view(3, 6))
    rows = to_arrow(trace).to_pylist()
    assert (rows[0], rows[-1]) == ({"layer": 1, "expert": 0, "count": 0}, {"layer": 4, "expert": 5, "count": 17})
    export_trace(trace, tmp_path / "a.jsonl")
    assert [json.loads(line) for line in (tmp_path / "a.jsonl").read_text().splitlines()] == rows


def test_half_a_surrogate_pair_is_written_as_its_escape():
    trace = random_trace(token_strings={str(number): HOSTILE for number in range(50)})
    assert set(to_arrow(trace).column("text").to_pylist()) == {"<b>\x1b[31m\n\u202e\\ud800"}


def test_another_ending_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"^path \(='a.csv'\) must end in .parquet or .jsonl; choose one of these"):
        export_trace(random_trace(), "a.csv")


def test_without_pyarrow_it_says_how_to_get_it(monkeypatch, tmp_path):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(BackendError, match=r"^pyarrow is not installed; pip install 'headgate\[observe\]'$"):
        export_trace(random_trace(), tmp_path / "a.parquet")


def test_without_pandas_it_says_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(BackendError, match=r"^pandas is not installed; pip install 'headgate\[observe\]'$"):
        to_pandas(random_trace())
