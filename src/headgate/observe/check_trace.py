"""`headgate check TRACE`: is the file right, and is the routing in it healthy?"""

from __future__ import annotations

from collections.abc import Callable

from headgate.flow import NO_EXPERT
from headgate.observe.agreement import overlap_at_k
from headgate.observe.align import TraceSource
from headgate.observe.findings import Finding, Status, name_layers
from headgate.observe.health import LayerHealth
from headgate.observe.layer_summary import LayerSummary
from headgate.observe.metrics import MISS_PROBABILITY
from headgate.observe.noted import noted_layers
from headgate.observe.reader import TraceFile
from headgate.observe.summary import TraceSummary, summarise_trace
from headgate.observe.validate import validate_trace
from headgate.observe.verdict import judge_layers
from headgate.spec import RouterSpec
from headgate.wording import number_of

TIE_FRACTION = 0.01
"""Above this part of exact ties, which expert is chosen is an accident of the tie rule for many tokens."""

DROP_FRACTION = 0.01
"""Switch Transformers (arXiv:2101.03961, section 2.2) report below 1 % for a balanced layer."""

FLIP_FRACTION = 0.01
"""Above this part of changed choices, a router in bfloat16 is another router."""


def check_trace(trace: TraceFile) -> list[Finding]:
    """Look at a trace from every side.

    Raises:
        ArtifactError: an expert id that there is no expert for.
    """
    return [*_check_format(trace), _check_complete(trace), *check_routing(trace), _check_dtype_flips(trace)]


def check_routing(trace: TraceSource) -> list[Finding]:
    """Look at the decisions in a trace, whatever it is kept in.

    Raises:
        ArtifactError: an expert id that there is no expert for.
    """
    summary = summarise_trace(trace)
    verdicts = _judge(trace, summary)
    return [
        _check_collapse(verdicts),
        _check_passes(summary),
        _check_dead(summary),
        _check_drops(summary),
        _check_ties(summary),
        _check_nan(summary),
    ]


def _check_format(trace: TraceFile) -> list[Finding]:
    found = [
        Finding(
            check=f"format: {violation.rule}",
            status="fail",
            sentence=f"{violation.sentence}, and does not at {number_of(violation.number, 'place')}, first at "
            f"{violation.where}"
            if violation.rule != "counts"
            else f"{violation.sentence} at {violation.where} ({number_of(violation.number, 'such place')})",
        )
        for violation in validate_trace(trace)
    ]
    return found or [Finding(check="format", status="pass", sentence="every rule of the format holds")]


def _check_complete(trace: TraceFile) -> Finding:
    tokens = number_of(trace.num_tokens, "token") if trace.num_tokens else "counts alone"
    if trace.is_complete:
        return Finding(check="complete", status="pass", sentence=tokens)
    return Finding(
        check="complete",
        status="warn",
        sentence=f"the writer was killed or is still at work; this is what it wrote: {tokens}",
    )


def _judge(trace: TraceSource, summary: TraceSummary) -> dict[int, LayerHealth]:
    """How the load of each layer with rows does; drops have a check of their own."""
    layers = noted_layers(trace, top_k=summary.top_k)
    verdicts = judge_layers(trace.counts, layers, drop_fractions=[None] * len(layers))
    return {layer.index: found for layer, found in zip(layers, verdicts, strict=True) if found is not None}


def _check_collapse(verdicts: dict[int, LayerHealth]) -> Finding:
    if not verdicts:
        return Finding(check="balance", status="unknown", sentence="no row reached an expert")
    # A dead expert is called so only where the sample shows it.
    shown = {
        layer: found.verdict
        for layer, found in verdicts.items()
        if found.load_ratio_chance < MISS_PROBABILITY or (found.dead.count and found.dead.is_sample_sufficient)
    }
    collapsed = [layer for layer, verdict in shown.items() if verdict == "collapsed"]
    uneven = [layer for layer, verdict in shown.items() if verdict == "imbalanced"]
    worst = max(verdicts, key=lambda layer: verdicts[layer].load_ratio)
    busiest = f"the busiest expert, in layer {worst}, does {verdicts[worst].load_ratio:.2f} times an even share"
    if collapsed:
        return Finding(check="balance", status="fail", sentence=f"{name_layers(collapsed)} collapsed; {busiest}")
    if uneven:
        return Finding(check="balance", status="warn", sentence=f"{name_layers(uneven)} uneven; {busiest}")
    if any(found.verdict != "healthy" for found in verdicts.values()):
        few = number_of(verdicts[worst].dead.num_rows, "row")
        said = f"{busiest}, but chance alone could do that in {few}; record more"
        return Finding(check="balance", status="unknown", sentence=said)
    return Finding(check="balance", status="pass", sentence=busiest)


def _check_passes(summary: TraceSummary) -> Finding:
    """Say how uneven single forward passes are; no verdict, since small batches are uneven by chance alone."""
    known = {layer.layer: layer.pass_load_ratio for layer in summary.layers if layer.pass_load_ratio is not None}
    if not known:
        said = "the trace does not know its forward passes"
        return Finding(check="balance per pass", status="unknown", sentence=said)
    worst = max(known, key=lambda layer: known[layer][0])
    median, tenth, hundredth = known[worst]
    if summary.num_passes == 1:
        return Finding(check="balance per pass", status="unknown", sentence="there is only one forward pass")
    passes = number_of(summary.num_passes, "pass", "passes")
    said = (
        f"the busiest expert of a pass does {median:.2f} times an even share in the median of {passes}, "
        f"{tenth:.2f} in one of 10, {hundredth:.2f} in one of 100 (layer {worst}, the worst)"
    )
    return Finding(check="balance per pass", status="pass", sentence=said)


