import io

import pytest
from rich.console import Console

from headgate.demo.train import StepReport
from headgate.demo.view import (
    format_duration,
    load_bars,
    load_style,
    open_view,
    plain_line,
    relative_loads,
    show_nothing,
    summarise,
)


def report(step, *, loss=5.0, counts=((6, 2), (4, 4)), duration_s=0.5):
    return StepReport(
        step=step,
        loss=loss,
        learning_rate=1e-3,
        grad_norm=1.0,
        num_tokens=100,
        duration_s=duration_s,
        expert_counts=counts,
        balance_losses={},
    )


def shown(*, terminal, steps=40, width=100, counts=((6, 2), (4, 4)), **console):
    buffer = io.StringIO()
    target = Console(file=buffer, force_terminal=terminal, width=width, legacy_windows=False, **console)
    with open_view(target, num_steps=steps, unigram_loss=6.69) as show:
        for step in range(1, steps + 1):
            show(report(step, counts=counts))
    return buffer.getvalue()


def test_the_means_of_some_steps():
    recent = summarise([report(3, loss=4.0), report(4, loss=6.0, counts=((2, 6), (4, 4)))], 10)
    assert (recent.step, recent.loss, recent.tokens_per_s, recent.seconds_left) == (4, 5.0, 200.0, 3.0)
    assert recent.loads == ((1.0, 1.0), (1.0, 1.0))


def test_loads_are_relative_to_an_even_share():
    assert relative_loads([6, 2]) == (1.5, 0.5)
    assert relative_loads([0, 0]) == (0.0, 0.0)


def test_without_a_terminal_there_are_plain_lines():
    lines = shown(terminal=False).splitlines()
    assert len(lines) == 21  # The first step, and every second of 40.
    assert lines[0] == "step  1/40  loss 5.000  200 tokens/s  0:20 left  busiest expert 1.50 1.00 x even"
    assert lines[-1].startswith("step 40/40  loss 5.000")
    assert "\x1b" not in "".join(lines)


def test_a_dense_model_has_no_load_to_show():
    recent = summarise([report(1, counts=())], 2)
    assert plain_line(recent, 2) == "step 1/2  loss 5.000  200 tokens/s  0:00 left"
    assert "load of each expert" not in shown(terminal=True, counts=())


def test_a_terminal_sees_progress_and_bars():
    text = shown(terminal=True)
    for part in ("step 40", "of 40", "loss", "guessing by frequency: 6.69", "200 tokens/s", "load of each expert"):
        assert part in text
    assert "\u2588" in text
    assert "layer 1" in text


def test_no_color_is_respected(monkeypatch):
    coloured = shown(terminal=True, color_system="standard")
    assert "\x1b[32m" in coloured
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[32m" not in shown(terminal=True)


@pytest.mark.parametrize("num_experts", [1, 8, 64, 128])
def test_bars_fit_the_line(num_experts):
    console = Console(file=io.StringIO(), width=80)
    with console.capture() as capture:
        console.print(load_bars([[1.0] * num_experts], 80))
    lines = capture.get().splitlines()
    if num_experts <= 64:
        assert lines[-1].startswith("layer 0")
    assert all(len(line) <= 80 for line in lines)


@pytest.mark.parametrize(("load", "style"), [(0.1, "blue"), (1.0, "green"), (1.6, "yellow"), (2.5, "bold red")])
def test_colours_tell_the_load(load, style):
    assert load_style(load) == style


def test_durations():
    assert [format_duration(seconds) for seconds in (0.0, 59.6, 125.0)] == ["0:00", "1:00", "2:05"]


def test_nothing_can_be_shown():
    assert show_nothing(report(1)) is None
