"""Measure the parts of transformers' decoding step on this machine's CPU, each on shapes of its own.

The shapes are like those of a model of a few billion parameters and belong to none: 1536 wide, experts of 768, heads of
96. What is read is far larger than a processor's caches, as a model's weights are.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from headgate.integrations.transformers.backend import NAME
from headgate.integrations.transformers.switch import register
from headgate.planning.expected import MachineRates
from headgate.planning.hardware import Device

WIDTH, HIDDEN, NUM_EXPERTS, TOP_K = 1536, 768, 32, 4
NUM_MATRICES, NUM_WORDS, NUM_HEADS, HEAD_WIDTH, NUM_CACHES = 24, 24576, 16, 96, 4
_REPETITIONS = 7


def measure_rates(device: Device, *, batch: int, context: int, dtype: torch.dtype) -> MachineRates:
    """Measure what each part of a decoding step reaches; it takes some seconds and half a gigabyte.

    Args:
        device: this machine, as measured; no part reads faster than its memory.
        batch: sequences, of one new token each.
        context: tokens in the cache.
        dtype: of weights and activations.

    Returns:
        The rates, none above the device's bandwidth.
    """
    register()
    most = device.bandwidth
    with torch.inference_mode():
        layer_s, step_s = _measure_overhead(batch, dtype)
        return MachineRates(
            batch=batch,
            context=context,
            layer_matrices=min(most, _measure_products(batch, dtype, NUM_MATRICES, WIDTH)),
            head=min(most, _measure_products(batch, dtype, 1, NUM_WORDS)),
            experts=min(most, _measure_experts(batch, dtype)),
            cache=min(most, _measure_cache(batch, context, dtype)),
            layer_s=layer_s,
            step_s=step_s,
        )


def _measure_products(batch: int, dtype: torch.dtype, count: int, num_rows: int) -> float:
    """Bytes per second of weights, in products of a few tokens with matrices as `nn.Linear` holds them."""
    weights = torch.randn(count, num_rows, WIDTH).to(dtype)
    tokens = torch.randn(batch, WIDTH).to(dtype)

    def multiply() -> None:
        for weight in weights:
            torch.nn.functional.linear(tokens, weight)

    return weights.numel() * weights.element_size() / _median_s(multiply)


def _measure_experts(batch: int, dtype: torch.dtype) -> float:
    """Bytes per second of the distinct experts' weights, called as a model's layer calls them."""
    from transformers import MixtralConfig
    from transformers.models.mixtral.modeling_mixtral import MixtralExperts

    config = MixtralConfig(
        hidden_size=WIDTH, intermediate_size=HIDDEN, num_local_experts=NUM_EXPERTS, num_experts_per_tok=TOP_K
    )
    config._experts_implementation = NAME
    experts = MixtralExperts(config).to(dtype)
    for weight in experts.parameters():
        weight.copy_(torch.randn(1, *weight.shape[1:]))
    tokens = torch.randn(batch, WIDTH).to(dtype)
    combine_weights = torch.full((batch, TOP_K), 1 / TOP_K, dtype=dtype)
    # Several draws in one timing: the experts of one alone might stay in the processor's caches.
    draws = [torch.rand(batch, NUM_EXPERTS).topk(TOP_K).indices for _ in range(_REPETITIONS)]
    num_read = sum(len(torch.unique(ids)) for ids in draws)

    def run() -> None:
        for ids in draws:
            experts(tokens, ids, combine_weights)

    return num_read * 3 * WIDTH * HIDDEN * combine_weights.element_size() / _median_s(run)


def _measure_cache(batch: int, context: int, dtype: torch.dtype) -> float:
    """Bytes per second of kept keys and values: appending one token to each cache, then attention over it."""
    shape = (batch, NUM_HEADS, context, HEAD_WIDTH)
    caches = [(torch.randn(shape).to(dtype), torch.randn(shape).to(dtype)) for _ in range(NUM_CACHES)]
    new = torch.randn(batch, NUM_HEADS, 1, HEAD_WIDTH).to(dtype)
    grown: list[tuple[Tensor, Tensor]] = list(caches)

    def attend() -> None:
        for i, (keys, values) in enumerate(caches):
            # As DynamicCache appends: the grown cache is kept until the next step replaces it.
            grown[i] = (torch.cat([keys, new], dim=-2), torch.cat([values, new], dim=-2))
            torch.nn.functional.scaled_dot_product_attention(new, *grown[i])

    kept = sum(keys.numel() + values.numel() for keys, values in caches) * new.element_size()
    return kept / _median_s(attend)


def _measure_overhead(batch: int, dtype: torch.dtype) -> tuple[float, float]:
    """Seconds of a layer and of a step of a model so small that its arithmetic takes no time."""
    few, many = 2, 10
    times = {count: _median_s(_tiny_step(count, batch, dtype)) for count in (few, many)}
    layer_s = max(0.0, (times[many] - times[few]) / (many - few))
    return layer_s, max(0.0, times[few] - few * layer_s)


def _tiny_step(num_layers: int, batch: int, dtype: torch.dtype) -> Callable[[], Any]:
    from transformers import DynamicCache, MixtralConfig, MixtralForCausalLM

    config = MixtralConfig(
        hidden_size=64,
        intermediate_size=32,
        num_hidden_layers=num_layers,
        num_attention_heads=2,
        num_key_value_heads=2,
        num_local_experts=8,
        vocab_size=64,
    )
    model: Any = MixtralForCausalLM(config)
    model.eval()
    model.to(dtype)
    model.set_experts_implementation(NAME)
    ids = torch.zeros((batch, 1), dtype=torch.long)
    cache = DynamicCache(config=config)
    model(ids, past_key_values=cache, use_cache=True)

    def step() -> None:
        model(ids, past_key_values=cache, use_cache=True)
        cache.crop(-1)

    return step


def _median_s(call: Callable[[], Any]) -> float:
    call()
    times = []
    for _ in range(_REPETITIONS):
        begin = time.perf_counter()
        call()
        times.append(time.perf_counter() - begin)
    return statistics.median(times)
