"""From one or two traces to everything that a page shows. Pure: nothing is written."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from headgate.observe.align import TraceSource, align
from headgate.observe.diff import diff_traces
from headgate.observe.noted import noted_layers
from headgate.observe.page.comparison import comparison_entry
from headgate.observe.page.cut import Cut, PageBudget, cut_alignment, cut_trace
from headgate.observe.page.experts import expert_arrays
from headgate.observe.page.layers import layer_entries
from headgate.observe.page.passes import pass_arrays
from headgate.observe.page.payload import encode_payload
from headgate.observe.page.provenance import not_shown, origin, provenance
from headgate.observe.page.scores import count_scored, score_again
from headgate.observe.page.size import size_entry
from headgate.observe.page.tokens import StringTable, bytes_per_token, token_arrays
from headgate.observe.pieces import take_tokens
from headgate.observe.summary import summarise_trace
from headgate.observe.trace import RoutingTrace
from headgate.observe.verdict import RULES, judge_layers, judge_trace

PAGE_VERSION = 1

_NOT_ALWAYS = (
    *("scored_tokens", "router_logits", "router_scores", "select_scores"),
    *("top_tokens", "top_token_counts", "top_token_lift", "partners", "partner_lift", "load_bins"),
    *("specialisation", "specialisation_baseline"),
)
"""Arrays that are null where the trace lacks what they take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """What a page shows.

    Attributes:
        header: `docs/page-data.md` describes it; numpy arrays stand where they belong.
    """

    header: dict[str, Any]

    @property
    def verdicts(self) -> list[dict[str, str]]:
        """Of each trace: status, sentence and the rules behind them."""
        return [trace["verdict"] for trace in self.header["traces"]]

    def encode(self) -> bytes:
        """The bytes that the page reads."""
        return encode_payload(self.header)


def make_page(
    first: TraceSource,
    second: TraceSource | None = None,
    *,
    title: str | None = None,
    names: tuple[str, str] = ("A", "B"),
    assume_aligned: bool = False,
    budget: PageBudget | None = None,
    speeds: Sequence[Mapping[str, Any]] | None = None,
) -> Page:
    """Work out what a page shows of one trace, or of two on the same tokens.

    Args:
        first: the trace, or the reference.
        second: what is compared with it.
        title: of the page; None = the model's name.
        names: what to call the traces.
        assume_aligned: see `align`.
        budget: of bytes; None = the usual one, for a page below 8 MB.
        speeds: for each trace, a `picture` of headgate.planning.sizing; None for none.

    Raises:
        InputError: the traces do not hold the same tokens, layers and experts.
        ArtifactError: an expert id that there is no expert for.

    Example:
        >>> import torch, headgate
        >>> layer = headgate.MoE(8, 16, num_experts=4, top_k=2)
        >>> with headgate.tap(layer) as tape:
        ...     _ = layer(torch.randn(5, 8))
        >>> page = make_page(headgate.trace_of(layer, tape, token_ids=torch.arange(5)))
        >>> page.header["traces"][0]["layers"][0]["skipped_fraction"]
        0.5
    """
    whole = budget or PageBudget()
    if second is None:
        cut = cut_trace(first, limit=_limit(first, whole))
        entries, comparison = [_Builder(first, cut, whole).entry(names[0])], None
    else:
        half = whole.halved()
        found = diff_traces(first, second, assume_aligned=assume_aligned)
        limit = min(_limit(first, half), _limit(second, half))
        cuts = cut_alignment(align(first, second, assume_aligned=assume_aligned), limit=limit)
        builders = [_Builder(trace, cut, half) for trace, cut in zip((first, second), cuts, strict=True)]
        entries = [builder.entry(name) for builder, name in zip(builders, names, strict=True)]
        comparison = comparison_entry(found, builders[0].part, builders[1].part)
    for place, entry in enumerate(entries):
        entry["speed"] = None if speeds is None else speeds[place]
    header = {
        "page": PAGE_VERSION,
        "title": title or _title(first, second),
        "traces": entries,
        "comparison": comparison,
    }
    return Page(header=header)


def _title(first: TraceSource, second: TraceSource | None) -> str:
    models = [str(trace.metadata.get("model") or "a model") for trace in (first, second) if trace is not None]
    return f"Routing of {' and '.join(dict.fromkeys(models))}"


def _limit(trace: TraceSource, budget: PageBudget) -> int:
    """How many tokens a budget has room for."""
    if trace.num_tokens == 0:
        return 0
    per_token = bytes_per_token(trace.take(np.zeros(1, dtype=np.int64)))
    return max(1, min(budget.max_tokens, int(budget.token_bytes / per_token)))


class _Builder:
    """One trace's part of a page: the tokens that it shows, and the whole behind them."""

    def __init__(self, trace: TraceSource, cut: Cut, budget: PageBudget) -> None:
        self._trace, self._cut, self._budget = trace, cut, budget
        self.part: RoutingTrace = trace.take(cut.tokens)
        self._table = StringTable(trace.metadata.get("token_strings", {}))

    def entry(self, name: str) -> dict[str, Any]:
        """The header's entry."""
        trace, part = self._trace, self.part
        summary = summarise_trace(trace)
        layers = noted_layers(trace, top_k=summary.top_k)
        drop_fractions = [layer.drop_fraction for layer in summary.layers]
        verdicts = judge_layers(trace.counts, layers, drop_fractions=drop_fractions)
        verdict = judge_trace({layer.index: found for layer, found in zip(layers, verdicts, strict=True)})
        num_routed = trace.num_tokens - summary.phases.get("padding", 0)
        num_scored = count_scored(part, score_bytes=self._budget.score_bytes)
        scores = score_again(take_tokens(part, np.arange(num_scored)), layers)
        arrays = {
            **dict.fromkeys(_NOT_ALWAYS),
            **token_arrays(part, self._table),
            "seq_offsets": self._cut.seq_offsets.astype(np.int32),
            "counts": trace.counts.double().numpy(),
            "select_bias": None if trace.select_bias is None else trace.select_bias.numpy(),
            **({} if scores is None else scores.arrays()),
            **pass_arrays(trace, layers, pass_bytes=self._budget.pass_bytes),
            **expert_arrays(trace, layers, self._table, expert_bytes=self._budget.expert_bytes),
        }
        return {
            "name": name,
            "provenance": provenance(trace, summary),
            "note": origin(trace),
            "cut": self._cut_sentence(None if scores is None else num_scored),
            "not_shown": not_shown(part, summary, layers, scores),
            "verdict": {"status": verdict.status, "sentence": verdict.sentence, "rules": RULES},
            "layers": layer_entries(summary, layers, verdicts, num_routed=num_routed),
            "strings": self._table.strings,
            "size": size_entry(trace, part, layers),
            "arrays": arrays,
        }

    def _cut_sentence(self, num_scored: int | None) -> str | None:
        said = [self._cut.sentence()]
        if num_scored is not None and num_scored < self.part.num_tokens:
            said.append(
                f"Scores of all experts are here for the first {num_scored:,} tokens; of the others, the choice alone."
            )
        return " ".join(sentence for sentence in said if sentence) or None
