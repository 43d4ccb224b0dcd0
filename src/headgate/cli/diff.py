"""`headgate diff`: what changed between the routing of two models on the same tokens."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headgate.cli.output import (
    JsonOption,
    QuietOption,
    figures_table,
    note_console,
    print_json,
    result_console,
    show_interval,
)
from headgate.wording import number_of

if TYPE_CHECKING:
    from headgate.observe.differences import TraceDiff

Gates = list[tuple[str, float]]

_WIDE = 80
"""Columns of a terminal from which on no figure needs to be broken."""


FirstArgument: TypeAlias = Annotated[
    Path, typer.Argument(metavar="A", help="The reference: a trace, or a folder with one.")
]
SecondArgument: TypeAlias = Annotated[Path, typer.Argument(metavar="B", help="What is compared with it.")]
KOption: TypeAlias = Annotated[
    int | None, typer.Option("--k", min=1, metavar="K", help="Compare the best K choices; default all.")
]
MatchOption: TypeAlias = Annotated[
    bool, typer.Option("--match-experts", help="First find which expert of B is which of A.")
]
AlignedOption: TypeAlias = Annotated[
    bool, typer.Option("--assume-aligned", help="Without token ids, take token i of both as the same.")
]
UnderOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="Exit 1 where overlap@k, jaccard or rank_correlation is lower."),
]
OverOption: TypeAlias = Annotated[
    list[str] | None,
    typer.Option(metavar="NAME=VALUE", help="Exit 1 where weight_moved, flipped_fraction or load_distance is higher."),
]


def diff(
    first: FirstArgument,
    second: SecondArgument,
    k: KOption = None,
    match_experts: MatchOption = False,
    assume_aligned: AlignedOption = False,
    fail_under: UnderOption = None,
    fail_over: OverOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Compare two traces of the same tokens: which layers and tokens changed experts, and does it matter?

    Sequences are matched by their token ids, in whatever order they come. A
    change where the reference was unsure anyway (a small margin) is benign;
    one at a large margin is not. With -q, print only what fails a gate.
    """
    from headgate.observe.diff import diff_traces
    from headgate.observe.reader import open_trace

    lower, upper = _gates("--fail-under", fail_under), _gates("--fail-over", fail_over)
    found = diff_traces(
        open_trace(first), open_trace(second), k=k, match_experts=match_experts, assume_aligned=assume_aligned
    )
    broken = _broken(found.similarities(), lower, is_lower=True) + _broken(found.distances(), upper, is_lower=False)
    if json:
        print_json({**found.to_dict(), "broken_gates": broken})
    elif not quiet:
        print_diff(found, result_console())
    for line in broken:
        note_console().print(Text.assemble(("gate: ", "bold red"), line), soft_wrap=True)
    if broken:
        raise typer.Exit(1)


def _gates(option: str, values: list[str] | None) -> Gates:
    gates = []
    for value in values or []:
        found = re.fullmatch(r"([\w@]+)=([-+.\deE]+)", value)
        try:
            gates.append((found[1], float(found[2])) if found else _no_gate(value))
        except ValueError as error:
            raise typer.BadParameter(f"{value!r} is not NAME=VALUE, as in overlap@k=0.98", param_hint=option) from error
    return gates


def _no_gate(value: str) -> tuple[str, float]:
    raise ValueError(value)


def _broken(measures: dict[str, float | None], gates: Gates, *, is_lower: bool) -> list[str]:
    broken = []
    for name, bound in gates:
        if name not in measures:
            option = "--fail-under" if is_lower else "--fail-over"
            raise typer.BadParameter(f"{name!r} is none of {', '.join(measures)}", param_hint=option)
        value = measures[name]
        if value is None:
            broken.append(f"{name} can't be told from these traces, so it can't pass")
        elif not (value >= bound if is_lower else value <= bound):
            broken.append(f"{name} is {value:.4f}, {'under' if is_lower else 'over'} {bound:g}")
    return broken


def print_diff(found: TraceDiff, console: Console) -> None:
    """Print a comparison for a person."""
    overall = found.agreement
    console.print()
    console.print(
        Text.assemble(
            (f"overlap@{found.k} ", "bold"),
            (f"{overall.overlap:.4f}", _style(overall.overlap)),
            show_interval(found.overlap_interval, ".4f"),
            f"   {overall.flipped_fraction:.2%} of the choices changed",
            show_interval(found.flipped_interval, ".2%"),
        )
    )
    console.print(Text(_scope(found), "dim"), soft_wrap=True)
    console.print(_layer_table(found, is_wide=console.width >= _WIDE))
    if found.buckets:
        console.print(_bucket_table(found))
    if found.tokens:
        console.print(_token_table(found))


def _scope(found: TraceDiff) -> str:
    said = f"{number_of(found.num_tokens, 'token')} that both traces have"
    if found.overlap_interval is not None:
        said += "; in brackets 95 % intervals, with sequences as what is independent"
    if any(found.num_unmatched):
        said += f"; {number_of(found.num_unmatched[0], 'sequence')} only A has, {found.num_unmatched[1]:,} only B"
    return said if found.is_checked else f"{said}, by your word: they have no token ids to compare"


def _figure(value: float | None) -> str:
    return "-" if value is None else f"{value:.4f}"


def _style(overlap: float) -> str:
    return "green" if overlap >= 0.98 else "yellow" if overlap >= 0.9 else "bold red"


def _layer_table(found: TraceDiff, *, is_wide: bool) -> Table:
    table = figures_table(
        "By layer", "layer", "overlap", "jaccard", "ranks", "moved", "changed", "load", "gained, lost"
    )
    # An interval goes below its figure, and each of the two shifts into a line; where there is room, all in one piece.
    table.collapse_padding = True
    if is_wide:
        table.columns[1].min_width = len(show_interval(found.overlap_interval, ".4f").strip())
    table.columns[-1].header = "gained,\nlost"
    table.caption = "ranks: Kendall's tau; moved: weight on other experts; load: distance of the loads"
    for layer in found.layers:
        part = layer.agreement
        shifts = [f"{expert}{change:+.1%}" for expert, change in (layer.gained[:1] + layer.lost[:1])]
        table.add_row(
            str(layer.layer),
            Text(_figure(part.overlap) + show_interval(layer.overlap_interval, ".4f"), _style(part.overlap)),
            _figure(part.jaccard),
            _figure(part.rank_correlation),
            _figure(part.weight_moved),
            f"{part.flipped_fraction:.2%}",
            _figure(layer.load_distance),
            "\n".join(shifts),
        )
    return table


def _bucket_table(found: TraceDiff) -> Table:
    table = figures_table(
        "By how sure A was (fifths of its margin)", "", "mean margin", "overlap", "changed", "share of all changes"
    )
    names = ["least sure", "", "", "", "most sure"]
    for name, bucket in zip(names, found.buckets, strict=False):
        table.add_row(
            name,
            f"{bucket.mean_margin:.4f}",
            Text(_figure(bucket.overlap), _style(bucket.overlap)),
            f"{bucket.flipped_fraction:.2%}{show_interval(bucket.flipped_interval, '.2%')}",
            f"{bucket.share_of_flips:.0%}",
        )
    return table


def _token_table(found: TraceDiff) -> Table:
    from headgate.observe.display import escape_text

    table = figures_table("Tokens that changed most", "sequence", "position", "text", "layers changed", "overlap")
    for token in found.tokens:
        row: list[Any] = [str(token.sequence), str(token.position)]
        row.append(Text("" if token.text is None else escape_text(token.text)))
        table.add_row(*row, f"{token.changed_layers} of {len(found.layers)}", _figure(token.overlap))
    return table
