"""`headgate trace`: a trained model on texts, what comes out, and what is wrong with the input."""

from __future__ import annotations

import json
import re
import shutil
from itertools import pairwise
from unittest.mock import Mock

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoConfig, AutoModelForMultimodalLM, InklingConfig, LlamaConfig, VitPoseConfig
from typer.testing import CliRunner

from headgate.cli import trace as verb
from headgate.cli.app import app, run
from headgate.demo.export import export_mixtral
from headgate.integrations.transformers import recorder
from headgate.observe.reader import load_trace
from headgate.observe.shape import RecordedShape
from headgate.observe.trace import Phase
from integrations import zoo
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


def test_of_many_such_texts_the_first_are_named_and_the_others_counted(model, tmp_path):
    lines = [json.dumps({"text": TEXT})] * 5 + ["{broken"] * 6 + [json.dumps({"text": ""})] * 4
    (tmp_path / "lines.jsonl").write_text("\n".join(lines))
    notes = invoke(model, "--jsonl", tmp_path / "lines.jsonl", "-o", tmp_path / "a.safetensors").stderr
    assert notes.count("the context 16: it is") == notes.count("is no JSON object") == notes.count("has no tokens") == 3
    for said in ("note: 2 further texts are cut likewise", "3 further lines are left out", "1 further text has none"):
        assert said in notes


def interrupt_after(monkeypatch, number):
    """Make Ctrl-C come once so many sequences are recorded."""
    before = recorder.record

    def interrupt(*arguments):
        for done in before(*arguments):
            yield done
            if done >= number:
                raise KeyboardInterrupt

    monkeypatch.setattr(recorder, "record", interrupt)
    return before


@pytest.mark.parametrize("options", [(), ("--norms", "--logits"), ("--generate", 2)], ids=str)
def test_an_interrupted_recording_goes_on_after_its_last_sequence(options, model, tmp_path, monkeypatch):
    (tmp_path / "lines.jsonl").write_text("".join(json.dumps({"text": TEXT[: 9 + n]}) + "\n" for n in range(7)))
    arguments = (model, "--jsonl", tmp_path / "lines.jsonl", "--batch", 2, *options)
    assert invoke(*arguments, "-o", tmp_path / "whole.safetensors").exit_code == 0
    out = tmp_path / "a.safetensors"
    record = interrupt_after(monkeypatch, 4)
    result = invoke(*arguments, "-o", out)
    assert result.exit_code == 1
    assert "what was recorded is kept. To go on, give the same command with --resume" in result.stderr
    assert "4 sequences, incomplete" in result.stdout
    assert len(load_trace(out).seq_offsets) - 1 == 4
    monkeypatch.setattr(recorder, "record", record)
    result = invoke(*arguments, "-o", out, "--resume", "--json")
    assert result.exit_code == 0, result.output
    assert json.loads(result.stdout)["is_complete"]
    whole, resumed = load_trace(tmp_path / "whole.safetensors"), load_trace(out)
    for name in ("topk_ids", "topk_weights", "token_ids", "forward_id", "phase", "seq_offsets", "counts"):
        assert torch.equal(getattr(resumed, name), getattr(whole, name)), name
    assert resumed.metadata["token_strings"] == whole.metadata["token_strings"]
    assert (resumed.contribution_norms is None, resumed.router_logits is None) == (("--norms" not in options),) * 2
    assert "is complete; there is nothing to go on with" in invoke(*arguments, "-o", out, "--resume").stderr


def test_an_interruption_before_the_first_text_is_resumed_from_the_start(model, tmp_path, monkeypatch):
    out, texts = tmp_path / "a.safetensors", ("--text", "the gate", "--text", "an expert")
    with monkeypatch.context() as patch:
        interrupt_after(patch, 0)
        assert invoke(model, *texts, "-o", out).exit_code == 1
    with monkeypatch.context() as patch:
        patch.setattr(verb.Progress, "add_task", Mock(side_effect=KeyboardInterrupt))
        assert "same command with --resume" in invoke(model, *texts, "-o", out, "--resume").stderr
    assert invoke(model, *texts, "-o", out, "--resume").exit_code == 0
    assert len(load_trace(out).seq_offsets) - 1 == 2


def test_a_recording_goes_on_only_with_what_it_began_with(model, tmp_path, monkeypatch):
    out, texts = tmp_path / "a.safetensors", ("--text", "the gate", "--text", "an expert")
    interrupt_after(monkeypatch, 1)
    assert invoke(model, *texts, "-o", out).exit_code == 1
    other = shutil.copytree(model, tmp_path / "other")
    for arguments, name in [
        ((model, *texts, "--batch", "2"), "batch 1, and now it is 2"),
        ((model, *texts, "--norms"), "norms False, and now it is True"),
        ((model, *texts[:2]), "text_hash"),
        ((other, *texts), "model "),
    ]:
        error = str(invoke(*arguments, "-o", out, "--resume").exception)
        assert f"a.safetensors was recorded with {name}" in error


