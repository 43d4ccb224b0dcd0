"""The example's claim: without replay the precisions choose other experts; with it they do not."""

import importlib.util
import sys
from pathlib import Path

PATH = Path(__file__).parents[2] / "examples" / "policy_gradient.py"


def load(monkeypatch):
    spec = importlib.util.spec_from_file_location("policy_gradient", PATH)
    module = importlib.util.module_from_spec(spec)
    # Its dataclasses look their module up.
    monkeypatch.setitem(sys.modules, "policy_gradient", module)
    spec.loader.exec_module(module)
    return module


def test_replay_takes_the_rollouts_experts(monkeypatch):
    example = load(monkeypatch)
    monkeypatch.setattr(example, "BATCH", 4)
    monkeypatch.setattr(example, "LENGTH", 16)
    (free,), (replayed,) = (example.train(replays=replays, steps=1) for replays in (False, True))
    assert free.reward == replayed.reward  # The same rollout.
    assert free.changed_fraction > 0
    assert replayed.changed_fraction == 0
    assert replayed.mean_log_ratio < free.mean_log_ratio
