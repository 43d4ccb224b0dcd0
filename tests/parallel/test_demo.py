"""The demo on several ranks is the demo: the same losses, the same trace, a checkpoint that one process can use."""

import json

import pytest
import torch
from safetensors.torch import load_file

import tiny_demo
from headgate.demo.evaluate import evaluate
from headgate.demo.restore import load_run
from headgate.observe.reader import load_trace
from headgate.observe.writer import save_trace
from parallel import demo_runs
from parallel.ranks import RanksError

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
    folders = {}

    def make(balance):
        if balance not in folders:
            folders[balance] = tmp_path_factory.mktemp(balance)
            tiny_demo.run(folders[balance], tiny_demo.tiny_config(balance=balance))
        return folders[balance]

    return make


@pytest.mark.parametrize(("num_ranks", "balance"), [(2, "switch"), (3, "bias")])
def test_losses_and_the_trace_are_those_of_one_process(ranks, alone, tmp_path, num_ranks, balance):
    whole = alone(balance)
    out = tmp_path / "run"
    # Two sequences in a batch: of three ranks, one has none.
    losses = ranks.run(num_ranks, demo_runs.train, str(out), tiny_demo.tiny_config(balance=balance))
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


def test_a_run_in_two_parts_has_the_same_bits(ranks, tmp_path):
    config = tiny_demo.tiny_config()
    ranks.run(2, demo_runs.train, str(tmp_path / "a"), config)
    assert ranks.run(2, demo_runs.train_in_two_parts, str(tmp_path / "b"), config, 7) == [7, 7]
    assert metrics(tmp_path / "a") == metrics(tmp_path / "b")
    assert (
        json.loads((tmp_path / "a" / "summary.json").read_text())["loss"]
        == (json.loads((tmp_path / "b" / "summary.json").read_text())["loss"])
    )


def test_one_process_restores_and_exports_what_ranks_trained(ranks, tmp_path):
    out = tmp_path / "run"
    ranks.run(2, demo_runs.train, str(out), tiny_demo.tiny_config(balance="switch"))
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


def test_ranks_do_not_go_on_with_a_run_of_one_process(ranks, alone):
    out = alone("switch")
    with pytest.raises(
        RanksError, match=r"was written by one process, and this run has 2 ranks; go on with it without"
    ):
        ranks.run(2, demo_runs.go_on, str(out), tiny_demo.tiny_config(balance="switch"))
