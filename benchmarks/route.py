"""Claim: for inference on a CPU, one native pass decides faster than PyTorch's operations, from 1 token to thousands.

One token reads the router's weights once: 2 * E * D bytes in bfloat16, 13 us at 20 GB/s from memory for E = 64. Many
tokens are 2 * T * E * D FLOPs. What a layer costs besides its experts' own function is measured around that
function, inside the same call ("cold": the experts' weights have taken the caches from the router's and from the
interpreter), and with a function that does nothing in its place ("warm").
"""

from __future__ import annotations

import copy
import functools
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest import mock

import torch
from support.report import publish
from support.timing import time_interleaved

import headgate
from headgate.kernels import native
from headgate.nn import experts as experts_module

D = 2048
SHAPES = {"olmoe": (64, 1024), "qwen3_moe": (128, 768)}
TOKENS = (1, 16, 256, 4096)
ROUNDS = 21
LAYER_ROUNDS = 301


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
        columns = ["layer", "experts E", "caches", "native us", "quartiles us", "torch us", "torch / native"]
        title = f"MoE.forward of one token less its experts' own function, bfloat16; medians of {LAYER_ROUNDS} rounds"
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
    """What one token costs besides its experts' own function: around it, and with nothing in its place."""
    num_experts, d_ff = SHAPES[name]
    spec = headgate.preset(name, num_experts=num_experts)
    layer = headgate.MoE(D, d_ff, router=spec, dtype=torch.bfloat16).eval()
    twin = copy.copy(layer)
    twin._modules = {**layer._modules, "router": by_operations(layer.router)}
    x = torch.randn(1, 1, D).bfloat16()
    for caches, run in {"cold": experts_module.run_experts, "warm": lambda x, *_, **__: x}.items():
        samples = time_around(run, {"native": layer, "torch": twin}, x)
        lower, fast, upper = statistics.quantiles(samples["native"], n=4)
        slow = statistics.median(samples["torch"])
        yield [name, num_experts, caches, fast, f"{lower:.0f} to {upper:.0f}", slow, slow / fast]


def time_around(
    run_experts: Callable[..., Any], layers: dict[str, headgate.MoE], x: torch.Tensor
) -> dict[str, list[float]]:
    """Microseconds of each layer's calls in turn, less what `run_experts` takes of them."""
    samples: dict[str, list[float]] = {name: [] for name in layers}
    with clocked(run_experts) as spent:
        for index in range(LAYER_ROUNDS + 10):
            for name, layer in layers.items():
                spent.clear()
                begin = time.perf_counter()
                layer(x)
                took = time.perf_counter() - begin - sum(spent)
                if index >= 10:
                    samples[name].append(took * 1e6)
    return samples


@contextmanager
def clocked(run_experts: Callable[..., Any]) -> Iterator[list[float]]:
    """Let layers run their experts with this function while the context lasts, and measure each call in seconds."""
    spent: list[float] = []

    def run(*args: Any, **options: Any) -> Any:
        begin = time.perf_counter()
        y = run_experts(*args, **options)
        spent.append(time.perf_counter() - begin)
        return y

    with mock.patch.object(experts_module, "run_experts", run):
        yield spent


def by_operations(router: headgate.Router) -> headgate.Router:
    """The same router as it decides on a machine without the native library, but for the native sort of the plan."""
    twin = copy.copy(router)
    twin._decides_natively = lambda _: False
    return twin


def repeat(call: Callable[[], object], times: int) -> Callable[[], None]:
    """The call, so many times."""

    def run() -> None:
        for _ in range(times):
            call()

    return run


if __name__ == "__main__":
    main()