def _check_dead(summary: TraceSummary) -> Finding:
    name = "dead experts"
    layers = [layer for layer in summary.layers if layer.dead.count and layer.dead.num_rows]
    if not layers:
        return Finding(check=name, status="pass", sentence="every expert of every layer got rows")
    idle = number_of(sum(layer.dead.count for layer in layers), "expert")
    sure = [layer.layer for layer in layers if layer.is_death_shown]
    if sure:
        said = f"{idle} got nothing; the sample shows it for {name_layers(sure)}"
        return Finding(check=name, status="fail", sentence=said)
    needed = max(layer.dead.num_rows_needed for layer in layers)
    rows = min(layer.dead.num_rows for layer in layers)
    few = number_of(rows, "row")
    bounds = [layer.dead_bound for layer in layers if layer.dead_bound is not None]
    if rows >= needed and bounds:
        said = f"{idle} got nothing, but the sequences differ so much that one may have up to "
        said += f"{max(bounds):.2f} of an even share (95 %); record more of them"
        return Finding(check=name, status="unknown", sentence=said)
    said = f"{idle} got nothing, but {few} in a layer are too few to call them dead ({needed} would do)"
    return Finding(check=name, status="unknown", sentence=said)


def _worst(
    summary: TraceSummary, fraction: Callable[[LayerSummary], float | None]
) -> tuple[LayerSummary, float] | None:
    """The layer in which a fraction is largest, or None where no layer knows it."""
    known = [(layer, value) for layer in summary.layers if (value := fraction(layer)) is not None]
    return max(known, key=lambda item: item[1]) if known else None


def _check_drops(summary: TraceSummary) -> Finding:
    found = _worst(summary, lambda layer: layer.drop_fraction)
    if found is None:
        return Finding(check="drops", status="unknown", sentence="the trace does not say what was dropped")
    layer, fraction = found
    bounds = layer.drop_interval if fraction else None
    interval = "" if bounds is None else f"; 95 %: {bounds[0]:.2%} to {bounds[1]:.2%}"
    return Finding(
        check="drops",
        status="warn" if fraction > DROP_FRACTION else "pass",
        sentence=f"{fraction:.2%} of the choices were dropped in layer {layer.layer}, the worst{interval}",
    )


def _check_ties(summary: TraceSummary) -> Finding:
    found = _worst(summary, lambda layer: layer.tie_fraction)
    if found is None:
        return Finding(check="ties", status="unknown", sentence="the trace has no margins")
    layer, fraction = found
    return Finding(
        check="ties",
        status="warn" if fraction > TIE_FRACTION else "pass",
        sentence=f"{fraction:.2%} of the tokens have a margin of 0 (in float16) in layer {layer.layer}, the worst",
    )


def _check_nan(summary: TraceSummary) -> Finding:
    bad = [layer.layer for layer in summary.layers if layer.num_nan]
    if bad:
        number = sum(layer.num_nan for layer in summary.layers)
        said = f"{number} weights, margins or entropies are NaN, in {name_layers(bad)}"
        return Finding(check="NaN", status="fail", sentence=said)
    return Finding(check="NaN", status="pass", sentence="no weight, margin or entropy is NaN")


def _check_dtype_flips(trace: TraceFile) -> Finding:
    """Choose again from the recorded logits, rounded to bfloat16."""
    name = "bfloat16 router"
    if not trace.has("router_logits"):
        said = "the trace has no logits to round; record them, or check the model itself"
        return Finding(check=name, status="unknown", sentence=said)
    rows = [row for row, note in enumerate(trace.metadata.get("layers") or []) if _chooses_by_logit(note.get("router"))]
    if not rows:
        said = "no layer chooses by its logits alone, so they do not say what rounding changes; check the model itself"
        return Finding(check=name, status="unknown", sentence=said)
    flipped, total = 0.0, 0
    for chunk in trace.uncounted_chunks():
        assert chunk.router_logits is not None  # `has` said so.
        logits, ids = chunk.router_logits[rows].float(), chunk.topk_ids[rows]
        is_empty = ids == NO_EXPERT
        again = logits.bfloat16().float().argsort(dim=-1, descending=True, stable=True)[..., : ids.shape[2]]
        overlap = overlap_at_k(ids, again.masked_fill(is_empty, NO_EXPERT))
        flipped += float((overlap < 1).sum())
        total += overlap.numel()
    fraction = flipped / max(total, 1)
    status: Status = "warn" if fraction > FLIP_FRACTION else "pass"
    return Finding(
        check=name, status=status, sentence=f"rounding the logits to bfloat16 changes {fraction:.2%} of the choices"
    )


def _chooses_by_logit(router: object) -> bool:
    """Whether the K highest logits are the choice: no bias, no groups, no draw."""
    if not isinstance(router, dict):
        return False
    try:
        spec = RouterSpec.from_dict(router)
    except (TypeError, ValueError):
        return False
    return spec.selection == "top_k" and not spec.selection_bias and spec.group_limit is None
