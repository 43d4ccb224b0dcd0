"""place, simulate, cache: what they print, what they write, and what they refuse."""

import json

import numpy as np
import pytest
import torch
from transformers import LlamaConfig, MixtralConfig
from typer.testing import CliRunner

import headgate
from headgate.cli import app as cli
from headgate.errors import ArtifactError, InputError
from headgate.observe.shape import describe_shape
from headgate.observe.writer import save_trace
from headgate.planning.layout_files import parse_layout
from traces import random_trace


def invoke(*arguments):
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def trace(tmp_path):
    path = tmp_path / "trace.safetensors"
    save_trace(path, random_trace(lengths=(120, 80), num_experts=8, full=False))
    return path


@pytest.fixture
def counts(tmp_path):
    path = tmp_path / "counts.json"
    path.write_text(json.dumps(np.arange(1, 17).reshape(2, 8).tolist()))
    return path


def test_place_prints_for_a_person(trace, tmp_path):
    out = tmp_path / "plan.json"
    result = invoke("place", trace, "--devices", 4, "--nodes", 2, "--replicas", 4, "-o", out)
    assert (result.exit_code, result.stderr.replace("\n", "")) == (0, f"Wrote {out}.")
    for said in (
        "8 experts + 4 replicas on 4 devices in 2 nodes, 3 each, in 3 layers",
        "before",
        "held-out half",
        "Sends",
    ):
        assert said in result.stdout, said
    layout = parse_layout(out.read_text())
    assert (layout.layers, layout.num_nodes, layout.num_replicas) == ((1, 2, 4), 2, 4)


def test_place_prints_json(trace):
    found = json.loads(invoke("place", trace, "--devices", 4, "--json").stdout)
    assert found["num_replicas"] == 0
    assert found["after"]["balancedness"] >= found["before"]["balancedness"]
    assert 0 < found["held_out"]["balancedness"] <= 1
    assert 0 < found["sends_per_token"]["held_out"] <= 2
    assert found["num_moves"] is None


def test_counts_alone_have_no_held_out_half(counts, tmp_path):
    found = json.loads(invoke("place", counts, "--devices", 2, "--json").stdout)
    assert (found["held_out"], found["sends_per_token"]) == (None, None)
    assert found["after"]["distance"] == pytest.approx(0, abs=1e-9)
    np.save(tmp_path / "counts.npy", np.arange(1, 17).reshape(2, 8))
    assert json.loads(invoke("place", tmp_path / "counts.npy", "--devices", 2, "--json").stdout) == found
    assert "held-out" not in invoke("place", counts, "--devices", 2).stdout


@pytest.mark.parametrize("name", ["headgate", "sglang", "vllm", "tensorrt-llm", "ascend"])
def test_a_plan_is_improved_with_few_moves(counts, trace, tmp_path, name):
    old, new = tmp_path / "old", tmp_path / "new"
    assert invoke("place", counts, "--devices", 4, "--replicas", 4, "-o", old, "--format", name, "-q").stdout == ""
    result = invoke("place", counts, "--devices", 4, "--from", old, "-o", new)
    assert "To load: 0 of 24 experts (0.0%)." in result.stdout
    if name == "headgate":
        hot = tmp_path / "hot.json"
        hot.write_text(json.dumps([[99, 1, 1, 1, 1, 1, 1, 1], list(range(9, 17))]))
        found = json.loads(invoke("place", hot, "--devices", 4, "--from", old, "--json").stdout)
        assert 0 < found["num_moves"] <= 4
        assert found["before"]["balancedness"] < found["after"]["balancedness"]


