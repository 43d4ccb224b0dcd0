"""Where a page's numbers come from, and what they do not show."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from headgate.observe.align import TraceSource
from headgate.observe.noted import NotedLayer
from headgate.observe.page.scores import PageScores
from headgate.observe.reader import TraceFile
from headgate.observe.summary import TraceSummary
from headgate.observe.trace import RoutingTrace
from headgate.wording import number_of

_LABELS = (
    ("model", "model"),
    ("revision", "revision"),
    ("config_hash", "configuration"),
    ("engine", "engine"),
    ("engine_version", "engine version"),
    ("transformers", "transformers"),
    ("torch", "torch"),
    ("headgate", "headgate"),
    ("dtype", "dtype"),
    ("device", "device"),
    ("tokenizer_hash", "tokenizer"),
    ("created", "recorded"),
)
"""Entries of a trace's metadata, and what a page calls them."""

_LONGEST = 200
_TIME = re.compile(r"(?<=\d)T\d\d:.*")


def provenance(trace: TraceSource, summary: TraceSummary) -> list[list[str]]:
    """Label and value of everything that is known about how a trace came to be."""
    metadata = trace.metadata
    noted = [[label, _short(metadata[key])] for key, label in _LABELS if metadata.get(key) not in (None, "")]
    experts = number_of(summary.num_experts, "expert")
    phases = ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in summary.phases.items())
    return [
        *noted,
        *([["backend", _backends(metadata["backends"])]] if metadata.get("backends") else []),
        ["tokens", f"{summary.num_tokens:,}" + (f" ({phases})" if len(summary.phases) > 1 else "")],
        ["sequences", f"{summary.num_sequences:,}"],
        ["layers", f"{summary.num_layers} with at most {experts}, top {summary.top_k}"],
    ]


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= _LONGEST else text[:_LONGEST] + "…"


def _backends(value: object) -> str:
    """The backend of each phase; a writer may note anything."""
    if isinstance(value, Mapping):
        return _short(", ".join(f"{phase}: {name}" for phase, name in value.items()))
    return _short(value)


def origin(trace: TraceSource) -> str:
    """What was recorded, of what."""
    metadata = trace.metadata
    model = _short(metadata["model"]) if metadata.get("model") else "a model that the trace does not name"
    # The day is enough for a sentence; the footer has the time.
    created = f" on {_TIME.sub('', _short(metadata['created']))}" if metadata.get("created") else ""
    engine = f", by {_short(metadata['engine'])}" if metadata.get("engine") else ""
    if trace.num_tokens == 0:
        return (
            f"Rows per expert, counted while {model} ran{engine}{created}; what single tokens chose was not recorded."
        )
    said = f"Recorded while {model} ran{engine}{created}. Every number on this page is from that run; none is made up."
    if isinstance(trace, TraceFile) and not trace.is_complete:
        return f"{said} The recording was interrupted, or goes on: this is what it had written."
    return said


def not_shown(
    sample: RoutingTrace, summary: TraceSummary, layers: Sequence[NotedLayer], scores: PageScores | None
) -> list[str]:
    """What a reader might take from the page, and should not.

    Args:
        sample: some tokens of the trace, to see what is recorded of each.
        summary: of the trace.
        layers: of the trace, as noted.
        scores: that the page holds.
    """
    tokens, sequences = number_of(summary.num_tokens, "token"), number_of(summary.num_sequences, "sequence")
    said = [
        "Why a router prefers an expert. The page shows what was scored and chosen, not what it means.",
        "How well an expert does its work. Getting a token often is no proof of skill with it.",
        f"Other text. These are {tokens} of {sequences}; on another text the load may be another.",
        "Time. The compute that is skipped is counted in experts, not measured in seconds.",
        "Attention, and whatever else is outside of the routed layers.",
    ]
    return (
        said
        + [
            sentence
            for is_missing, sentence in (
                (scores is None, "Scores of experts that were not chosen: the trace has no router logits."),
                (sample.topk_weights is None, "How much each choice weighs: the trace has no weights."),
                (sample.token_ids is None, "The text: the trace has no token ids."),
                (
                    getattr(sample, "contribution_norms", None) is None,
                    "How large each expert's output was: the trace has no norms.",
                ),
                (
                    any(layer.spec is None for layer in layers),
                    "The formula of the router, where the trace does not note it.",
                ),
            )
            if is_missing
        ]
        + _rounding(scores)
    )


def _rounding(scores: PageScores | None) -> list[str]:
    if scores is None or scores.router_scores is None:
        return []
    said = "The last digits of scores: they are computed again from logits that are stored in 16 bits"
    if not scores.num_decided:
        return [f"{said}."]
    return [
        f"{said}. The recorded experts follow from them for {scores.num_same:,} of {scores.num_decided:,} choices "
        "shown with scores."
    ]
