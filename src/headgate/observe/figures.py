"""Figures for papers, with matplotlib: vector text, a column's width, colours that everyone can tell apart.

Figures are objects and their settings hold while they are drawn: pyplot and its global state are not involved.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, TypeAlias

import numpy as np
from numpy.typing import NDArray

from headgate.errors import BackendError, InputError
from headgate.files import replacing
from headgate.observe.align import TraceSource
from headgate.observe.diff import diff_traces
from headgate.observe.noted import noted_layers
from headgate.observe.summary import summarise_trace
from headgate.observe.utilisation import utilisation

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Subject: TypeAlias = Literal["load", "margin", "diff"]

COLUMN_INCHES = 3.25
"""A column of two-column styles such as those of ICML."""

_SETTINGS: Any = {
    "font.size": 8,
    "axes.titlesize": 8,
    "axes.labelsize": 8,
    "xtick.labelsize": 7,
    "ytick.labelsize": 7,
    "legend.fontsize": 7,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "lines.linewidth": 1.2,
    "legend.frameon": False,
    # A trace's name is text, whatever it holds.
    "text.parse_math": False,
    # Text stays text: it can be searched, and set in another font.
    "svg.fonttype": "none",
    "pdf.fonttype": 42,
    # The same figure has the same bytes.
    "svg.hashsalt": "headgate",
}

_COLOURS = ("#0072B2", "#D55E00")
"""Blue and vermillion of Okabe and Ito, "Color Universal Design", 2008, https://jfly.uni-koeln.de/color/."""

_NO_ROWS = "#595959"
_DATES: Mapping[str, Mapping[str, None]] = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}, ".png": {}}
"""The formats, and what keeps the time of day out of each."""

_DOTS_PER_INCH = 300
_ROW_INCHES = 0.12
_MOST_TICKS = 8
_LEAST_SCALE = 2.0
"""The colours reach at least from half to twice an even share, so that a balanced layer looks balanced."""


def save_figure(
    path: Path,
    subject: Subject,
    traces: Sequence[TraceSource],
    *,
    names: Sequence[str] = ("A", "B"),
    width: float = COLUMN_INCHES,
    assume_aligned: bool = False,
) -> None:
    """Draw a figure and write it, in one step; the same traces give the same bytes.

    Args:
        path: ends in .svg, .pdf or .png.
        subject: "load": the rows of each expert, as multiples of an even share. "margin": how surely each layer
            decides. "diff": how much changed, by layer and by margin.
        traces: one or two; "diff" takes two, of the same tokens.
        names: of the traces.
        width: in inches.
        assume_aligned: see `align`.

    Raises:
        InputError: the path's ending, or traces that can't be drawn so.
        BackendError: matplotlib is not installed.
        ArtifactError: the file can't be written.
    """
    if path.suffix not in _DATES:
        raise InputError(f"{path.name!r} must end in one of {', '.join(_DATES)}; .pdf suits LaTeX, .svg the web")
    if subject == "diff" and len(traces) < 2:
        raise InputError("subject (='diff') compares two traces; give a second one of the same tokens")
    try:
        import matplotlib as mpl
        from matplotlib.figure import Figure
    except ImportError as error:
        raise BackendError(f"figures need matplotlib ({error}); pip install 'headgate[plot]'") from error
    with mpl.rc_context(_SETTINGS):
        figure = Figure(layout="constrained")
        if subject == "load":
            _draw_load(figure, traces, names, width)
        elif subject == "margin":
            _draw_margin(figure, traces, names, width)
        else:
            _draw_diff(figure, traces[0], traces[1], width, assume_aligned=assume_aligned)
        with replacing(path) as temporary:
            figure.savefig(temporary, format=path.suffix[1:], dpi=_DOTS_PER_INCH, metadata=dict(_DATES[path.suffix]))


