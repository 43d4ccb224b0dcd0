import dataclasses
import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from headgate.cli.app import app
from headgate.cli.doctor import findings, print_report
from headgate.kernels import native
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
    assert "pip install 'headgate[demo,observe,transformers]'" in shown
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
