"""The verbs of the `headgate` command. A verb imports the library only when it runs, so `--help` is quick."""

from __future__ import annotations

import importlib.metadata
import sys
from typing import Annotated

import typer

from headgate.cli.cache import cache
from headgate.cli.check import check
from headgate.cli.coverage import coverage
from headgate.cli.demo import demo
from headgate.cli.diff import diff
from headgate.cli.doctor import doctor
from headgate.cli.export import export
from headgate.cli.import_trace import import_trace
from headgate.cli.inspect import inspect
from headgate.cli.output import print_error
from headgate.cli.place import place
from headgate.cli.plot import plot
from headgate.cli.replay import replay
from headgate.cli.report import report
from headgate.cli.simulate import simulate
from headgate.cli.size import size
from headgate.cli.trace import trace
from headgate.errors import HeadgateError

app = typer.Typer(
    name="headgate",
    help="Mixture-of-Experts routing for PyTorch: route, balance, run, and see every decision.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command("demo")(demo)
app.command("inspect")(inspect)
app.command("trace")(trace)
app.command("import")(import_trace)
app.command("export")(export)
app.command("report")(report)
app.command("plot")(plot)
app.command("check")(check)
app.command("diff")(diff)
app.command("replay")(replay)
app.command("coverage")(coverage)
app.command("size")(size)
app.command("place")(place)
app.command("simulate")(simulate)
app.command("cache")(cache)
app.command("doctor")(doctor)


def print_version(wanted: bool) -> None:
    """Print the version and stop, where that is wanted."""
    if wanted:
        typer.echo(f"headgate {importlib.metadata.version('headgate')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and exit.", callback=print_version, is_eager=True),
    ] = False,
) -> None:
    """Mixture-of-Experts routing for PyTorch: route, balance, run, and see every decision."""


def run() -> None:
    """Run the command line: exit 0 when it worked, 1 when it failed, 2 when the command makes no sense.

    What Headgate raises on purpose, and what the file system answers, is a user's matter: one line and no
    traceback. Anything else is a defect of Headgate and keeps its traceback.
    """
    try:
        app()
    except BrokenPipeError:
        # The reader (`head`, `less`) has left: nothing to say, and nobody to say it to.
        sys.stderr.close()
        raise SystemExit(1) from None
    except (HeadgateError, OSError) as error:
        print_error(str(error))
        raise SystemExit(1) from None
