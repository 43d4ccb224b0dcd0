"""Does quantising the router matter? Round it to 8 and to 4 bits, record the routing, and compare.

    headgate demo
    python examples/quantised_router.py runs/demo

Writes float32.safetensors, int8.safetensors and int4.safetensors beside each other, for `headgate diff` to look at.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor, nn

import headgate
from headgate.demo.corpus import held_out_pieces
from headgate.demo.restore import load_run
from headgate.demo.tokenizer import token_strings
from headgate.demo.train import held_out_loss
from headgate.nn import Router
from headgate.observe.diff import diff_traces
from headgate.observe.differences import TraceDiff


def round_weight(weight: Tensor, bits: int) -> Tensor:
    """Symmetric rounding with one scale per expert: the simplest quantisation there is."""
    levels = 2 ** (bits - 1) - 1
    scale = weight.abs().amax(1, keepdim=True).clamp(min=1e-12) / levels
    return (weight / scale).round().clamp(-levels, levels) * scale


@contextmanager
def quantised_routers(model: nn.Module, bits: int | None) -> Iterator[None]:
    """Round the weights of every router for the time of the context; None = leave them."""
    routers = [module for module in model.modules() if isinstance(module, Router) and module.weight is not None]
    before = [router.weight.detach().clone() for router in routers]
    try:
        if bits is not None:
            for router in routers:
                router.weight.data = round_weight(router.weight.data, bits)
        yield
    finally:
        for router, weight in zip(routers, before, strict=True):
            router.weight.data = weight


def record(run: Path, folder: Path) -> dict[str, tuple[float, TraceDiff]]:
    """Record the held-out text with each router; return each one's loss, and its difference from float32."""
    prepared, model = load_run(run)
    training = prepared.config.training
    pieces = held_out_pieces(prepared.corpus, training.sequence_length)
    token_ids = pieces[:, :-1]
    occurring = sorted(set(token_ids.flatten().tolist()))
    strings = dict(zip(map(str, occurring), token_strings(prepared.tokenizer, occurring), strict=True))
    folder.mkdir(parents=True, exist_ok=True)
    found = {}
    for name, bits in (("float32", None), ("int8", 8), ("int4", 4)):
        with quantised_routers(model, bits), headgate.tap(model) as tape:
            loss = held_out_loss(model, pieces, batch_size=training.batch_size, device=training.device)
        metadata = {"model": "headgate demo", "token_strings": strings}
        path = folder / f"{name}.safetensors"
        headgate.save_trace(path, headgate.trace_of(model, tape, token_ids=token_ids, metadata=metadata))
        reference = headgate.open_trace(folder / "float32.safetensors")
        found[name] = (loss, diff_traces(reference, headgate.open_trace(path)))
    return found


def main() -> None:
    """Record, compare, and print a line for each router."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="folder of a demo run")
    parser.add_argument("--out", type=Path, default=Path("runs/quantised"), help="where the traces go")
    options = parser.parse_args()
    torch.manual_seed(0)
    print("router      loss  overlap  changed   moved   share of the changes, by fifths of the margin")
    for name, (loss, diff) in record(options.run, options.out).items():
        shares = " ".join(f"{bucket.share_of_flips:4.0%}" for bucket in diff.buckets)
        overall = diff.agreement
        figures = f"{loss:8.4f}{overall.overlap:9.4f}{overall.flipped_fraction:9.2%}{overall.weight_moved:8.4f}"
        print(f"{name:8}{figures}   {shares}")


if __name__ == "__main__":
    # Under torchrun one process does it, for all would write the same files.
    if os.environ.get("RANK", "0") == "0":
        main()
