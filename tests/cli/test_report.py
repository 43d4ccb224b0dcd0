"""report and plot: what they write and print, and what they refuse."""

import json
import os
import signal
import subprocess
import sys
import urllib.request
from pathlib import Path

import pytest
from transformers import MixtralConfig
from typer.testing import CliRunner

from headgate.cli import app as cli
from headgate.errors import ArtifactError, InputError
from headgate.observe.writer import save_trace
from page_reader import read_page
from tiny_demo import run, tiny_config
from traces import random_trace


def invoke(*arguments):
    result = CliRunner().invoke(cli.app, [str(argument) for argument in arguments])
    if result.exception and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


@pytest.fixture
def trace(tmp_path):
    save_trace(tmp_path / "a.safetensors", random_trace(drop=0, lengths=(100, 80)))
    return tmp_path / "a.safetensors"


def test_a_page_is_written_and_its_place_and_size_said(trace, tmp_path):
    out = tmp_path / "out.html"
    result = invoke("report", trace, "-o", out, "--title", "A <title>")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.startswith("healthy. In all 3 layers the experts share the work;")
    said = " ".join(result.stdout.split())
    assert f"wrote {out} ({out.stat().st_size / 1e6:.2f} MB)" in said
    found = read_page(out.read_bytes())
    assert (found["title"], found["traces"][0]["name"], found["comparison"]) == ("A <title>", "a", None)
    assert "replaced" in invoke("report", trace, "-o", out).stdout


@pytest.fixture
def model(tmp_path):
    """A configuration whose routing is that of the trace."""
    sizes = {"hidden_size": 16, "intermediate_size": 8, "num_hidden_layers": 3, "vocab_size": 64}
    MixtralConfig(**sizes, num_attention_heads=2, num_local_experts=6).save_pretrained(tmp_path / "model")
    return tmp_path / "model"


def test_with_a_model_and_a_device_the_page_has_its_speed(trace, model, tmp_path):
    invoke("report", trace, trace, "-o", tmp_path / "out.html", "--model", model, "--device", "h200")
    found = [entry["speed"] for entry in read_page((tmp_path / "out.html").read_bytes())["traces"]]
    sized = json.loads(invoke("size", model, "--device", "h200", "--trace", trace, "--json").stdout)["speed"][
        "by_batch"
    ]
    wanted = [[one["batch"], one["tokens_per_s"], one["rank_bytes"], one["decode"]["bound"]] for one in sized]
    assert [speed["by_batch"] for speed in found] == [wanted, wanted]
    assert (found[0]["device"], found[0]["memory_bytes"]) == ("NVIDIA H200 SXM 141 GB", 141e9)


def test_a_speed_needs_model_and_device(trace, model, tmp_path):
    out = ("-o", tmp_path / "out.html")
    with pytest.raises(InputError, match=r"--model \(=None\) and --device \(=h200\) go together; give both"):
        invoke("report", trace, *out, "--device", "h200")
    with pytest.raises(InputError, match=r"has 3 layers, and the model 16 with experts; use a trace of this model"):
        invoke("report", trace, *out, "--device", "h200", "--model", "olmoe-1b-7b")


def test_quiet_prints_the_path_alone(trace, tmp_path):
    assert invoke("report", trace, "-o", tmp_path / "out.html", "-q").stdout == f"{tmp_path / 'out.html'}\n"


def test_json(trace, tmp_path):
    found = json.loads(invoke("report", trace, trace, "-o", tmp_path / "out.html", "--json").stdout)
    assert found["path"] == str(tmp_path / "out.html")
    assert found["num_bytes"] == (tmp_path / "out.html").stat().st_size
    assert found["is_replacement"] is False
    assert [entry["verdict"]["status"] for entry in found["traces"]] == ["healthy", "healthy"]
    assert [entry["name"] for entry in found["traces"]] == ["A", "B"]
    assert "overlap@2 is 1.0000" in found["comparison"]


def test_two_traces_are_named_by_what_tells_them_apart(trace, tmp_path):
    (tmp_path / "other").mkdir()
    for name in ("b.safetensors", "other/a.safetensors"):
        save_trace(tmp_path / name, random_trace(drop=0, lengths=(100, 80)))

    def names(second):
        invoke("report", trace, tmp_path / second, "-o", tmp_path / "out.html")
        return [entry["name"] for entry in read_page((tmp_path / "out.html").read_bytes())["traces"]]

    assert names("b.safetensors") == ["a", "b"]
    assert names("other/a.safetensors") == [tmp_path.name, "other"]


