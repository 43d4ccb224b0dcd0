"""Claim: a whole model of transformers runs faster with its experts on headgate, and a tap costs under 5 %.

OLMoE-1B-7B's shapes (D 2048, F 1024, E 64, K 8) with random bfloat16 weights and fewer layers, on the CPU: attention,
norms and head are transformers' own in every contender. Prefill: one sequence; decode: one token for each sequence of a
batch, on a cache of 128 tokens that is cropped again after each step, four steps a timing. The contenders take turns in
one process, on the same weights; the default of transformers is `grouped_mm`. What a tap costs is timed apart, since
the machine's speed drifts by more than that: the median, over many pairs of one step each, of the processor's time
with it over its time without it.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from importlib.metadata import version
from typing import Any

import torch
import typer
from support.report import publish
from support.timing import paired_quartiles, time_interleaved
from transformers import DynamicCache, OlmoeConfig, OlmoeForCausalLM

import headgate.integrations.transformers as integration

CONTEXT = 128
CASES = {"prefill-512": (1, 512), "decode-1": (1, 1), "decode-8": (8, 1), "decode-32": (32, 1)}
"""Sequences, and the tokens of each in one step."""

STEPS = {"prefill": 1, "decode": 4}
SIZES = ("phase", "batch", "tokens", "backend")
COLUMNS = (*SIZES, "tokens_per_s", "ms_a_step", "quartiles_ms", "speedup", "tap_percent", "tap_quartiles")


def build_model(num_layers: int) -> OlmoeForCausalLM:
    """Random weights; the routers' large enough that tokens differ in their experts."""
    config = OlmoeConfig(num_hidden_layers=num_layers, intermediate_size=1024, dtype="bfloat16")
    torch.manual_seed(0)
    with torch.device("meta"):
        model = OlmoeForCausalLM(config)
    model = model.to(torch.bfloat16).to_empty(device="cpu").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if "norm" in name:
                parameter.fill_(1.0)
            else:
                parameter.normal_(0.0, parameter.shape[-1] ** -0.5)
        for rotary in (module for module in model.modules() if hasattr(module, "original_inv_freq")):
            rotary.__init__(config)
    return model


def make_step(model: OlmoeForCausalLM, *, batch: int, tokens: int, context: int) -> Callable[[], torch.Tensor]:
    """One forward pass of `tokens` tokens a sequence on a cache of `context` tokens; returns the last logits."""
    generator = torch.Generator().manual_seed(batch)
    cache = DynamicCache(config=model.config)
    if context:
        prompt = torch.randint(0, model.config.vocab_size, (batch, context), generator=generator)
        model(prompt, past_key_values=cache, use_cache=True, logits_to_keep=1)
    ids = torch.randint(0, model.config.vocab_size, (batch, tokens), generator=generator)

    def step() -> torch.Tensor:
        logits = model(ids, past_key_values=cache, use_cache=True, logits_to_keep=1).logits
        cache.crop(-tokens)
        return logits

    return step


def run_as(
    model: OlmoeForCausalLM, backend: str, step: Callable[[], torch.Tensor], num_steps: int = 1
) -> Callable[[], torch.Tensor]:
    """Several steps on a backend; a tap is put on once for all of them, as for a generation."""
    implementation = backend.removesuffix(" + tap")

    def call() -> torch.Tensor:
        model.set_experts_implementation(implementation)
        with integration.tap(model, logits=False) if backend.endswith("tap") else nullcontext():
            for _ in range(num_steps - 1):
                step()
            return step()

    return call


def measure(model: OlmoeForCausalLM, case: str, rounds: int, pairs: int) -> list[tuple[Any, ...]]:
    """The rows of one case."""
    phase, (batch, tokens) = case.partition("-")[0], CASES[case]
    step = make_step(model, batch=batch, tokens=tokens, context=0 if phase == "prefill" else CONTEXT)
    calls = {name: run_as(model, name, step) for name in ("grouped_mm", "headgate", "headgate + tap")}
    require_alike(model, calls)
    of_tap = measure_tap(calls, pairs)
    num_steps = STEPS[phase]
    calls = {name: run_as(model, name, step, num_steps) for name in calls}
    timings = time_interleaved(calls, rounds=rounds, warm_up=1)
    base = timings["grouped_mm"].median_s
    return [
        (
            phase,
            batch,
            batch * tokens,
            name,
            num_steps * batch * tokens / timing.median_s,
            1e3 * timing.median_s / num_steps,
            f"{1e3 * timing.lower_s / num_steps:.1f}-{1e3 * timing.upper_s / num_steps:.1f}",
            base / timing.median_s,
            *(of_tap if name.endswith("tap") else ("", "")),
        )
        for name, timing in timings.items()
    ]


def measure_tap(calls: dict[str, Callable[[], torch.Tensor]], pairs: int) -> tuple[float, str]:
    """What a tap adds to a step, in per cent: the median of the pairs, and their quartiles."""
    both = {name: calls[name] for name in ("headgate", "headgate + tap")}
    timings = time_interleaved(both, rounds=pairs, clock=time.process_time)
    lower, cost, upper = paired_quartiles(timings["headgate + tap"], timings["headgate"])
    return 100 * (cost - 1), f"{100 * (lower - 1):.1f} to {100 * (upper - 1):.1f}"


def require_alike(model: OlmoeForCausalLM, calls: dict[str, Callable[[], torch.Tensor]]) -> None:
    """Equal routing must give equal logits but for rounding, and a tap must change nothing.

    Left alone, two roundings of a random model send some tokens to other experts, so the default's routing is replayed.
    Rounding: about 30 of 2**-9 in a row of layers, sqrt(30) * 2**-9 = 1 %; allowed is five times that.
    """
    with integration.tap(model) as tape:
        theirs = calls["grouped_mm"]().double()
    with integration.replay(model, integration.make_trace(tape)):
        ours = calls["headgate"]().double()
    difference = float((theirs - ours).square().mean().sqrt() / theirs.square().mean().sqrt())
    if difference > 0.05:
        raise SystemExit(f"the backends differ by {difference:.3f} of the logits' size; nothing was timed")
    if not torch.equal(calls["headgate"](), calls["headgate + tap"]()):
        raise SystemExit("the tap changed the output; nothing was timed")


def main(layers: int = 4, rounds: int = 5, pairs: int = 30, only: str = "") -> None:
    """Time prefill and decode on each backend: all cases, or the ones named, such as "decode-1,decode-32"."""
    cases = [name for name in only.split(",") if name] or list(CASES)
    if unknown := [name for name in cases if name not in CASES]:
        raise typer.BadParameter(f"{unknown} must be of {', '.join(CASES)}", param_hint="--only")
    integration.register()
    model = build_model(layers)
    rows: list[tuple[Any, ...]] = []
    with torch.inference_mode():
        for case in cases:
            rows += measure(model, case, rounds, pairs)
    title = f"OLMoE-1B-7B with {layers} layers, bfloat16, transformers {version('transformers')}"
    publish("whole_model", title, COLUMNS, rows, layers=layers, rounds=rounds, pairs=pairs, context=CONTEXT)


if __name__ == "__main__":
    typer.run(main)
