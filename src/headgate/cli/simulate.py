"""`headgate simulate`: a trace replayed on a described cluster."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from headgate.cli.output import JsonOption, QuietOption, print_json, result_console
from headgate.cli.routed import open_tokens, read_layout

if TYPE_CHECKING:
    from headgate.layout import ExpertLayout
    from headgate.observe.reader import TraceFile
    from headgate.planning.hardware import Device


def simulate(
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="What was recorded.")],
    hardware: Annotated[str, typer.Option(metavar="H", help="A device of the table, such as h100-sxm.")],
    d_model: Annotated[int, typer.Option(min=1, metavar="D", help="Width of the model.")],
    d_ff: Annotated[int, typer.Option(min=1, metavar="F", help="Hidden width of an expert.")],
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
        float | None, typer.Option(metavar="FACTOR", help="Rows a replica takes at most, in even shares.")
    ] = None,
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
    shape = ExpertShape(d_model=d_model, d_ff=d_ff, weight_bytes=weight_bytes, activation_bytes=activation_bytes)
    results = {}
    for name, layout in _layouts(opened, plan or [], devices or [], replicas, node_size, device):
        results[name] = run_steps(
            tokens_of(opened, top_k=top_k),
            layout,
            cluster=cluster,
            shape=shape,
            step_tokens=step_tokens,
            capacity_factor=capacity,
        ).to_dict()
    if json:
        print_json([{"placement": name, **found} for name, found in results.items()])
    elif not quiet:
        _print(results)


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
    size = node_size or device.node_size
    found = []
    for path in plans:
        layout = read_layout(path, num_devices=devices[0] if devices else None, num_experts=trace.num_experts)
        # An engine's file knows no nodes.
        is_known = node_size is None and layout.num_nodes > 1
        nodes = layout.num_nodes if is_known else _nodes(layout.num_devices, size)
        found.append((path.name, replace(layout, num_nodes=nodes)))
    for number in () if plans else devices:
        nodes = _nodes(number, size)
        layout = place_experts(trace.counts.numpy(), num_devices=number, num_replicas=replicas, num_nodes=nodes)
        found.append((f"{number} devices", layout))
    return found


def _nodes(num_devices: int, size: int) -> int:
    """Nodes of at most `size` devices; where they can't be equally large, smaller ones."""
    nodes = -(-num_devices // size)
    while num_devices > 0 and num_devices % nodes:
        nodes += 1
    return max(nodes, 1)


def _print(results: dict[str, dict[str, Any]]) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), caption_justify="left")
    table.caption = (
        "busiest: device's rows, in even shares; sends: per token and layer; MB: of a step, there and back, "
        "within nodes and across; even: if work and sends were spread evenly"
    )
    table.add_column("placement", overflow="fold")
    has_drops = any(found["drop_fraction"] for found in results.values())
    for name in (
        "busiest",
        "sends",
        "MB in",
        "across",
        *(("drops",) if has_drops else ()),
        "step ms",
        "even",
        "tokens/s",
    ):
        table.add_column(name, justify="right", no_wrap=True)
    for name, found in results.items():
        steps = found["num_steps"]
        table.add_row(
            name,
            f"{found['max_over_mean']:.2f} x",
            f"{found['sends_per_token']:.2f}",
            f"{found['bytes_within_nodes'] / steps / 1e6:.4g}",
            f"{found['bytes_across_nodes'] / steps / 1e6:.4g}",
            *((f"{found['drop_fraction']:.1%}",) if has_drops else ()),
            f"{found['step_s'] * 1e3:.3g}",
            f"{found['even_step_s'] * 1e3:.3g}",
            f"{found['tokens_per_s']:,.0f}",
        )
    result_console().print(table)
    first = next(iter(results.values()))
    result_console().print(f"{first['num_tokens']:,} tokens in {first['num_steps']:,} steps.")
