"""How `headgate size` prints its report for a person."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from headgate.planning.catalogue import agrees, print_count
from headgate.planning.memory import weight_bytes
from headgate.planning.parameters import CONVENTIONS, ROLE_TITLES
from headgate.planning.sizing import RULE
from headgate.wording import number_of

if TYPE_CHECKING:
    from headgate.integrations.transformers.headers import Checkpoint
    from headgate.planning.expected import ExpectedStep
    from headgate.planning.sizing import SizeReport, Speed

DIM, GOOD, BAD = "dim", "green", "red"
BAR_WIDTH = 10


def print_size(
    report: SizeReport, checkpoint: Checkpoint | None, expected: ExpectedStep | None, console: Console
) -> None:
    """Print everything: counts, memory, work of a token, speed, notes."""
    shape = report.shape
    console.print(
        Text.assemble((shape.name, "bold"), f"  {shape.class_name} ({shape.model_type}), {_formats(report)}"),
        soft_wrap=True,
    )
    console.print(_roles(report))
    console.print(_active(report, checkpoint))
    console.print(Text(RULE, DIM))
    console.print()
    console.print(_memory(report))
    console.print(_work(report))
    if report.speed:
        console.print(_speed(report))
        console.print(_speed_facts(report, expected))
    else:
        console.print(Text("Speed: add --device h200 (or another), or --measure for this machine.", DIM))
    for note in report.notes:
        console.print(f"- {note}")


def print_counts(
    report: SizeReport, checkpoint: Checkpoint | None, expected: ExpectedStep | None, console: Console
) -> None:
    """Print total, active count in each convention, and bytes of the weights, a line each."""
    console.print(f"total {report.shape.total}")
    for name, count in report.shape.active().items():
        console.print(f"active {name} {count}")
    console.print(f"weight_bytes {sum(weight_bytes(report.shape, report.precision).values())}")


def _formats(report: SizeReport) -> str:
    dense, experts = report.precision.dense.name, report.precision.experts.name
    return dense if dense == experts or not report.shape.routed else f"{dense} with {experts} experts"


def _roles(report: SizeReport) -> Table:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1))
    table.add_column("parameters")
    for name in ("count", "share", "bytes"):
        table.add_column(name, justify="right", no_wrap=True)
    sizes = weight_bytes(report.shape, report.precision)
    for role, count in report.shape.by_role().items():
        if count:
            share = f"{count / report.shape.total:.1%}"
            table.add_row(ROLE_TITLES[role], print_count(count), share, _bytes(sizes[role]))
    table.add_section()
    table.add_row("total", print_count(report.shape.total), "", _bytes(sum(sizes.values())), style="bold")
    return table


def _active(report: SizeReport, checkpoint: Checkpoint | None) -> Table:
    shape, published = report.shape, report.published
    table = _facts()
    table.add_row("total", f"{print_count(shape.total)}  ({shape.total:,})")
    for name, count in shape.active().items():
        table.add_row(f"active, {CONVENTIONS[name]}", f"{print_count(count)}  ({count:,})")
    if published is not None:
        found = published.compare(shape.active())["matches"]
        match = "; ".join(CONVENTIONS[name] for name in found) or "none of these"
        table.add_row("active, by the vendor", f"{published.active}: {match} ({published.source})")
        is_same = "agrees" if agrees(shape.total, published.total) else "differs"
        table.add_row("total, by the vendor", f"{published.total}: {is_same}")
    for size in sorted({layer.expert_parameters for layer in shape.routed}):
        table.add_row("one expert of a layer", f"{print_count(size)}  (neither of these)")
    if checkpoint is not None:
        table.add_row("checkpoint", _checkpoint(checkpoint))
    return table


def _checkpoint(found: Checkpoint) -> str:
    parts = [f"{print_count(found.parameters)} parameters in {_bytes(found.num_bytes)}"]
    parts.append("as the model" if not found.difference else f"{found.difference:+,} against the model")
    if found.mtp_parameters:
        parts.append(f"besides {print_count(found.mtp_parameters)} of multi-token prediction")
    if found.scale_bytes:
        parts.append(f"{_bytes(found.scale_bytes)} of it scales")
    return "; ".join(parts)


def _memory(report: SizeReport) -> Table:
    load, rank = report.workload, report.rank
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), title_justify="left")
    ranks = load.parallel
    where = (
        "one device"
        if ranks.num_ranks == 1
        else f"the fullest of {ranks.num_ranks} ranks (ep {ranks.expert}, tp {ranks.tensor}, dp {ranks.data})"
    )
    table.add_column(f"memory on {where}")
    table.add_column("bytes", justify="right", no_wrap=True)
    kinds = ", ".join(f"{count} {kind}" for kind, count in report.to_dict()["memory"]["cache_kinds"].items())
    table.add_row("weights, sharded by tensor parallelism", _bytes(rank.sharded_bytes))
    table.add_row("weights, replicated", _bytes(rank.replicated_bytes))
    table.add_row("weights, experts", _bytes(rank.experts_bytes))
    sequences = number_of(ranks.share_of(load.batch), "sequence")
    kept = f"{number_of(load.context, 'token')} of {sequences}{'' if ranks.data == 1 else f' of {load.batch}'}"
    table.add_row(f"cache ({kinds or 'none'}), {kept}", _bytes(rank.cache_bytes))
    table.add_row("activations of a step, at most", _bytes(rank.activation_bytes))
    if load.capacity is not None:
        table.add_row(f"buffers of capacity {load.capacity:g}, one layer, all ranks", _bytes(report.capacity_bytes()))
    table.add_section()
    table.add_row("total", _bytes(rank.total_bytes), style="bold")
    return table


def _work(report: SizeReport) -> Table:
    table, step = _facts(), report.to_dict()["step"]
    decode, prefill = step["decode"], step["prefill"]
    table.add_row("a token, decoding", f"{_flops(decode['flops_per_token'])}, {_bytes(decode['bytes_per_token'])}")
    table.add_row("a token, prompt", f"{_flops(prefill['flops_per_token'])}, {_bytes(prefill['bytes_per_token'])}")
    if report.shape.routed:
        table.add_row("experts touched", _touched(report))
    if report.workload.parallel.expert > 1 and report.shape.routed:
        mean = sum(report.routes.ranks) / len(report.routes.ranks)
        table.add_row("ranks of a token", f"{mean:.2f} of {report.workload.parallel.expert}, each sent to once")
        table.add_row("sent in a step", f"{_bytes(decode['exchanged_bytes'])} by all ranks together")
    return table


def _touched(report: SizeReport) -> str:
    kinds: dict[str, int] = {}
    for layer, touch in zip(report.shape.routed, report.routes.step, strict=True):
        text = f"{touch.distinct(report.workload.batch):.1f} of {layer.num_experts}"
        kinds[text] = kinds.get(text, 0) + 1
    shown = list(kinds)
    most = shown[0] if len(shown) == 1 else f"{min(shown, key=_first)} to {max(shown, key=_first)}"
    how = "uniform routing" if report.routes.source == "uniform" else f"by {report.routes.source}"
    drafts = report.workload.drafts
    ahead = f", {number_of(drafts, 'draft')} ahead" if drafts else ""
    return f"{most} a layer at batch {report.workload.batch}{ahead} ({how})"


def _first(text: str) -> float:
    return float(text.split(" ", 1)[0])


def _speed(report: SizeReport) -> Table:
    """Tokens per second and memory against the batch, as bars."""
    device = report.workload.device
    assert device is not None
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=(0, 1), caption_justify="left")
    table.caption = f"ceilings of {device.title}; memory: the fullest rank, of what it has"
    table.add_column("batch", justify="right", no_wrap=True)
    table.add_column("tokens/s at most", no_wrap=True)
    table.add_column("memory", no_wrap=True)
    table.add_column("bound", no_wrap=True)
    fastest = max(speed.tokens_per_s for speed in report.speed)
    for speed in report.speed:
        style = "bold" if speed.batch == report.workload.batch else ""
        used = speed.rank_bytes / device.memory_bytes
        table.add_row(
            str(speed.batch),
            _bar(speed.tokens_per_s / fastest, _rate(speed.tokens_per_s), "cyan"),
            _bar(used, f"{used:.0%}" if speed.fits else f"{used:.0%} no fit", GOOD if speed.fits else BAD),
            speed.decode.bound,
            style=style,
        )
    return table


def _bar(part: float, label: str, style: str) -> Text:
    filled = max(1, round(min(part, 1.0) * BAR_WIDTH))
    return Text.assemble(("█" * filled, style), " ", label)


def _speed_facts(report: SizeReport, expected: ExpectedStep | None) -> Table:
    table, speed = _facts(), report.at_batch()
    assert speed is not None
    load = report.workload
    table.add_row("a step of decoding", f"at least {_seconds(speed.decode.time_s)}, bound by {speed.decode.bound}")
    table.add_row("", _tokens(report, speed))
    table.add_row(
        f"{number_of(load.batch, 'prompt')} of {number_of(load.context, 'token')}",
        f"at least {_seconds(speed.prefill.time_s)}, bound by {speed.prefill.bound}; "
        f"at most {_rate(speed.prompt_tokens_per_s)} tokens/s",
    )
    if load.measured_s is not None:
        table.add_row(
            "measured", f"{_seconds(load.measured_s)} a step, {load.measured_s / speed.decode.time_s:.2f} x that"
        )
    if expected is not None:
        table.add_row(
            "with transformers here",
            f"about {_seconds(expected.time_s)} a step, {_rate(load.batch / expected.time_s)} tokens/s",
        )
        parts = (
            ("matrices", expected.layer_matrices_s),
            ("head", expected.head_s),
            ("experts", expected.experts_s),
            ("cache", expected.cache_s),
            ("overhead", expected.overhead_s),
        )
        table.add_row("", ", ".join(f"{name} {_seconds(value)}" for name, value in parts))
    elif report.workload.device is not None and report.workload.device.kind == "measured":
        table.add_row("with transformers here", "unknown: it needs one rank, no drafts, and bf16 or fp32 throughout")
    return table


def _tokens(report: SizeReport, speed: Speed) -> str:
    load = report.workload
    text = f"at most {_rate(speed.tokens_per_s)} tokens/s"
    if load.drafts:
        best = speed.tokens_per_s * (1 + load.drafts)
        text += f" if no draft is accepted, {_rate(best)} tokens/s if all are"
    return text


def _facts() -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column(style=DIM, no_wrap=True)
    table.add_column(overflow="fold")
    return table


def _bytes(count: float) -> str:
    """In binary units, as memory is counted.

    Example:
        >>> _bytes(3 * 2**30)
        '3.00 GiB'
    """
    for power, unit in ((4, "TiB"), (3, "GiB"), (2, "MiB"), (1, "KiB")):
        if count >= 1024**power:
            return f"{count / 1024**power:.2f} {unit}"
    return f"{count:.0f} B"


def _flops(value: float) -> str:
    for size, unit in ((1e15, "P"), (1e12, "T"), (1e9, "G"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g} {unit}FLOP"
    return f"{value:.3g} FLOP"


def _rate(value: float) -> str:
    """Tokens per second, to three digits."""
    return f"{float(f'{value:.3g}'):,.0f}" if value >= 100 else f"{value:.3g}"


def _seconds(value: float) -> str:
    return f"{value:.3g} s" if value >= 1 else f"{value * 1e3:.3g} ms"
