"""Show what a trace holds: text that may be hostile as plain visible characters, and a trace as HTML for notebooks."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING

from headgate.observe.metrics import load_ratio, normalised_entropy

if TYPE_CHECKING:
    from headgate.observe.trace import RoutingTrace

_LONGEST = 40
_SHOWN_TOKENS = 12


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


def trace_html(trace: RoutingTrace) -> str:
    """Show a trace in a notebook: its sizes, the load of each layer, its first tokens."""
    layers, tokens, slots = trace.topk_ids.shape
    sequences = len(trace.seq_offsets) - 1
    model = trace.metadata.get("model")
    title = f"Routing of {html.escape(escape_text(str(model)))}" if model else "Routing trace"
    sizes = f"{sequences} sequences, {tokens} tokens, {layers} layers, {trace.num_experts} experts, top {slots}"
    rows = "".join(_layer_row(trace, row) for row in range(layers))
    return (
        f"<div><b>{title}</b><br>{sizes}<table><tr><th>layer</th><th>busiest expert</th><th>entropy</th>"
        f"<th>load of each expert</th></tr>{rows}</table>{_first_tokens(trace)}</div>"
    )


def _layer_row(trace: RoutingTrace, row: int) -> str:
    counts = trace.counts[row]
    busiest = int(counts.max()) if len(counts) else 0
    bars = "".join(
        f'<span title="expert {expert}: {count}" style="display:inline-block;width:4px;margin-right:1px;'
        f'background:#4878a8;height:{round(20 * count / busiest) if busiest else 0}px"></span>'
        for expert, count in enumerate(counts.tolist())
    )
    ratio = f"{load_ratio(counts).item():.2f} x even" if busiest else "no rows"
    entropy = f"{normalised_entropy(counts).item():.3f}" if busiest and len(counts) > 1 else ""
    return f"<tr><td>{int(trace.layer_index[row])}</td><td>{ratio}</td><td>{entropy}</td><td>{bars}</td></tr>"


def _first_tokens(trace: RoutingTrace) -> str:
    strings = trace.metadata.get("token_strings", {})
    if trace.token_ids is None or not strings:
        return ""
    texts = [strings.get(str(token), "?") for token in trace.token_ids[:_SHOWN_TOKENS].tolist()]
    shown = " ".join(f"<code>{html.escape(escape_text(text))}</code>" for text in texts)
    return f"<p>begins with {shown}</p>"
