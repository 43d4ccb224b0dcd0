"""How every verb prints: results on stdout, all else on stderr, colour only for people."""

from __future__ import annotations

import json
import math
from typing import Annotated, Any, TypeAlias

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

JsonOption: TypeAlias = Annotated[bool, typer.Option("--json", help="Print JSON on stdout.")]
QuietOption: TypeAlias = Annotated[bool, typer.Option("--quiet", "-q", help="Print only what matters.")]


def result_console() -> Console:
    """Return the console for results. Rich itself obeys NO_COLOR and drops colour outside a terminal."""
    return Console(highlight=False)


def note_console() -> Console:
    """Return the console for everything that is not the result."""
    return Console(stderr=True, highlight=False)


def print_json(value: Any) -> None:
    """Print a result as JSON on stdout.

    What a terminal might obey (direction marks, half surrogates) is escaped, and NaN and infinity, for which JSON has
    no word, are null.
    """
    text = json.dumps(_finite(value), indent=2, ensure_ascii=False)
    typer.echo("".join(c if c.isprintable() or c == "\n" else json.dumps(c)[1:-1] for c in text))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, dict):
        return {name: _finite(item) for name, item in value.items()}
    return [_finite(item) for item in value] if isinstance(value, list | tuple) else value


def figures_table(title: str | None, *columns: str) -> Table:
    """Make a table of figures: plain, with right-aligned columns, whose cells wrap where the terminal is narrow."""
    table = Table(
        title=title,
        title_justify="left",
        title_style="bold",
        caption_justify="left",
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        padding=(0, 1),
    )
    for column in columns:
        table.add_column(column, justify="right", overflow="fold")
    return table


def show_interval(interval: tuple[float, float] | None, form: str) -> str:
    """An interval in brackets, to follow its figure; nothing where there is none."""
    return "" if interval is None else f" ({interval[0]:{form}}-{interval[1]:{form}})"


def print_error(message: str) -> None:
    """Print a user's mistake on stderr, as one line."""
    line = Text.assemble(("error: ", "bold red"), " ".join(message.split()))
    note_console().print(line, soft_wrap=True)


def hide_loading() -> None:
    """Progress bars are for people; transformers shows one while it loads."""
    from transformers.utils.logging import disable_progress_bar

    disable_progress_bar()  # type: ignore[no-untyped-call]
