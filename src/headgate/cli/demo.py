"""`headgate demo`: train a small MoE language model here and now, and see what its routing does."""

from __future__ import annotations

import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from headgate.cli.output import JsonOption, QuietOption, note_console, print_json, result_console

DEFAULT_OUT = Path("runs/demo")
DEFAULT_COMPARE_OUT = Path("runs/compare")


class BalanceOption(StrEnum):
    """What keeps the experts evenly used."""

    OFF = "off"
    SWITCH = "switch"
    Z = "z"
    IMPORTANCE = "importance"
    SEQUENCE = "sequence"
    GLOBAL_BATCH = "global-batch"
    BIAS = "bias"


def demo(
    router: Annotated[
        str | None,
        typer.Option(metavar="PRESET", help="How experts are picked, by model or paper; default mixtral."),
    ] = None,
    experts: Annotated[int | None, typer.Option(min=1, metavar="E", help="Experts in each layer; default 8.")] = None,
    top_k: Annotated[
        int | None, typer.Option(min=1, metavar="K", help="Experts for each token; default the preset's, at most 2.")
    ] = None,
    capacity: Annotated[
        float | None,
        typer.Option(metavar="FACTOR", help="Rows an expert takes at most, as a multiple of an even share."),
    ] = None,
    balance: Annotated[
        BalanceOption | None,
        typer.Option(
            metavar="NAME",
            help=f"What keeps the experts evenly used: {', '.join(BalanceOption)}; default what suits the preset.",
        ),
    ] = None,
    steps: Annotated[int | None, typer.Option(min=1, metavar="N", help="Training steps; default 600.")] = None,
    seed: Annotated[
        int | None, typer.Option(min=0, metavar="N", help="Of weights, order of the text, noise; default 0.")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(metavar="FOLDER", help="Where everything goes; default runs/demo, or runs/compare."),
    ] = None,
    device: Annotated[str | None, typer.Option(metavar="NAME", help="cpu, cuda, ...; default cpu.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Go on with the run in FOLDER.")] = False,
    compare: Annotated[
        bool, typer.Option("--compare", help="Train balanced, unbalanced and dense on the same budget.")
    ] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a small MoE language model here, in about two minutes on two cores.

    It reads Python's own documentation; nothing is downloaded. While it
    trains you see the load of every expert; then how good the model is,
    whether its experts share the work, and one token's way through a layer.
    Ctrl-C saves, and --resume goes on.
    """
    from headgate.demo.launch import Launch, run_comparison, run_single
    from headgate.demo.run import Stopped

    options: dict[str, Any] = {
        "router": router,
        "num_experts": experts,
        "top_k": top_k,
        "capacity": capacity,
        "balance": None if balance is None else balance.value,
        "steps": steps,
        "seed": seed,
        "device": device,
    }
    notes = note_console()
    folder = out or (DEFAULT_COMPARE_OUT if compare else DEFAULT_OUT)
    with stop_on_interrupt(notes) as should_stop:
        launch = Launch(
            out=folder,
            options={name: value for name, value in options.items() if value is not None},
            resume=resume,
            results=notes if json else result_console(),
            notes=notes,
            is_quiet=quiet,
            should_stop=should_stop,
        )
        outcome = (run_comparison if compare else run_single)(launch)
    if isinstance(outcome, Stopped):
        command = shlex.join(
            ["headgate", "demo", *(["--compare"] if compare else []), "--resume", "--out", str(folder)]
        )
        notes.print(
            f"Stopped after step {outcome.step}; it is saved. To go on: {command}", soft_wrap=True, markup=False
        )
        raise typer.Exit(1)
    if json:
        print_json(outcome)


@contextmanager
def stop_on_interrupt(notes: Console) -> Iterator[Callable[[], bool]]:
    """Let the first Ctrl-C only be noted, so that a step is never cut in two; the second interrupts at once."""
    asked: list[bool] = []

    def note(*_: object) -> None:
        signal.signal(signal.SIGINT, before)
        asked.append(True)
        notes.print(
            "Stopping after this step; Ctrl-C again stops at once, back at the last checkpoint.", soft_wrap=True
        )

    before = signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(asked)
    finally:
        signal.signal(signal.SIGINT, before)
