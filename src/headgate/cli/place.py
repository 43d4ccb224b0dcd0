"""`headgate place`: which expert goes on which device."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.table import Table

from headgate.cli.output import JsonOption, QuietOption, note_console, print_json, result_console
from headgate.cli.routed import is_counts, read_counts, read_layout
from headgate.wording import number_of

if TYPE_CHECKING:
    from headgate.planning.placement import Evenness
    from headgate.planning.plan import Placement


class FormatOption(StrEnum):
    """Whose file to write."""

    HEADGATE = "headgate"
    SGLANG = "sglang"
    VLLM = "vllm"
    TENSORRT_LLM = "tensorrt-llm"
    ASCEND = "ascend"


def place(
    routing: Annotated[Path, typer.Argument(metavar="TRACE|COUNTS", help="A trace, or counts [L][E] (.json, .npy).")],
    devices: Annotated[int, typer.Option(metavar="W", help="Devices that share the experts.")],
    nodes: Annotated[int, typer.Option(metavar="N", help="Nodes that the devices are in.")] = 1,
    replicas: Annotated[
        int | None,
        typer.Option(metavar="R", help="Second and further copies, per layer; default: as few as fill the devices."),
    ] = None,
    groups: Annotated[
        int | None, typer.Option(metavar="G", help="Keep the experts of a routing group on one node.")
    ] = None,
    old: Annotated[
        Path | None, typer.Option("--from", metavar="OLD", help="The layout in use: change little of it.")
    ] = None,
    tolerance: Annotated[
        float, typer.Option(metavar="X", help="With --from: how far above the best the busiest device may stay.")
    ] = 0.02,
    slack: Annotated[
        float, typer.Option(metavar="X", help="How much busier the busiest device may get to save sends.")
    ] = 0.01,
    out: Annotated[Path | None, typer.Option("--out", "-o", metavar="FILE", help="Write the layout.")] = None,
    layout_format: Annotated[
        FormatOption, typer.Option("--format", help="Whose file to write.")
    ] = FormatOption.HEADGATE,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Place experts on devices so that these are evenly busy.

    Hot experts get replicas, never two on one device. A trace of tokens
    also tells which experts are chosen together, to save sends, and how
    well the plan holds on tokens that it was not made for.
    """
    from headgate.errors import ArtifactError
    from headgate.planning.plan import PlacementOptions

    if out is not None and out.exists() and not force:
        raise ArtifactError(f"{out} is there already; choose another --out, or overwrite it by --force")
    in_use = None if old is None else read_layout(old, num_devices=devices, num_experts=None)
    options = PlacementOptions(
        num_devices=devices,
        num_replicas=in_use.num_replicas if replicas is None and in_use is not None else replicas,
        num_nodes=nodes,
        num_groups=groups,
        slack=slack,
        old=in_use,
        tolerance=tolerance,
    )
    plan = _plan(routing, options)
    if out is not None:
        _write(out, plan, layout_format)
    if json:
        print_json({**plan.to_dict(), "out": None if out is None else str(out)})
    elif not quiet:
        _print(plan)
        if out is not None:
            note_console().print(f"Wrote {out}.", markup=False, soft_wrap=True)


def _plan(routing: Path, options: Any) -> Placement:
    from headgate.observe.reader import open_trace
    from headgate.planning.plan import plan_placement, split_trace
    from headgate.planning.traffic import tokens_of

    if is_counts(routing):
        return plan_placement(read_counts(routing), options)
    trace = open_trace(routing)
    halves = split_trace(tokens_of(trace), num_tokens=trace.num_tokens, num_experts=trace.num_experts)
    layers = tuple(trace.layer_index.tolist())
    return plan_placement(trace.counts.numpy(), options, halves=halves, layer_index=layers)


def _write(out: Path, plan: Placement, layout_format: FormatOption) -> None:
    from headgate.files import replace_file
    from headgate.planning.layout_files import encode_layout

    replace_file(out, encode_layout(plan.layout, layout_format.value).encode())


def _print(plan: Placement) -> None:
    layout = plan.layout
    console = result_console()
    nodes = f" in {layout.num_nodes} nodes" if layout.num_nodes > 1 else ""
    console.print(
        f"{number_of(layout.num_experts, 'expert')} + {number_of(layout.num_replicas, 'replica')} on "
        f"{number_of(layout.num_devices, 'device')}{nodes}, {layout.slots_per_device} each, in "
        f"{number_of(len(layout.device_experts), 'layer')}"
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), caption_justify="left")
    table.caption = "balancedness: mean / max of the devices' rows; bound: proven for any placement"
    table.add_column("")
    for name in ("balancedness", "worst layer", "busiest", "above bound"):
        table.add_column(name, justify="right")
    rows: list[tuple[str, Evenness | None]] = [
        ("before", plan.before),
        ("after", plan.after),
        ("held-out half", plan.held_out),
    ]
    for name, found in rows:
        if found is not None:
            table.add_row(
                name,
                f"{found.balancedness:.4f}",
                f"{found.worst_balancedness:.4f}",
                f"{found.max_over_mean:.3f} x",
                "" if name != "after" else f"{found.distance:.2%}",
            )
    console.print(table)
    if plan.held_out is not None:
        console.print("The held-out half is the second, with a plan made from the first; the plan is made from both.")
    if plan.sends is not None:
        before = "" if plan.sends[0] is None else f", {plan.sends[0]:.3f} before"
        console.print(f"Sends per token and layer: {plan.sends[1]:.3f} on the held-out half{before}.")
    if plan.num_moves is not None:
        slots = layout.device_experts.size
        console.print(f"To load: {plan.num_moves:,} of {number_of(slots, 'expert')} ({plan.num_moves / slots:.1%}).")
