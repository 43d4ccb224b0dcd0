"""The demo on several ranks is the demo: the same losses, the same trace, a checkpoint that one process can use."""

import functools
import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

import tiny_demo
from headgate.demo.evaluate import evaluate
from headgate.demo.restore import load_run
from headgate.observe.reader import load_trace
from headgate.observe.writer import save_trace
from parallel import demo_runs

STEPS = tiny_demo.TINY["steps"]
# Float32 sums in another order differ by about sqrt(terms) * eps = sqrt(1000) * 1.2e-7 = 4e-6 of a value in each step,
# and AdamW, which divides by the root of small second moments, lets that grow with every one of them.
RELATIVE = STEPS * 4e-6


def metrics(out):
    steps = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in step.items() if name != "duration_s"} for step in steps]


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """A folder of the run of one process, by balance."""

    @functools.cache
    def make(balance):
        out = tmp_path_factory.mktemp(balance)
        tiny_demo.run(out, tiny_demo.tiny_config(balance=balance))
        return out

    return make


@pytest.fixture(scope="module")
def together(ranks, alone, tmp_path_factory):
    """A folder of the run of several ranks, and the held-out loss that each was given, by their number and balance."""

    @functools.cache
    def make(num_ranks, balance):
        out = tmp_path_factory.mktemp(balance) / "run"
        begun = ranks.begin(num_ranks, demo_runs.train, str(out), tiny_demo.tiny_config(balance=balance))
        alone(balance)  # What it is compared with, meanwhile.
        return out, begun()

    return make


@pytest.mark.parametrize(("num_ranks", "balance"), [(2, "switch"), (3, "bias")])
def test_losses_and_the_trace_are_those_of_one_process(alone, together, tmp_path, num_ranks, balance):
    # Two sequences in a batch: of three ranks, one has none.
    (out, losses), whole = together(num_ranks, balance), alone(balance)
    for mine, theirs in zip(metrics(out), metrics(whole), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=RELATIVE)
        assert mine["grad_norm"] == pytest.approx(theirs["grad_norm"], rel=RELATIVE)
        assert mine["expert_counts"] == theirs["expert_counts"]
        assert mine["num_tokens"] == theirs["num_tokens"]
        assert mine["balance_losses"] == pytest.approx(theirs["balance_losses"], rel=RELATIVE)
    summary = json.loads((whole / "summary.json").read_text())
    assert losses == pytest.approx([summary["loss"]] * num_ranks, rel=RELATIVE)
    # The model that the ranks trained, in one process: with other weights, off by rounding, a close call may differ.
    prepared, model = load_run(out)
    save_trace(tmp_path / "alone.safetensors", evaluate(model, prepared.corpus, prepared.tokenizer, prepared.config)[1])
    trace, wanted = load_trace(out / "routing.safetensors"), load_trace(tmp_path / "alone.safetensors")
    for name in ("topk_ids", "token_ids", "seq_offsets", "position", "counts"):
        assert torch.equal(getattr(trace, name), getattr(wanted, name)), name
    # Weights are kept as float16, so rounding may tip one by a step of it.
    assert (trace.topk_weights.float() - wanted.topk_weights.float()).abs().max() <= torch.finfo(torch.float16).eps
    assert {path.name for path in out.iterdir()} == {path.name for path in whole.iterdir()}


def test_a_run_in_two_parts_has_the_same_bits(ranks, together, tmp_path):
    (out, _), parts = together(2, "switch"), tmp_path / "parts"
    config = tiny_demo.tiny_config(balance="switch")
    assert ranks.run(2, demo_runs.train_in_two_parts, str(parts), config, 7) == [7, 7]
    assert metrics(parts) == metrics(out)
    summaries = [json.loads((folder / "summary.json").read_text()) for folder in (parts, out)]
    assert summaries[0]["loss"] == summaries[1]["loss"]


def test_one_process_restores_and_exports_what_ranks_trained(ranks, together, tmp_path):
    out, _ = together(2, "switch")
    _, model = load_run(out)
    assert model.layers[0].moe.experts.down_proj.shape == (4, 16, 8)
    ranks.run(2, demo_runs.export, str(out), str(tmp_path / "by-ranks"))
    demo_runs.export(str(out), str(tmp_path / "alone"))
    files = [load_file(tmp_path / name / "model.safetensors") for name in ("by-ranks", "alone")]
    assert files[0].keys() == files[1].keys()
    assert all(torch.equal(files[0][name], files[1][name]) for name in files[0])
    assert torch.equal(
        files[1]["model.layers.0.block_sparse_moe.experts.3.w2.weight"], model.layers[0].moe.experts.down_proj[3]
    )


def test_ranks_go_on_with_a_run_of_one_process(ranks, alone, tmp_path):
    whole, out, config = alone("bias"), tmp_path / "run", tiny_demo.tiny_config(balance="bias")
    assert tiny_demo.run(out, config, stop_at=7).step == 7
    ranks.run(3, demo_runs.go_on, str(out), config)
    for mine, theirs in zip(metrics(out), metrics(whole), strict=True):
        assert mine["loss"] == pytest.approx(theirs["loss"], rel=RELATIVE)
        assert mine["learning_rate"] == theirs["learning_rate"]
        assert mine["expert_counts"] == theirs["expert_counts"]


def test_ranks_measure_what_one_process_has_trained(ranks, alone, tmp_path):
    out = tmp_path / "run"
    shutil.copytree(alone("switch"), out)
    before = json.loads((out / "summary.json").read_text())
    ranks.run(2, demo_runs.go_on, str(out), tiny_demo.tiny_config(balance="switch"))
    assert json.loads((out / "summary.json").read_text())["loss"] == pytest.approx(before["loss"], rel=RELATIVE)