def test_groups_with_an_old_plan_stay_together(counts, tmp_path):
    options = ("--devices", 4, "--nodes", 2, "--groups", 4, "--replicas", 4)
    invoke("place", counts, *options, "-o", tmp_path / "old.json", "-q")
    swapped = tmp_path / "swapped.json"
    swapped.write_text(json.dumps(np.arange(16, 0, -1).reshape(2, 8).tolist()))
    invoke("place", swapped, *options, "--from", tmp_path / "old.json", "-o", tmp_path / "new.json", "-q")
    for table in parse_layout((tmp_path / "new.json").read_text()).device_experts:
        assert {int(e) // 2 for e in table[:2].ravel()}.isdisjoint({int(e) // 2 for e in table[2:].ravel()})


def test_no_file_is_overwritten_unasked(counts, tmp_path):
    out = tmp_path / "plan.json"
    out.write_text("mine")
    with pytest.raises(ArtifactError, match=r"plan.json is there already; choose another --out, or overwrite it by"):
        invoke("place", counts, "--devices", 2, "-o", out)
    invoke("place", counts, "--devices", 2, "-o", out, "--force")
    assert parse_layout(out.read_text()).num_devices == 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--devices", 0), r"^devices \(=0\) must be at least 1; give how many share the experts$"),
        (
            ("--devices", 3, "--replicas", 2),
            r"^experts \+ replicas \(=8 \+ 2\) must be a multiple of the devices \(=3\)",
        ),
        (("--devices", 2, "--replicas", 10), r"^replicas \(=10\) must be at most 8: with 2 devices and 8 experts"),
        (("--devices", 2, "--nodes", 3), r"^nodes \(=3\) must divide the devices \(=2\)"),
        (("--devices", 2, "--groups", 3), r"^groups \(=3\) must divide the experts \(=8\)"),
    ],
)
def test_place_refuses_nonsense(counts, arguments, message):
    with pytest.raises(InputError, match=message):
        invoke("place", counts, *arguments)


@pytest.mark.parametrize("content", ["[[1, 2], [3]]", "[1, 2]", '[["a"]]', "{}"])
def test_counts_must_be_counts(tmp_path, content):
    (tmp_path / "counts.json").write_text(content)
    with pytest.raises(InputError, match=r"counts.json holds no list \[L\]\[E\] of numbers; write one row"):
        invoke("place", tmp_path / "counts.json", "--devices", 1)


def test_an_old_plan_that_is_none_names_its_file(counts, tmp_path):
    (tmp_path / "old.json").write_text('{"a": 1}')
    with pytest.raises(ArtifactError, match=r"old.json: the file holds no layout of Headgate"):
        invoke("place", counts, "--devices", 2, "--from", tmp_path / "old.json")


SIZES = ("--hardware", "h100-sxm", "--d-model", 64, "--d-ff", 32)


def test_simulate_compares_layouts(trace, tmp_path):
    for devices, name in ((4, "a.json"), (8, "b.json")):
        invoke("place", trace, "--devices", devices, "-o", tmp_path / name, "-q")
    plans = ("--plan", tmp_path / "a.json", "--plan", tmp_path / "b.json")
    result = invoke("simulate", trace, *plans, *SIZES, "--step-tokens", 20)
    for said in ("a.json", "b.json", "tokens/s", "200 tokens in 10 steps."):
        assert said in result.stdout, said
    found = json.loads(invoke("simulate", trace, *plans, *SIZES, "--json", "--step-tokens", 20).stdout)
    assert [(part["placement"], part["num_devices"]) for part in found] == [("a.json", 4), ("b.json", 8)]
    assert all(len(part["steps"]["step_s"]) == 10 for part in found)
    assert found[0]["sends_per_token"] < found[1]["sends_per_token"]


def test_simulate_scales_and_asks_what_if(trace):
    options = ("--devices", 2, "--devices", 16, *SIZES, "--node-size", 8, "--step-tokens", 50, "--json")
    found = {part["placement"]: part for part in json.loads(invoke("simulate", trace, *options).stdout)}
    assert found["2 devices"]["bytes_across_nodes"] == 0 < found["16 devices"]["bytes_across_nodes"]
    one = json.loads(invoke("simulate", trace, *options, "--top-k", 1).stdout)
    assert one[0]["sends_per_token"] < found["2 devices"]["sends_per_token"]
    by_node = json.loads(invoke("simulate", trace, *options, "--two-level").stdout)
    assert by_node[0]["bytes_within_nodes"] == found["2 devices"]["bytes_within_nodes"]
    assert by_node[1]["bytes_across_nodes"] < found["16 devices"]["bytes_across_nodes"]
    free = json.loads(invoke("simulate", trace, *options).stdout)
    tight = json.loads(invoke("simulate", trace, *options, "--capacity", 0.5).stdout)
    assert free[0]["drop_fraction"] == 0 < tight[0]["drop_fraction"]
    assert invoke("simulate", trace, "--devices", 2, *SIZES, "-q").stdout == ""


