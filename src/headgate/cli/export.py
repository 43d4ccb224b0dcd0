"""`headgate export`: a trace in another format, and per-rank traces put together."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from headgate.cli.output import JsonOption, QuietOption, note_console, print_json


class MergeOption(StrEnum):
    """What the ranks have of their own."""

    TOKENS = "tokens"
    LAYERS = "layers"


def export(
    traces: Annotated[list[Path], typer.Argument(metavar="TRACE...", help="One trace, or one per rank.")],
    out: Annotated[
        Path,
        typer.Option("--out", "-o", metavar="FILE", help="Ends in .parquet, .jsonl or .safetensors."),
    ],
    by: Annotated[
        MergeOption | None,
        typer.Option(help="Of several traces: has each rank its own tokens, or its own layers?"),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Overwrite FILE.")] = False,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Write a trace as Parquet or JSON lines, or merge the traces of several ranks into one."""
    from headgate.errors import ArtifactError, InputError
    from headgate.observe.export import export_trace
    from headgate.observe.merge import merge_files
    from headgate.observe.reader import open_trace

    opened = [open_trace(path) for path in traces]
    if out.exists() and not force:
        raise ArtifactError(f"{out} is there already; choose another --out, or overwrite it by --force")
    if out.suffix == ".safetensors":
        if len(opened) > 1 and by is None:
            raise InputError("--by (=None) must say whether each rank has its own tokens or its own layers; give one")
        merge_files(opened, out, by=(by or MergeOption.TOKENS).value, overwrite=force)
    elif len(opened) > 1:
        raise InputError(f"traces (={len(opened)}) must be one for {out.suffix}; merge them to a .safetensors first")
    else:
        export_trace(opened[0], out)
    if json:
        counted = opened[:1] if by is MergeOption.LAYERS else opened
        print_json({"out": str(out), "num_tokens": sum(trace.num_tokens for trace in counted)})
    elif not quiet:
        note_console().print(f"Wrote {out}.", markup=False, soft_wrap=True)