def _draw_load(figure: Figure, traces: Sequence[TraceSource], names: Sequence[str], width: float) -> None:
    """Layers by experts, on a logarithmic scale with an even share in its middle."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import LogNorm
    from matplotlib.ticker import FuncFormatter, NullLocator

    loads = [_relative_load(trace) for trace in traces]
    most = max(_LEAST_SCALE, *(float(np.nanmax(load)) for load in loads))
    norm = LogNorm(vmin=1 / most, vmax=most)
    colours = colormaps["PuOr_r"].with_extremes(under=_NO_ROWS)
    figure.set_size_inches(width, 0.6 + sum(max(0.9, _ROW_INCHES * len(load)) for load in loads))
    panels = figure.subplots(len(traces), 1, squeeze=False, height_ratios=[max(4, len(load)) for load in loads])[:, 0]
    for panel, load, trace, name in zip(panels, loads, traces, names, strict=False):
        # 0 is below every scale of ratios, and has the colour of no rows.
        panel.pcolormesh(np.ma.masked_invalid(load), cmap=colours, norm=norm)
        panel.invert_yaxis()
        _tick_cells(panel.set_yticks, trace.layer_index.tolist())
        _tick_cells(panel.set_xticks, range(load.shape[1]))
        panel.set_ylabel("layer")
        if len(traces) > 1:
            panel.set_title(name, loc="left")
    panels[-1].set_xlabel("expert")
    bar = figure.colorbar(ScalarMappable(norm=norm, cmap=colours), ax=list(panels), extend="min", pad=0.02)
    bar.set_label("load / even share")
    bar.set_ticks([1 / most, 1.0, most])
    bar.ax.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.2g}"))
    bar.ax.yaxis.set_minor_locator(NullLocator())


def _relative_load(trace: TraceSource) -> NDArray[np.float64]:
    """[L, E] multiples of an even share; NaN where a layer has no such expert, or no rows."""
    load = np.full(tuple(trace.counts.shape), np.nan)
    for row, layer in enumerate(noted_layers(trace, top_k=1)):
        counts = trace.counts[row, : layer.num_experts]
        if counts.any():
            load[row, : layer.num_experts] = utilisation(counts).numpy()
    if np.isnan(load).all():
        raise InputError("the trace has no rows, so there is no load to draw; record some tokens")
    return load


def _tick_cells(set_ticks: Callable[[list[float], list[str]], object], names: Sequence[int]) -> None:
    """Name some cells of a row, in their middle."""
    every = -(-len(names) // _MOST_TICKS)
    set_ticks([place + 0.5 for place in range(0, len(names), every)], [str(name) for name in names[::every]])


def _draw_margin(figure: Figure, traces: Sequence[TraceSource], names: Sequence[str], width: float) -> None:
    """The median margin of each layer, and the least sure tenth and hundredth of its tokens."""
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    figure.set_size_inches(width, 0.62 * width)
    panel = figure.subplots()
    margins = [_margins(trace) for trace in traces]
    for column, label, style in ((2, "median", "-"), (1, "lowest 10 %", "--"), (0, "lowest 1 %", ":")):
        for trace, values, name, colour in zip(traces, margins, names, _COLOURS, strict=False):
            said = f"{name}, {label}" if len(traces) > 1 else label
            panel.plot(trace.layer_index.numpy(), values[:, column], style, marker=".", color=colour, label=said)
    panel.set_yscale("log")
    panel.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    panel.xaxis.set_major_locator(MaxNLocator(integer=True))
    panel.set_xlabel("layer")
    panel.set_ylabel("margin of the last choice")
    figure.legend(loc="outside upper left", ncols=3, columnspacing=1.0, handlelength=2.6)


def _margins(trace: TraceSource) -> NDArray[np.float64]:
    """[L, 3] percentiles 1, 10 and 50; NaN for those that a logarithmic scale can't show: 0, and infinite ones."""
    found = [layer.margin for layer in summarise_trace(trace).layers]
    known = [margin for margin in found if margin is not None]
    if len(known) < len(found):
        raise InputError("the trace has no margins to draw; record select_margin")
    values = np.array(known)
    values[~np.isfinite(values) | (values <= 0)] = np.nan
    return values


def _draw_diff(figure: Figure, first: TraceSource, second: TraceSource, width: float, *, assume_aligned: bool) -> None:
    """The part of the choices that changed: in each layer, and by how sure the reference was."""
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    found = diff_traces(first, second, assume_aligned=assume_aligned)
    figure.set_size_inches(width, 0.55 * width)
    by_layer, by_margin = figure.subplots(1, 2, sharey=True, width_ratios=[3, 2])
    by_layer.plot(
        [layer.layer for layer in found.layers],
        [layer.agreement.flipped_fraction for layer in found.layers],
        marker=".",
        color=_COLOURS[0],
    )
    by_layer.set_xlabel("layer")
    by_layer.set_ylabel("choices changed")
    by_layer.xaxis.set_major_locator(MaxNLocator(integer=True))
    by_layer.yaxis.set_major_formatter(PercentFormatter(xmax=1))
    fractions = [bucket.flipped_fraction for bucket in found.buckets]
    by_margin.bar(np.arange(1, len(fractions) + 1), fractions, width=0.8, color=_COLOURS[1])
    by_margin.set_xlabel("fifth of the margin" if fractions else "no margins recorded")
    by_margin.set_xticks([1, 5] if fractions else [], ["least\nsure", "most\nsure"] if fractions else [])
    by_margin.tick_params(left=False)
    by_layer.set_ylim(bottom=0)
