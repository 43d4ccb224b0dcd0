"""What `headgate trace` prints of a recording."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from rich import box
from rich.console import Console
from rich.table import Table

from headgate.wording import number_of

if TYPE_CHECKING:
    from headgate.observe.reader import TraceFile


def summarise(recorded: TraceFile) -> dict[str, Any]:
    """What was recorded, and each layer's load."""
    layers = recorded.metadata["layers"]
    return {
        "path": str(recorded.path),
        "is_complete": recorded.is_complete,
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


def print_summary(recorded: TraceFile, console: Console) -> None:
    """Print what was recorded as a table, a line for each layer."""
    summary = summarise(recorded)
    console.print(
        f"{summary['path']}: {number_of(summary['tokens'], 'token')} in {number_of(summary['sequences'], 'sequence')}"
        f"{'' if recorded.is_complete else ', incomplete'}",
        soft_wrap=True,
        markup=False,
    )
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False)
    for column in ("layer", "experts", "max/mean load", "without a token"):
        table.add_column(column, justify="right")
    for layer in summary["layers"]:
        load = f"{layer['load_max_over_mean']:.2f}"
        table.add_row(str(layer["layer_index"]), str(layer["num_experts"]), load, str(layer["idle_experts"]))
    console.print(table)
