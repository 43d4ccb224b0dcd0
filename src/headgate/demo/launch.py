"""What `headgate demo` does, from the user's options to the report: one run, or the three of a comparison."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.text import Text

from headgate.demo import folder
from headgate.demo.compare import arm_configs, comparison, print_comparison, summarise_arm
from headgate.demo.config import DemoConfig, ModelConfig, router_spec, usual_balance
from headgate.demo.corpus import unigram_loss
from headgate.demo.explain import print_passage, print_report, print_where
from headgate.demo.run import Finished, Prepared, Stopped, prepare, require_trainable, run_training
from headgate.demo.steps import print_walk
from headgate.demo.tokenizer import token_strings
from headgate.demo.view import Show, format_duration, open_view, show_nothing
from headgate.demo.walk import choose_token, route_passage, walk_token
from headgate.nn import MoE
from headgate.parallel.checkpoint import latest_checkpoint
from headgate.parallel.launch import on_first_rank
from headgate.wording import number_of

COMPARE = "compare.json"


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """What the user asked for, and where it is shown.

    Attributes:
        out: folder of the run.
        options: config fields that the user gave.
        resume: go on with the run that is there.
        results: console of the report.
        notes: console of progress and hints.
        is_quiet: show no progress and no explanation.
        should_stop: asked after each training step.
    """

    out: Path
    options: Mapping[str, Any]
    resume: bool
    results: Console
    notes: Console
    is_quiet: bool
    should_stop: Callable[[], bool]


def new_config(options: Mapping[str, Any]) -> DemoConfig:
    """Make a config from the user's options; balance follows from the router where it isn't given.

    Raises:
        SpecError: options that do not fit together.
    """
    router = options.get("router", ModelConfig().router)
    return DemoConfig().with_options({"balance": usual_balance(router), **options})


def run_single(launch: Launch) -> dict[str, Any] | Stopped:
    """Train one model, and print the report.

    Returns:
        The summary, or where the run stopped.

    Raises:
        SpecError: options that do not fit together.
        ArtifactError: a file or folder that can't be read, written or resumed.
    """
    config = on_first_rank(lambda: _open(launch, folder.CONFIG))
    prepared, outcome = _train(launch, launch.out, config, resume=launch.resume)
    if isinstance(outcome, Stopped):
        return outcome
    _print_finished(launch, prepared, outcome)
    return outcome.summary(config)


def run_comparison(launch: Launch) -> dict[str, Any] | Stopped:
    """Train the three arms of the comparison, each in a folder of its own, and print the table.

    Returns:
        The comparison, or where it stopped.

    Raises:
        SpecError: options that do not fit together.
        ArtifactError: a file or folder that can't be read, written or resumed.
    """
    config = on_first_rank(lambda: _open(launch, COMPARE))
    results = []
    for name, arm in arm_configs(config).items():
        out = launch.out / name
        _note(launch, f"{name}:", "bold")
        was_begun = on_first_rank(partial(_begin_arm, launch, out, arm))
        _, outcome = _train(launch, out, arm, resume=was_begun)
        if isinstance(outcome, Stopped):
            return outcome
        results.append(summarise_arm(name, arm, outcome))
    found = comparison(results, config)
    on_first_rank(lambda: folder.write_json(launch.out / folder.SUMMARY, found))
    print_comparison(launch.results, results, config)
    return found


def _begin_arm(launch: Launch, out: Path, arm: DemoConfig) -> bool:
    """Make the folder of an arm, or find that it was begun before, and say which."""
    was_begun = launch.resume and (out / folder.CONFIG).exists()
    if was_begun:
        folder.reopen_run(out, {})
    else:
        folder.start_run(out, arm)
    return was_begun


def _open(launch: Launch, name: str) -> DemoConfig:
    if launch.resume:
        return folder.reopen_run(launch.out, launch.options, name=name)
    config = new_config(launch.options)
    require_trainable(config)
    folder.start_run(launch.out, config, name=name)
    return config


def _train(launch: Launch, out: Path, config: DemoConfig, *, resume: bool) -> tuple[Prepared, Finished | Stopped]:
    _note(launch, _introduction(config))
    prepared = on_first_rank(lambda: prepare(out, config, resume=resume))
    corpus = prepared.corpus
    _note(
        launch,
        f"It reads Python's own documentation: {len(corpus.train_ids):,} tokens to learn from, "
        f"{len(corpus.held_out_ids):,} held out.",
    )
    if resume:
        saved = latest_checkpoint(out / folder.CHECKPOINTS)
        _note(launch, "No checkpoint yet: starting again." if saved is None else f"Going on from {saved}.")
    with _view(launch, prepared) as show:
        outcome = run_training(prepared, show, should_stop=launch.should_stop)
    if isinstance(outcome, Finished):
        _note(launch, f"Trained in {format_duration(outcome.training_s)}, {outcome.tokens_per_s:,.0f} tokens/s.")
    return prepared, outcome


def _introduction(config: DemoConfig) -> str:
    model = config.model
    layers, experts = number_of(model.num_layers, "layer"), number_of(model.num_experts, "expert")
    if model.feed_forward == "dense":
        return f"A dense language model of {layers}, with as many active parameters as the MoE model."
    spec = router_spec(model)
    return (
        f"A small language model of {layers}. Each has {experts}, of which "
        f"{spec.top_k if spec.selection != 'expert_choice' else f'{spec.top_k} on average'} work on any one token "
        f"(router {model.router}, balance {model.balance})."
    )


def _view(launch: Launch, prepared: Prepared) -> AbstractContextManager[Show]:
    if launch.is_quiet:
        return nullcontext(show_nothing)
    corpus, config = prepared.corpus, prepared.config
    baseline = unigram_loss(corpus.train_ids, corpus.held_out_ids, vocab_size=config.model.vocab_size).item()
    return open_view(launch.notes, num_steps=config.training.steps, unigram_loss=baseline)


def _print_finished(launch: Launch, prepared: Prepared, finished: Finished) -> None:
    evaluation, console = finished.evaluation, launch.results
    if launch.is_quiet:
        verdicts = ", ".join(layer.health.verdict for layer in evaluation.layers)
        console.print(
            f"held-out loss {evaluation.loss:.3f} nats/token (unigram {evaluation.unigram_loss:.3f}); "
            f"routing {verdicts}; {prepared.out}",
            soft_wrap=True,
        )
        return
    print_report(console, evaluation)
    _print_one_layer(console, prepared, finished)
    traces = [folder.TRACE, folder.SAMPLE]
    names = [folder.SUMMARY, *traces, folder.METRICS, folder.CONFIG, folder.TOKENIZER, f"{folder.CHECKPOINTS}/"]
    print_where(console, prepared.out, names, prepared.out / folder.PAGE)


def _print_one_layer(console: Console, prepared: Prepared, finished: Finished) -> None:
    """Print a passage, and one token's walk, through the layer in the middle."""
    layers = finished.evaluation.layers
    middle = len(layers) // 2
    device = prepared.config.training.device
    passage = route_passage(finished.model, prepared.corpus, prepared.tokenizer, layer=middle, device=device)
    strings = token_strings(prepared.tokenizer, passage.token_ids.tolist())
    print_passage(console, passage, strings, layers[middle])
    moe = finished.model.get_submodule(passage.path)
    assert isinstance(moe, MoE)  # The demo's model has no other routed layer.
    walk = walk_token(moe, passage, choose_token(passage, strings))
    print_walk(console, walk, passage, strings, moe.spec)


def _note(launch: Launch, text: str, style: str = "dim") -> None:
    if not launch.is_quiet:
        launch.notes.print(Text(text, style), soft_wrap=not launch.notes.is_terminal)
