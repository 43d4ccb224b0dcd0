"""`headgate inspect TRACE`: what a recorded routing looks like, layer by layer and expert by expert."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

from headgate.cli.output import figures_table, print_json, result_console, show_interval
from headgate.wording import number_of

if TYPE_CHECKING:
    from headgate.observe.expert_profiles import ExpertProfile, LayerProfile, Pair, Persistence, TraceProfile
    from headgate.observe.intervals import Interval
    from headgate.observe.summary import TraceSummary

_BARS = "▁▂▃▄▅▆▇█"


def is_trace(name: str) -> bool:
    """Whether an argument names a trace: a `.safetensors` file, the index of a sharded one, or a folder with either."""
    from headgate.observe.shards import DEFAULT_NAME, INDEX_SUFFIX, index_path

    path = Path(name)
    if path.is_dir():
        default = path / DEFAULT_NAME
        return default.exists() or index_path(default).exists()
    return path.name.endswith((".safetensors", f".safetensors{INDEX_SUFFIX}"))


def inspect_trace(name: str, *, devices: int | None, layers: list[int], as_json: bool, is_quiet: bool) -> None:
    """Measure a trace and print what was found."""
    from headgate.observe.expert_profiles import profile_trace
    from headgate.observe.reader import open_trace
    from headgate.observe.summary import summarise_trace

    trace = open_trace(name)
    summary = summarise_trace(trace, num_devices=devices)
    profile = profile_trace(trace, layers=layers or None) if trace.num_tokens else None
    if as_json:
        print_json({"summary": summary.to_dict(), "profile": _profile_values(profile, with_experts=bool(layers))})
        return
    console = result_console()
    console.print(Text(_sizes(summary)))
    console.print(_load_table(summary))
    if is_quiet:
        return
    if any(layer.margin or layer.router_entropy for layer in summary.layers):
        console.print(_confidence_table(summary))
    if profile is not None:
        console.print(_structure_table(profile))
        for layer in profile.layers if layers else ():
            console.print(_experts_table(layer))
        console.print(Text(_scope(summary, profile), "dim"))


def _profile_values(profile: TraceProfile | None, *, with_experts: bool) -> dict[str, Any] | None:
    """Plain values; experts only of layers that were asked for, since they are thousands in a large model."""
    if profile is None:
        return None
    values = profile.to_dict()
    for layer in values["layers"] if not with_experts else ():
        del layer["experts"]
    return values


def _sizes(summary: TraceSummary) -> str:
    tokens, sequences = number_of(summary.num_tokens, "token"), number_of(summary.num_sequences, "sequence")
    layers, experts = number_of(summary.num_layers, "layer"), number_of(summary.num_experts, "expert")
    phases = ", ".join(f"{count:,} {phase.replace('_', ' ')}" for phase, count in summary.phases.items())
    if not summary.num_tokens:
        return f"Counts alone: {layers}, {experts}"
    said = f"{tokens} in {sequences}, {layers}, {experts}, top {summary.top_k}"
    return f"{said}; {phases}" if len(summary.phases) > 1 else said


def _scope(summary: TraceSummary, profile: TraceProfile) -> str:
    said = "In brackets: 95 % intervals, with sequences as what is independent."
    if summary.num_sequences < 2:
        said = "One sequence has no intervals."
    elif all(layer.share_intervals is None for layer in summary.layers):
        said = "No intervals: scipy is not installed; pip install 'headgate[observe]'."
    if profile.num_sampled < profile.num_tokens:
        said += f" Structure is measured on {profile.num_sampled:,} of {profile.num_tokens:,} tokens."
    return said


def _figure(value: float | None, form: str, interval: Interval | None = None) -> str:
    return "-" if value is None else f"{value:{form}}{show_interval(interval, form)}"


def _load_table(summary: TraceSummary) -> Table:
    with_devices = any(layer.balancedness is not None for layer in summary.layers)
    devices = ("devices",) if with_devices else ()
    table = figures_table("Load", "layer", "busiest, x even", "diversity", "entropy", "idle", "dropped", *devices)
    table.caption = "diversity: exp(entropy) / experts; idle: experts without rows (? too few rows to call them dead)"
    table.caption += "; devices: mean / max of their rows" if with_devices else ""
    for layer in summary.layers:
        doubt = " ?" if layer.dead.count and not layer.is_death_shown else ""
        style = "bold red" if layer.is_death_shown else ""
        table.add_row(
            str(layer.layer),
            _figure(layer.load_ratio, ".2f", layer.load_ratio_interval),
            _figure(layer.expert_diversity, ".3f"),
            _figure(layer.normalised_entropy, ".3f"),
            Text(f"{layer.dead.count}{doubt}", style),
            _figure(layer.drop_fraction, ".2%", layer.drop_interval if layer.drop_fraction else None),
            *([_figure(layer.balancedness, ".3f")] if with_devices else []),
        )
    return table


def _confidence_table(summary: TraceSummary) -> Table:
    table = figures_table("Confidence", "layer", "margin 1 %", "10 %", "median", "ties", "entropy, nats", "weight")
    table.caption = "margin: least chosen minus next score, percentiles; weight: mean sum of a token's weights"
    for layer in summary.layers:
        margins = [_figure(value, ".4f") for value in layer.margin or (None, None, None)]
        table.add_row(
            str(layer.layer),
            *margins,
            _figure(layer.tie_fraction, ".2%"),
            _figure(layer.router_entropy, ".3f"),
            _figure(layer.weight_mass, ".3f"),
        )
    return table


def _structure_table(profile: TraceProfile) -> Table:
    table = figures_table("Structure", "layer", "tokens say, nats", "next token", "next layer", "strongest pair")
    table.caption = (
        "tokens say: information of token ids about experts, above shuffled tokens; next: part of the choice that is "
        "made again, / by chance"
    )
    for layer in profile.layers:
        found = layer.specialisation
        table.add_row(
            str(layer.layer),
            "-" if found is None else _figure(found.excess, ".3f", found.excess_interval),
            _persistence(layer.token_persistence),
            _persistence(layer.layer_persistence),
            _pair(layer.pairs[0]) if layer.pairs else "none",
        )
    return table


def _persistence(found: Persistence | None) -> str:
    return "-" if found is None else f"{_figure(found.overlap, '.3f', found.interval)} / {found.chance:.3f}"


def _pair(pair: Pair) -> str:
    return f"{pair.first}+{pair.second} x{pair.lift:.1f}"


def _experts_table(layer: LayerProfile) -> Table:
    table = figures_table(f"Experts of layer {layer.layer}", "expert", "share")
    table.add_column("over time", no_wrap=True)
    table.add_column("favours", overflow="fold")
    table.add_column("goes with", overflow="fold")
    table.caption = "favours, goes with: beyond what chance gives anywhere in the layer; x: times as often as by chance"
    highest = max((max(expert.share_over_time) for expert in layer.experts), default=0.0)
    for expert in layer.experts:
        table.add_row(
            str(expert.expert),
            f"{expert.share:.1%}",
            "".join(_bar(share, highest) for share in expert.share_over_time),
            _favours(expert),
            ", ".join(f"{pair.second} x{pair.lift:.1f}" for pair in expert.partners),
        )
    return table


def _bar(share: float, highest: float) -> str:
    return _BARS[round(share / highest * (len(_BARS) - 1))] if highest else _BARS[0]


def _favours(expert: ExpertProfile) -> Text:
    from headgate.observe.display import escape_text

    named = [(f"id {t.token_id}" if t.text is None else escape_text(t.text), t.lift) for t in expert.tokens]
    return Text(", ".join(f"{name} x{lift:.1f}" for name, lift in named))
