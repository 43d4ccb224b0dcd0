"""`headgate simulate`: a trace replayed on a described cluster."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from headgate.cli.output import JsonOption, QuietOption, print_json, result_console
from headgate.cli.routed import open_tokens, read_layout
from headgate.wording import number_of

if TYPE_CHECKING:
    from headgate.layout import ExpertLayout
    from headgate.observe.reader import TraceFile
    from headgate.planning.hardware import Device


def simulate(
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="What was recorded.")],
    hardware: Annotated[str, typer.Option(metavar="H", help="A device of the table, such as h100-sxm.")],
    model: Annotated[
        str | None, typer.Option(metavar="MODEL", help="Whose widths to take; default: those that the trace notes.")
    ] = None,
    d_model: Annotated[
        int | None, typer.Option(min=1, metavar="D", help="Width of the model, in place of the noted one.")
    ] = None,
    d_ff: Annotated[
        int | None, typer.Option(min=1, metavar="F", help="Hidden width of an expert, in place of the noted one.")
    ] = None,
    plan: Annotated[
        list[Path] | None, typer.Option(metavar="P", help="A layout, of Headgate or an engine; may be repeated.")
    ] = None,
    devices: Annotated[
        list[int] | None, typer.Option(metavar="W", help="Or plan for so many devices; may be repeated.")
    ] = None,
    replicas: Annotated[
        int | None, typer.Option(metavar="R", help="With --devices: replicas; default: as few as fill the devices.")
    ] = None,
    node_size: Annotated[int | None, typer.Option(min=1, metavar="N", help="Devices of a node; default: of H.")] = None,
    across: Annotated[float, typer.Option(metavar="GB/S", help="What a device sends to other nodes.")] = 50.0,
    step_tokens: Annotated[
        int | None, typer.Option(metavar="T", help="Tokens of a step; default: the passes of the trace.")
    ] = None,
    top_k: Annotated[int | None, typer.Option(metavar="K", help="Keep the best K choices.")] = None,
    capacity: Annotated[
        float | None, typer.Option(metavar="FACTOR", help="Rows an expert takes at most, in even shares.")
    ] = None,
    two_level: Annotated[
        bool, typer.Option("--two-level", help="Send a token once to each node, then within it.")
    ] = False,
    weight_bytes: Annotated[float, typer.Option(metavar="B", help="Bytes of a weight.")] = 2.0,
    activation_bytes: Annotated[float, typer.Option(metavar="B", help="Bytes of a number that is sent.")] = 2.0,
    arithmetic: Annotated[str, typer.Option(help="What experts multiply in: fp32, bf16, fp8 or fp4.")] = "bf16",
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Replay a trace on a cluster: slowest device, bytes, drops and time of its steps.

    Give layouts to compare by --plan, or numbers of devices by --devices.
    Time is that of experts and sends alone; see docs/placement.md.
    """
    from headgate.planning.cluster import Cluster, ExpertShape
    from headgate.planning.hardware import find_device
    from headgate.planning.simulate import simulate as run_steps
    from headgate.planning.traffic import tokens_of

    opened = open_tokens(trace)
    device = find_device(hardware)
    cluster = Cluster(device=device, across_bandwidth=across * 1e9, arithmetic=arithmetic)
    width, hidden = _widths(opened, model, d_model, d_ff)
    shape = ExpertShape(d_model=width, d_ff=hidden, weight_bytes=weight_bytes, activation_bytes=activation_bytes)
    results = {}
    for name, layout in _layouts(opened, plan or [], devices or [], replicas, node_size, device):
        results[name] = run_steps(
            tokens_of(opened, top_k=top_k),
            layout,
            cluster=cluster,
            shape=shape,
            step_tokens=step_tokens,
            capacity_factor=capacity,
            exchange="two_level" if two_level else "flat",
        ).to_dict()
    if json:
        print_json([{"placement": name, **found} for name, found in results.items()])
    elif not quiet:
        _print(results)


def _widths(trace: TraceFile, model: str | None, d_model: int | None, d_ff: int | None) -> tuple[int, int]:
    """D and F: as given, or else of a model's configuration, or else as the trace notes them."""
    from headgate.errors import InputError

    if d_model is not None and d_ff is not None:
        return d_model, d_ff
    known = _noted_widths(trace) if model is None else _configured_widths(model)
    width, hidden = d_model or known[0], d_ff or known[1]
    if width is None or hidden is None:
        raise InputError(
            f"d-model (={width}) and d-ff (={hidden}) must both be known, and {model or trace.path} does not say them; "
            "give --d-model and --d-ff, or --model with the model's name or config.json"
        )
    return width, hidden


