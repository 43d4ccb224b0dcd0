"""Balanced, unbalanced, dense: the same budget spent three ways."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rich import box
from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from headgate.demo.config import DemoConfig, router_spec, usual_balance
from headgate.demo.run import Finished

ArmName = Literal["balanced", "unbalanced", "dense"]


@dataclass(frozen=True, slots=True, kw_only=True)
class ArmResult:
    """What one arm of the comparison came to.

    Attributes:
        name: of the arm.
        balance: what kept the experts evenly used.
        loss: held-out, nats per token.
        unigram_loss: of guessing by frequency.
        tokens_per_s: of training.
        training_s: wall time of training.
        active_parameters: that work on one token, embeddings included.
        total_parameters: all of them.
        load_ratio: of the worst layer, busiest expert / even share; None for the dense model.
        dead_experts: over all layers, of those that a sufficient sample shows; None for the dense model.
        num_experts: over all layers.
    """

    name: ArmName
    balance: str
    loss: float
    unigram_loss: float
    tokens_per_s: float
    training_s: float
    active_parameters: int
    total_parameters: int
    load_ratio: float | None
    dead_experts: int | None
    num_experts: int


def arm_configs(config: DemoConfig) -> dict[ArmName, DemoConfig]:
    """Make the three configs: as asked, without balance, and dense with as many active parameters.

    If the balance asked for is "off", the balanced arm has what is usual for the router, which is nothing where the
    selection itself is balanced.
    """
    balance = config.model.balance
    if balance == "off":
        balance = usual_balance(config.model.router)
    return {
        "balanced": config.with_options({"balance": balance, "feed_forward": "moe"}),
        "unbalanced": config.with_options({"balance": "off", "feed_forward": "moe"}),
        "dense": config.with_options({"balance": "off", "feed_forward": "dense"}),
    }


def summarise_arm(name: ArmName, config: DemoConfig, finished: Finished) -> ArmResult:
    """Take an arm's figures from its run."""
    evaluation = finished.evaluation
    layers = evaluation.layers
    dead = [layer.health.dead for layer in layers]
    return ArmResult(
        name=name,
        balance=config.model.balance,
        loss=evaluation.loss,
        unigram_loss=evaluation.unigram_loss,
        tokens_per_s=finished.tokens_per_s,
        training_s=finished.training_s,
        active_parameters=evaluation.parameters.active,
        total_parameters=evaluation.parameters.total,
        load_ratio=max(layer.health.load_ratio for layer in layers) if layers else None,
        dead_experts=sum(found.count for found in dead if found.is_sample_sufficient) if layers else None,
        num_experts=sum(len(layer.expert_counts) for layer in layers),
    )


def comparison(results: Sequence[ArmResult], config: DemoConfig) -> dict[str, Any]:
    """Put the results into plain values for JSON."""
    return {
        "num_seeds": 1,
        "seed": config.training.seed,
        "steps": config.training.steps,
        "unigram_loss": results[0].unigram_loss,
        "arms": [_plain(result) for result in results],
    }


def _plain(result: ArmResult) -> Mapping[str, Any]:
    return {name: getattr(result, name) for name in ArmResult.__slots__}


def print_comparison(console: Console, results: Sequence[ArmResult], config: DemoConfig) -> None:
    """Print the table, and what it does and does not show."""
    training = config.training
    console.print()
    console.print(Text("The same budget, three ways", "bold"))
    table = Table(box=box.SIMPLE_HEAD, pad_edge=False, header_style="dim")
    table.add_column("")
    for name in ("held-out loss", "busiest expert", "dead experts", "tokens/s", "active", "total"):
        table.add_column(name, justify="right")
    for result in results:
        table.add_row(*_cells(result))
    console.print(table)
    num_tokens = training.steps * training.batch_size * training.sequence_length
    said = (
        f"Every model saw the same {num_tokens:,} tokens in the same order and has as many active parameters, within "
        f"rounding; {results[0].balance!r} balances the first. Loss is in nats per token (guessing by frequency: "
        f"{results[0].unigram_loss:.3f}); the busiest expert's load, in the worst layer, is a multiple of an even "
        f"share. This is one seed ({training.seed}): a difference of a few hundredths may be chance, so try other "
        "seeds (--seed) before you build on it."
    )
    console.print(Padding(Text(said), (0, 2)))
    if _is_dense_ahead(results):
        spec = router_spec(config.model)
        share = spec.top_k / spec.num_choices
        said = (
            "The dense model is ahead here. Its MLPs learned from every token, each expert only from about "
            f"{share:.0%} of them, and the run is short."
        )
        console.print(Padding(Text(said), (1, 2, 0, 2)))


def _is_dense_ahead(results: Sequence[ArmResult]) -> bool:
    losses = {result.name: result.loss for result in results}
    return losses["dense"] < min(losses["balanced"], losses["unbalanced"])


def _cells(result: ArmResult) -> list[str]:
    return [
        result.name,
        f"{result.loss:.3f}",
        "-" if result.load_ratio is None else f"{result.load_ratio:.2f} x",
        "-" if result.dead_experts is None else f"{result.dead_experts} of {result.num_experts}",
        f"{result.tokens_per_s:,.0f}",
        f"{result.active_parameters / 1e6:.2f} M",
        f"{result.total_parameters / 1e6:.2f} M",
    ]
