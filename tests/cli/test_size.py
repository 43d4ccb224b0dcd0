"""`headgate size`: what it prints, its JSON, and one line for what makes no sense."""

from __future__ import annotations

import json

import pytest
import torch
import transformers
from typer.testing import CliRunner

import headgate
from headgate.cli.app import app, run
from headgate.cli.size_view import _bytes, _rate, _seconds
from headgate.integrations.transformers import rates
from headgate.planning import machine
from headgate.planning.catalogue import find_model
from headgate.planning.hardware import Device, find_device
from integrations import zoo

SMALL = {"num_hidden_layers": 2, "hidden_size": 32, "intermediate_size": 16, "vocab_size": 64}


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """The configuration of a small Mixtral."""
    folder = tmp_path_factory.mktemp("small")
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    transformers.MixtralConfig(**SMALL, **heads, dtype="bfloat16").save_pretrained(folder)
    return str(folder)


@pytest.fixture
def refused(monkeypatch, capsys):
    """Give the command what it must refuse, in one line and with exit code 1, and get the line."""

    def run_it(*arguments):
        monkeypatch.setattr("sys.argv", ["headgate", "size", *arguments])
        with pytest.raises(SystemExit) as stop:
            run()
        assert stop.value.code == 1
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        return error

    return run_it


def invoke(*arguments, width=140):
    return CliRunner().invoke(app, ["size", *map(str, arguments)], env={"COLUMNS": str(width)})


