"""A whole demo run in its folder: prepare, train with checkpoints, measure, record."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from headgate.demo import folder
from headgate.demo.checkpoint import TrainingState, load_checkpoint, load_model, save_checkpoint
from headgate.demo.config import DemoConfig
from headgate.demo.corpus import Corpus, load_corpus, make_corpus, save_corpus
from headgate.demo.data import read_documents
from headgate.demo.evaluate import Evaluation, evaluate
from headgate.demo.model import DemoModel, is_routed, make_moe
from headgate.demo.record import record_sample
from headgate.demo.shares import agree_to_stop, record_held_out, spread_experts
from headgate.demo.tokenizer import Tokenizer, load_tokenizer, save_tokenizer, train_tokenizer
from headgate.demo.train import make_optimizer, train
from headgate.demo.view import Show
from headgate.errors import InputError
from headgate.observe.page.build import make_page
from headgate.observe.page.document import write_page
from headgate.observe.writer import save_trace
from headgate.parallel.checkpoint import latest_checkpoint
from headgate.parallel.launch import num_ranks, on_first_rank, rank


@dataclass(frozen=True, slots=True, kw_only=True)
class Prepared:
    """A run that is ready to train.

    Attributes:
        out: its folder.
        config: of the run.
        tokenizer: trained on the run's own text.
        corpus: the text as tokens.
    """

    out: Path
    config: DemoConfig
    tokenizer: Tokenizer
    corpus: Corpus


@dataclass(frozen=True, slots=True, kw_only=True)
class Finished:
    """A run that has trained all its steps.

    Attributes:
        model: in evaluation mode.
        evaluation: its figures.
        training_s: wall time of all steps, those before a resume included.
        tokens_per_s: of training.
    """

    model: DemoModel
    evaluation: Evaluation
    training_s: float
    tokens_per_s: float

    def summary(self, config: DemoConfig) -> dict[str, Any]:
        """What goes into summary.json: plain values."""
        return {
            "config": config.to_dict(),
            "training_s": self.training_s,
            "tokens_per_s": self.tokens_per_s,
            **self.evaluation.to_dict(),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """A run that was asked to stop, and has saved where it stood.

    Attributes:
        step: steps done.
    """

    step: int


def prepare(out: Path, config: DemoConfig, *, resume: bool) -> Prepared:
    """Make the run's tokenizer and tokens, or take those that are there.

    Args:
        out: the run's folder, which holds its config.
        config: of the run.
        resume: whether the run was begun before.

    Raises:
        ArtifactError: a file can't be read or written.
    """
    tokenizer_path, corpus_path = out / folder.TOKENIZER, out / folder.CORPUS
    # The corpus is written last, so where it is the tokenizer is, too.
    if resume and corpus_path.exists():
        tokenizer, corpus = load_tokenizer(tokenizer_path), load_corpus(corpus_path)
    else:
        documents = read_documents()
        texts = [document.text for document in documents if not document.is_held_out]
        tokenizer = train_tokenizer(texts, vocab_size=config.model.vocab_size)
        corpus = make_corpus(documents, tokenizer)
        save_tokenizer(tokenizer, tokenizer_path)
        save_corpus(corpus, corpus_path)
    return Prepared(out=out, config=config, tokenizer=tokenizer, corpus=corpus)


def require_trainable(config: DemoConfig) -> None:
    """Find out whether a config can be trained here, before anything is written.

    Raises:
        SpecError: the router and its balance do not fit together.
        InputError: there is no such device.
    """
    name = config.training.device
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device (={name!r}) can't be used: {reason}; 'cpu' always can") from error
    with torch.device("meta"):
        make_moe(config.model)


def run_training(prepared: Prepared, show: Show, *, should_stop: Callable[[], bool]) -> Finished | Stopped:
    """Train from the last checkpoint, or from the start, to the end; then measure and record.

    Args:
        prepared: what to train, on what, and where to save it.
        show: is given each step.
        should_stop: asked after each step; if so, the run saves a checkpoint and stops.

    Raises:
        ArtifactError: a file can't be read or written; the last complete checkpoint is untouched.
    """
    config, out = prepared.config, prepared.out
    training = config.training
    torch.manual_seed(training.seed)
    model = DemoModel(config.model).to(training.device)
    spread_experts(model, config)
    if rank() > 0:
        torch.manual_seed(training.seed + rank())  # The weights are alike by now; a router's noise should not be.
    optimizer = make_optimizer(model, training)
    checkpoints = out / folder.CHECKPOINTS
    saved = on_first_rank(lambda: latest_checkpoint(checkpoints))
    values = config.to_dict()
    first_step = 0 if saved is None else load_checkpoint(saved, model, optimizer, config=values)
    with _first_ranks_log(out / folder.METRICS, num_steps=first_step) as log:
        for report in train(model, optimizer, prepared.corpus, training, first_step=first_step):
            if log is not None:
                log.append(report)
            show(report)
            stop = agree_to_stop(should_stop(), device=training.device) and report.step < training.steps
            if stop or report.step % training.checkpoint_steps == 0 or report.step == training.steps:
                save_checkpoint(checkpoints, model, optimizer, TrainingState(step=report.step, config=values))
            if stop:
                return Stopped(step=report.step)
        totals = folder.MetricsTotals(num_tokens=0, duration_s=0.0) if log is None else log.totals()
    if num_ranks() == 1:
        return _finish(prepared, model, totals)
    if is_routed(model):
        record_held_out(out / folder.TRACE, model.eval(), prepared.corpus, prepared.tokenizer, config)
    return on_first_rank(lambda: _finish_alone(prepared, totals))


def _first_ranks_log(path: Path, *, num_steps: int) -> AbstractContextManager[folder.MetricsLog | None]:
    return folder.MetricsLog(path, num_steps=num_steps) if rank() == 0 else nullcontext()


def _finish_alone(prepared: Prepared, totals: folder.MetricsTotals) -> Finished:
    """Measure what the ranks have trained in one process, with all experts; their trace is there already."""
    config = prepared.config
    if config.model.balance == "global-batch":
        # Its loss, of no use here, would ask the other ranks for their counts.
        config = config.with_options({"balance": "off"})
    saved = latest_checkpoint(prepared.out / folder.CHECKPOINTS)
    assert saved is not None  # Written after the last step.
    model = DemoModel(config.model).to(config.training.device)
    load_model(saved, model)
    return _finish(prepared, model, totals)


def _finish(prepared: Prepared, model: DemoModel, totals: folder.MetricsTotals) -> Finished:
    evaluation, trace = evaluate(model, prepared.corpus, prepared.tokenizer, prepared.config)
    finished = Finished(
        model=model,
        evaluation=evaluation,
        training_s=totals.duration_s,
        tokens_per_s=totals.num_tokens / totals.duration_s,
    )
    if trace is not None and num_ranks() == 1:
        save_trace(prepared.out / folder.TRACE, trace)
    sample = record_sample(model, prepared.corpus, prepared.tokenizer, prepared.config)
    if sample is not None:
        save_trace(prepared.out / folder.SAMPLE, sample)
        write_page(prepared.out / folder.PAGE, make_page(sample, names=("demo", "")))
    folder.write_json(prepared.out / folder.SUMMARY, finished.summary(prepared.config))
    return finished
