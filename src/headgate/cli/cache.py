"""`headgate cache`: how often an expert would be in fast memory when it is needed."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich import box
from rich.table import Table

from headgate.cli.output import JsonOption, QuietOption, print_json, result_console
from headgate.cli.routed import open_tokens
from headgate.wording import number_of

if TYPE_CHECKING:
    from headgate.observe.reader import TraceFile
    from headgate.planning.cache import CacheReport, Ids

_TOKENS = 4096


class PolicyOption(StrEnum):
    """Which expert leaves the cache."""

    LRU = "lru"
    LFU = "lfu"
    PRIMED = "primed"
    BELADY = "belady"


class ScopeOption(StrEnum):
    """Whose slots."""

    LAYER = "layer"
    ALL = "all"


def cache(
    trace: Annotated[Path, typer.Argument(metavar="TRACE", help="What was recorded.")],
    slots: Annotated[int, typer.Option(metavar="N", help="Experts that fast memory holds.")],
    scope: Annotated[
        ScopeOption, typer.Option(help="Are the slots each layer's own, or shared by all?")
    ] = ScopeOption.LAYER,
    policy: Annotated[list[PolicyOption] | None, typer.Option(help="May be repeated; default: all.")] = None,
    expert_bytes: Annotated[
        float | None, typer.Option(metavar="B", help="Bytes of an expert, to tell what is moved.")
    ] = None,
    tokens: Annotated[int, typer.Option(min=2, metavar="T", help="Replay the first T tokens.")] = _TOKENS,
    json: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Replay a trace through a cache of experts, for a model whose experts do not all fit.

    Tokens run one after the other; the first half warms the cache up, the
    second is measured. belady knows the future: nothing can beat it.
    """
    from headgate.errors import InputError
    from headgate.planning.cache import POLICIES, simulate_cache

    opened = open_tokens(trace)
    if expert_bytes is not None and not expert_bytes > 0:
        raise InputError(f"expert-bytes (={expert_bytes}) must be positive; three times D times F weights")
    wanted = tuple(name for name in POLICIES if policy is None or name in {option.value for option in policy})
    report = simulate_cache(
        _first_tokens(opened, tokens),
        num_experts=opened.num_experts,
        num_slots=slots,
        scope="all" if scope is ScopeOption.ALL else "layer",
        policies=wanted,
        expert_bytes=expert_bytes,
    )
    if json:
        print_json(report.to_dict())
    elif quiet:
        result_console().print(report.verdict)
    else:
        _print(report)


def _first_tokens(trace: TraceFile, number: int) -> Ids:
    import torch

    from headgate.planning.traffic import tokens_of

    pieces, known = [], 0
    for part in tokens_of(trace):
        pieces.append(part.expert_ids[:, : number - known])
        known += pieces[-1].shape[1]
        if known >= number:
            break
    return torch.cat(pieces, dim=1).numpy()


def _print(report: CacheReport) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), caption_justify="left")
    table.caption = "shuffled: the same tokens in random order"
    has_bytes = any(outcome.bytes_per_token is not None for outcome in report.policies)
    table.add_column("policy")
    for name in ("hits", "shuffled", "loads per token", *(("MB per token",) if has_bytes else ())):
        table.add_column(name, justify="right")
    for outcome in report.policies:
        cells = [
            f"{outcome.hit_fraction:.2%}",
            f"{outcome.shuffled_hit_fraction:.2%}",
            f"{outcome.loads_per_token:.2f}",
        ]
        if outcome.bytes_per_token is not None:
            cells.append(f"{outcome.bytes_per_token / 1e6:.4g}")
        table.add_row(outcome.policy, *cells)
    where = "in each layer" if report.scope == "layer" else "for all layers"
    console = result_console()
    console.print(f"{number_of(report.num_slots, 'slot')} {where}; {number_of(report.num_tokens, 'token')} measured.")
    console.print(table)
    console.print(report.verdict)
