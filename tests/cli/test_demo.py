import json
import os
import signal
from collections.abc import Iterator

import pytest
from rich.console import Console
from typer.testing import CliRunner

from headgate.cli import app as cli
from headgate.cli import main
from headgate.cli.demo import stop_on_interrupt
from headgate.demo import launch, run
from headgate.demo.config import DemoConfig
from tiny_demo import TINY, documents


@pytest.fixture(autouse=True)
def tiny(monkeypatch, tmp_path):
    """Make the command's default model and text tiny, and run in an empty folder."""
    monkeypatch.setattr(run, "read_documents", documents)
    monkeypatch.setattr(launch, "DemoConfig", lambda: DemoConfig().with_options(TINY))
    monkeypatch.chdir(tmp_path)


def invoke(*arguments):
    return CliRunner().invoke(cli.app, ["demo", *arguments], catch_exceptions=False)


@pytest.fixture
def fails(monkeypatch, capsys):
    """Run the command as a user does; return its exit code and its one line on stderr."""

    def call(*arguments):
        monkeypatch.setattr("sys.argv", ["headgate", "demo", *arguments])
        with pytest.raises(SystemExit) as caught:
            main()
        out, err = capsys.readouterr()
        assert out == ""
        return caught.value.code, err.splitlines()[-1]

    return call


def test_the_demo_runs_and_resumes(monkeypatch):
    first = invoke()
    assert first.exit_code == 0
    assert "6. combine" in first.stdout
    assert "step 12/12" in first.stderr
    assert os.path.exists("runs/demo/summary.json")
    again = invoke("--resume")
    assert again.exit_code == 0
    assert again.stdout == first.stdout
    # What torchrun sets when it starts the same command again after a failure.
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert invoke("--steps", "12").stdout == first.stdout


def test_the_help_names_the_defaults():
    text = " ".join(invoke("--help").stdout.replace("\u2502", " ").split())
    plain = DemoConfig()
    for default in (plain.training.steps, plain.model.router, plain.model.num_experts, plain.training.seed):
        assert f"default {default}" in text


def test_json_has_stdout_for_itself():
    result = invoke("--json", "--steps", "3", "--out", "here")
    assert result.exit_code == 0
    summary = json.loads(result.stdout)
    assert summary["config"]["training"]["steps"] == 3
    assert "6. combine" in result.stderr
    assert json.loads(invoke("--json", "--compare", "--steps", "2").stdout)["num_seeds"] == 1
    assert os.path.exists("runs/compare/dense/summary.json")


def test_every_option_reaches_the_config():
    options = (
        "--router switch --experts 6 --top-k 1 --capacity 1.5 --balance global-batch --steps 2 --seed 3 --device cpu"
    )
    result = invoke("--json", "-q", *options.split())
    config = json.loads(result.stdout)["config"]
    assert (config["model"]["router"], config["model"]["num_experts"], config["model"]["top_k"]) == ("switch", 6, 1)
    assert (config["model"]["capacity"], config["model"]["balance"]) == (1.5, "global-batch")
    assert (config["training"]["steps"], config["training"]["seed"], config["training"]["device"]) == (2, 3, "cpu")


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        ("--router mixtrel", "error: preset (='mixtrel') is not known; did you mean mixtral"),
        (
            "--experts 4 --top-k 5",
            "error: preset 'mixtral': top_k (=5) must be at most the number of experts (=4); lower",
        ),
        ("--resume", "error: runs/demo holds no run to resume; leave out --resume to start one, or name its folder by"),
        ("--router expert_choice --balance switch", "error: balance ['switch'] has no use in expert choice"),
        ("--device abacus", "error: device (='abacus') can't be used: "),
    ],
)
def test_a_mistake_is_one_line(fails, arguments, line):
    code, said = fails(*arguments.split())
    assert code == 1
    assert said.startswith(line)


def test_a_mistake_leaves_no_folder(fails, tmp_path):
    for arguments in (
        "--router mixtrel",
        "--experts 4 --top-k 5",
        "--router expert_choice --balance switch",
        "--device x",
    ):
        fails(*arguments.split())
    assert os.listdir(tmp_path) == []


def test_a_folder_in_use_is_refused(fails):
    invoke("--steps", "1", "-q")
    assert fails("--steps", "1") == (
        1,
        "error: runs/demo already holds a run; go on with it by --resume, or choose another --out",
    )
    code, said = fails("--resume", "--experts", "16")
    assert code == 1
    assert said.startswith("error: runs/demo/config.json is of another run: model.num_experts (4 there, 16 here), rou")


@pytest.mark.skipif(os.geteuid() == 0, reason="nothing is read-only to root")
def test_a_read_only_folder(fails, tmp_path):
    (tmp_path / "locked").mkdir(mode=0o500)
    code, said = fails("--out", "locked/run")
    assert (code, said) == (
        1,
        "error: can't make folder locked/run: Permission denied; choose a folder that you may write to",
    )


def test_a_folder_that_can_not_be(fails):
    code, said = fails("--out", "/dev/null/run")
    assert code == 1
    assert said == "error: can't make folder /dev/null/run: Not a directory; choose a path whose parents are folders"


@pytest.mark.parametrize("arguments", ["--balance luck", "--experts 0", "--steps x", "--seed -1"])
def test_nonsense_is_a_usage_error(arguments):
    result = invoke(*arguments.split())
    assert (result.exit_code, result.stdout) == (2, "")


@pytest.fixture
def interruptible() -> Iterator[None]:
    """A shell's background job ignores interrupts, and so do these tests if they are run as one."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


@pytest.mark.usefixtures("interruptible")
def test_an_interrupt_saves_and_says_how_to_go_on(monkeypatch):
    real = run.train

    def interrupted(*args, **kwargs):
        for report in real(*args, **kwargs):
            if report.step == 4:
                os.kill(os.getpid(), signal.SIGINT)
            yield report

    with monkeypatch.context() as patch:
        patch.setattr(run, "train", interrupted)
        result = invoke("--out", "my run")
    assert result.exit_code == 1
    assert result.stdout == ""
    last = result.stderr.splitlines()[-1]
    assert last == "Stopped after step 4; it is saved. To go on: headgate demo --resume --out 'my run'"
    assert os.listdir("my run/checkpoints") == ["step-00000004"]
    assert invoke("--resume", "--out", "my run").exit_code == 0
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


@pytest.mark.usefixtures("interruptible")
def test_a_second_interrupt_is_not_held_back():
    with stop_on_interrupt(Console(quiet=True)) as should_stop:
        assert not should_stop()
        os.kill(os.getpid(), signal.SIGINT)
        assert should_stop()
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_a_run_is_exported_for_transformers(fails):
    assert invoke("-q").exit_code == 0
    result = invoke("--export", "hf")
    assert result.exit_code == 0
    assert "hf: MixtralForCausalLM" in result.stdout
    assert "headgate inspect hf" in result.stdout
    report = json.loads(invoke("--export", "hf", "--json").stdout)
    assert report["files"] == ["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    assert CliRunner().invoke(cli.app, ["inspect", "hf", "-q"]).stdout.startswith("0-1: 4 experts, 2 a token")
    assert len(invoke("--export", "hf", "-q").stdout.splitlines()) == 1
    assert fails("--export", "hf", "--steps", "3", "--resume") == (
        1,
        "error: steps, resume (given) are for training, and --export trains nothing; leave them out",
    )


def test_without_a_run_there_is_nothing_to_export(fails):
    code, line = fails("--export", "hf")
    assert code == 1
    assert line.endswith("runs/demo holds no run of the demo (config.json is missing); train one first: headgate demo")
