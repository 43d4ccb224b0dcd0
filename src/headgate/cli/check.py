"""`headgate check`: verdicts on a trace, or on a model, and an exit code for CI."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headgate.cli.output import JsonOption, QuietOption, hide_loading, note_console, print_json, result_console

if TYPE_CHECKING:
    from headgate.observe.findings import Finding

_MARKS = {"pass": ("✓", "green"), "warn": ("!", "yellow"), "fail": ("✗", "bold red"), "unknown": ("?", "dim")}
_MAX_SEQUENCES = 8


def check(
    target: Annotated[
        str,
        typer.Argument(metavar="TRACE|MODEL", help="A routing trace; a model's directory or Hub id; or a demo run."),
    ],
    trace: Annotated[
        bool, typer.Option("--trace", help="Of a demo run, look at the recorded trace instead of the model.")
    ] = False,
    text: Annotated[
        list[str] | None,
        typer.Option(help="Of a model of transformers: a text to run; default Python's documentation."),
    ] = None,
    file: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="The same, from a file.")] = None,
    strict: Annotated[bool, typer.Option("--strict", help="Fail on warnings, too.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Check a routing trace, or how a model routes.

    Of a trace: every rule of the format, balance, dead experts, drops, ties,
    NaN. Of a model besides: does a token's route change with its batch, with
    later tokens, with the router's precision, or in training mode?
    Exit code 1 where something failed. With -q, only what is not well.
    """
    from headgate.integrations.transformers.texts import read_texts
    from headgate.observe.findings import has_failed

    texts = [one.text for one in read_texts(text or [], file or [], [], warn=note_console().print)]
    findings = _findings(target, texts, wants_trace=trace, is_quiet=quiet)
    if json:
        print_json([finding.to_dict() for finding in findings])
    else:
        print_findings(findings, result_console(), is_quiet=quiet)
    if has_failed(findings) or (strict and any(finding.status == "warn" for finding in findings)):
        raise typer.Exit(1)


def _findings(target: str, texts: list[str], *, wants_trace: bool, is_quiet: bool) -> list[Finding]:
    from headgate.cli.inspect_trace import is_trace
    from headgate.demo.restore import is_run

    path = Path(target)
    is_demo = is_run(path) and not wants_trace
    if texts and (is_demo or is_trace(target)):
        raise typer.BadParameter(f"{target!r} has its own tokens; a text is for models", param_hint="--text, --file")
    if is_demo:
        return _check_run(path)
    # Neither a folder nor a name of the Hub: a path to a file, which may be missing.
    is_path = not path.is_dir() and (path.is_file() or path.is_absolute() or len(path.parts) > 2)
    if wants_trace or is_trace(target) or is_path:
        return _check_file(path)
    from headgate.integrations.transformers.checking import check_checkpoint

    if is_quiet or not note_console().is_terminal:
        hide_loading()
    return check_checkpoint(target, texts)


def _check_file(path: Path) -> list[Finding]:
    from headgate.observe.check_trace import check_trace
    from headgate.observe.reader import open_trace

    return check_trace(open_trace(path))


def _check_run(path: Path) -> list[Finding]:
    from headgate.demo.corpus import held_out_pieces
    from headgate.demo.restore import load_run
    from headgate.observe.check_model import check_model

    prepared, model = load_run(path)
    pieces = held_out_pieces(prepared.corpus, prepared.config.training.sequence_length)
    return check_model(model, pieces[:_MAX_SEQUENCES, :-1])


def print_findings(findings: list[Finding], console: Console, *, is_quiet: bool) -> None:
    """Print one line for each thing that was looked at."""
    shown = [finding for finding in findings if not is_quiet or finding.status != "pass"]
    if not shown:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), show_header=False)
    table.add_column(no_wrap=True)
    table.add_column(no_wrap=True)
    table.add_column(overflow="fold")
    for finding in shown:
        mark, style = _MARKS[finding.status]
        table.add_row(Text(mark, style), Text(finding.check, style), Text(finding.sentence))
    console.print(table)
