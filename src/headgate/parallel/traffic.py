"""`measure_traffic`: what each layer's exchange sends, from outside, while a model runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

from headgate.nn.tape import is_recomputing
from headgate.parallel.exchange import Traffic
from headgate.parallel.experts import find_sharded


@contextmanager
def measure_traffic(model: nn.Module) -> Iterator[dict[str, list[Traffic]]]:
    """Record what this rank sends in every layer with sharded experts, for as long as the context lasts.

    Yields:
        By the layer's module path, as a tape names it, one `Traffic` per forward pass. What activation checkpointing
        repeats is recorded once, though it is sent twice.

    Raises:
        InputError: the model holds no sharded experts; on a mesh of one rank, none are.
    """
    layers = {_name_layer(path): experts for path, experts in find_sharded(model).items()}
    record: dict[str, list[Traffic]] = {path: [] for path in layers}
    for path, experts in layers.items():
        experts.watcher = lambda traffic, seen=record[path]: None if is_recomputing() else seen.append(traffic)
    try:
        yield record
    finally:
        for experts in layers.values():
            experts.watcher = None


def _name_layer(path: str) -> str:
    return path.replace("_orig_mod.", "").removesuffix("experts").removesuffix(".")
