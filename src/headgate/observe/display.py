"""Show what a trace holds: text that may be hostile as plain visible characters, and a trace as HTML for notebooks."""

from __future__ import annotations

import html
from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from headgate.observe.align import TraceSource
from headgate.observe.noted import NotedLayer, noted_layers
from headgate.observe.trace import RoutingTrace
from headgate.observe.utilisation import utilisation
from headgate.observe.verdict import judge_layers, judge_trace
from headgate.wording import number_of

_LONGEST = 40
_SIZES = ("sequence", "token", "layer", "expert")
_SHOWN_TOKENS = 12

_STEPS = (1e-9, 0.5, 0.8, 1.25, 2.0)
"""Where the colours of a load change, in even shares."""

_COLOURS = ("#0d0f13", "#24507f", "#7fa3c7", "#d9d4c8", "#eea25a", "#b3480b")
_NAMES = ("none", "below 0.5", "0.5 to 0.8", "about even", "1.25 to 2", "2 and more")


def escape_text(text: str, *, longest: int = _LONGEST) -> str:
    r"""Make a string safe to show on a terminal or a page: one line, no control or direction marks.

    What is not printable becomes a Python escape, and so does the backslash; a long string is cut. HTML needs
    `html.escape` besides.

    Example:
        >>> print(escape_text("a\nb\x1b[31m\u202e"))
        a\nb\x1b[31m\u202e
    """
    shown = text if len(text) <= longest else text[:longest] + "…"
    return "".join(
        character if character.isprintable() and character != "\\" else character.encode("unicode_escape").decode()
        for character in shown
    )


def trace_html(trace: TraceSource) -> str:
    """Show a trace in a notebook without a script: its sizes, a verdict, a map of the load, its first tokens.

    Only counts and the first tokens are read, so a large file is shown at once.
    """
    beginning = trace.take(np.arange(min(_SHOWN_TOKENS, trace.num_tokens)))
    num_layers, _, top_k = beginning.topk_ids.shape
    layers = noted_layers(trace, top_k=top_k)
    verdicts = judge_layers(trace.counts, layers, drop_fractions=[None] * num_layers)
    verdict = judge_trace({layer.index: found for layer, found in zip(layers, verdicts, strict=True)})
    model = trace.metadata.get("model")
    title = f"Routing of {html.escape(escape_text(str(model)))}" if model else "Routing trace"
    sequences = len(trace.seq_offsets) - 1
    sizes = ", ".join(map(number_of, (sequences, trace.num_tokens, num_layers, trace.num_experts), _SIZES))
    return (
        f"<div><b>{title}</b><br>{sizes}, top {top_k}<br><b>{verdict.status}</b>: {html.escape(verdict.sentence)}"
        f"{_load_map(trace.counts, layers)}{_first_tokens(beginning)}</div>"
    )


def _load_map(counts: Int[Tensor, "L E"], layers: Sequence[NotedLayer]) -> str:
    """Layers by experts as one picture; cells of a colour are one path, so that a large model stays small."""
    cells: list[list[str]] = [[] for _ in _COLOURS]
    for row, layer in enumerate(layers):
        load = utilisation(counts[row, : layer.num_experts]).nan_to_num(nan=0.0)
        colours = torch.bucketize(load, torch.tensor(_STEPS, dtype=load.dtype), right=True)
        for expert, colour in enumerate(colours.tolist()):
            cells[colour].append(f"M{expert} {row}h1v1h-1z")
    height, width = counts.shape
    paths = "".join(f'<path fill="{fill}" d="{"".join(d)}"/>' for fill, d in zip(_COLOURS, cells, strict=True) if d)
    legend = " ".join(
        f'<span style="color:{colour}">\N{BLACK SQUARE}</span> {name}'
        for colour, name in zip(_COLOURS, _NAMES, strict=True)
    )
    return (
        f'<svg role="img" aria-label="load of each expert, layer by layer" viewBox="0 0 {width} {height}" '
        f'preserveAspectRatio="none" shape-rendering="crispEdges" '
        f'style="display:block;margin:6px 0;width:{min(640, 24 * width)}px;height:{min(400, 14 * height)}px">'
        f"{paths}</svg><small>rows: layers; columns: experts; load in even shares: {legend}</small>"
    )


def _first_tokens(beginning: RoutingTrace) -> str:
    strings = beginning.metadata.get("token_strings", {})
    if beginning.token_ids is None or not strings:
        return ""
    texts = [strings.get(str(token), "?") for token in beginning.token_ids.tolist()]
    shown = " ".join(f"<code>{html.escape(escape_text(text))}</code>" for text in texts)
    return f"<p>begins with {shown}</p>"
