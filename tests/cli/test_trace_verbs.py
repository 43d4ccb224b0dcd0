"""check, diff, coverage, export: what they print, where, and with which exit code."""

import dataclasses
import json

import pytest
import torch
from typer.testing import CliRunner

from headgate.cli import app as cli
from headgate.errors import ArtifactError, InputError
from headgate.observe.pieces import recount, select
from headgate.observe.reader import load_trace
from headgate.observe.writer import save_trace
from tiny_demo import run, tiny_config
from traces import random_trace

HOSTILE = "<b>\x1b[31m\n\u202e"


def invoke(*arguments):
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def distinct(**options):
    trace = random_trace(drop=0, token_strings={str(number): HOSTILE for number in range(12)}, **options)
    return dataclasses.replace(trace, token_ids=torch.arange(trace.num_tokens, dtype=torch.int32))


@pytest.fixture
def pair(tmp_path):
    """Two traces of the same tokens; one choice in 72 differs."""
    first = distinct()
    ids = first.topk_ids.clone()
    ids[1, 7, 1] = next(expert for expert in range(6) if expert not in ids[1, 7].tolist())
    second = dataclasses.replace(first, topk_ids=ids)
    for name, trace in (("a", first), ("b", dataclasses.replace(second, counts=recount(second)))):
        save_trace(tmp_path / f"{name}.safetensors", trace)
    return tmp_path / "a.safetensors", tmp_path / "b.safetensors"


def test_diff_prints_for_a_person(pair):
    result = invoke("diff", *pair)
    assert (result.exit_code, result.stderr) == (0, "")
    for said in ("overlap@2 0.9861", "12 tokens that both traces have", "By layer", "least sure", "1 of 3"):
        assert said in result.stdout, said
    assert "\x1b[31m" not in result.stdout
    assert "\u202e" not in result.stdout
    assert r"<b>\x1b[31m\n\u202e" in result.stdout


def test_diff_prints_json(pair):
    result = invoke("diff", *pair, "--json")
    found = json.loads(result.stdout)
    assert found["agreement"]["overlap"] == pytest.approx(1 - 0.5 / 36)
    assert found["tokens"][0]["text"] == HOSTILE
    assert found["broken_gates"] == []
    assert "\u202e" not in result.stdout


@pytest.mark.parametrize(
    ("gate", "said"),
    [
        (("--fail-under", "overlap@k=0.99"), "gate: overlap@k is 0.9861, under 0.99"),
        (("--fail-under", "overlap@2=0.99"), "gate: overlap@2 is 0.9861, under 0.99"),
        (("--fail-over", "flipped_fraction=0.01"), "gate: flipped_fraction is 0.0278, over 0.01"),
    ],
)
def test_a_gate_that_does_not_hold_is_exit_1(pair, gate, said):
    result = invoke("diff", "-q", *pair, *gate)
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", said + "\n")
    assert said.removeprefix("gate: ") in json.loads(invoke("diff", *pair, "--json", *gate).stdout)["broken_gates"]


def test_gates_that_hold(pair):
    gates = ("--fail-under", "overlap@k=0.98", "--fail-under", "jaccard=0.9", "--fail-over", "load_distance=0.5")
    assert invoke("diff", "-q", *pair, *gates).exit_code == 0


def test_a_gate_on_what_was_not_recorded_does_not_hold(tmp_path):
    trace = dataclasses.replace(distinct(), topk_weights=None)
    save_trace(tmp_path / "a.safetensors", trace)
    result = invoke("diff", "-q", *[tmp_path / "a.safetensors"] * 2, "--fail-over", "weight_moved=1")
    assert (result.exit_code, result.stderr) == (
        1,
        "gate: weight_moved can't be told from these traces, so it can't pass\n",
    )


@pytest.mark.parametrize("gate", ["overlap@k", "overlap@k=x", "overlap@k=1e", "=1", "recall=0.5"])
def test_a_gate_that_makes_no_sense_is_a_usage_error(pair, gate):
    result = invoke("diff", *pair, "--fail-under", gate)
    assert (result.exit_code, result.stdout) == (2, "")


def test_check_of_a_file(pair, tmp_path):
    result = invoke("check", pair[0])
    assert result.exit_code == 0
    assert "every rule of the format holds" in result.stdout
    assert "✗" not in result.stdout
    broken = dataclasses.replace(distinct(), counts=torch.zeros(3, 6, dtype=torch.int64))
    save_trace(tmp_path / "broken.safetensors", broken)
    result = invoke("check", tmp_path / "broken.safetensors", "-q")
    assert result.exit_code == 1
    assert "format: counts" in result.stdout
    assert "✓" not in result.stdout
    found = json.loads(invoke("check", pair[0], "--json").stdout)
    assert {finding["check"] for finding in found} >= {"format", "balance", "NaN"}


