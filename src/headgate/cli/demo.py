"""`headgate demo`: train a small MoE language model here and now, and see what its routing does."""

from __future__ import annotations

import os
import shlex
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any, TypeAlias

import typer
from rich.console import Console

from headgate.cli.output import JsonOption, QuietOption, note_console, print_json, result_console
from headgate.errors import InputError

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


RouterOption: TypeAlias = Annotated[
    str | None,
    typer.Option(metavar="PRESET", help="How experts are picked, by model or paper; default mixtral."),
]
ExpertsOption: TypeAlias = Annotated[
    int | None, typer.Option(min=1, metavar="E", help="Experts in each layer; default 8.")
]
TopKOption: TypeAlias = Annotated[
    int | None, typer.Option(min=1, metavar="K", help="Experts for each token; default the preset's, at most 2.")
]
CapacityOption: TypeAlias = Annotated[
    float | None,
    typer.Option(metavar="FACTOR", help="Rows an expert takes at most, as a multiple of an even share."),
]
BalanceNameOption: TypeAlias = Annotated[
    BalanceOption | None,
    typer.Option(
        metavar="NAME",
        help=f"What keeps the experts evenly used: {', '.join(BalanceOption)}; default what suits the preset.",
    ),
]
StepsOption: TypeAlias = Annotated[int | None, typer.Option(min=1, metavar="N", help="Training steps; default 600.")]
SeedOption: TypeAlias = Annotated[
    int | None, typer.Option(min=0, metavar="N", help="Of weights, order of the text, noise; default 0.")
]
OutOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="FOLDER", help="Where everything goes; default runs/demo, or runs/compare."),
]
DeviceOption: TypeAlias = Annotated[str | None, typer.Option(metavar="NAME", help="cpu, cuda, ...; default cpu.")]
ResumeOption: TypeAlias = Annotated[bool, typer.Option("--resume", help="Go on with the run in FOLDER.")]
CompareOption: TypeAlias = Annotated[
    bool, typer.Option("--compare", help="Train balanced, unbalanced and dense on the same budget.")
]
ExportOption: TypeAlias = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Train nothing; write the run in FOLDER as a checkpoint for transformers."),
]


def demo(
    router: RouterOption = None,
    experts: ExpertsOption = None,
    top_k: TopKOption = None,
    capacity: CapacityOption = None,
    balance: BalanceNameOption = None,
    steps: StepsOption = None,
    seed: SeedOption = None,
    out: OutOption = None,
    device: DeviceOption = None,
    resume: ResumeOption = False,
    compare: CompareOption = False,
    export: ExportOption = None,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a small MoE language model here, in about two minutes on two cores.

    It reads Python's own documentation; nothing is downloaded. While it
    trains you see the load of every expert; then how good the model is,
    whether its experts share the work, and one token's way through a layer.
    Ctrl-C saves, and --resume goes on.
    """
    given: dict[str, Any] = {
        "router": router,
        "num_experts": experts,
        "top_k": top_k,
        "capacity": capacity,
        "balance": None if balance is None else balance.value,
        "steps": steps,
        "seed": seed,
        "device": device,
    }
    options = {name: value for name, value in given.items() if value is not None}
    folder = out or (DEFAULT_COMPARE_OUT if compare else DEFAULT_OUT)
    if export is None:
        _train(folder, options, resume=resume, compare=compare, json=json, quiet=quiet)
        return
    named = [*options, *(["resume"] if resume else []), *(["compare"] if compare else [])]
    if named:
        raise InputError(f"{', '.join(named)} (given) are for training, and --export trains nothing; leave them out")
    _export(folder, export, json=json, quiet=quiet)


def _train(folder: Path, options: dict[str, Any], *, resume: bool, compare: bool, json: bool, quiet: bool) -> None:
    from headgate.demo.launch import Launch, run_comparison, run_single
    from headgate.demo.run import Stopped
    from headgate.parallel.launch import join_ranks, rank

    # A launcher that starts a run again after a failure gives it the same command, without --resume.
    restarted = int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0
    resume = resume or (restarted and any(folder.glob("*.json")))
    device_type = str(options.get("device", "cpu")).partition(":")[0]
    with join_ranks(device_type):
        is_first = rank() == 0
        notes = note_console() if is_first else Console(quiet=True)
        with stop_on_interrupt(notes) as should_stop:
            launch = Launch(
                out=folder,
                options=options,
                resume=resume,
                results=notes if json or not is_first else result_console(),
                notes=notes,
                is_quiet=quiet or not is_first,
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
    if json and is_first:
        print_json(outcome)


def _export(folder: Path, target: Path, *, json: bool, quiet: bool) -> None:
    """Write the run's model as transformers loads it, and say what can be done with it."""
    from headgate.demo.export import export_mixtral
    from headgate.parallel.launch import join_ranks, rank

    with join_ranks():
        written, is_first = export_mixtral(folder, target), rank() == 0
    if not is_first:
        return
    if json:
        files = sorted(file.name for file in written.iterdir())
        print_json({"path": str(written), "architecture": "MixtralForCausalLM", "files": files})
        return
    console = result_console()
    console.print(f"{written}: MixtralForCausalLM, as AutoModelForCausalLM.from_pretrained loads it", soft_wrap=True)
    if not quiet:
        for arguments in (["inspect"], ["trace", "--text", "The list is sorted.", "-o", "routing.safetensors"]):
            command = shlex.join(["headgate", arguments[0], str(written), *arguments[1:]])
            console.print(f"  {command}", soft_wrap=True, markup=False)


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
