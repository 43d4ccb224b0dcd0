import dataclasses
import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from headgate.cli.app import app
from headgate.cli.doctor import findings, print_report
from headgate.kernels import backends, native
from headgate.kernels.native import NativeLibrary
from headgate.planning.machine import (
    GpuStatus,
    backend_table,
    describe_machine,
)


@pytest.fixture
def no_library(monkeypatch):
    monkeypatch.setattr(native, "native_library", lambda: NativeLibrary(why_missing="a test hides it"))


def run(*arguments, **environment):
    return CliRunner().invoke(app, ["doctor", *arguments], env={"COLUMNS": "100", **environment})


def printed(report, **options):
    console = Console(width=100, record=True, **options)
    with console.capture() as capture:
        print_report(report, console)
    return capture.get()


def describe_gpu_machine(*, has_triton: bool):
    """What `describe_machine` would say of this machine with an H100 in it."""
    gpu = GpuStatus(index=0, name="NVIDIA H100 80GB HBM3", capability="9.0", memory_bytes=85_017_493_504)
    report = describe_machine()
    packages = [
        dataclasses.replace(package, version="3.6.0" if has_triton else None) if package.name == "triton" else package
        for package in report.packages
    ]
    return dataclasses.replace(report, gpus=(gpu,), packages=tuple(packages), backends=backend_table(["cpu", "cuda"]))


def test_on_a_machine_with_a_gpu_it_shows_what_runs_there(monkeypatch):
    monkeypatch.setattr(backends, "has_triton", lambda: True)
    report = describe_gpu_machine(has_triton=True)
    text = printed(report)
    assert "NVIDIA H100 80GB HBM3, 79 GiB, capability 9.0" in text
    for op in ("route", "plan", "experts"):
        row = next(line for line in text.splitlines() if line.split()[:2] == [op, "cuda"])
        assert "triton" in row
    assert "triton 3.6.0" in text
    assert not any("Triton" in finding for finding in findings(report))


def test_a_gpu_without_triton_is_a_finding(monkeypatch):
    monkeypatch.setattr(backends, "has_triton", lambda: False)
    report = describe_gpu_machine(has_triton=False)
    assert findings(report)[-1] == (
        "A GPU, but no Triton: kernels run one by one there. To get it, pip install 'headgate[gpu]'."
    )
    rows = {(row.op, row.device): row.backend for row in report.backends}
    assert [rows[op, "cuda"] for op in ("route", "plan", "experts")] == ["torch"] * 3


def test_json_is_on_stdout_and_nothing_else_is():
    result = run("--json")
    assert result.exit_code == 0
    assert json.loads(result.stdout) == json.loads(json.dumps(describe_machine().to_dict()))
    assert result.stderr == ""


def test_the_json_of_a_machine_without_the_library_says_why_and_what_to_do(no_library):
    report = json.loads(run("--json").stdout)
    assert report["native"] == {
        "path": None,
        "abi_version": native.ABI_VERSION,
        "why_missing": "a test hides it",
        "remedy": native.HOW_TO_GET,
    }
    plans = [row for row in report["backends"] if row["op"] == "plan" and row["device"] == "cpu"]
    assert [row["backend"] for row in plans] == ["torch"]


def test_the_text_names_every_fact():
    result = run()
    report = describe_machine()
    assert result.exit_code == 0
    for word in (report.headgate, report.python, report.cpu.name, "plan", "experts", "combine", "torch"):
        assert word in result.stdout
    for package in report.packages:
        assert package.name in result.stdout


def test_quiet_prints_only_what_is_wrong(no_library):
    result = run("-q")
    assert result.exit_code == 0
    assert result.stdout == f"! No native library: a test hides it. To get it, {native.HOW_TO_GET}.\n"


@pytest.mark.skipif(native.library() is None, reason=f"native library: {native.why_missing()}")
def test_quiet_is_silent_when_all_is_well():
    assert findings(describe_machine()) == []
    assert run("--quiet").stdout == ""


def test_no_escape_codes_outside_a_terminal():
    assert "\x1b" not in run().stdout


def test_no_color_is_obeyed_on_a_terminal():
    report = describe_machine()
    assert "\x1b[32m" in printed(report, force_terminal=True, color_system="standard", no_color=False)
    assert "\x1b[32m" not in printed(report, force_terminal=True, color_system="standard", no_color=True)


def test_the_text_shows_gpus_and_missing_packages():
    report = describe_machine()
    gpu = GpuStatus(index=0, name="Imaginary 9000", capability="9.0", memory_bytes=80 * 2**30)
    packages = tuple(dataclasses.replace(package, version=None) for package in report.packages)
    shown = printed(
        dataclasses.replace(report, gpus=(gpu,), packages=packages, backends=backend_table(["cpu", "cuda"]))
    )
    assert "Imaginary 9000, 80 GiB, capability 9.0" in shown
    assert "pip install 'headgate[demo,gpu,observe,transformers]'" in shown
    assert "cuda     int64" in shown


def test_the_text_shows_a_processor_without_known_features():
    report = describe_machine()
    cpu = dataclasses.replace(report.cpu, features={}, torch_capability="DEFAULT")
    shown = printed(dataclasses.replace(report, cpu=cpu))
    assert "torch uses DEFAULT" in shown
    assert "avx2" not in shown


def test_the_text_shows_that_the_library_is_missing(no_library):
    shown = run().stdout
    assert "missing (see below)" in shown
    assert "! No native library: a test hides it." in shown
