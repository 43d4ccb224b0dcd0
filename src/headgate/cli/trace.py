"""`headgate trace`: record the routing of a transformers model on texts."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeAlias

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from headgate.cli.output import JsonOption, QuietOption, hide_loading, note_console, print_json, result_console
from headgate.cli.trace_summary import print_summary, summarise
from headgate.errors import InputError

if TYPE_CHECKING:
    from headgate.integrations.transformers.recorder import Recording
    from headgate.integrations.transformers.resume import Begun

DEMO = Path("runs/demo")

FLUSH_S = 10.0
"""What was recorded is on the disk after so many seconds, so that a kill loses no more, ..."""

FLUSH_FRACTION = 0.02
"""... or after this part of the recording's time, so that a day of it is some hundred files and not thousands."""

ModelArgument: TypeAlias = Annotated[
    str | None, typer.Argument(help="A directory or a Hub id; left out, the model that `headgate demo` trained.")
]
TextOption: TypeAlias = Annotated[list[str] | None, typer.Option(help="A text; may be given several times.")]
FileOption: TypeAlias = Annotated[list[Path] | None, typer.Option(metavar="FILE", help="A text file, as one text.")]
JsonlOption: TypeAlias = Annotated[
    list[Path] | None, typer.Option(metavar="FILE", help='One JSON object a line, with "text".')
]
OutOption: TypeAlias = Annotated[Path, typer.Option("--out", "-o", metavar="FILE", help="Ends in .safetensors.")]
GenerateOption: TypeAlias = Annotated[int, typer.Option(min=0, metavar="N", help="Tokens to generate after each text.")]
BatchOption: TypeAlias = Annotated[int, typer.Option(min=1, metavar="B", help="Texts that run together.")]
NormsOption: TypeAlias = Annotated[
    bool, typer.Option("--norms", help="Keep how much each expert adds to a token; experts run a second time for it.")
]
LogitsOption: TypeAlias = Annotated[bool, typer.Option("--logits", help="Keep the routers' logits.")]
ResumeOption: TypeAlias = Annotated[bool, typer.Option("--resume", help="Go on with an interrupted recording.")]
ForceOption: TypeAlias = Annotated[bool, typer.Option("--force", help="Overwrite FILE.")]


def trace(
    model: ModelArgument = None,
    text: TextOption = None,
    file: FileOption = None,
    jsonl: JsonlOption = None,
    out: OutOption = Path("routing.safetensors"),
    generate: GenerateOption = 0,
    batch: BatchOption = 1,
    norms: NormsOption = False,
    logits: LogitsOption = False,
    resume: ResumeOption = False,
    force: ForceOption = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run a model on texts and write every routing decision to a trace file.

    What was recorded is written piece by piece: Ctrl-C keeps it, readable
    under the same name, and --resume goes on after the last text that was
    recorded whole. The summary shows each layer's load.
    """
    from headgate.integrations.transformers.recorder import RecordingOptions, prepare_recording
    from headgate.integrations.transformers.resume import open_recording
    from headgate.integrations.transformers.texts import read_texts

    if not (text or file or jsonl):
        raise InputError("there is no text to run; give --text, --file or --jsonl")
    _check_out(out, resume=resume, force=force)
    notes = note_console()
    if quiet or not notes.is_terminal:
        hide_loading()
    recording = prepare_recording(
        model or _demo_model(),
        lambda warn: read_texts(text or [], file or [], jsonl or [], warn=warn),
        RecordingOptions(generate=generate, batch=batch, norms=norms, logits=logits),
        warn=lambda line: _warn(notes, line),
    )
    begun = open_recording(out, recording.metadata, resume=resume, overwrite=force)
    if begun is None:
        _warn(notes, f"{out} is complete; there is nothing to go on with")
        is_stopped = False
    else:
        is_stopped = _record(recording, begun, notes, quiet=quiet)
    _print(out, is_stopped, notes, json=json, quiet=quiet)


def _record(recording: Recording, begun: Begun, notes: Console, *, quiet: bool) -> bool:
    """Record with a progress bar; whether Ctrl-C stopped it."""
    from headgate.integrations.transformers.recorder import record

    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())
    try:
        with Progress(*columns, console=notes, transient=True, disable=quiet) as bar, begun.writer:
            task = bar.add_task("sequences", total=recording.summary.num_sequences)
            start = flushed = time.monotonic()
            for done in record(recording, begun):
                bar.update(task, completed=done)
                if is_due(flushed - start, time.monotonic() - start):
                    begun.writer.flush()
                    flushed = time.monotonic()
    except KeyboardInterrupt:
        return True
    return False


def is_due(flushed_s: float, now_s: float) -> bool:
    """Whether it is time to write to the disk; both times are seconds since the recording began."""
    return now_s - flushed_s > max(FLUSH_S, FLUSH_FRACTION * now_s)


def _print(out: Path, is_stopped: bool, notes: Console, *, json: bool, quiet: bool) -> None:
    """Print the summary and, after Ctrl-C, how to go on."""
    from headgate.observe.reader import open_trace
    from headgate.observe.shards import existing_files

    if any(file.suffix == ".safetensors" for file in existing_files(out)):
        recorded = open_trace(out)
        if json:
            print_json(summarise(recorded))
        elif not quiet:
            print_summary(recorded, result_console())
    if is_stopped:
        notes.print(
            "Stopped; what was recorded is kept. To go on, give the same command with --resume.", soft_wrap=True
        )
        raise typer.Exit(1)


def _check_out(out: Path, *, resume: bool, force: bool) -> None:
    """Refuse, before a model is loaded, what could not be written in the end."""
    from headgate.observe.shards import existing_files

    if out.suffix != ".safetensors":
        raise InputError(f"--out (={out}) must end in .safetensors, which is how a trace is known; add it")
    if resume and force:
        raise InputError("--force overwrites what --resume would go on with; leave one of them out")
    if existing_files(out) and not (resume or force):
        raise InputError(
            f"{out} is there already; give --resume to go on with it, --force to overwrite it, or another -o"
        )


def _warn(notes: Console, line: str) -> None:
    notes.print(f"note: {line}", soft_wrap=True, markup=False)


def _demo_model() -> str:
    """The demo's model in a form that transformers loads, beside its run."""
    from headgate.demo.export import export_mixtral

    return str(export_mixtral(DEMO, DEMO / "mixtral"))
