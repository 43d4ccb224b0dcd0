"""Claim: for inference on a CPU, one native pass decides faster than PyTorch's operations, from 1 token to thousands.

One token reads the router's weights once: 2 * E * D bytes in bfloat16, 13 us at 20 GB/s from memory for E = 64. Many
tokens are 2 * T * E * D FLOPs. What a layer costs besides its experts' own function is the difference of the two, with
small experts; "cold": before each call, a large read has taken the caches from everything, as experts' weights do.
"""

from __future__ import annotations

import copy
import functools
from collections.abc import Callable, Iterator

import torch
from support.report import publish
from support.timing import time_interleaved

import headgate
from headgate.experts import ExpertWeights, run_experts
from headgate.kernels import native
from headgate.kernels.probe import make_read_buffer, read_memory

D = 2048
SHAPES = {"olmoe": (64, 1024), "qwen3_moe": (128, 768)}
TOKENS = (1, 16, 256, 4096)
ROUNDS = 21
LAYER_ROUNDS = 201
SMALL_F = 8
READ_BYTES = 1 << 28


def main() -> None:
    """Time the router at each number of tokens, and the layer around its experts at one."""
    if native.library() is None:
        print(f"nothing to compare: {native.why_missing()}")
        return
    torch.manual_seed(0)
    with torch.inference_mode():
        routers = [row for name in SHAPES for row in time_router(name)]
        columns = ["router", "experts E", "tokens T", "native ms", "torch ms", "torch / native", "native GFLOP/s"]
        title = f"Router.forward, bfloat16, D {D}; medians of {ROUNDS} interleaved rounds"
        publish("route", title, columns, routers)
        layers = [row for name in SHAPES for row in time_layer(name)]
        columns = ["layer", "experts E", "caches", "layer us", "by torch us", "experts us", "layer - experts us"]
        title = f"MoE.forward of one token, D {D}, F {SMALL_F}, bfloat16; medians of {LAYER_ROUNDS} rounds"
        publish("route_layer", title, columns, layers)


def time_router(name: str) -> Iterator[list[object]]:
    """One row for each number of tokens."""
    num_experts, _ = SHAPES[name]
    spec = headgate.preset(name, num_experts=num_experts)
    router = headgate.Router(D, spec, dtype=torch.bfloat16).eval()
    for num_tokens in TOKENS:
        x = torch.randn(num_tokens, D).bfloat16()
        calls = {"native": functools.partial(router, x), "torch": functools.partial(by_operations(router), x)}
        # A few tokens take less time than a clock resolves well.
        repeats = max(1, 256 // num_tokens)
        times = time_interleaved({key: repeat(call, repeats) for key, call in calls.items()}, rounds=ROUNDS)
        fast, slow = (times[key].median_s / repeats for key in ("native", "torch"))
        flops = 2.0 * num_tokens * num_experts * D
        yield [name, num_experts, num_tokens, fast * 1e3, slow * 1e3, slow / fast, flops / fast / 1e9]


def time_layer(name: str) -> Iterator[list[object]]:
    """One token through a layer, and through its experts' function alone; the experts are small, to see the rest."""
    num_experts, _ = SHAPES[name]
    layer = headgate.MoE(D, SMALL_F, router=headgate.preset(name, num_experts=num_experts), dtype=torch.bfloat16).eval()
    twin = copy.copy(layer)
    twin._modules = {**layer._modules, "router": by_operations(layer.router)}
    x = torch.randn(1, 1, D).bfloat16()
    routing, experts = layer.router(x[0]), layer.experts
    up, down, _, _ = experts.matrices()
    decided = (routing.plan, routing.choice.combine_weights, ExpertWeights(up=up, down=down), experts.spec.function)
    calls = {
        "layer": functools.partial(layer, x),
        "by operations": functools.partial(twin, x),
        "experts": functools.partial(run_experts, x[0], *decided),
    }
    buffer = make_read_buffer(READ_BYTES)
    for caches, between in {"cold": {"read": functools.partial(read_memory, buffer)}, "warm": {}}.items():
        times = time_interleaved(calls, rounds=LAYER_ROUNDS, between=between)
        layer_us, slow_us, experts_us = (times[key].median_s * 1e6 for key in calls)
        yield [name, num_experts, caches, layer_us, slow_us, experts_us, layer_us - experts_us]


def by_operations(router: headgate.Router) -> headgate.Router:
    """The same router as it decides on a machine without the native library, but for the native sort of the plan."""
    twin = copy.copy(router)
    twin.decides_at_once = lambda _: False
    return twin


def repeat(call: Callable[[], object], times: int) -> Callable[[], None]:
    """The call, so many times."""

    def run() -> None:
        for _ in range(times):
            call()

    return run


if __name__ == "__main__":
    main()
