"""`headgate coverage`: does a calibration text reach every expert?"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table
from rich.text import Text

from headgate.cli.output import JsonOption, QuietOption, print_json, result_console
from headgate.wording import number_of

if TYPE_CHECKING:
    from headgate.observe.coverage import Coverage, Need

_SHOWN = 20
_NEEDED = 512


def coverage(
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="The routing of the calibration text.")],
    needed: Annotated[int, typer.Option(min=1, metavar="N", help="Tokens that each expert needs.")] = _NEEDED,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find the experts that a calibration text gives too few tokens, and how much more text they need.

    Exit code 1 where an expert has too few. With -q, print nothing else.
    """
    from headgate.observe.coverage import measure_coverage
    from headgate.observe.reader import open_trace

    found = measure_coverage(open_trace(trace), needed=needed)
    if json:
        print_json(found.to_dict())
    elif not quiet:
        _print(found)
    if found.poor:
        raise typer.Exit(1)


def _print(found: Coverage) -> None:
    console = result_console()
    total, poor = found.num_experts, len(found.poor)
    experts, tokens = number_of(total, "expert"), number_of(found.num_tokens, "token")
    console.print(f"{total - poor} of {experts} got at least {found.needed:,} of {tokens}.")
    if not poor:
        return
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    for name in ("layer", "expert", "tokens", "more text needed", "95 %"):
        table.add_column(name, justify="right")
    for expert in found.poor[:_SHOWN]:
        style, least = ("", "") if expert.is_seen else ("bold red", "at least ")
        more = f"{least}{number_of(expert.more_tokens, 'token')}"
        sure = _between(expert.more_interval) if expert.is_seen else ""
        table.add_row(str(expert.layer), str(expert.expert), Text(f"{expert.num_rows:,}", style), more, sure)
    console.print(table)
    if poor > _SHOWN:
        console.print(f"... and {poor - _SHOWN} more (--json lists all)")
    if found.more_tokens is None:
        console.print("How much would do for all is not known: an expert got nothing.")
        return
    sequences = number_of(found.more_sequences or 0, "sequence")
    sure = "" if found.more_interval is None else f", 95 %: {_between(found.more_interval)}"
    console.print(
        f"For all: about {found.more_tokens:,} more such tokens ({sequences}){sure}.",
        soft_wrap=True,
    )


def _between(interval: Need | None) -> str:
    if interval is None:
        return ""
    low, high = interval
    return f"{low:,} or more" if high is None else f"{low:,} to {high:,}"