def test_what_is_no_trace_leaves_no_page(tmp_path):
    (tmp_path / "a.safetensors").write_bytes(b"no trace")
    with pytest.raises(ArtifactError, match=r"a\.safetensors"):
        invoke("report", tmp_path / "a.safetensors", "-o", tmp_path / "out.html")
    assert not (tmp_path / "out.html").exists()


def test_a_file_that_is_no_page_stays(trace, tmp_path):
    (tmp_path / "thesis.html").write_text("years of work")
    with pytest.raises(ArtifactError, match="is no page of Headgate, so it stays"):
        invoke("report", trace, "-o", tmp_path / "thesis.html")
    assert (tmp_path / "thesis.html").read_text() == "years of work"


def test_without_a_trace_it_is_that_of_the_demo(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ArtifactError, match=r"no run of the demo in runs.demo; name a trace, or train one with: headg"):
        invoke("report")
    run(Path("runs/demo"), tiny_config(steps=3))
    assert read_page(Path("runs/demo/page.html").read_bytes())["traces"][0]["name"] == "demo"
    assert invoke("report").exit_code == 0
    (entry,) = read_page(Path("page.html").read_bytes())["traces"]
    assert entry["name"] == "sample"
    assert entry["arrays"]["router_scores"].shape[0] == 2
    assert entry["size"]["total"] > entry["size"]["active"]
    assert entry["arrays"]["contribution_norms"].shape == entry["arrays"]["topk_ids"].shape


def test_watch_takes_one_run(trace):
    result = invoke("report", "--watch", trace, trace)
    assert result.exit_code == 2
    assert "follows one run" in result.stderr


def test_watch_serves_until_ctrl_c(tmp_path):
    (tmp_path / "metrics.jsonl").write_text(
        '{"step": 1, "loss": 2.5, "num_tokens": 4, "duration_s": 1, "expert_counts": [[1, 3]]}\n'
    )
    # What a shell starts in the background ignores Ctrl-C, and so does all that it starts; a terminal's doesn't.
    start = (
        "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); from headgate.cli import main; main()"
    )
    command = [sys.executable, "-c", start, "report", "--watch", str(tmp_path)]
    options = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "env": {**os.environ, "PYTHONUNBUFFERED": "1"}}
    with subprocess.Popen(command, text=True, **options) as process:
        try:
            url = process.stdout.readline().strip()
            with urllib.request.urlopen(f"{url}state", timeout=10) as answer:
                assert json.load(answer)["loss"] == 2.5
            with urllib.request.urlopen(url, timeout=10) as answer:
                assert b"connect-src 'self'" in answer.read()
            process.send_signal(signal.SIGINT)
            _, said = process.communicate(timeout=20)
        finally:
            process.kill()
    assert process.returncode == 0
    assert said == f"Following {tmp_path}, for this machine alone. Ctrl-C ends it.\n"


def test_plot(trace, tmp_path):
    pytest.importorskip("matplotlib")
    out = tmp_path / "load.svg"
    result = invoke("plot", trace, "--what", "load", "-o", out)
    assert (result.exit_code, result.stderr) == (0, "")
    assert " ".join(result.stdout.split()) == f"wrote {out} ({out.stat().st_size / 1e3:.0f} kB)"
    found = json.loads(invoke("plot", trace, trace, "--what", "diff", "-o", out, "--json").stdout)
    assert found == {"path": str(out), "num_bytes": out.stat().st_size}
    assert invoke("plot", trace, "--what", "margin", "-o", out, "-q").stdout == ""
    assert b"median" in out.read_bytes()


def test_plot_refuses(trace, tmp_path):
    pytest.importorskip("matplotlib")
    assert invoke("plot", trace, "--what", "weather").exit_code == 2
    with pytest.raises(InputError, match="give a second one"):
        invoke("plot", trace, "--what", "diff", "-o", tmp_path / "a.svg")
    with pytest.raises(InputError, match="must end in one of"):
        invoke("plot", trace, "-o", tmp_path / "a.txt")
