"""What the verbs of placement read: traces, counts, layouts, and the cluster they are for."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeAlias

import typer

if TYPE_CHECKING:
    from headgate.layout import ExpertLayout
    from headgate.observe.reader import TraceFile

ExpertsOption: TypeAlias = Annotated[
    int | None, typer.Option(min=1, metavar="E", help="Experts, where a layout does not say; default: of the trace.")
]


def read_counts(path: Path) -> Any:
    """[L, E] counts from a JSON list of lists or a .npy file.

    Raises:
        ArtifactError: it can't be read.
        InputError: it holds something else.
    """
    import numpy as np

    from headgate.errors import InputError
    from headgate.files import explain_os_errors
    from headgate.observe.importers.decode import parse_npy, read_json

    if path.suffix == ".npy":
        with explain_os_errors("read", path):
            return parse_npy(path.read_bytes(), path)
    values = read_json(path)
    try:
        array = np.array(values)
    except ValueError:
        array = np.zeros(0)
    if array.ndim != 2 or array.dtype.kind not in "iuf" or array.size == 0:
        raise InputError(f"{path} holds no list [L][E] of numbers; write one row of counts per layer")
    return array


def is_counts(path: Path) -> bool:
    """Whether a file is one of counts rather than a trace."""
    return path.suffix in (".json", ".npy") and not path.name.endswith(".index.json")


def read_layout(path: Path, *, num_devices: int | None, num_experts: int | None) -> ExpertLayout:
    """Read a layout of Headgate or of an engine.

    Raises:
        ArtifactError: it can't be read, or is none.
        InputError: sizes are missing or do not fit.
    """
    from headgate.errors import ArtifactError, InputError
    from headgate.files import explain_os_errors
    from headgate.planning.layout_files import parse_layout

    with explain_os_errors("read", path):
        content = path.read_bytes()
    try:
        return parse_layout(content.decode("utf-8", "replace"), num_devices=num_devices, num_experts=num_experts)
    except (ArtifactError, InputError) as error:
        raise type(error)(f"{path}: {error}") from error


def open_tokens(path: Path) -> TraceFile:
    """Open a trace that has tokens.

    Raises:
        ArtifactError: as `open_trace`.
        InputError: it holds counts alone.
    """
    from headgate.errors import InputError
    from headgate.observe.reader import open_trace

    trace = open_trace(path)
    if not trace.num_tokens:
        raise InputError(f"{path} has no tokens, only counts; record the choices themselves")
    return trace
