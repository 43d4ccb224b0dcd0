"""`headgate trace`: a trained model on texts, what comes out, and what is wrong with the input."""

from __future__ import annotations

import json

import pytest
import torch
from typer.testing import CliRunner

from headgate.cli import trace as verb
from headgate.cli.app import app, run
from headgate.demo.export import export_mixtral
from headgate.integrations.transformers import recorder
from headgate.observe.reader import load_trace
from headgate.observe.trace import Phase
from tiny_demo import run as run_demo
from tiny_demo import tiny_config

TEXT = "the gate lets water into channels that carry it"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("demo")
    run_demo(folder, tiny_config())
    return str(export_mixtral(folder, folder / "mixtral"))


def invoke(*arguments):
    return CliRunner().invoke(app, ["trace", *map(str, arguments)], env={"COLUMNS": "120"})


def test_texts_become_sequences_of_one_trace(model, tmp_path):
    out = tmp_path / "a.safetensors"
    (tmp_path / "text.txt").write_text("an expert waits")
    result = invoke(model, "--text", "the gate", "--file", tmp_path / "text.txt", "-o", out, "--json")
    assert result.exit_code == 0, result.output
    recorded, summary = load_trace(out), json.loads(result.stdout)
    assert summary["sequences"] == 2
    assert summary["tokens"] == recorded.num_tokens == len(recorded.token_ids)
    assert [layer["num_experts"] for layer in summary["layers"]] == [4, 4]
    assert recorded.metadata["model"] == model
    assert not recorded.select_margin.isnan().any()


def test_batches_mark_their_padding_and_generated_tokens_follow(model, tmp_path):
    out = tmp_path / "a.safetensors"
    arguments = ("--text", "the gate", "--text", TEXT[:13], "--batch", 2, "--generate", 3, "-o", out)
    result = invoke(model, *arguments)
    assert result.exit_code == 0, result.output
    assert "max/mean load" in result.stdout
    phases = load_trace(out).phase
    assert int((phases == int(Phase.PADDING)).sum()) > 0
    # The last of the three is chosen and never routed; a sequence may end before.
    assert 0 < int((phases == int(Phase.GENERATED)).sum()) <= 4


def test_a_long_text_is_several_sequences_and_a_broken_line_is_named(model, tmp_path):
    lines = [json.dumps({"text": TEXT}), "{broken", json.dumps({"other": 1}), json.dumps({"text": "a gate"})]
    (tmp_path / "lines.jsonl").write_text("\n".join(lines))
    result = invoke(model, "--jsonl", tmp_path / "lines.jsonl", "-o", tmp_path / "a.safetensors", "--json")
    assert result.exit_code == 0, result.output
    notes = result.stderr
    assert "line 2 of" in notes
    assert "line 3 of" in notes
    assert "the context 16: it is" in notes
    assert json.loads(result.stdout)["sequences"] > 2


def test_an_interruption_keeps_what_was_recorded(model, tmp_path, monkeypatch):
    out, seen = tmp_path / "a.safetensors", []

    def interrupt(*arguments, **options):
        for done in recorder_before(*arguments, **options):
            yield done
            seen.append(done)
            if done == 2:
                raise KeyboardInterrupt

    recorder_before = recorder.record_sequences
    monkeypatch.setattr(recorder, "record_sequences", interrupt)
    result = invoke(model, *[part for _ in range(4) for part in ("--text", "the gate")], "-o", out)
    assert result.exit_code != 0
    assert seen == [1, 2]
    assert len(load_trace(out).seq_offsets) - 1 == 2


def test_without_a_model_it_is_the_demos(model, tmp_path, monkeypatch):
    monkeypatch.setattr(verb, "DEMO", tmp_path / "runs")
    assert "config.json" in str(invoke("--text", "a", "-o", tmp_path / "b.safetensors").exception)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there is no text to run; give --text, --file or --jsonl"),
        (("--text", ""), "text 1 (='') has no tokens; give some text"),
        (("--jsonl", "missing.jsonl"), "there is no file missing.jsonl; check the path"),
        (("--text", "a", "--generate", "99"), "generate (=99) must be less than the context (=16)"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_1(arguments, message, model, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["headgate", "trace", model, *arguments, "-o", str(tmp_path / "a.safetensors")])
    with pytest.raises(SystemExit) as stop:
        run()
    assert stop.value.code == 1
    assert message in capsys.readouterr().err


def test_weights_that_are_missing_are_named(model, tmp_path, monkeypatch, capsys):
    (tmp_path / "config.json").write_bytes((verb.Path(model) / "config.json").read_bytes())
    monkeypatch.setattr("sys.argv", ["headgate", "trace", str(tmp_path), "--text", "a"])
    with pytest.raises(SystemExit):
        run()
    assert "can't be loaded" in capsys.readouterr().err


def test_the_trace_is_that_of_a_tap(model, tmp_path):
    out = tmp_path / "a.safetensors"
    invoke(model, "--text", "the gate", "-o", out)
    loaded, tokenizer = recorder.load_model(model)
    from headgate.integrations.transformers import make_trace, tap

    with tap(loaded) as tape, torch.no_grad():
        loaded(torch.tensor([tokenizer("the gate")["input_ids"]]))
    assert torch.equal(load_trace(out).topk_ids, make_trace(tape).topk_ids)
