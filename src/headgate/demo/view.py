"""What a person sees while the demo trains: a live view on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from headgate.demo.train import StepReport

_WINDOW_STEPS = 20
"""Loss, speed and load are shown as means over so many steps."""

_NUM_PLAIN_LINES = 20
_REFRESHES_PER_SECOND = 4
_EIGHTHS = " ▏▎▍▌▋▊▉█"
_NAME_WIDTH = 9
_BAR_WIDTH = 30
_WIDEST_CELL = 8


Show = Callable[[StepReport], None]
"""Shows what a step did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecentSteps:
    """Means over the last steps.

    Attributes:
        step: steps done.
        loss: nats per token.
        tokens_per_s: of training.
        seconds_left: at this speed.
        loads: each layer's load per expert as a multiple of an even share.
    """

    step: int
    loss: float
    tokens_per_s: float
    seconds_left: float
    loads: tuple[tuple[float, ...], ...]


def summarise(reports: Sequence[StepReport], num_steps: int) -> RecentSteps:
    """Average some reports, of which the last is the newest; there is at least one."""
    duration_s = sum(report.duration_s for report in reports)
    last = reports[-1]
    layers = zip(*(report.expert_counts for report in reports), strict=True)
    return RecentSteps(
        step=last.step,
        loss=sum(report.loss for report in reports) / len(reports),
        tokens_per_s=sum(report.num_tokens for report in reports) / duration_s,
        seconds_left=(num_steps - last.step) * duration_s / len(reports),
        loads=tuple(relative_loads([sum(counts) for counts in zip(*layer, strict=True)]) for layer in layers),
    )


def relative_loads(expert_counts: Sequence[int]) -> tuple[float, ...]:
    """Divide each expert's rows by an even share; 0 where there are no rows."""
    even = sum(expert_counts) / len(expert_counts)
    return tuple(count / even if even else 0.0 for count in expert_counts)


@contextmanager
def open_view(console: Console, *, num_steps: int, unigram_loss: float) -> Iterator[Show]:
    """Open the view that suits the console, give the function that shows a step, and close the view at the end.

    Args:
        console: where to show it.
        num_steps: of the whole run.
        unigram_loss: the loss of guessing by frequency, to compare with.
    """
    if not console.is_terminal or console.options.ascii_only:
        yield PlainView(console, num_steps=num_steps).show
        return
    with Live(console=console, refresh_per_second=_REFRESHES_PER_SECOND, transient=False) as live:
        yield LiveView(live, num_steps=num_steps, unigram_loss=unigram_loss).show


def show_nothing(report: StepReport) -> None:
    """Show nothing."""


class PlainView:
    """Prints a line now and then."""

    def __init__(self, console: Console, *, num_steps: int) -> None:
        self._console = console
        self._num_steps = num_steps
        self._recent: deque[StepReport] = deque(maxlen=_WINDOW_STEPS)

    def show(self, report: StepReport) -> None:
        """Print a line for the first step, the last, and some evenly between."""
        self._recent.append(report)
        every = max(1, self._num_steps // _NUM_PLAIN_LINES)
        if report.step == 1 or report.step % every == 0 or report.step == self._num_steps:
            line = plain_line(summarise(list(self._recent), self._num_steps), self._num_steps)
            self._console.print(line, soft_wrap=True)


def plain_line(recent: RecentSteps, num_steps: int) -> str:
    """Write a step's figures in one line of ASCII."""
    width = len(str(num_steps))
    line = (
        f"step {recent.step:>{width}}/{num_steps}  loss {recent.loss:.3f}  {recent.tokens_per_s:,.0f} tokens/s  "
        f"{format_duration(recent.seconds_left)} left"
    )
    if not recent.loads:
        return line
    busiest = " ".join(f"{max(loads):.2f}" for loads in recent.loads)
    return f"{line}  busiest expert {busiest} x even"


class LiveView:
    """Draws a progress bar, the figures, and a load bar for each expert of each layer."""

    def __init__(self, live: Live, *, num_steps: int, unigram_loss: float) -> None:
        self._live = live
        self._num_steps = num_steps
        self._unigram_loss = unigram_loss
        self._recent: deque[StepReport] = deque(maxlen=_WINDOW_STEPS)

    def show(self, report: StepReport) -> None:
        """Hand the newest picture to the live display, which draws it when it is due."""
        self._recent.append(report)
        recent = summarise(list(self._recent), self._num_steps)
        width = self._live.console.width
        self._live.update(live_picture(recent, self._num_steps, self._unigram_loss, width))


def live_picture(recent: RecentSteps, num_steps: int, unigram_loss: float, width: int) -> RenderableType:
    """Draw the live view."""
    head = Table.grid(padding=(0, 2))
    head.add_row(
        ProgressBar(total=num_steps, completed=recent.step, width=_BAR_WIDTH),
        Text.assemble((f"step {recent.step}", "bold"), f" of {num_steps}"),
        Text(f"{format_duration(recent.seconds_left)} left", "cyan"),
    )
    figures = Text.assemble(
        "loss ", (f"{recent.loss:.3f}", "bold"), (f"  (guessing by frequency: {unigram_loss:.2f})", "dim"),
        f"   {recent.tokens_per_s:,.0f} tokens/s",
    )  # fmt: skip
    parts: list[RenderableType] = [Text(), head, figures]
    if recent.loads:
        parts += [Text(), load_bars(recent.loads, width), _colour_legend()]
    return Group(*parts, Text())


def load_bars(loads: Sequence[Sequence[float]], width: int) -> RenderableType:
    """Draw one bar per expert and layer; a bar of half the cell is an even share.

    Args:
        loads: each layer's load per expert, as multiples of an even share.
        width: characters in a line.
    """
    num_experts = max(map(len, loads))
    cell = max(1, min(_WIDEST_CELL, (width - _NAME_WIDTH) // num_experts - 1))
    lines = [Text.assemble(("load of each expert", "bold"), ("  (half a bar is an even share)", "dim"))]
    if cell >= 3:
        lines.append(Text(" " * _NAME_WIDTH + " ".join(f"{expert:<{cell}}" for expert in range(num_experts)), "dim"))
    for layer, layer_loads in enumerate(loads):
        line = Text(f"layer {layer}".ljust(_NAME_WIDTH), no_wrap=True)
        for load in layer_loads:
            line.append(_bar(load, cell), load_style(load))
            line.append(" " if cell > 1 else "")
        lines.append(line)
    return Group(*lines)


def _colour_legend() -> Text:
    return Text.assemble(
        " " * _NAME_WIDTH, ("little", load_style(0.3)), "  ", ("about even", load_style(1.0)), "  ",
        ("a lot", load_style(1.8)), "  ", ("more than double", load_style(2.5)),
    )  # fmt: skip


def load_style(load: float) -> str:
    """Colour a load by how far from an even share it is."""
    if load > 2.0:
        return "bold red"
    if load > 1.5:
        return "yellow"
    return "green" if load >= 0.5 else "blue"


def _bar(load: float, cell: int) -> str:
    """Draw a load from 0 to twice an even share as a bar of at most `cell` characters, never quite empty."""
    eighths = max(1, min(8 * cell, round(load / 2.0 * 8 * cell)))
    full, rest = divmod(eighths, 8)
    return ("█" * full + (_EIGHTHS[rest] if rest else "")).ljust(cell)


def format_duration(seconds: float) -> str:
    """Write a time as m:ss."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"
