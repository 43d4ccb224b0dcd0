"""`headgate trace`: record the routing of a transformers model on texts."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich import box
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from headgate.cli.output import JsonOption, QuietOption, note_console, print_json, result_console
from headgate.errors import InputError

if TYPE_CHECKING:
    from headgate.observe.trace import RoutingTrace

DEMO = Path("runs/demo")


def trace(
    model: Annotated[
        str | None, typer.Argument(help="A directory or a Hub id; left out, the model that `headgate demo` trained.")
    ] = None,
    text: Annotated[list[str] | None, typer.Option(help="A text; may be given several times.")] = None,
    file: Annotated[list[Path] | None, typer.Option(metavar="FILE", help="A text file, as one text.")] = None,
    jsonl: Annotated[
        list[Path] | None, typer.Option(metavar="FILE", help='One JSON object a line, with "text".')
    ] = None,
    out: Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Ends in .safetensors.")] = Path(
        "routing.safetensors"
    ),
    generate: Annotated[int, typer.Option(min=0, metavar="N", help="Tokens to generate after each text.")] = 0,
    batch: Annotated[int, typer.Option(min=1, metavar="B", help="Texts that run together.")] = 1,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a model on texts and write every routing decision to a trace file.

    What was recorded is written piece by piece: Ctrl-C keeps it, readable
    under the same name. The summary shows each layer's load.
    """
    from headgate.integrations.transformers import recorder
    from headgate.observe.reader import load_trace
    from headgate.observe.writer import TraceWriter

    notes = note_console()
    texts = _texts(text or [], file or [], jsonl or [], notes)
    name = model or _demo_model()
    loaded, tokenizer = recorder.load_model(name)
    room = recorder.context_length(loaded, generate=generate)
    sequences = recorder.split_texts(tokenizer, texts, max_length=room, warn=lambda line: _warn(notes, line))
    with TraceWriter(out, overwrite=force) as writer, Progress(console=notes, transient=True, disable=quiet) as bar:
        task = bar.add_task("sequences", total=None)
        steps = recorder.record_sequences(
            loaded, sequences, writer, batch=batch, generate=generate, metadata={"model": name}
        )
        for done in steps:
            bar.update(task, completed=done)
    recorded = load_trace(out)
    if json:
        print_json(summarise(recorded, out))
    elif not quiet:
        print_summary(recorded, out, result_console())


def summarise(recorded: RoutingTrace, path: Path) -> dict[str, Any]:
    """What was recorded, and each layer's load."""
    layers = recorded.metadata["layers"]
    return {
        "path": str(path),
        "tokens": recorded.num_tokens,
        "sequences": len(recorded.seq_offsets) - 1,
        "layers": [
            {
                "path": layer["path"],
                "layer_index": int(index),
                "num_experts": len(counts),
                "load_max_over_mean": float(counts.max() / counts.float().mean()),
                "idle_experts": int((counts == 0).sum()),
            }
            for layer, index, counts in zip(layers, recorded.layer_index, recorded.counts, strict=True)
        ],
    }


def print_summary(recorded: RoutingTrace, path: Path, console: Console) -> None:
    """Print what was recorded as a table, a line for each layer."""
    summary = summarise(recorded, path)
    console.print(f"{path}: {summary['tokens']} tokens in {summary['sequences']} sequences", soft_wrap=True)
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("layer", "experts", "max/mean load", "without a token"):
        table.add_column(column, justify="right")
    for layer in summary["layers"]:
        load = f"{layer['load_max_over_mean']:.2f}"
        table.add_row(str(layer["layer_index"]), str(layer["num_experts"]), load, str(layer["idle_experts"]))
    console.print(table)


def _texts(texts: list[str], files: list[Path], lines: list[Path], notes: Console) -> Iterable[str]:
    from headgate.integrations.transformers.recorder import read_lines

    if not (texts or files or lines):
        raise InputError("there is no text to run; give --text, --file or --jsonl")
    yield from texts
    for file in files:
        yield file.read_text(encoding="utf-8")
    for file in lines:
        yield from read_lines(file, lambda line: _warn(notes, line))


def _warn(notes: Console, line: str) -> None:
    notes.print(f"note: {line}", soft_wrap=True)


def _demo_model() -> str:
    """The demo's model in a form that transformers loads, beside its run."""
    from headgate.demo.export import export_mixtral

    return str(export_mixtral(DEMO, DEMO / "mixtral"))
