"""Claim: inactive experts do not run. At fixed tokens and K, time grows far slower than E; a hot expert costs no more.

Arithmetic is the same in every row: T * K rows through three D x F products. What does grow with E is the router
(T * E * D products), the sorting of E scores per token, the weights to read, the number of products over which the
same rows are spread (16 rows each at E = 256), and, in the backward pass, the gradient tensor of all experts. "all
experts, all tokens" is what a layer costs that computes every expert and masks the result.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from support.report import publish
from support.timing import time_interleaved

import headgate

TOKENS, D, F, K, ROUNDS = 2048, 256, 256, 2, 9


def make_layer(num_experts: int, *, hot: bool = False) -> headgate.MoE:
    torch.manual_seed(0)
    layer = headgate.MoE(D, F, num_experts=num_experts, top_k=K)
    if hot:
        # A router that sends every token's first choice to expert 0, second to expert 1.
        with torch.no_grad():
            layer.router.weight.zero_()
    return layer


def forward(layer: headgate.MoE, x: torch.Tensor) -> Callable[[], object]:
    def call() -> object:
        with torch.no_grad():
            return layer(x)

    return call


def forward_backward(layer: headgate.MoE, x: torch.Tensor) -> Callable[[], object]:
    def call() -> None:
        layer.zero_grad()
        layer(x).sum().backward()

    return call


def run_all(layer: headgate.MoE, x: torch.Tensor) -> Callable[[], object]:
    """Every expert on every token: what masking instead of dispatching costs."""
    up, down = layer.experts.gate_up_proj, layer.experts.down_proj

    def call() -> None:
        with torch.no_grad():
            for expert in range(up.shape[0]):
                gate, value = (x @ up[expert].T).chunk(2, dim=1)
                _ = (torch.nn.functional.silu(gate) * value) @ down[expert].T

    return call


def main() -> None:
    """Time, and publish as ratios to the layer of 8 experts."""
    x = torch.randn(TOKENS, D)
    layers = {f"E = {e}": make_layer(e) for e in (8, 64, 256)} | {"E = 64, two hot": make_layer(64, hot=True)}
    forwards = {name: forward(layer, x) for name, layer in layers.items()}
    forwards["E = 64, all experts, all tokens"] = run_all(layers["E = 64"], x)
    once = time_interleaved(forwards, rounds=ROUNDS)
    both = time_interleaved({n: forward_backward(layer, x) for n, layer in layers.items()}, rounds=ROUNDS)
    base = once["E = 8"].median_s, both["E = 8"].median_s
    rows = []
    for name, timing in once.items():
        back = both.get(name)
        spread = f"{timing.lower_s * 1e3:.1f}-{timing.upper_s * 1e3:.1f}"
        backward = [back.median_s * 1e3, back.median_s / base[1]] if back else ["", ""]
        rows.append([name, timing.median_s * 1e3, spread, timing.median_s / base[0], *backward])
    columns = ["layer", "forward ms", "quartiles ms", "x of E = 8", "forward + backward ms", "x of E = 8 (both)"]
    title = f"T = {TOKENS}, D = {D}, F = {F}, K = {K}, float32; medians of {ROUNDS} interleaved rounds"
    publish("inactive_experts", title, columns, rows, tokens=TOKENS, d_model=D, d_ff=F, top_k=K)


if __name__ == "__main__":
    main()