def read(*arguments):
    result = invoke(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return json.loads(result.stdout)


def text_of(*arguments, **options):
    result = invoke(*arguments, **options)
    assert result.exit_code == 0, result.output
    return " ".join(result.stdout.split())


def test_a_built_in_name_gives_counts_memory_and_work():
    text = text_of("olmoe-1b-7b", "--batch", 8)
    assert "olmoe-1b-7b OlmoeForCausalLM (olmoe), bf16" in text
    assert "routed experts 6.44B 93.1% 12.00 GiB" in text
    assert "active, with embeddings and head 1.28B (1,282,017,280)" in text
    assert "active, by the vendor 1.28B: with embeddings and head" in text
    assert "total, by the vendor 6.92B: agrees" in text
    assert "Memory follows the total, compute the active count" in text
    assert "cache (16 full), 4,096 tokens of 8 sequences 4.00 GiB" in text
    assert "experts touched 42.0 of 64 a layer at batch 8 (uniform routing)" in text
    assert "Speed: add --device h200" in text


def test_the_cache_is_of_the_sequences_that_the_rank_holds():
    assert "4,096 tokens of 2 sequences of 8 1.00 GiB" in text_of("olmoe-1b-7b", "--batch", 8, "--ranks", 4)


def test_json_has_the_counts_as_integers():
    values = read("olmoe-1b-7b")["parameters"]
    assert values["total"] == sum(values["by_role"].values()) == 6919161856
    assert values["active"]["no_embeddings"] == 1075972096
    assert values["active"]["with_head"] == 1178994688
    assert values["active"]["with_embeddings_and_head"] == 1282017280
    assert values["active"]["vendor"]["matches"] == ["with_embeddings_and_head"]


def test_quiet_prints_the_counts_alone():
    lines = invoke("olmoe-1b-7b", "-q").stdout.splitlines()
    assert lines[0] == "total 6919161856"
    assert lines[-1] == f"weight_bytes {2 * 6919161856}"
    assert len(lines) == 5


def test_a_device_adds_the_picture_of_speed_and_memory(small):
    text = text_of(small, "--device", "h200", "--batch", 3)
    assert "ceilings of NVIDIA H200 SXM 141 GB" in text
    assert "█" in text
    assert "a step of decoding at least" in text
    values = read(small, "--device", "h200", "--batch", 3)
    assert [speed["batch"] for speed in values["speed"]["by_batch"]][:4] == [1, 2, 3, 4]
    assert values["speed"]["device"]["bandwidth_source"]
    assert all(speed["fits"] for speed in values["speed"]["by_batch"])


def test_what_does_not_fit_is_said(small):
    assert " no fit " in text_of("deepseek-v2-lite", "--device", "rtx-3090")


def test_a_narrow_terminal_keeps_every_figure():
    text = text_of("deepseek-v2-lite", "--device", "rtx-3090", width=60)
    assert "256" in text
    assert "% no fit memory" in text
    assert "…" not in text


def test_ranks_drafts_capacity_and_formats(small):
    arguments = (small, "--batch", 8, "--ranks", "ep=4,tp=2", "--spec", 2, "--capacity", 1.25, "--dtype", "fp8")
    text = text_of(*arguments, "--expert-dtype", "mxfp4", "--device", "h200")
    assert "fp8 with mxfp4 experts" in text
    assert "memory on the fullest of 4 ranks (ep 4, tp 2, dp 2)" in text
    assert "buffers of capacity 1.25, one layer, all ranks" in text
    assert "2 drafts ahead" in text
    assert "if no draft is accepted" in text
    assert "ranks of a token" in text
    values = read(*arguments)
    assert values["routing"]["tokens_per_sequence_and_step"] == 3
    assert values["memory"]["ranks"] == {"expert": 4, "tensor": 2, "data": 2}
    assert values["model"]["expert_dtype"] == "fp8"


def test_a_trace_gives_the_experts_touched(small, tmp_path):
    torch.manual_seed(0)
    layer = headgate.MoE(8, 16, num_experts=8, top_k=2)
    with headgate.tap(layer) as tape:
        layer(torch.randn(50, 8))
    one = headgate.trace_of(layer, tape, token_ids=torch.arange(50))
    path = tmp_path / "t.safetensors"
    headgate.save_trace(path, one)
    error = invoke(small, "--trace", path)
    assert "has 1 layers, and the model 2 with experts" in str(error.exception)
    config = transformers.MixtralConfig(
        **{**SMALL, "num_hidden_layers": 1}, num_attention_heads=4, num_key_value_heads=2
    )
    config.save_pretrained(tmp_path)
    values = read(tmp_path / "config.json", "--trace", path, "--batch", 4)
    assert values["routing"]["source"] == str(path)
    fraction = [(one.topk_ids[0] == expert).any(-1).double().mean().item() for expert in range(8)]
    expected = sum(1 - (1 - part) ** 4 for part in fraction)
    assert values["routing"]["layers"][0]["distinct_experts"] == pytest.approx(expected)
    assert "(by " in text_of(tmp_path, "--trace", path)


def test_a_checkpoint_is_compared_with_the_model(tmp_path):
    transformers.MixtralForCausalLM(zoo.derive_config(transformers.MixtralConfig, {})).save_pretrained(tmp_path)
    assert "parameters in 138.62 KiB; as the model" in text_of(tmp_path)
    assert read(tmp_path)["checkpoint"]["difference"] == 0


def test_this_machine_is_measured_and_its_step_expected(small, monkeypatch):
    monkeypatch.setattr(machine, "measure_bandwidth", lambda: 1e10)
    monkeypatch.setattr(machine, "measure_peak", lambda dtype: 1e11)
    for name, value in {"WIDTH": 64, "HIDDEN": 32, "NUM_WORDS": 128, "NUM_MATRICES": 2, "_REPETITIONS": 2}.items():
        monkeypatch.setattr(rates, name, value)
    values = read(small, "--measure", "--context", 16)["speed"]
    assert values["device"]["kind"] == "measured"
    parts = values["expected_decode"]
    assert parts.pop("time_s") == pytest.approx(sum(parts.values()))
    assert all(value >= 0 for value in parts.values())
    assert "with transformers here about" in text_of(small, "--measure", "--context", 16)
    # What runs otherwise here than it is planned has no expected time.
    assert read(small, "--measure", "--dtype", "fp8")["speed"]["expected_decode"] is None
    assert "with transformers here unknown: it needs one rank" in text_of(small, "--measure", "--dtype", "fp8")


def test_measured_rates_never_exceed_the_memory(monkeypatch):
    for name, value in {"WIDTH": 64, "HIDDEN": 32, "NUM_WORDS": 128, "NUM_MATRICES": 2, "_REPETITIONS": 2}.items():
        monkeypatch.setattr(rates, name, value)
    slow = Device(**{**find_device("m1-max").to_dict(), "bandwidth": 1e3})
    found = rates.measure_rates(slow, batch=1, context=4, dtype=torch.float32)
    assert {found.layer_matrices, found.head, found.experts, found.cache} == {1e3}


def test_a_measured_step_is_held_against_the_floor(small):
    assert "measured 5 ms a step" in text_of(small, "--device", "h200", "--measured-ms", 5)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"num_experts": 0}, "num_experts (=0) of model.layers.0.mlp.experts must be at least 1; check the model"),
        (
            {"num_experts": "many"},
            "has a value that its architecture does not take: Validation error for field 'num_exp",
        ),
        ({"num_experts_per_tok": 100}, "top_k (=100) of model.layers.0.mlp.experts must be from 1 to the number of"),
        ({"hidden_size": -4}, "can't be built from its configuration"),
        ({"model_type": "never_heard_of"}, "Transformers does not recognize this architecture"),
    ],
)
def test_values_that_no_model_has_are_one_line(changes, message, tmp_path, refused):
    path = tmp_path / "config.json"
    path.write_text(json.dumps({**find_model("olmoe-1b-7b").config, **changes}))
    assert message in refused(str(path))


