"""`measure_traffic`: what each layer's exchange sends, from outside, while a model runs."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial

from torch import nn

from headgate.nn.tape import is_recomputing
from headgate.parallel.exchange import Traffic
from headgate.parallel.spread import find_spread, keep_spread, require_spread


@contextmanager
def measure_traffic(model: nn.Module) -> Iterator[dict[str, list[Traffic]]]:
    """Record what this rank sends in every layer with sharded experts, for as long as the context lasts.

    Yields:
        By the layer's module path, as a tape names it, one `Traffic` per forward pass. What activation checkpointing
        repeats is recorded once, though it is sent twice.

    Raises:
        InputError: the model holds no sharded experts; on a mesh of one rank, none are.
    """
    layers = require_spread(model)
    record: dict[str, list[Traffic]] = {_name_layer(path): [] for path in layers}
    for seen, (experts, spread) in zip(record.values(), layers.values(), strict=True):
        keep_spread(experts, replace(spread, watcher=partial(_note, seen)))
    try:
        yield record
    finally:
        # Experts may have moved meanwhile.
        for experts, spread in find_spread(model).values():
            keep_spread(experts, replace(spread, watcher=None))


def _note(seen: list[Traffic], traffic: Traffic) -> None:
    if not is_recomputing():
        seen.append(traffic)


def _name_layer(path: str) -> str:
    return path.replace("_orig_mod.", "").removesuffix("experts").removesuffix(".")
