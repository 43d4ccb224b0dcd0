"""Claim: `log_routing(trainer)` costs a small training run little.

A model of Mixtral's kind (D 256, F 512, E 8, K 2, four layers, float32, random weights) is trained by
`transformers.Trainer` on random tokens, with the callback and without, in turns. A turn is ten steps of 4 x 256 tokens
with an entry in the log every fifth, and begins with what the trainer does before its first step.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable
from typing import Any

import torch
import transformers
import typer
from support.report import publish
from support.timing import paired_quartiles, time_interleaved

import headgate.integrations.transformers as integration
from headgate.integrations.trainer import log_routing

STEPS, BATCH, TOKENS, VOCABULARY = 10, 4, 256, 4096
COLUMNS = ("experts", "log", "ms_a_step", "quartiles_ms", "cost_percent", "cost_quartiles")


def build_model() -> transformers.MixtralForCausalLM:
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 512, "num_hidden_layers": 4, "vocab_size": VOCABULARY}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 4}
    return transformers.MixtralForCausalLM(transformers.MixtralConfig(**sizes, **heads))


def make_run(model: transformers.MixtralForCausalLM, folder: str, *, logged: bool) -> Callable[[], Any]:
    """Ten steps of training, with the callback or without."""
    generator = torch.Generator().manual_seed(0)
    ids = torch.randint(0, VOCABULARY, (STEPS * BATCH, TOKENS), generator=generator)
    arguments = transformers.TrainingArguments(
        output_dir=folder,
        per_device_train_batch_size=BATCH,
        max_steps=STEPS,
        logging_steps=STEPS // 2,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=True,
        dataloader_pin_memory=False,
    )
    trainer = transformers.Trainer(
        model=model, args=arguments, train_dataset=[{"input_ids": row, "labels": row} for row in ids]
    )
    trainer.remove_callback(transformers.PrinterCallback)
    if logged:
        log_routing(trainer)
    return trainer.train


def main(rounds: int = 7) -> None:
    """Time training with and without the log, on transformers' default and on headgate."""
    model, rows = build_model(), []
    with tempfile.TemporaryDirectory() as folder:
        for backend in ("grouped_mm", "headgate"):
            integration.register()
            model.set_experts_implementation(backend)
            calls = {name: make_run(model, folder, logged=name == "on") for name in ("off", "on")}
            timings = time_interleaved(calls, rounds=rounds, warm_up=1)
            lower, cost, upper = paired_quartiles(timings["on"], timings["off"])
            for name, timing in timings.items():
                quartiles = f"{1e3 * timing.lower_s / STEPS:.1f}-{1e3 * timing.upper_s / STEPS:.1f}"
                costs = (100 * (cost - 1), f"{100 * (lower - 1):.1f} to {100 * (upper - 1):.1f}")
                shown = costs if name == "on" else ("", "")
                rows.append((backend, name, 1e3 * timing.median_s / STEPS, quartiles, *shown))
    publish("training_log", "Ten steps of training, four layers", COLUMNS, rows, rounds=rounds, steps=STEPS)


if __name__ == "__main__":
    typer.run(main)