def test_files_beside_a_config_of_another_name_are_not_its_checkpoint(tmp_path):
    (tmp_path / "mine.json").write_text(json.dumps(dict(find_model("olmoe-1b-7b").config)))
    (tmp_path / "other.safetensors").write_bytes(b"no checkpoint")
    assert read(tmp_path / "mine.json")["checkpoint"] is None


def test_a_dense_model_is_told_so(tmp_path):
    transformers.LlamaConfig(hidden_size=32, num_hidden_layers=1, intermediate_size=8).save_pretrained(tmp_path)
    assert "is a dense model: it has no routed experts" in text_of(tmp_path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--device", "h300"], "device (=h300) must be in the table of devices; did you mean"),
        (["--dtype", "fp7"], "dtype (=fp7) must be one of fp32, bf16"),
        (["--ranks", "0"], "ep (=0) must be at least 1"),
        (["--ranks", "64"], "ep (=64) must not exceed the experts of a layer (=8)"),
        (["--batch", "0"], "batch (=0) must be at least 1"),
        (["--context", "-5"], "context (=-5) must be at least 1"),
        (["--spec", "-1"], "spec (=-1) must be at least 0"),
        (["--capacity", "0"], "capacity (=0) must be above 0 and finite"),
        (["--measured-ms", "5"], "measured-ms (=5) needs the device that it was measured on"),
        (["--measured-ms", "-5", "--device", "h200"], "measured-ms (=-5) must be above 0"),
        (["--measured-ms", "1e-9", "--device", "h200"], "so no ceiling is printed"),
        (["--measure", "--device", "h200"], "device (=h200) and --measure exclude each other"),
        (["--trace", "nowhere.safetensors"], "nowhere.safetensors"),
    ],
)
def test_nonsense_is_one_line_and_exit_code_1(arguments, message, small, refused):
    assert message in refused(small, *arguments)


@pytest.mark.parametrize(
    ("written", "text"),
    [
        (_bytes(3 * 2**40), "3.00 TiB"),
        (_bytes(12), "12 B"),
        (_rate(2843.2), "2,840"),
        (_rate(1.234), "1.23"),
        (_seconds(2.5), "2.5 s"),
        (_seconds(0.0025), "2.5 ms"),
    ],
)
def test_numbers_are_written_for_people(written, text):
    assert written == text


def test_layers_of_a_file_are_sized(tmp_path):
    path = tmp_path / "layers.toml"
    path.write_text('num_layers = 2\nd_model = 64\nd_ff = 32\n[router]\nfamily = "expert_choice"\nnum_experts = 8\n')
    text = text_of(str(path), "--device", "h200")
    assert "Experts choose their tokens, so a step touches all of them." in text
    assert "attention, embedding, head and cache are not in the file" in text
    missing = invoke(tmp_path / "none.toml").exception
    assert "none.toml: No such file" in str(missing)