@pytest.mark.parametrize("name", ["gate.weight", "experts.1.w2.weight"])
def test_a_recording_does_not_go_on_with_other_weights_under_the_same_name(name, model, tmp_path, monkeypatch):
    copied, out = shutil.copytree(model, tmp_path / "model"), tmp_path / "a.safetensors"
    arguments = (copied, "--text", "the gate", "--text", "an expert", "-o", out)
    record = interrupt_after(monkeypatch, 1)
    assert invoke(*arguments).exit_code == 1
    monkeypatch.setattr(recorder, "record", record)
    weights = load_file(copied / "model.safetensors")
    weights[f"model.layers.1.block_sparse_moe.{name}"] *= 1.001
    save_file(weights, copied / "model.safetensors", metadata={"format": "pt"})
    assert "a.safetensors was recorded with weights_hash" in str(invoke(*arguments, "--resume").exception)
    save_file(load_file(f"{model}/model.safetensors"), copied / "model.safetensors", metadata={"format": "pt"})
    assert invoke(*arguments, "--resume").exit_code == 0


def test_what_is_there_is_neither_overwritten_nor_resumed_unasked(model, tmp_path):
    out = tmp_path / "a.safetensors"
    assert invoke(model, "--text", "the gate", "-o", out).exit_code == 0
    assert "give --resume to go on with it, --force" in str(invoke(model, "--text", "a", "-o", out).exception)
    both = invoke(model, "--text", "a", "-o", out, "--force", "--resume")
    assert "--force overwrites what --resume would go on with" in str(both.exception)
    assert invoke(model, "--text", "the gate and more", "-o", out, "--force").exit_code == 0


def test_a_kill_loses_ten_seconds_and_a_day_is_not_thousands_of_files():
    assert not verb.is_due(0, verb.FLUSH_S)
    assert verb.is_due(0, verb.FLUSH_S + 1)
    flushes = [0.0]
    for now in range(86_400):
        if verb.is_due(flushes[-1], now):
            flushes.append(now)
    assert len(flushes) < 400
    assert max(after - before for before, after in pairwise(flushes)) < 0.03 * 86_400


def test_the_trace_says_where_it_is_from(model, tmp_path):
    out = tmp_path / "a.safetensors"
    invoke(model, "--text", "the gate", "-o", out)
    trace = load_trace(out)
    noted = trace.metadata
    assert noted["model"] == model
    assert {len(noted[name]) for name in ("config_hash", "weights_hash", "tokenizer_hash", "text_hash")} == {64}
    assert (noted["engine"], noted["dtype"], noted["device"]) == ("transformers", "float32", "cpu")
    assert noted["options"] == {"batch": 1, "generate": 0, "norms": False, "logits": False}
    assert "".join(noted["token_strings"][str(token)] for token in trace.token_ids.tolist()) == "the gate"
    shape = RecordedShape.from_metadata(noted)
    assert (shape.d_model, shape.num_layers) == (16, 2)


def test_without_a_model_it_is_the_demos(tmp_path, monkeypatch):
    monkeypatch.setattr(verb, "DEMO", tmp_path / "runs")
    missing = str(invoke("--text", "a", "-o", tmp_path / "b.safetensors").exception)
    assert "holds no run of the demo (config.json is missing); train one first: headgate demo" in missing
    run_demo(tmp_path / "runs", tiny_config())
    result = invoke("--text", "the gate", "-o", tmp_path / "b.safetensors")
    assert result.exit_code == 0, result.output
    assert load_trace(tmp_path / "b.safetensors").metadata["model"] == str(tmp_path / "runs" / "mixtral")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "there is no text to run; give --text, --file or --jsonl"),
        (("--text", ""), "there is no text with a token in it; give some by --text, --file or --jsonl"),
        (("--file", "EMPTY"), "there is no text with a token in it"),
        (("--jsonl", "EMPTY"), "there is no text with a token in it"),
        (("--file", "BINARY"), "is not text in UTF-8 (byte 0); convert it first"),
        (("--file", "missing.txt"), "there is no file missing.txt; check the path"),
        (("--jsonl", "missing.jsonl"), "there is no file missing.jsonl; check the path"),
        (("--text", "a", "--generate", "99"), "generate (=99) must be less than the context (=16)"),
    ],
)
def test_wrong_input_is_one_line_and_exit_code_1(arguments, message, model, tmp_path, monkeypatch, capsys):
    (tmp_path / "empty").write_bytes(b"")
    (tmp_path / "binary").write_bytes(b"\xff\xfe\x00")
    files = {"EMPTY": str(tmp_path / "empty"), "BINARY": str(tmp_path / "binary")}
    arguments = [files.get(one, one) for one in arguments]
    monkeypatch.setattr("sys.argv", ["headgate", "trace", model, *arguments, "-o", str(tmp_path / "a.safetensors")])
    with pytest.raises(SystemExit) as stop:
        run()
    assert stop.value.code == 1
    assert message in capsys.readouterr().err