def test_warnings_fail_only_where_asked(tmp_path):
    ids = random_trace(lengths=(300,)).topk_ids.clone()
    ids[:, :150, 0], ids[:, :150, 1] = 0, 1
    trace = dataclasses.replace(random_trace(lengths=(300,), full=False), topk_ids=ids)
    save_trace(tmp_path / "a.safetensors", dataclasses.replace(trace, counts=recount(trace)))
    assert "uneven" in invoke("check", tmp_path / "a.safetensors").stdout
    assert invoke("check", tmp_path / "a.safetensors").exit_code == 0
    assert invoke("check", tmp_path / "a.safetensors", "--strict").exit_code == 1


def test_check_of_a_model_and_of_its_trace(tmp_path):
    run(tmp_path / "run", tiny_config(steps=3))
    found = {line["check"]: line for line in json.loads(invoke("check", tmp_path / "run", "--json").stdout)}
    assert found["causality"]["status"] == "pass"
    found = {line["check"]: line for line in json.loads(invoke("check", tmp_path / "run", "--trace", "--json").stdout)}
    assert "causality" not in found
    assert found["format"]["status"] == "pass"


def test_what_is_no_trace_is_an_error(tmp_path):
    with pytest.raises(ArtifactError, match=r"^there is no file .*nowhere; check the path$"):
        invoke("check", tmp_path / "nowhere")


def test_coverage(pair):
    result = invoke("coverage", pair[0], "--needed", "6")
    counts = load_trace(pair[0]).counts
    poor = int((counts < 6).sum())
    assert poor > 0
    assert result.exit_code == 1
    assert f"{18 - poor} of 18 experts got at least 6 of 12 tokens." in result.stdout
    assert "95 %" in result.stdout
    assert json.loads(invoke("coverage", pair[0], "--needed", "6", "--json").stdout)["needed"] == 6
    assert invoke("coverage", pair[0], "--needed", "6", "-q").stdout == ""
    assert invoke("coverage", pair[0], "--needed", "1000").exit_code == 1
    found = invoke("coverage", pair[0], "--needed", "1")
    assert found.exit_code == int((counts < 1).any())


def test_export_to_other_formats(pair, tmp_path):
    for name in ("a.jsonl", "a.parquet"):
        result = invoke("export", pair[0], "-o", tmp_path / name)
        assert (result.exit_code, result.stdout) == (0, "")
        assert "Wrote" in result.stderr
    assert len((tmp_path / "a.jsonl").read_text().splitlines()) == 36
    with pytest.raises(ArtifactError, match=r"a\.jsonl is there already; choose another --out, or overwrite it by"):
        invoke("export", pair[0], "-o", tmp_path / "a.jsonl")
    assert invoke("export", pair[0], "-o", tmp_path / "a.jsonl", "--force", "-q").stderr == ""
    with pytest.raises(
        InputError, match=r"^traces \(=2\) must be one for \.jsonl; merge them to a \.safetensors first"
    ):
        invoke("export", *pair, "-o", tmp_path / "b.jsonl")


def test_export_merges_ranks(tmp_path):
    whole = distinct()
    for rank in range(3):
        save_trace(tmp_path / f"{rank}.safetensors", select(whole, sequences=[rank]))
    ranks = [tmp_path / f"{rank}.safetensors" for rank in range(3)]
    with pytest.raises(InputError, match=r"^--by \(=None\) must say whether each rank has its own tokens or its own"):
        invoke("export", *ranks, "-o", tmp_path / "all.safetensors")
    result = invoke("export", *ranks, "-o", tmp_path / "all.safetensors", "--by", "tokens", "--json")
    assert json.loads(result.stdout)["num_tokens"] == 12
    assert torch.equal(load_trace(tmp_path / "all.safetensors").topk_ids, whole.topk_ids)


def test_check_says_which_text_it_can_not_read(tmp_path):
    binary = tmp_path / "binary.txt"
    binary.write_bytes(b"abc\xff")
    for path, said in ((tmp_path / "none.txt", "there is no file .*none.txt"), (binary, "is not text in UTF-8")):
        with pytest.raises(ArtifactError, match=said):
            invoke("check", "a-model", "--file", path)
