import importlib.metadata

import pytest

import headgate

HEAVY = {"torch", "numpy", "jaxtyping", "transformers", "scipy"}


def test_the_import_is_lazy(run_fresh):
    loaded = run_fresh("import sys, headgate; print(*sys.modules)").split()
    assert "headgate" in loaded
    assert not HEAVY & set(loaded)


def test_the_help_of_every_verb_is_lazy(run_fresh):
    source = """
import sys
from typer.testing import CliRunner
from headgate.cli.app import app
import typer.main
verbs = list(typer.main.get_command(app).commands)
for arguments in [["--help"], ["--version"], *([verb, "--help"] for verb in verbs)]:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
print(*sys.modules)
"""
    loaded = run_fresh(source).split()
    assert "headgate.cli.app" in loaded
    assert not HEAVY & set(loaded)


@pytest.mark.parametrize("name", headgate.__all__)
def test_every_public_name_loads(name):
    assert getattr(headgate, name) is not None


def test_the_public_names_are_sorted_and_listed():
    assert sorted(headgate.__all__) == dir(headgate)
    assert len(set(headgate.__all__)) == len(headgate.__all__)
    assert set(headgate.__all__) == {*headgate._MODULE_OF_NAME, "__version__"}


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match=r"^module 'headgate' has no attribute 'Floodgate'$"):
        headgate.Floodgate  # noqa: B018


def test_the_version_is_the_one_that_is_installed():
    assert headgate.__version__ == importlib.metadata.version("headgate")