def fail(monkeypatch, capsys, *arguments):
    """What the command says on the way out with code 1."""
    monkeypatch.setattr("sys.argv", ["headgate", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        run()
    assert stop.value.code == 1
    return capsys.readouterr().err


@pytest.mark.parametrize(
    ("kept", "message"),
    [
        (["config.json"], r"the weights of .* can't be loaded: .*; give the directory or Hub id of a whole checkpoint"),
        (["config.json", "model.safetensors"], r"the tokenizer of .* can't be loaded: .*; save it beside the weights"),
    ],
)
def test_what_a_checkpoint_lacks_is_named(kept, message, model, tmp_path, monkeypatch, capsys):
    for name in kept:
        (tmp_path / name).write_bytes((verb.Path(model) / name).read_bytes())
    said = fail(monkeypatch, capsys, "trace", tmp_path, "--text", "a", "-o", tmp_path / "a.safetensors")
    assert re.search(message, said)


@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (
            lambda weights: weights.write_bytes(weights.read_bytes()[:9999]),
            r"the weights of .* can't be loaded: Error wh",
        ),
        (
            lambda weights: drop(weights, "layers.1.block_sparse_moe.gate"),
            r"lacks 1 tensor .* random: .*1.mlp.gate.weig",
        ),
    ],
)
def test_weights_that_are_cut_off_or_missing_are_not_drawn_at_random(
    spoil, message, model, tmp_path, monkeypatch, capsys
):
    folder = shutil.copytree(model, tmp_path / "model")
    spoil(folder / "model.safetensors")
    said = fail(monkeypatch, capsys, "trace", folder, "--text", "a", "-o", tmp_path / "a.safetensors")
    assert re.search(message, said)


def drop(weights, name):
    kept = {key: value for key, value in load_file(weights).items() if name not in key}
    save_file(kept, weights, metadata={"format": "pt"})


def test_a_model_that_sees_pictures_too_is_given_text_alone(model, tmp_path):
    config = zoo.derive_config(InklingConfig, {})
    config.text_config.vocab_size = AutoConfig.from_pretrained(model).vocab_size
    AutoModelForMultimodalLM.from_config(config).save_pretrained(tmp_path / "model")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(verb.Path(model) / name, tmp_path / "model")
    out = tmp_path / "a.safetensors"
    result = invoke(tmp_path / "model", "--text", "the gate", "--generate", 2, "-o", out)
    assert result.exit_code == 0, result.output
    recorded = load_trace(out)
    assert [layer["path"].split(".")[1] for layer in recorded.metadata["layers"]] == ["language_model"] * 2
    assert int(recorded.phase[-1]) == int(Phase.GENERATED)


def test_a_file_is_no_model_to_run(model, tmp_path, monkeypatch, capsys):
    config = verb.Path(model) / "config.json"
    said = fail(monkeypatch, capsys, "trace", config, "--text", "a", "-o", tmp_path / "a.safetensors")
    assert "config.json is a file, and a model is run from the directory that holds its weights; give that" in said


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (LlamaConfig(num_hidden_layers=1), "'llama' is a dense architecture; give a Mixture-of-Experts model"),
        (VitPoseConfig(), "must be a causal language model, and transformers has none of this type; run it yourself"),
    ],
)
def test_what_has_no_routing_of_text_is_refused_before_its_weights_are_read(
    config, message, tmp_path, monkeypatch, capsys
):
    config.save_pretrained(tmp_path)  # without weights
    assert message in fail(monkeypatch, capsys, "trace", tmp_path, "--text", "a", "-o", tmp_path / "a.safetensors")


def test_a_name_that_no_verb_would_take_for_a_trace_is_refused(model, tmp_path, monkeypatch, capsys):
    said = fail(monkeypatch, capsys, "trace", model, "--text", "a", "-o", tmp_path / "a.txt")
    assert re.search(r"--out \(=.*a.txt\) must end in .safetensors, .*; add it", said)


def test_the_trace_is_that_of_a_tap(model, tmp_path):
    out = tmp_path / "a.safetensors"
    invoke(model, "--text", "the gate", "-o", out)
    loaded, tokenizer = recorder.load_model(model)
    from headgate.integrations.transformers import make_trace, tap

    with tap(loaded) as tape, torch.no_grad():
        loaded(torch.tensor([tokenizer("the gate")["input_ids"]]))
    assert torch.equal(load_trace(out).topk_ids, make_trace(tape).topk_ids)
