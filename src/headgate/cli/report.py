"""`headgate report`: one HTML file that shows a trace, or compares two; or a live view of a training run."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.text import Text

from headgate.cli.demo import DEFAULT_OUT
from headgate.cli.output import JsonOption, QuietOption, note_console, print_json, result_console
from headgate.errors import InputError

if TYPE_CHECKING:
    from headgate.observe.page.build import Page
    from headgate.observe.page.document import WrittenPage
    from headgate.observe.reader import TraceFile

DEFAULT_PAGE = Path("page.html")
_STYLES = {"healthy": "green", "imbalanced": "yellow", "collapsed": "bold red", "unknown": "dim"}


def report(
    first: Annotated[
        Path | None,
        typer.Argument(metavar="TRACE", help="A trace, or a folder with one; default runs/demo.", show_default=False),
    ] = None,
    second: Annotated[
        Path | None,
        typer.Argument(metavar="TRACE2", help="Another one of the same tokens, to compare.", show_default=False),
    ] = None,
    out: Annotated[
        Path, typer.Option("--out", "-o", metavar="FILE", help="The file to write; an older page is replaced.")
    ] = DEFAULT_PAGE,
    title: Annotated[str | None, typer.Option(metavar="TEXT", help="Of the page; default names the model.")] = None,
    assume_aligned: Annotated[
        bool, typer.Option("--assume-aligned", help="Without token ids, take token i of both as the same.")
    ] = False,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODEL", help="The model of the traces, as for headgate size; with --device, its speed."),
    ] = None,
    device: Annotated[
        str | None, typer.Option(metavar="NAME", help="Such as h200: tokens/s and memory against batch, on the page.")
    ] = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Follow the training run in the folder TRACE instead, until Ctrl-C.")
    ] = False,
    port: Annotated[
        int, typer.Option(min=0, max=65535, metavar="N", help="For --watch; default any free one.", show_default=False)
    ] = 0,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write one HTML file that shows which experts ran: the verdict, the whole, one token.

    The file opens from the disk, in any browser, without a network. With two
    traces of the same tokens it shows what changed. With -q, print only where
    it is.
    """
    if watch:
        if second is not None:
            raise typer.BadParameter("follows one run; leave out TRACE2", param_hint="--watch")
        _follow(first or DEFAULT_OUT, port, is_json=json, is_quiet=quiet)
        return
    from headgate.observe.page.build import make_page
    from headgate.observe.page.document import write_page

    traces = [_open(path) for path in (first or DEFAULT_OUT, second) if path is not None]
    speeds = _speeds(traces, model, device)
    page = make_page(*traces, title=title, names=name_traces(traces), assume_aligned=assume_aligned, speeds=speeds)
    written = write_page(out, page)
    if json:
        print_json(_result(page, written))
    elif quiet:
        result_console().print(Text(str(written.path)), soft_wrap=True)
    else:
        _print(page, written)


def _speeds(traces: list[TraceFile], model: str | None, device: str | None) -> list[dict[str, Any]] | None:
    """For each trace, what its model takes on a device at each batch, with the experts that the trace touched."""
    if model is None and device is None:
        return None
    if model is None or device is None:
        raise InputError(f"--model (={model}) and --device (={device}) go together; give both, or neither")
    from headgate.cli.size import read_routes
    from headgate.integrations.transformers.shapes import read_model
    from headgate.planning.hardware import find_device
    from headgate.planning.memory import choose_precision
    from headgate.planning.sizing import Workload, size_model

    load = Workload(device=find_device(device))
    shape, _ = read_model(model)
    precision = choose_precision(shape)
    return [
        size_model(shape, load, precision, routes=read_routes(trace.path, shape, load)).picture() for trace in traces
    ]


def _open(path: Path) -> TraceFile:
    from headgate.demo.folder import SAMPLE
    from headgate.errors import ArtifactError
    from headgate.observe.reader import open_trace

    if path == DEFAULT_OUT and not path.exists():
        raise ArtifactError(f"there is no run of the demo in {path}; name a trace, or train one with: headgate demo")
    # A run of the demo keeps a sample with scores and norms besides the trace of its whole text.
    return open_trace(path / SAMPLE if (path / SAMPLE).is_file() else path)


def name_traces(traces: list[TraceFile]) -> tuple[str, str]:
    """What the page calls the traces: their files, or the folders of files that have the same name."""
    names = [trace.path.name.removesuffix(".safetensors") for trace in traces]
    if len(set(names)) < len(traces):
        names = [trace.path.resolve().parent.name for trace in traces]
    if len(set(names)) < len(traces):
        names = ["A", "B"]
    return names[0], names[-1]


def _result(page: Page, written: WrittenPage) -> dict[str, Any]:
    comparison = page.header["comparison"]
    return {
        "path": str(written.path),
        "num_bytes": written.num_bytes,
        "is_replacement": written.is_replacement,
        "traces": [{key: entry[key] for key in ("name", "verdict", "cut", "note")} for entry in page.header["traces"]],
        "comparison": None if comparison is None else comparison["sentence"],
    }


def _print(page: Page, written: WrittenPage) -> None:
    from headgate.observe.display import escape_text

    console = result_console()
    traces = page.header["traces"]
    for entry in traces:
        name = f"{escape_text(entry['name'])}: " if len(traces) > 1 else ""
        status, sentence = entry["verdict"]["status"], entry["verdict"]["sentence"]
        console.print(Text.assemble(name, (status, _STYLES[status]), f". {sentence}"))
        if entry["cut"]:
            console.print(Text(entry["cut"], "dim"))
    if page.header["comparison"] is not None:
        console.print(Text(page.header["comparison"]["sentence"]))
    verb = "replaced" if written.is_replacement else "wrote"
    console.print(Text(f"{verb} {written.path} ({written.num_bytes / 1e6:.2f} MB)"), soft_wrap=True)


def _follow(run: Path, port: int, *, is_json: bool, is_quiet: bool) -> None:
    from headgate.observe.watch.server import WatchServer

    with WatchServer(run, port=port) as server:
        if is_json:
            print_json({"url": server.url})
        else:
            result_console().print(Text(server.url), soft_wrap=True)
        if not is_quiet:
            note_console().print(
                f"Following {run}, for this machine alone. Ctrl-C ends it.", soft_wrap=True, markup=False
            )
        server.serve_until_interrupted()
