"""Test a trace, of which the layout is right already, against every MUST of the format; in bounded memory."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

import torch
from jaxtyping import Int
from torch import Tensor

from headgate.flow import NO_EXPERT
from headgate.observe.pieces import count_rows
from headgate.observe.reader import TraceFile
from headgate.observe.trace import Phase, RoutingTrace

_LONGEST_REPORT = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One thing that the format forbids.

    Attributes:
        rule: in short, as in "counts".
        where: the first place, as in "layer 3, token 17".
        number: how many places there are.
        sentence: what is wrong there.
    """

    rule: str
    where: str
    number: int
    sentence: str


def validate_trace(trace: TraceFile) -> list[Violation]:
    """Read a whole trace and list what the format forbids; an empty list means that the file is as it should be.

    Args:
        trace: as `open_trace` gave it, so names, dtypes, shapes and sequences are right.

    Raises:
        ArtifactError: an expert id that there is no expert for.
    """
    findings: Counter[str] = Counter()
    first: dict[str, tuple[str, str]] = {}
    total = torch.zeros(trace.sizes.L, trace.sizes.E, dtype=torch.int64)
    begin = 0

    def note(rule: str, number: int, where: str, sentence: str) -> None:
        findings[rule] += number
        first.setdefault(rule, (where, sentence))

    for chunk in trace.uncounted_chunks():
        for rule, wrong, sentence in _chunk_rules(chunk):
            places = wrong.nonzero()
            if len(places):
                note(rule, len(places), _place(chunk, places[0], begin), sentence)
        total += count_rows(
            chunk.topk_ids, num_experts=trace.num_experts, is_dropped=chunk.is_dropped, phase=chunk.phase
        )
        begin += chunk.num_tokens
    layers = trace.layer_index.tolist()
    if len(set(layers)) != len(layers) or min(layers, default=0) < 0:
        note("layer_index", 1, f"layers {layers[:_LONGEST_REPORT]}", "decoder layers are distinct and not negative")
    if (trace.counts < 0).any():
        note("counts", 1, "somewhere", "counts are not negative")
    if trace.metadata.get("content", "tokens") == "tokens":
        for row, expert in (total != trace.counts).nonzero().tolist():
            said, found = int(trace.counts[row, expert]), int(total[row, expert])
            note("counts", 1, f"layer {layers[row]}, expert {expert}", f"counts say {said}, and the choices {found}")
    elif trace.num_tokens:
        note("content", 1, f"{trace.num_tokens} tokens", "a trace of counts alone has no tokens")
    if trace.metadata.get("id_space", "logical") != "logical":
        note("id_space", 1, ascii(trace.metadata["id_space"])[:40], "a trace holds logical ids")
    return [
        Violation(rule=rule, where=first[rule][0], number=number, sentence=first[rule][1])
        for rule, number in findings.items()
    ]


def _chunk_rules(chunk: RoutingTrace) -> list[tuple[str, Tensor, str]]:
    """Each rule with a mask of the places that break it: [L, T] or [T]."""
    rules = [("topk_ids", _has_repeats(chunk.topk_ids), "a token chooses an expert once")]
    if chunk.topk_weights is not None:
        empty = chunk.topk_ids == NO_EXPERT
        if chunk.is_dropped is not None:
            empty = empty | chunk.is_dropped
        wrong = (empty & (chunk.topk_weights != 0)).any(-1)
        rules.append(("topk_weights", wrong, "a slot without a row has no weight"))
    if chunk.is_dropped is not None:
        wrong = (chunk.is_dropped & (chunk.topk_ids == NO_EXPERT)).any(-1)
        rules.append(("dropped", wrong, "only a choice can be dropped"))
    if chunk.phase is not None:
        rules.append(("phase", chunk.phase > max(Phase), "a phase is 0, 1, 2 or 3"))
    for name in ("position", "forward_id", "shared_norms", "output_norms", "sum_error"):
        value = getattr(chunk, name)
        if value is not None:
            rules.append((name, value < 0, f"{name} is not negative"))
    if chunk.contribution_norms is not None:
        wrong = (chunk.contribution_norms < 0) | ((chunk.topk_ids == NO_EXPERT) & (chunk.contribution_norms != 0))
        rules.append(("contribution_norms", wrong.any(-1), "a norm is not negative, and 0 without an expert"))
    return rules


def _has_repeats(topk_ids: Int[Tensor, "L T K"]) -> Tensor:
    ordered = topk_ids.sort(dim=-1).values
    return ((ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] != NO_EXPERT)).any(-1)


def _place(chunk: RoutingTrace, place: Int[Tensor, " axes"], begin: int) -> str:
    if len(place) == 1:
        return f"token {begin + int(place[0])}"
    return f"layer {int(chunk.layer_index[place[0]])}, token {begin + int(place[1])}"
