"""`headgate replay`: what-if questions, answered from a recorded trace."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from headgate.cli.output import JsonOption, QuietOption, print_json, result_console

if TYPE_CHECKING:
    from torch import Tensor

    from headgate.observe.reader import TraceFile
    from headgate.observe.whatif import DropRule, LayerOutcome


class DropOption(StrEnum):
    """Who gets in first."""

    POSITION = "position"
    CHOICE_POSITION = "choice-position"
    SCORE = "score"
    BATCH_PRIORITISED = "batch-prioritised"


def replay(
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="What was recorded.")],
    top_k: Annotated[int | None, typer.Option(min=1, metavar="K", help="Keep the best K choices.")] = None,
    capacity: Annotated[
        float | None, typer.Option(metavar="FACTOR", help="Rows an expert takes at most, in even shares.")
    ] = None,
    drop: Annotated[
        DropOption | None, typer.Option(help="With --capacity: who gets in first; default: position.")
    ] = None,
    bias: Annotated[
        str | None,
        typer.Option(metavar="0|FILE", help="Choose again with this selection bias: 0, or a JSON list [L][E]."),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Ask a trace what would have happened with other settings.

    What would be dropped, how the load would move, and how much of the
    combine weight would be left. The model is not needed.
    """
    from headgate.observe.reader import open_trace
    from headgate.observe.whatif import what_if

    if top_k is None and capacity is None and bias is None:
        raise typer.BadParameter("one of these is needed: what if what?", param_hint="--top-k, --capacity or --bias")
    if drop is not None and capacity is None:
        raise typer.BadParameter("without --capacity nothing is dropped; give one", param_hint="--drop")
    opened = open_trace(trace)
    rules: dict[DropOption, DropRule] = {
        DropOption.POSITION: "position",
        DropOption.CHOICE_POSITION: "choice_position",
        DropOption.SCORE: "score",
        DropOption.BATCH_PRIORITISED: "batch_prioritised",
    }
    wanted = None if bias is None else _read_bias(bias, opened)
    found = what_if(opened, top_k=top_k, capacity=capacity, drop_rule=rules[drop or DropOption.POSITION], bias=wanted)
    if json:
        print_json([layer.to_dict() for layer in found])
    elif not quiet:
        _print(found)


def _read_bias(text: str, trace: TraceFile) -> Tensor:
    import torch

    from headgate.errors import InputError
    from headgate.observe.importers.decode import read_json

    if text == "0":
        return torch.zeros(trace.counts.shape)
    values: Any = read_json(Path(text))
    try:
        return torch.tensor(values, dtype=torch.float32)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InputError(f"bias (={text}) holds no list [L][E] of numbers; write one row per layer") from error


def _print(found: tuple[LayerOutcome, ...]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), caption_justify="left")
    table.caption = "busiest expert in even shares; weight kept: of what was recorded"
    for name in ("layer", "busiest", "would be", "dropped", "would be", "weight kept", "overlap"):
        table.add_column(name, justify="right", no_wrap=True)
    for layer in found:
        table.add_row(
            str(layer.layer),
            f"{layer.load_ratio[0]:.2f}",
            f"{layer.load_ratio[1]:.2f}",
            f"{layer.drop_fraction[0]:.2%}",
            f"{layer.drop_fraction[1]:.2%}",
            "-" if layer.weight_kept is None else f"{layer.weight_kept:.2%}",
            f"{layer.overlap:.4f}",
        )
    result_console().print(table)
