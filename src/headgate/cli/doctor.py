"""`headgate doctor`: what this machine has, and which code runs on it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.columns import Columns
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from headgate.cli.output import JsonOption, QuietOption, print_json, result_console

if TYPE_CHECKING:
    from headgate.planning.machine import BackendRow, CpuStatus, MachineReport, PackageStatus

GOOD, POOR, QUIET = "green", "yellow", "dim"


def doctor(json: JsonOption = False, quiet: QuietOption = False) -> None:
    """Show versions, hardware, the native library, and the backend of every operation.

    With -q, print only what is wrong and how to put it right: no output means that all is well.
    """
    from headgate.planning.machine import describe_machine

    report = describe_machine()
    if json:
        print_json(report.to_dict())
        return
    console = result_console()
    if not quiet:
        print_report(report, console)
    for finding in findings(report):
        console.print(Text.assemble(("! ", f"bold {POOR}"), finding), soft_wrap=quiet)


def findings(report: MachineReport) -> list[str]:
    """Return one sentence for each thing that makes Headgate slower than it could be, with its remedy."""
    native = report.native
    found = [f"No native library: {native.why_missing}. To get it, {native.remedy}."] if native.why_missing else []
    has_triton = any(package.name == "triton" and package.version for package in report.packages)
    if report.gpus and not has_triton:
        found.append("A GPU, but no Triton: kernels run one by one there. To get it, pip install 'headgate[gpu]'.")
    return found


def print_report(report: MachineReport, console: Console) -> None:
    """Print the report for a person."""
    console.print()
    console.print(
        Text.assemble(("headgate ", "bold"), (report.headgate, "bold cyan"), (f"  Python {report.python}", QUIET))
    )
    console.print()
    console.print(_facts(report))
    console.print()
    console.print(_backends(report.backends))
    console.print()


def _facts(report: MachineReport) -> Table:
    facts = Table.grid(padding=(0, 2))
    facts.add_column(style=QUIET, no_wrap=True)
    facts.add_column(overflow="fold")
    facts.add_row("platform", report.platform)
    facts.add_row("cpu", _cpu(report.cpu))
    gpus = [f"{gpu.name}, {gpu.memory_bytes / 2**30:.0f} GiB, capability {gpu.capability}" for gpu in report.gpus]
    facts.add_row("cuda", "\n".join(gpus) if gpus else Text("no device", QUIET))
    found = report.native.path
    facts.add_row("native", Text(found, GOOD) if found else Text("missing (see below)", POOR))
    facts.add_row("packages", _packages(report.packages))
    return facts


def _cpu(cpu: CpuStatus) -> RenderableType:
    first = f"{cpu.name} ({cpu.architecture}), {cpu.num_cores} cores, {cpu.num_threads} threads for torch"
    if not cpu.features:
        return Text(f"{first}, torch uses {cpu.torch_capability}")
    marks = [Text(f"{'✓' if there else '✗'} {name}", GOOD if there else QUIET) for name, there in cpu.features.items()]
    return Group(Text(first), Columns(marks, padding=(0, 2)))


def _packages(packages: tuple[PackageStatus, ...]) -> RenderableType:
    present = Columns(
        [Text.assemble(f"{package.name} ", (package.version, GOOD)) for package in packages if package.version],
        padding=(0, 2),
    )
    missing = [package for package in packages if not package.version]
    if not missing:
        return present
    names = ", ".join(package.name for package in missing)
    extras = ",".join(sorted({package.extra for package in missing if package.extra}))
    return Group(present, Text(f"without {names}: pip install 'headgate[{extras}]'", QUIET))


def _backends(rows: tuple[BackendRow, ...]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), header_style="bold")
    for name in ("operation", "device", "dtype", "backend"):
        table.add_column(name, no_wrap=True)
    table.add_column("how")
    merged: dict[tuple[str, str, str, str], list[str]] = {}
    for row in rows:
        merged.setdefault((row.op, row.device, row.backend, row.reason), []).append(row.dtype)
    for (op, device, backend, reason), dtypes in merged.items():
        style = GOOD if backend in ("native", "triton") else ""
        table.add_row(op, device, ", ".join(dtypes), Text(backend, style), Text(reason, QUIET))
    return table
