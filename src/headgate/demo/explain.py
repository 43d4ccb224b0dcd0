"""The end of a demo run, for a person: how good the model is, how it routed, and one token's way through a layer."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from headgate.demo.evaluate import Evaluation, LayerFinding
from headgate.demo.view import load_bars, relative_loads
from headgate.demo.walk import Passage

VERDICT_STYLES = {"healthy": "green", "imbalanced": "yellow", "collapsed": "bold red"}
EXPERT_COLOURS = ("cyan", "magenta", "green", "yellow", "blue", "red", "bright_cyan", "bright_magenta")
_WIDEST_TOKEN = 14


def print_report(console: Console, evaluation: Evaluation) -> None:
    """Print how good a routed model is and how healthy its routing."""
    _heading(console, "How good is the model?")
    _print_quality(console, evaluation)
    _heading(console, "Did the experts share the work?")
    _print_health(console, evaluation.layers)
    _print_causal(console, evaluation)


def _heading(console: Console, title: str) -> None:
    console.print()
    console.print(Text(title, "bold"))


def _print_quality(console: Console, evaluation: Evaluation) -> None:
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    table.add_column("held-out text the model never saw")
    table.add_column("nats per token", justify="right")
    table.add_column("perplexity", justify="right")
    table.add_row("this model", f"{evaluation.loss:.3f}", f"{evaluation.perplexity:,.0f}", style="bold")
    table.add_row(
        "guessing by frequency (unigram)", f"{evaluation.unigram_loss:.3f}", f"{evaluation.unigram_perplexity:,.0f}"
    )
    console.print(table)
    if evaluation.loss < evaluation.unigram_loss:
        said = (
            f"At each token the model is as unsure as if it had to guess among {evaluation.perplexity:,.0f} equally "
            f"likely ones; by frequency alone that would be {evaluation.unigram_perplexity:,.0f}."
        )
    else:
        said = "The model does not beat guessing by frequency yet; train for more steps (--steps)."
    _say(console, said)
    counts = evaluation.parameters
    _say(
        console,
        f"It has {counts.total / 1e6:.2f} million parameters, of which {counts.active / 1e6:.2f} million work on any "
        "one token. That is what experts are for: the memory of a large model at the price of a small one.",
    )


def _print_health(console: Console, layers: Sequence[LayerFinding]) -> None:
    console.print(
        Padding(load_bars([relative_loads(layer.expert_counts) for layer in layers], console.width - 4), (0, 2))
    )
    console.print()
    for index, layer in enumerate(layers):
        found = layer.health
        line = Text.assemble(
            f"  layer {index}: ", (found.verdict, VERDICT_STYLES[found.verdict]), f": {found.sentence}"
        )
        console.print(line, soft_wrap=not console.is_terminal)


def _print_causal(console: Console, evaluation: Evaluation) -> None:
    if evaluation.training_mode_loss is None:
        return
    _heading(console, "What does not looking ahead cost?")
    parts = [
        f"{layer.training_disagreement:.0%}" for layer in evaluation.layers if layer.training_disagreement is not None
    ]
    _say(
        console,
        "In training this router compares tokens with each other, later ones included; text that is being written has "
        "no later tokens, so outside training it decides for each token alone. Routed as in training the held-out "
        f"loss is {evaluation.training_mode_loss:.3f}, causally it is {evaluation.loss:.3f} nats per token. Of the "
        f"(token, expert) pairs that either way chooses, these parts differ: {', '.join(parts)} (layer by layer).",
    )


def print_passage(console: Console, passage: Passage, strings: Sequence[str], finding: LayerFinding) -> None:
    """Print a passage token by token with each token's experts, and what each expert likes."""
    _heading(console, f"Who worked on what? Layer {passage.layer}, on held-out text ({passage.document})")
    shown = range(passage.start, len(strings))
    text = Text()
    for token in shown:
        text.append(strings[token], expert_style(int(passage.expert_ids[token, 0])))
    console.print(Padding(text, (1, 2)))
    _say(console, "Each token (\N{MIDDLE DOT} is a blank) with its experts, best first, and their weights:")
    console.print()
    columns = max(1, min(3, (console.width - 2) // 36))
    rows = -(-len(shown) // columns)
    grid = Table.grid(padding=(0, 2))
    for row in range(rows):
        cells = [_token_cell(passage, strings, token) for token in shown[row::rows]]
        grid.add_row(*cells)
    console.print(Padding(grid, (0, 2)))
    _print_typical(console, finding)


def _token_cell(passage: Passage, strings: Sequence[str], token: int) -> Text:
    cell = Text(visible(strings[token])[:_WIDEST_TOKEN].ljust(_WIDEST_TOKEN), no_wrap=True)
    slots = zip(
        passage.expert_ids[token].tolist(),
        passage.combine_weights[token].tolist(),
        passage.is_dropped[token].tolist(),
        strict=True,
    )
    chosen = [(expert, weight, dropped) for expert, weight, dropped in slots if expert >= 0]
    if not chosen:
        cell.append("no expert", "dim")
    for expert, weight, dropped in chosen:
        cell.append(f" {expert}", expert_style(expert))
        cell.append(" full" if dropped else f" {weight:.2f}", "dim")
    return cell


def _print_typical(console: Console, finding: LayerFinding) -> None:
    lines = [(expert, tokens) for expert, tokens in enumerate(finding.typical_tokens[:16]) if tokens]
    if not lines:
        return
    console.print()
    _say(console, "Nobody told the experts what to do. What each one came to get more often than the others did:")
    console.print()
    for expert, tokens in lines:
        shown = "  ".join(visible(token) for token in tokens)
        console.print(Text.assemble("  ", (f"expert {expert}", expert_style(expert)), f"  {shown}"), soft_wrap=True)


def print_where(console: Console, out: Path, names: Sequence[str], page: Path) -> None:
    """Print what the run left on the disk, the page last."""
    console.print()
    console.print(
        Text.assemble(("Everything is in ", "dim"), f"{out}/", (f": {', '.join(names)}", "dim")), soft_wrap=True
    )
    if page.exists():
        console.print(
            Text.assemble(("Which experts ran for which token, to look at: open ", "dim"), (str(page), "bold")),
            soft_wrap=True,
        )


def expert_style(expert: int) -> str:
    """Give each expert a colour of its own, as far as colours go; none is dim."""
    return EXPERT_COLOURS[expert % len(EXPERT_COLOURS)] if expert >= 0 else "dim"


def visible(string: str) -> str:
    """Write a token so that blanks and line ends can be seen."""
    return string.replace(" ", "\N{MIDDLE DOT}").replace("\n", "\\n").replace("\t", "\\t")


def _say(console: Console, text: str) -> None:
    console.print(Padding(Text(text), (0, 2)))
