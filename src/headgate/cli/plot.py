"""`headgate plot`: figures of traces for papers."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer
from rich.text import Text

from headgate.cli.output import JsonOption, QuietOption, print_json, result_console
from headgate.cli.report import name_traces


class WhatOption(StrEnum):
    """What a figure shows."""

    LOAD = "load"
    MARGIN = "margin"
    DIFF = "diff"


def plot(
    first: Annotated[Path, typer.Argument(metavar="TRACE", help="A trace, or a folder with one.")],
    second: Annotated[
        Path | None,
        typer.Argument(metavar="TRACE2", help="Another one, to compare.", show_default=False),
    ] = None,
    what: Annotated[WhatOption, typer.Option(help="What to draw.")] = WhatOption.LOAD,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The file to write: .svg, .pdf or .png.")
    ] = Path("figure.svg"),
    width: Annotated[float, typer.Option(min=1.0, max=20.0, metavar="INCHES", help="3.25 is a column of two.")] = 3.25,
    assume_aligned: Annotated[
        bool, typer.Option("--assume-aligned", help="Without token ids, take token i of both as the same.")
    ] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Draw a figure for a paper: a column wide, text as text, the same bytes each time.

    load: the rows of each expert, as multiples of an even share. margin: how
    surely each layer decides. diff: which part of the choices changed, by
    layer and by how sure the first trace was. Needs headgate[plot].
    """
    from headgate.observe.figures import save_figure
    from headgate.observe.reader import open_trace

    traces = [open_trace(path) for path in (first, second) if path is not None]
    save_figure(out, what.value, traces, names=name_traces(traces), width=width, assume_aligned=assume_aligned)
    if json:
        print_json({"path": str(out), "num_bytes": out.stat().st_size})
    elif not quiet:
        result_console().print(Text(f"wrote {out} ({out.stat().st_size / 1e3:.0f} kB)"), soft_wrap=True)
