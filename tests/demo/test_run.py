import json
import os
import random
import signal
import subprocess
import sys
import time

import pytest
import torch

from headgate.demo import folder
from headgate.demo.run import Finished, Stopped, require_trainable
from headgate.demo.train import learning_rate
from headgate.errors import ArtifactError, InputError
from headgate.observe.reader import load_trace
from headgate.observe.shape import RecordedShape
from tiny_demo import losses, prepared, run, tiny_config

CHILD = """
import sys
from pathlib import Path
from tiny_demo import run, tiny_config
run(Path(sys.argv[1]), tiny_config(steps=120, balance="bias"), resume=sys.argv[2] == "resume")
print("finished")
"""


def start_child(out, how):
    path = os.pathsep.join(entry for entry in sys.path if entry)
    return subprocess.Popen(
        [sys.executable, "-c", CHILD, str(out), how],
        env={**os.environ, "PYTHONPATH": path},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def kill_after(child, metrics, num_steps, delay_s):
    """Wait until the child has done so many steps, and a little longer, then kill it."""
    deadline = time.monotonic() + 60
    while not (metrics.exists() and metrics.read_bytes().count(b"\n") >= num_steps):
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(delay_s)
    child.send_signal(signal.SIGKILL)
    child.communicate()


def test_a_killed_run_goes_on_as_if_nothing_had_happened(tmp_path):
    rng = random.Random(3)
    out = tmp_path / "killed"
    for how, after in (("start", rng.randrange(1, 40)), ("resume", rng.randrange(60, 110))):
        kill_after(start_child(out, how), out / folder.METRICS, after, rng.random() * 0.02)
    last = start_child(out, "resume")
    printed, problems = last.communicate(timeout=120)
    assert (last.returncode, printed) == (0, "finished\n"), problems
    run(tmp_path / "whole", tiny_config(steps=120, balance="bias"))
    assert losses(out) == losses(tmp_path / "whole")


@pytest.mark.parametrize(
    "options",
    [
        {"balance": "switch"},
        {"balance": "bias"},
        {"router": "switch", "capacity": 0.5},
        {"router": "noisy_top_k"},
        {"router": "expert_choice", "balance": "off"},
        {"feed_forward": "dense", "balance": "off"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_a_stopped_run_goes_on_with_the_same_losses(tmp_path, options):
    config = tiny_config(**options)
    assert run(tmp_path / "stopped", config, stop_at=7) == Stopped(step=7)
    assert len(losses(tmp_path / "stopped")) == 7
    torch.manual_seed(123)  # What another process would have drawn.
    resumed = run(tmp_path / "stopped", config, resume=True)
    whole = run(tmp_path / "whole", config)
    assert losses(tmp_path / "stopped") == losses(tmp_path / "whole")
    assert resumed.evaluation == whole.evaluation


def test_a_run_without_a_checkpoint_starts_again(tmp_path):
    config = tiny_config()
    prepared(tmp_path / "early", config)
    (tmp_path / "early" / folder.CORPUS).unlink()
    (tmp_path / "early" / folder.METRICS).write_text('{"step": 1, "loss": 0.0}\n{"step": 2, "lo')
    run(tmp_path / "early", config, resume=True)
    run(tmp_path / "whole", config)
    assert losses(tmp_path / "early") == losses(tmp_path / "whole")


def test_a_finished_run_can_be_looked_at_again(tmp_path):
    first = run(tmp_path / "out", tiny_config())
    again = run(tmp_path / "out", tiny_config(), resume=True)
    assert again.evaluation == first.evaluation
    assert again.training_s == first.training_s
    assert len(losses(tmp_path / "out")) == 12


def test_another_seed_gives_other_losses(tmp_path):
    run(tmp_path / "a", tiny_config(seed=0))
    run(tmp_path / "b", tiny_config(seed=1))
    assert losses(tmp_path / "a") != losses(tmp_path / "b")


def test_training_learns_and_leaves_its_files(tmp_path):
    finished = run(tmp_path / "out", tiny_config(steps=60, learning_rate=1e-2))
    assert isinstance(finished, Finished)
    evaluation = finished.evaluation
    assert evaluation.loss < evaluation.unigram_loss < 6.0
    assert evaluation.perplexity < evaluation.unigram_perplexity
    assert sorted(os.listdir(tmp_path / "out")) == [
        "checkpoints",
        "config.json",
        "corpus.safetensors",
        "metrics.jsonl",
        "page.html",
        "routing.safetensors",
        "sample.safetensors",
        "summary.json",
        "tokenizer.json",
    ]
    summary = json.loads((tmp_path / "out" / folder.SUMMARY).read_text())
    assert summary["loss"] == evaluation.loss
    assert [layer["path"] for layer in summary["layers"]] == ["layers.0.moe", "layers.1.moe"]
    trace = load_trace(tmp_path / "out" / folder.TRACE)
    assert trace.counts.tolist() == [list(layer.expert_counts) for layer in evaluation.layers]
    assert trace.topk_ids.shape == (2, evaluation.num_tokens, 2)
    assert {str(token_id) for token_id in trace.token_ids.tolist()} == set(trace.metadata["token_strings"])


def test_expert_choice_is_measured_both_ways(tmp_path):
    evaluation = run(tmp_path / "ec", tiny_config(router="expert_choice", balance="off")).evaluation
    assert evaluation.training_mode_loss not in (None, evaluation.loss)
    assert all(0.0 <= layer.training_disagreement <= 1.0 for layer in evaluation.layers)
    plain = run(tmp_path / "plain", tiny_config()).evaluation
    assert plain.training_mode_loss is None
    assert all(layer.training_disagreement is None for layer in plain.layers)


def test_a_device_that_is_not_there_says_so():
    require_trainable(tiny_config())
    with pytest.raises(InputError, match=r"^device \(='abacus'\) can't be used: .*; 'cpu' always can$"):
        require_trainable(tiny_config(device="abacus"))


def test_a_folder_with_a_run_is_not_started_again(tmp_path):
    folder.start_run(tmp_path / "out", tiny_config())
    with pytest.raises(ArtifactError) as caught:
        folder.start_run(tmp_path / "out", tiny_config())
    message = f"{tmp_path / 'out'} already holds a run; go on with it by --resume, or choose another --out"
    assert str(caught.value) == message


def test_a_folder_with_other_files_is_left_alone(tmp_path):
    (tmp_path / "thesis.tex").write_text("")
    with pytest.raises(ArtifactError, match=r"holds other files \(thesis.tex, for one\); choose a new or empty folder"):
        folder.start_run(tmp_path, tiny_config())


def test_a_file_in_the_folders_place(tmp_path):
    (tmp_path / "out").write_text("")
    with pytest.raises(
        ArtifactError, match=r"^can't use .*out: Not a directory; choose a path whose parents are folders$"
    ):
        folder.start_run(tmp_path / "out", tiny_config())


def test_nothing_to_resume(tmp_path):
    with pytest.raises(
        ArtifactError, match=r"holds no run to resume; leave out --resume to start one, or name its fold"
    ):
        folder.reopen_run(tmp_path, {})


def test_resuming_with_other_options_names_them(tmp_path):
    folder.start_run(tmp_path / "out", tiny_config())
    assert folder.reopen_run(tmp_path / "out", {"num_experts": 4}) == tiny_config()
    with pytest.raises(ArtifactError, match=r"config.json is of another run: training.seed \(0 there, 5 here\); leave"):
        folder.reopen_run(tmp_path / "out", {"seed": 5})


@pytest.mark.parametrize("text", ["{", "[]"])
def test_a_damaged_config_says_so(tmp_path, text):
    (tmp_path / folder.CONFIG).write_text(text)
    with pytest.raises(ArtifactError, match=r"config.json is damaged \(.*\); choose another --out$"):
        folder.reopen_run(tmp_path, {})


def test_the_learning_rate_rises_and_falls():
    config = tiny_config(steps=10, warmup_steps=2, learning_rate=1.0).training
    rates = [learning_rate(step, config) for step in range(10)]
    assert rates[:3] == [0.5, 1.0, 1.0]
    assert rates[2:] == sorted(rates[2:], reverse=True)
    # Half way down the cosine: the mean of the peak and a tenth of it.
    assert rates[6] == pytest.approx(0.55)


def test_a_run_leaves_a_sample_with_everything_that_can_be_recorded(tmp_path):
    finished = run(tmp_path, tiny_config())
    whole, sample = load_trace(tmp_path / folder.TRACE), load_trace(tmp_path / folder.SAMPLE)
    # 128 sequences of 16 tokens, from the first to the last at even distances.
    sequences = torch.linspace(0, len(whole.seq_offsets) - 2, 128).round().long()
    places = (whole.seq_offsets[sequences][:, None] + torch.arange(16)).flatten()
    assert len(whole.seq_offsets) - 1 > 128
    assert torch.equal(sample.token_ids, whole.token_ids[places])
    assert torch.equal(sample.topk_ids, whole.topk_ids[:, places])
    # In half precision logits may tie, so not argmax.
    best = sample.router_logits.gather(-1, sample.topk_ids[..., :1]).squeeze(-1)
    assert torch.equal(best, sample.router_logits.amax(-1))
    assert sample.contribution_norms.isfinite().all()
    # Rounding in float32, where a sum is much shorter than its parts.
    assert (sample.sum_error < 1e-4).all()
    assert sample.metadata["created"].endswith("+00:00")
    assert sample.metadata["dtype"] == "float32"
    assert sample.metadata["backends"]["prompt"] in ("native", "torch")
    assert sample.metadata["token_strings"].keys() == {str(token) for token in sample.token_ids.tolist()}
    shape = RecordedShape.from_metadata(sample.metadata)
    assert shape == RecordedShape.from_metadata(whole.metadata)
    assert (shape.num_layers, shape.d_model) == (2, 16)
    assert shape.num_parameters == finished.evaluation.parameters.total


def test_a_dense_run_leaves_no_sample(tmp_path):
    run(tmp_path, tiny_config(feed_forward="dense", balance="off"))
    assert not (tmp_path / folder.SAMPLE).exists()
