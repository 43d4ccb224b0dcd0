import importlib.metadata
import runpy

import pytest
from typer.testing import CliRunner

from headgate.cli import app as cli
from headgate.cli import main
from headgate.errors import ArtifactError


def run(*arguments):
    return CliRunner().invoke(cli.app, arguments)


def test_the_version():
    result = run("--version")
    assert (result.exit_code, result.stdout) == (0, f"headgate {importlib.metadata.version('headgate')}\n")


def test_an_unknown_verb_is_a_usage_error():
    result = run("floodgate")
    assert result.exit_code == 2
    assert result.stdout == ""
    assert "No such command 'floodgate'" in result.stderr


def test_no_verb_shows_the_help():
    result = run()
    assert result.exit_code == 2
    assert "doctor" in result.output


@pytest.fixture
def fails(monkeypatch):
    def install(error):
        def app():
            raise error

        monkeypatch.setattr(cli, "app", app)

    return install


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (ArtifactError("model [x] is not there;\n  give a folder"), "model [x] is not there; give a folder"),
        (FileNotFoundError(2, "No such file", "x.json"), "[Errno 2] No such file: 'x.json'"),
    ],
)
def test_what_a_user_can_cause_is_one_line(fails, capsys, error, line):
    fails(error)
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    out, err = capsys.readouterr()
    assert (out, err) == ("", f"error: {line}\n")


def test_a_defect_keeps_its_traceback(fails):
    fails(ZeroDivisionError("a defect"))
    with pytest.raises(ZeroDivisionError):
        main()


def test_a_reader_that_leaves_is_no_error_message(fails, monkeypatch, capsys):
    fails(BrokenPipeError())
    monkeypatch.setattr("sys.stderr", type("Stream", (), {"close": staticmethod(lambda: None)}))
    with pytest.raises(SystemExit) as caught:
        main()
    assert caught.value.code == 1
    assert capsys.readouterr().out == ""


def test_python_m_headgate_is_the_command(monkeypatch, capsys):
    monkeypatch.setattr("sys.argv", ["headgate", "--version"])
    with pytest.raises(SystemExit) as caught:
        runpy.run_module("headgate", run_name="__main__")
    assert caught.value.code == 0
    assert capsys.readouterr().out == f"headgate {importlib.metadata.version('headgate')}\n"