def _noted_widths(trace: TraceFile) -> tuple[int | None, int | None]:
    from headgate.observe.shape import RecordedShape

    noted = RecordedShape.from_metadata(trace.metadata)
    return (None, None) if noted is None else (noted.d_model, noted.d_ff)


def _configured_widths(model: str) -> tuple[int | None, int | None]:
    from headgate.errors import InputError
    from headgate.integrations.transformers.shapes import read_model

    shape, _ = read_model(model)
    widths = sorted({(layer.d_model, layer.d_ff) for layer in shape.routed})
    if len(widths) > 1:
        raise InputError(
            f"the experts of model (={model}) have widths [D, F] that differ by layer: {widths}; "
            "give --d-model and --d-ff"
        )
    return widths[0] if widths else (None, None)


def _layouts(
    trace: TraceFile,
    plans: list[Path],
    devices: list[int],
    replicas: int | None,
    node_size: int | None,
    device: Device,
) -> list[tuple[str, ExpertLayout]]:
    """The layouts to compare, with their names."""
    from dataclasses import replace

    from headgate.errors import InputError
    from headgate.planning.placement import place_experts

    if not plans and len(devices) == 0:
        raise InputError(
            "--plan and --devices (=None) are both missing; give a layout, or numbers of devices to plan for"
        )
    if plans and len(devices) > 1:
        raise InputError(
            f"devices (={devices}) must be one number beside --plan: how many share the experts of an engine's layout; "
            "ask for other numbers without --plan"
        )
    size = node_size or device.node_size
    found = []
    for path in plans:
        layout = read_layout(path, num_devices=devices[0] if devices else None, num_experts=trace.num_experts)
        if devices and layout.num_devices != devices[0]:
            raise InputError(
                f"devices (={devices[0]}) must be those of {path} (={layout.num_devices}); leave --devices out, or "
                "ask for another number without --plan"
            )
        # An engine's file knows no nodes.
        is_known = node_size is None and layout.num_nodes > 1
        nodes = layout.num_nodes if is_known else _nodes(layout.num_devices, size)
        found.append((path.name, replace(layout, num_nodes=nodes)))
    for number in () if plans else devices:
        nodes = _nodes(number, size)
        layout = place_experts(trace.counts.numpy(), num_devices=number, num_replicas=replicas, num_nodes=nodes)
        found.append((number_of(number, "device"), layout))
    return found


def _nodes(num_devices: int, size: int) -> int:
    """Nodes of at most `size` devices; where they can't be equally large, smaller ones."""
    nodes = -(-num_devices // size)
    while num_devices > 0 and num_devices % nodes:
        nodes += 1
    return max(nodes, 1)


def _print(results: dict[str, dict[str, Any]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("")
    for name in results:
        table.add_column(name, justify="right", overflow="fold")
    rows: dict[str, Callable[[dict[str, Any]], str]] = {
        "busiest device, in even shares": lambda found: f"{found['max_over_mean']:.3f} x",
        "sends per token and layer": lambda found: f"{found['sends_per_token']:.3f}",
        "MB a step within nodes": lambda found: f"{found['bytes_within_nodes'] / found['num_steps'] / 1e6:.4g}",
        "MB a step across nodes": lambda found: f"{found['bytes_across_nodes'] / found['num_steps'] / 1e6:.4g}",
        "dropped": lambda found: f"{found['drop_fraction']:.2%}",
        "step, ms": lambda found: f"{found['step_s'] * 1e3:.3g}",
        "step, 95 % are below, ms": lambda found: f"{found['step_s_p95'] * 1e3:.3g}",
        "step if all were even, ms": lambda found: f"{found['even_step_s'] * 1e3:.3g}",
        "tokens/s": lambda found: f"{found['tokens_per_s']:,.0f}",
    }
    for label, show in rows.items():
        table.add_row(label, *(show(found) for found in results.values()))
    result_console().print(table)
    first = next(iter(results.values()))
    result_console().print(f"{number_of(first['num_tokens'], 'token')} in {number_of(first['num_steps'], 'step')}.")