def test_simulate_takes_widths_from_the_trace_or_from_a_model(trace, tmp_path):
    options = ("--devices", 2, "--hardware", "h100-sxm", "--step-tokens", 50, "--json")
    by_hand = invoke("simulate", trace, *options, "--d-model", 64, "--d-ff", 32).stdout
    noted = tmp_path / "noted.safetensors"
    layer = headgate.MoE(64, 32, num_experts=8, top_k=2)
    save_trace(noted, random_trace(lengths=(120, 80), num_experts=8, full=False, **describe_shape(layer)))
    assert invoke("simulate", noted, *options).stdout == by_hand
    config = MixtralConfig(hidden_size=64, intermediate_size=32, num_hidden_layers=1, num_attention_heads=4)
    config.save_pretrained(tmp_path)
    assert invoke("simulate", trace, *options, "--model", tmp_path / "config.json").stdout == by_hand
    wider = invoke("simulate", noted, *options, "--d-model", 128).stdout
    assert wider == invoke("simulate", trace, *options, "--d-model", 128, "--d-ff", 32).stdout != by_hand


def test_widths_that_nobody_says_are_asked_for(trace, tmp_path):
    options = ("--devices", 2, "--hardware", "h100-sxm")
    with pytest.raises(
        InputError, match=r"d-model \(=None\) and d-ff \(=7\) must both be known, and .*trace.safetensors"
    ):
        invoke("simulate", trace, *options, "--d-ff", 7)
    LlamaConfig(num_hidden_layers=1).save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"config.json does not say them; give --d-model and --d-ff, or --model with"):
        invoke("simulate", trace, *options, "--model", tmp_path / "config.json")


def test_an_engines_plan_gets_nodes_of_the_devices(trace, tmp_path):
    invoke("place", trace, "--devices", 4, "-o", tmp_path / "a.yaml", "--format", "tensorrt-llm", "-q")
    options = ("--plan", tmp_path / "a.yaml", "--devices", 4, *SIZES, "--json", "--node-size", 3)
    assert json.loads(invoke("simulate", trace, *options).stdout)[0]["bytes_across_nodes"] > 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), r"^--plan and --devices \(=None\) are both missing; give a layout, or numbers of devices to plan for$"),
        (("--devices", 0), r"^devices \(=0\) must be at least 1; give how many share the experts$"),
        (("--devices", 2, "--top-k", 9), r"^top_k \(=9\) must be between 1 and the choices that were recorded \(=2\)$"),
        (("--devices", 2, "--capacity", -1), r"^capacity \(=-1.0\) must be positive; 1.25 is a common choice$"),
        (("--devices", 2, "--hardware", "h9000"), r"^device \(=h9000\) must be in the table of devices"),
        (("--devices", 2, "--across", 0), r"^across_bandwidth \(=0.0\) must be positive"),
    ],
)
def test_simulate_refuses_nonsense(trace, arguments, message):
    with pytest.raises(InputError, match=message):
        invoke("simulate", trace, *SIZES, *arguments)


def test_cache(trace):
    result = invoke("cache", trace, "--slots", 4, "--expert-bytes", 1e6, "--tokens", 100)
    for said in ("4 slots in each layer; 50 tokens measured.", "belady", "MB per token", "skew"):
        assert said in result.stdout, said
    found = json.loads(invoke("cache", trace, "--slots", 6, "--scope", "all", "--policy", "lru", "--json").stdout)
    assert [outcome["policy"] for outcome in found["policies"]] == ["lru"]
    assert (found["scope"], found["even_hit_fraction"]) == ("all", 0.25)
    assert invoke("cache", trace, "--slots", 4, "-q").stdout.startswith("There is")
    assert "for all layers" in invoke("cache", trace, "--slots", 6, "--scope", "all", "--tokens", 20).stdout


def test_cache_refuses_nonsense(trace, tmp_path):
    with pytest.raises(InputError, match=r"^slots \(=1\) must be between K \(=2\)"):
        invoke("cache", trace, "--slots", 1)
    with pytest.raises(InputError, match=r"^expert-bytes \(=-1.0\) must be positive"):
        invoke("cache", trace, "--slots", 4, "--expert-bytes", -1)
    empty = tmp_path / "empty.safetensors"
    save_trace(empty, random_trace(lengths=(), full=False))
    with pytest.raises(InputError, match=r"empty.safetensors has no tokens, only counts; record the choices"):
        invoke("cache", empty, "--slots", 4)


def test_a_trace_without_tokens_is_planned_by_its_counts(tmp_path):
    trace = random_trace(lengths=(), full=False)
    path = tmp_path / "counts.safetensors"
    save_trace(path, type(trace)(**{**_fields(trace), "counts": torch.tensor([[3, 1, 1, 1, 1, 1]] * 3)}))
    assert json.loads(invoke("place", path, "--devices", 2, "--json").stdout)["held_out"] is None


def _fields(trace):
    return {name: getattr(trace, name) for name in ("topk_ids", "layer_index", "seq_offsets", "counts", "metadata")}
