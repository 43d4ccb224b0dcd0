"""`headgate inspect`: the MoE layers of a model of transformers, from its configuration; or what a trace holds."""

from __future__ import annotations

from itertools import pairwise
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headgate.cli.output import JsonOption, QuietOption, print_json, result_console
from headgate.wording import number_of

if TYPE_CHECKING:
    from headgate.integrations.transformers.inspection import InspectedLayer, Inspection

TargetArgument = Annotated[
    str,
    typer.Argument(
        metavar="MODEL|TRACE",
        help="A model's directory, config.json or Hub id (no weights are read); or a routing trace.",
    ),
]


def inspect(
    target: TargetArgument,
    devices: Annotated[
        int | None, typer.Option(min=1, metavar="N", help="Of a trace: how evenly would N devices be loaded?")
    ] = None,
    layer: Annotated[
        list[int] | None,
        typer.Option(metavar="N", help="Of a trace: show this layer's experts; may be given several times."),
    ] = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Show a model's MoE layers, or what a recorded routing looks like.

    Of a model: experts, router, shared experts, and what would run them here.
    Of a trace: the load of each layer, how sure the router was, what it goes
    by, and which experts go together, each beside what chance gives.
    With -q, print a line for each kind of layer, or the load alone.
    """
    from headgate.cli.inspect_trace import inspect_trace, is_trace

    if is_trace(target):
        inspect_trace(target, devices=devices, layers=layer or [], as_json=json, is_quiet=quiet)
        return
    if devices is not None or layer:
        option = "--layer" if layer else "--devices"
        raise typer.BadParameter(f"{target!r} is no trace, and only those take it", param_hint=option)
    from headgate.integrations.transformers.inspection import inspect_model

    inspection = inspect_model(target)
    if json:
        print_json(inspection.to_dict())
        return
    console = result_console()
    if quiet:
        for kind, places in inspection.groups():
            console.print(f"{_layers(places)}: {_experts(kind)}; {kind.backend}", soft_wrap=True)
        return
    print_inspection(inspection, console)


def print_inspection(inspection: Inspection, console: Console) -> None:
    """Print the model in a line and each kind of layer as a table."""
    routed, total = len({layer.layer_index for layer in inspection.layers}), inspection.num_layers
    where = f"{routed} of {number_of(total, 'layer')}" if total else number_of(routed, "layer")
    console.print(
        Text.assemble((inspection.name, "bold"), f"  {inspection.class_name} ({inspection.model_type}), "),
        f"{_billions(inspection.num_parameters)} parameters, {inspection.dtype}, experts in {where}",
        soft_wrap=True,
    )
    for layer, places in inspection.groups():
        console.print()
        console.print(_layer_table(layer, places))


def _layer_table(layer: InspectedLayer, places: list[int]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=None, show_header=False, pad_edge=False)
    table.add_column(style="dim", no_wrap=True)
    table.add_column()
    several = f", {len(places)} in all" if len(set(places)) < len(places) else ""
    table.add_row("layers", f"{_layers(places)} ({layer.class_name}{several})")
    table.add_row("experts", f"{_experts(layer)}, {_billions(layer.num_parameters)} parameters a layer")
    table.add_row("router", layer.words or "no formula")
    if layer.symbols:
        table.add_row("", Text(layer.symbols, style="bold"))
    if layer.note:
        table.add_row("", layer.note)
    shared = [f"{name} ({_billions(count)})" for name, count in layer.shared.items()]
    table.add_row("shared", ", ".join(shared) or "none")
    table.add_row("backend", layer.backend)
    return table


def _experts(layer: InspectedLayer) -> str:
    return number_of(layer.num_experts, "expert") + (f", {layer.top_k} a token" if layer.top_k else "")


def _layers(places: list[int]) -> str:
    """Runs of numbers: 0-2, 5. A layer that has experts in several places is named once."""
    places = sorted(set(places))
    ends = [i for i, (one, other) in enumerate(pairwise(places)) if other != one + 1] + [len(places) - 1]
    begins = [0, *(end + 1 for end in ends[:-1])]
    runs = [(places[begin], places[end]) for begin, end in zip(begins, ends, strict=True)]
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in runs)


def _billions(count: int) -> str:
    for size, unit in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return str(count)
