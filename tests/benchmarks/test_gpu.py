"""The GPU's benchmark, gone through on a CPU; and what it decides by itself."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import gpu
import pytest
import torch
import typer
from support import gpu_cases, gpu_checks, rivals
from support.device_clock import DeviceClock
from support.gpu_cases import (
    GPU_SHAPES,
    TINY_SHAPES,
    GpuCase,
    Roster,
    fit_shape,
    order_cases,
    time_case,
)
from support.problem import make_problem, make_weights
from typer.testing import CliRunner

from headgate.kernels.function import ExpertFunction

pytest.importorskip("transformers")

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")
CASE = GpuCase(shape="tiny", routing="uniform", tokens=3, is_trained=False)


def tiny_problem(*, is_trained=False):
    weights = make_weights(TINY_SHAPES["tiny"], torch.float32, is_trained=is_trained)
    return make_problem(TINY_SHAPES["tiny"], weights, num_tokens=3, routing="uniform")


def make_run(tmp_path, monkeypatch, budget_s=100.0) -> gpu.Run:
    monkeypatch.setattr("support.report.RESULTS", tmp_path)
    return gpu.Run("tried", DeviceClock(CPU), budget_s)


def time_tiny(run: gpu.Run, without: tuple[str, ...] = ()) -> None:
    gpu.run_times(run, DeviceClock(CPU), TINY_SHAPES, without, is_tiny=True)


def run_script(script: str, *options: str, **environment: str) -> tuple[str, dict]:
    """What it printed, and what it wrote."""
    name = f"gpu-tried-{os.getpid()}"
    file = ROOT / "benchmarks" / "results" / f"{name}.json"
    command = [sys.executable, script, *options, name]
    environment = os.environ | {"PYTHONPATH": str(ROOT / "benchmarks")} | environment
    try:
        result = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, check=False, timeout=300, env=environment
        )
        assert result.returncode == 0, result.stdout + result.stderr
        return result.stdout, json.loads(file.read_text(encoding="utf-8"))
    finally:
        file.unlink(missing_ok=True)


def assert_all_is_right(written: dict) -> None:
    assert all(check["holds"] is not False for check in written["checks"])
    for row in written["rows"]:
        assert {"headgate", "eager", "grouped_mm", "torch.compile"} <= set(row["median_ms"])
        assert row["is_right"]
        assert set(row["left_out"]) == {"vllm", "scattermoe", "megablocks", "sonicmoe"}


def test_the_whole_script_goes_through_on_a_cpu():
    printed, written = run_script("benchmarks/gpu.py", "--check", "--time", "--dry-run", "--name")
    assert len(printed) < 12_000
    assert "no GPU: a dry run, whose times mean nothing" in printed
    assert {check["name"] for check in written["checks"] if check["holds"] is None} == {
        "no host synchronisation",
        "no host synchronisation, with a capacity",
        "CUDA graph of a decode step",
        "CUDA graph of a decode step, with a capacity",
    }
    assert_all_is_right(written)
    assert len(written["rows"]) == len(order_cases(["tiny"], is_tiny=True))


def test_no_line_runs_on_a_gpu_for_the_first_time():
    """Events, graphs, waiting and memory, on a GPU that is the CPU, with the kernels that a GPU has."""
    pytest.importorskip("triton", reason="Triton is not installed")
    printed, written = run_script("tests/benchmarks/pretended_gpu.py", TRITON_INTERPRET="1")
    assert printed.startswith("a pretended GPU; torch ")
    assert all(check["holds"] for check in written["checks"])
    assert_all_is_right(written)
    inference, training = written["rows"]
    assert "headgate, graph" in inference["median_ms"]
    assert training["is_trained"]
    assert all(row["peak_memory_bytes"]["headgate"] == 1 << 20 for row in written["rows"])


def test_the_most_important_cases_come_first_and_each_once():
    cases = order_cases(list(GPU_SHAPES), is_tiny=False)
    assert len(set(cases)) == len(cases)
    assert {case.tokens for case in cases if not case.is_trained} == {1, 4, 16, 64, 256, 1024, 4096, 16384}
    first = cases[: 3 * len(GPU_SHAPES)]
    assert {(case.shape, case.tokens) for case in first} == {(s, t) for s in GPU_SHAPES for t in (1, 64, 4096)}


def test_a_shape_has_fewer_experts_where_memory_asks():
    shape = GPU_SHAPES["deepseek"]
    sizes = {memory: fit_shape(shape, torch.bfloat16, memory << 30, is_trained=False) for memory in (8, 80)}
    assert sizes[80] == shape
    assert sizes[8].num_experts == 32
    assert fit_shape(shape, torch.bfloat16, 80 << 30, is_trained=True).num_experts == 128
    assert fit_shape(shape, torch.bfloat16, 1, is_trained=True).num_experts == 16


def test_what_the_budget_does_not_allow_is_dropped_and_named(tmp_path, monkeypatch, capsys):
    run = make_run(tmp_path, monkeypatch, budget_s=0.0)
    monkeypatch.setattr(gpu, "time_one", lambda *a, **k: pytest.fail("no time is left for it"))
    monkeypatch.setattr(gpu, "list_checks", lambda *a: [lambda: pytest.fail("nor for a check")] * 3)
    run.budget_s = -1.0
    gpu.run_checks(run, CPU, is_tiny=True)
    time_tiny(run)
    gpu.show(run)
    assert len(run.dropped) == len(order_cases(["tiny"], is_tiny=True))
    printed = capsys.readouterr().out
    assert "left over by a budget of -1 s, for --resume: tiny uniform infer 1, tiny uniform infer 4," in printed
    assert "3 more checks were left out" in printed
    assert len(json.loads((tmp_path / "tried.json").read_text())["dropped"]) == len(run.dropped)


def test_ratios_are_to_the_best_rival_and_to_the_default():
    found = gpu.compare({"headgate": 2.0, "headgate, graph": 1.0, "eager": 9.0, "grouped_mm": 5.0, "vllm": 3.0})
    over = {"eager": 4.5, "grouped_mm": 2.5, "vllm": 1.5}
    assert found == {"over_ours": over, "best_rival": "vllm", "best_over_ours": 1.5, "default_over_ours": 2.5}
    alone = gpu.compare({"headgate": 2.0, "headgate, graph": 1.0})
    assert alone == {"over_ours": {}, "best_rival": None, "best_over_ours": None, "default_over_ours": None}


def test_training_reads_the_weights_twice_and_writes_their_gradients():
    forward, training = (gpu_cases.count_work(tiny_problem(), is_trained=is_trained) for is_trained in (False, True))
    shape = TINY_SHAPES["tiny"]
    assert training.flops == 3 * forward.flops
    assert training.num_bytes == 2 * forward.num_bytes + shape.num_experts * shape.weights_per_expert * 4


def test_a_failing_check_and_a_wrong_result_are_told(tmp_path, monkeypatch, capsys):
    run = make_run(tmp_path, monkeypatch)
    run.checks = [gpu_checks.Check(name="two runs", holds=False, detail="x")]
    gpu.show(run)
    assert "checks: 0 of 1 hold\n  FAILS: two runs: x" in capsys.readouterr().out


def test_wrong_gradients_fail_the_check(monkeypatch):
    size = gpu.TINY[1]
    assert gpu_checks.check_experts(CPU, size, torch.float32, "silu", biased=True).holds
    exact = gpu_checks.exact_experts
    monkeypatch.setattr(gpu_checks, "exact_experts", lambda *a: exact(*a) * 1.001)
    assert not gpu_checks.check_experts(CPU, size, torch.float32, "silu", biased=True).holds


@pytest.mark.parametrize("name", gpu_checks.FUNCTIONS)
def test_every_function_is_exact_in_float64_terms(name):
    assert gpu_checks.check_experts(CPU, gpu.TINY[1], torch.float32, name, biased=False).holds


def test_a_wrong_choice_fails_the_check(monkeypatch):
    import headgate

    size = gpu.TINY[1]
    assert gpu_checks.check_routers(CPU, size, torch.float32).holds
    forward = headgate.Router.forward

    def choose_twice(self, x):
        routing = forward(self, x)
        ids = routing.choice.expert_ids[:, :1].expand_as(routing.choice.expert_ids)
        return dataclasses.replace(routing, choice=dataclasses.replace(routing.choice, expert_ids=ids))

    monkeypatch.setattr(headgate.Router, "forward", choose_twice)
    check = gpu_checks.check_routers(CPU, size, torch.float32)
    assert not check.holds
    assert "wrong choice or plan: mixtral, qwen3_moe" in check.detail


@pytest.mark.parametrize("name", ["vllm", "scattermoe", "megablocks", "sonicmoe"])
def test_a_rival_that_is_not_there_says_so(name):
    assert rivals.find_rival(name, tiny_problem()) == f"not installed ({name})"


def test_without_transformers_its_implementations_say_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "transformers.models.olmoe.modeling_olmoe", None)
    assert rivals.find_rival("grouped_mm", tiny_problem()).startswith("not installed (transformers.models.olmoe")


def test_a_rival_without_gradients_and_one_that_fails_say_so(monkeypatch):
    assert rivals.find_rival("vllm", tiny_problem(is_trained=True)) == "has no gradients"
    monkeypatch.setitem(rivals.RIVALS, "vllm", lambda _: 1 / 0)
    assert rivals.find_rival("vllm", tiny_problem()) == "fails: ZeroDivisionError: division by zero"


def rival(run):
    return lambda problem: rivals._contender("made up", problem, lambda: run(problem))


@pytest.mark.parametrize(
    ("run", "why"),
    [
        (lambda problem: problem.x * 0, "wrong by 1.0e+00, more than"),
        (lambda problem: problem.x[99], "fails: IndexError"),
    ],
)
def test_a_rival_that_is_wrong_or_fails_gets_no_time(run, why, monkeypatch):
    monkeypatch.setitem(rivals.RIVALS, "made up", rival(run))
    record = time_case(CASE, TINY_SHAPES["tiny"], DeviceClock(CPU), Roster(), dtype=torch.float32, seconds=0.0)
    assert "made up" not in record["median_ms"]
    assert record["left_out"]["made up"].startswith(why)


def test_a_rival_that_starts_slowly_is_left_out_from_the_next_case_on(monkeypatch):
    monkeypatch.setattr(gpu_cases, "PATIENCE_S", 0.0)
    monkeypatch.setattr(gpu_cases, "RIVALS", {})
    roster = Roster()
    options = {"dtype": torch.float32, "seconds": 0.0}
    first = time_case(CASE, TINY_SHAPES["tiny"], DeviceClock(CPU), roster, **options)
    assert set(first["median_ms"]) == {"headgate", "grouped_mm", "eager", "batched_mm"}
    second = time_case(CASE, TINY_SHAPES["tiny"], DeviceClock(CPU), roster, **options)
    assert set(second["median_ms"]) == {"headgate", "grouped_mm"}
    assert set(second["left_out"]) == {"eager", "batched_mm"}
    assert second["left_out"]["eager"] == "slow: 0 s of first calls in all"


@pytest.fixture
def _without_rivals(monkeypatch):
    monkeypatch.setattr(gpu_cases, "RIVALS", {})


@pytest.mark.usefixtures("_without_rivals")
def test_a_run_goes_on_with_what_another_left(tmp_path, monkeypatch, capsys):
    first = make_run(tmp_path, monkeypatch)
    first.checks = [gpu_checks.Check(name="two runs", holds=True, detail="x")]
    time_tiny(first, without=("eager",))
    assert len(first.cases) == len(order_cases(["tiny"], is_tiny=True))
    assert first.cases[0]["left_out"] == {"eager": "left out, as asked"}
    first.cases.pop()
    first.write()
    second = make_run(tmp_path, monkeypatch)
    gpu.take_up(second)
    assert second.checks == first.checks
    assert second.cases == json.loads(json.dumps(first.cases))
    time_tiny(second)
    assert len(second.cases) == len(first.cases) + 1
    assert second.is_sound
    gpu.show(second)
    assert "  eager: left out, as asked" in capsys.readouterr().out


def test_a_run_goes_on_only_where_nothing_has_changed(tmp_path, monkeypatch):
    run = make_run(tmp_path, monkeypatch)
    with pytest.raises(typer.BadParameter, match="does not exist: there is nothing to go on with; leave out --resume"):
        gpu.take_up(run)
    run.setting["torch"] = "1.0"
    run.write()
    with pytest.raises(typer.BadParameter, match=r"is of torch 1\.0 \(now .*leave out --resume"):
        gpu.take_up(make_run(tmp_path, monkeypatch))


@pytest.mark.usefixtures("_without_rivals")
def test_a_case_that_fails_is_told_and_the_others_go_on(tmp_path, monkeypatch, capsys):
    run, real = make_run(tmp_path, monkeypatch), gpu.time_one

    def time_one(run, case, *arguments, **options):
        return 1 / 0 if case.tokens == 1 else real(run, case, *arguments, **options)

    monkeypatch.setattr(gpu, "time_one", time_one)
    time_tiny(run)
    assert len(run.cases) == len(order_cases(["tiny"], is_tiny=True)) - 1
    assert not run.is_sound
    gpu.show(run)
    assert "  FAILS: tiny uniform infer 1: ZeroDivisionError: division by zero" in capsys.readouterr().out


def test_a_device_that_is_lost_ends_the_run(tmp_path, monkeypatch):
    monkeypatch.setattr(gpu_cases, "RIVALS", {"made up": None})
    monkeypatch.setitem(rivals.RIVALS, "made up", rival(lambda problem: problem.x[99]))
    monkeypatch.setattr(DeviceClock, "is_lost", lambda _: True)
    run = make_run(tmp_path, monkeypatch)
    time_tiny(run)
    (why,) = run.failures.values()
    assert why.startswith("made up: IndexError: ")
    assert why.endswith("run again with --resume --without made up")
    assert len(run.dropped) == len(order_cases(["tiny"], is_tiny=True)) - 1


def test_gates_are_those_of_the_formula():
    z = torch.tensor([[1.0, 9.0, -2.0, -8.0]])
    function = ExpertFunction(interleaved=True, clamp=7.0, up_offset=1.0)
    gate, up = torch.tensor([[1.0, -2.0]]), torch.tensor([[8.0, -6.0]])
    torch.testing.assert_close(gpu_checks._activate(z, function), gate * gate.sigmoid() * up)


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([], 2, "nothing to do; pass --check, --time, or both"),
        (["--time", "--shape", "gpt"], 2, "shape (=gpt) must be one of olmoe, qwen3, mixtral, deepseek"),
        (["--time"], 0, "nothing to measure: PyTorch sees no CUDA device; --dry-run goes through it all on the CPU"),
    ],
)
def test_where_there_is_nothing_to_do_it_says_so(arguments, code, said, monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    app = typer.Typer()
    app.command()(gpu.main)
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "120"})
    assert result.exit_code == code
    assert said in result.output
