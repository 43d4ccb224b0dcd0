"""`headgate inspect`: what it prints, its JSON, and its answer to what is no model."""

from __future__ import annotations

import json

import pytest
import transformers
from typer.testing import CliRunner

from headgate.cli.app import app, run
from headgate.cli.inspect import _layers


@pytest.fixture
def save(tmp_path):
    def write(config):
        config.save_pretrained(tmp_path)
        return str(tmp_path)

    return write


def invoke(*arguments):
    return CliRunner().invoke(app, ["inspect", *arguments], env={"COLUMNS": "140"})


def test_a_published_shape_is_described_without_weights(save):
    result = invoke(save(transformers.OlmoeConfig(dtype="bfloat16", intermediate_size=1024)))
    assert result.exit_code == 0
    text = " ".join(result.stdout.split())
    assert "OlmoeForCausalLM (olmoe), 6.92 B parameters, bfloat16, experts in 16 of 16 layers" in text
    assert "layers 0-15 (OlmoeExperts)" in text
    assert "64 experts, 8 a token, 403 M parameters a layer" in text
    assert "router softmax over the experts; the best 8 of 64; weights as they are" in text
    assert "s = softmax(z); S = top8(s); w = s[S]" in text
    assert "shared none" in text
    assert "one fused pass" in text


def test_json_holds_every_layer_and_shared_experts(save):
    config = transformers.DeepseekV3Config(num_hidden_layers=5, first_k_dense_replace=2)
    path = save(config)
    result = invoke(path + "/config.json", "--json")
    report = json.loads(result.stdout)
    sparse = [i for i, kind in enumerate(getattr(config, "mlp_layer_types", [])) if kind == "sparse"] or [2, 3, 4]
    assert [layer["layer_index"] for layer in report["layers"]] == sparse
    assert report["layers"][0]["shared"] == {"shared_experts": 3 * 7168 * 2048}
    assert report["layers"][0]["num_experts"] == 256
    assert "within 4 of 8 groups" in report["layers"][0]["words"]


def test_layers_that_differ_get_a_block_each_and_quiet_a_line_each(save):
    config = transformers.DeepseekV4Config(num_hidden_layers=4, mlp_layer_types=["hash_moe", "moe", "moe", "moe"])
    lines = invoke(save(config), "-q").stdout.splitlines()
    assert [line.split(":")[0] for line in lines] == ["0", "1-3"]


@pytest.mark.parametrize(
    ("places", "text"), [([3], "3"), ([0, 1, 2], "0-2"), ([0, 2, 3], "0, 2-3"), ([0, 0], "0, 0"), ([1, 2, 5], "1-2, 5")]
)
def test_runs_of_layers_are_written_short(places, text):
    assert _layers(places) == text


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: path, "is no model: it has no config.json"),
        (lambda path: path / "missing.json", "there is no file"),
        (lambda path: path / "no-such-folder", "there is no model"),
        (lambda path: broken(path), "has no configuration that transformers can read: The checkpoint"),
        (lambda path: dense(path), "has no MoE layers; model_type 'llama' is a dense architecture"),
    ],
)
def test_what_is_no_moe_model_is_one_line_and_exit_code_1(make, message, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setattr("sys.argv", ["headgate", "inspect", str(make(tmp_path))])
    with pytest.raises(SystemExit) as stop:
        run()
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def broken(path):
    (path / "config.json").write_text('{"model_type": "unheard_of"}')
    return path


def dense(path):
    transformers.LlamaConfig(hidden_size=32, num_hidden_layers=1, intermediate_size=8).save_pretrained(path)
    return path


@pytest.mark.parametrize("method", ["bitsandbytes", "mxfp4", "fp8"])
def test_a_quantised_checkpoint_is_said_to_keep_its_own_code(method, save):
    config = transformers.GptOssConfig(num_hidden_layers=2, quantization_config={"quant_method": method})
    line = invoke(save(config), "-q").stdout
    assert f"theirs where the experts are quantised ({method}), which keep their own code; else headgate" in line


@pytest.mark.parametrize("verb", ["inspect", "size", "trace"])
def test_a_hub_id_without_a_connection_is_an_error_at_once(verb, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")  # refuses at once
    options = ["--text", "a", "-o", str(tmp_path / "a.safetensors")] if verb == "trace" else []
    monkeypatch.setattr("sys.argv", ["headgate", verb, "someone/no-such-model", *options])
    monkeypatch.setattr("time.sleep", lambda seconds: pytest.fail(f"waits {seconds} s to ask again"))
    with pytest.raises(SystemExit) as stop:
        run()
    assert stop.value.code == 1
    error = capsys.readouterr().err
    assert "there is no model 'someone/no-such-model' to read: We couldn't connect" in error
    assert error.count("\n") == 1
