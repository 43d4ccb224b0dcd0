import io
import json
import re

import pytest
from rich.console import Console

from headgate.demo import folder, run
from headgate.demo.launch import Launch, new_config, run_comparison, run_single
from headgate.demo.run import Stopped
from tiny_demo import TINY, documents

SIX_STEPS = ("1. token in", "2. router scores", "3. pick top-k", "4. experts run", "5. in parallel", "6. combine")


@pytest.fixture(autouse=True)
def small_text(monkeypatch):
    monkeypatch.setattr(run, "read_documents", documents)


def launch(out, *, quiet=False, resume=False, stop=False, **options):
    results, notes = (Console(file=io.StringIO(), width=100) for _ in range(2))
    made = Launch(
        out=out,
        options={**TINY, **options},
        resume=resume,
        results=results,
        notes=notes,
        is_quiet=quiet,
        should_stop=lambda: stop,
    )
    return made, results.file, notes.file


def test_the_report_tells_the_whole_story(tmp_path):
    asked, results, notes = launch(tmp_path / "out")
    summary = run_single(asked)
    text = results.getvalue()
    assert summary["loss"] == json.loads((tmp_path / "out" / folder.SUMMARY).read_text())["loss"]
    for title in ("How good is the model?", "Did the experts share the work?", "Who worked on what? Layer 1"):
        assert title in text
    assert f"{summary['loss']:.3f}" in text
    assert f"{summary['unigram_loss']:.3f}" in text
    for layer, finding in enumerate(summary["layers"]):
        assert f"layer {layer}: {finding['health']['verdict']}: " in text
    assert [text.index(step) for step in SIX_STEPS] == sorted(text.index(step) for step in SIX_STEPS)
    assert text.count("<- picked") == 2
    assert "checked: the layer itself put out the same vector" in text
    assert "step 12/12" in notes.getvalue()
    assert "\x1b" not in text + notes.getvalue()


def test_a_model_that_learned_nothing_is_called_so(tmp_path):
    asked, results, _ = launch(tmp_path / "out", steps=1, learning_rate=1e-9)
    run_single(asked)
    assert "The model does not beat guessing by frequency yet; train for more steps (--steps)." in results.getvalue()


def test_the_numbers_of_the_walk_add_up(tmp_path):
    asked, results, _ = launch(tmp_path / "out")
    run_single(asked)
    line = next(line for line in results.getvalue().splitlines() if " * " in line and " = " in line)
    terms = re.findall(r"([\d.]+) \* \(?(-?[\d.]+)\)?", line)
    total = float(line.rsplit("= ", 1)[1])
    assert sum(float(weight) * float(value) for weight, value in terms) == pytest.approx(total, abs=2e-4)
    assert sum(float(weight) for weight, _ in terms) == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"router": "expert_choice"}, "In training this router compares tokens with each other, later ones included"),
        ({"router": "hash"}, "a fixed table of token ids decides"),
        ({"router": "deepseek_v3"}, "after adding a bias that keeps the load even"),
        ({"router": "deepseek_v3"}, "(shared)"),
        ({"router": "llama4"}, "this router's weights went into the experts' inputs"),
        ({"router": "top_p"}, "The best are kept until their shares reach 0.4 together"),
        ({"router": "threshold"}, "Those that reach 0.5 are kept"),
        ({"router": "switch", "capacity": 0.5}, "were dropped because the expert was full"),
        ({"num_experts": 64}, "and 48 with lower scores"),
    ],
)
def test_other_routers_are_told_in_their_own_words(tmp_path, options, said):
    asked, results, _ = launch(tmp_path / "out", **options)
    run_single(asked)
    text = " ".join(results.getvalue().split())
    assert said in text
    assert all(step in text for step in SIX_STEPS)


def test_quiet_is_one_line(tmp_path):
    asked, results, notes = launch(tmp_path / "out", quiet=True)
    run_single(asked)
    assert notes.getvalue() == ""
    (line,) = results.getvalue().splitlines()
    assert re.match(r"held-out loss \d\.\d{3} nats/token \(unigram \d\.\d{3}\); routing \w+, \w+; ", line)


def test_a_run_stops_and_goes_on(tmp_path):
    asked, results, _ = launch(tmp_path / "out", stop=True)
    assert run_single(asked) == Stopped(step=1)
    assert results.getvalue() == ""
    asked, results, notes = launch(tmp_path / "out", resume=True)
    run_single(asked)
    assert "Going on from" in notes.getvalue()
    assert "step-00000001" in notes.getvalue()


def test_a_comparison_has_three_arms(tmp_path):
    asked, results, _ = launch(tmp_path / "out")
    found = run_comparison(asked)
    assert [arm["name"] for arm in found["arms"]] == ["balanced", "unbalanced", "dense"]
    balanced, unbalanced, dense = found["arms"]
    assert balanced["total_parameters"] == unbalanced["total_parameters"] > dense["total_parameters"]
    assert (dense["load_ratio"], dense["dead_experts"]) == (None, None)
    assert abs(dense["active_parameters"] - balanced["active_parameters"]) <= 2 * 3 * 16 / 2
    assert found["num_seeds"] == 1
    text = " ".join(results.getvalue().split())
    for part in ("The same budget, three ways", "'switch' balances the first", "This is one seed (0)"):
        assert part in text
    assert json.loads((tmp_path / "out" / folder.SUMMARY).read_text()) == found


def test_a_comparison_stops_and_goes_on(tmp_path):
    asked, _, _ = launch(tmp_path / "out", stop=True)
    assert run_comparison(asked) == Stopped(step=1)
    asked, _, _ = launch(tmp_path / "out", resume=True)
    found = run_comparison(asked)
    whole, _, _ = launch(tmp_path / "whole")
    assert [arm["loss"] for arm in found["arms"]] == [arm["loss"] for arm in run_comparison(whole)["arms"]]


def test_the_balance_follows_from_the_router():
    assert new_config({}).model.balance == "switch"
    assert new_config({"router": "deepseek_v3"}).model.balance == "bias"
    assert new_config({"router": "deepseek_v3", "balance": "off"}).model.balance == "off"
