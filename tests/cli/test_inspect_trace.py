"""`headgate inspect TRACE`: what it prints, its JSON, and its answer to what it can't do."""

import dataclasses
import json

import pytest
import torch
from typer.testing import CliRunner

from headgate.cli import app as cli
from headgate.errors import ArtifactError, InputError
from headgate.observe.trace import RoutingTrace
from headgate.observe.writer import TraceWriter, save_trace
from traces import random_trace

HOSTILE = "<b>\x1b[31m\n\u202e"


def invoke(*arguments, columns=120):
    result = CliRunner().invoke(cli.app, ["inspect", *map(str, arguments)], env={"COLUMNS": str(columns)})
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def path(tmp_path):
    """Random routing in which layer 2 sends token 7, with a hostile text, to expert 5, and with it expert 2."""
    trace = random_trace(lengths=(60,) * 30, top_k=2, num_experts=8, token_strings={"7": HOSTILE})
    ids = trace.topk_ids.clone()
    ids[1][trace.token_ids == 7] = torch.tensor([5, 2])
    save_trace(tmp_path / "a.safetensors", dataclasses.replace(trace, topk_ids=ids))
    return tmp_path / "a.safetensors"


def test_for_a_person(path):
    result = invoke(path, "--devices", 4, "--layer", 2)
    assert (result.exit_code, result.stderr) == (0, "")
    text = " ".join(result.stdout.split())
    for said in (
        "1,800 tokens in 30 sequences, 3 layers, 8 experts, top 2;",
        "busiest, x even",
        "devices: mean / max of their rows",
        "margin 1 %",
        "tokens say",
        "Experts of layer 2",
        "<b>\\x1b[31m\\n\\u202e x",
        "2 x",
        "In brackets: 95 % intervals",
    ):
        assert said in text, said
    assert "Experts of layer 1" not in text
    for character in "\x1b\u202e":
        assert character not in result.stdout


def test_quietly_the_load_alone(path):
    result = invoke(path, "-q")
    assert "busiest" in result.stdout
    assert "Structure" not in result.stdout


def test_a_narrow_terminal_cuts_nothing_off(path):
    result = invoke(path, columns=50)
    assert max(map(len, result.stdout.splitlines())) <= 50
    assert "…" not in result.stdout


def test_json(path):
    found = json.loads(invoke(path, "--json").stdout)
    assert [layer["layer"] for layer in found["summary"]["layers"]] == [1, 2, 4]
    assert {"max_share_interval", "dead_expert_fraction", "drop_interval"} <= set(found["summary"]["layers"][0])
    # Experts are many, so they are shown where they are asked for.
    assert "experts" not in found["profile"]["layers"][1]
    (layer,) = json.loads(invoke(path, "--json", "--layer", 2).stdout)["profile"]["layers"]
    assert layer["experts"][5]["tokens"][0]["text"] == HOSTILE


def test_counts_alone_have_a_load(tmp_path):
    counts = random_trace(lengths=(), metadata_layers=None)
    counts = dataclasses.replace(
        counts, counts=torch.tensor([[9, 1, 0, 2, 4, 5]] * 3), metadata={"content": "counts"}, select_bias=None
    )
    save_trace(tmp_path / "a.safetensors", counts)
    result = invoke(tmp_path / "a.safetensors")
    assert "2.57" in result.stdout  # 9 of 21 rows, with 6 experts
    assert "1 ?" in result.stdout
    assert "Counts alone: 3 layers, 6 experts" in result.stdout
    assert "Structure" not in result.stdout
    assert json.loads(invoke(tmp_path / "a.safetensors", "--json").stdout)["profile"] is None


def test_a_folder_and_an_index_are_traces_too(tmp_path):
    with TraceWriter(tmp_path / "routing.safetensors", shard_bytes=1) as writer:
        for seed in range(2):
            writer.append(random_trace(seed=seed))
    for name in (tmp_path, tmp_path / "routing.safetensors.index.json"):
        assert "24 tokens in 6 sequences" in invoke(name).stdout


def test_one_sequence_and_no_scipy_have_no_intervals(tmp_path, monkeypatch):
    save_trace(tmp_path / "one.safetensors", random_trace(lengths=(20,)))
    save_trace(tmp_path / "two.safetensors", random_trace(lengths=(20, 20)))
    assert "One sequence has no intervals." in invoke(tmp_path / "one.safetensors").stdout
    monkeypatch.setitem(__import__("sys").modules, "scipy", None)
    assert "No intervals: scipy is not installed" in invoke(tmp_path / "two.safetensors").stdout


def test_a_layer_that_never_chose(tmp_path):
    trace = RoutingTrace(
        topk_ids=torch.full((1, 4, 2), -1),
        layer_index=torch.tensor([0]),
        seq_offsets=torch.tensor([0, 4]),
        counts=torch.zeros(1, 3, dtype=torch.int64),
        metadata={},
        token_ids=torch.arange(4),
    )
    save_trace(tmp_path / "a.safetensors", trace)
    for arguments in ((), ("--layer", 0), ("--devices", 3)):
        assert invoke(tmp_path / "a.safetensors", *arguments).exit_code == 0
    json.loads(invoke(tmp_path / "a.safetensors", "--json").stdout, parse_constant=pytest.fail)


def test_what_json_has_no_word_for_is_null(tmp_path):
    trace = random_trace(num_experts=2, top_k=2)
    margins = torch.full((3, 12), torch.inf, dtype=torch.float16)  # as where all experts are chosen
    save_trace(tmp_path / "a.safetensors", dataclasses.replace(trace, select_margin=margins))
    found = json.loads(invoke(tmp_path / "a.safetensors", "--json").stdout, parse_constant=pytest.fail)
    assert found["summary"]["layers"][0]["margin"] == [None, None, None]


def test_mistakes(path, tmp_path):
    with pytest.raises(InputError, match=r"^layers \(=\[9\]\) are not in the trace"):
        invoke(path, "--layer", 9)
    with pytest.raises(InputError, match=r"^num_devices \(=3\) must divide"):
        invoke(path, "--devices", 3)
    with pytest.raises(ArtifactError, match=r"^there is no file"):
        invoke(tmp_path / "none.safetensors")
    result = invoke("no/model", "--devices", 3)
    assert result.exit_code == 2
    assert "is no trace, and only those take it" in " ".join(result.stderr.replace("│", " ").split())
