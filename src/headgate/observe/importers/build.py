"""From foreign arrays to a trace, past every hazard: what is ambiguous is refused with the reason."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from headgate.errors import InputError
from headgate.observe.importers.shape import MAX_SIZE, RouterShape
from headgate.observe.pieces import count_rows
from headgate.observe.trace import Phase, RoutingTrace

_MAX_POSITION = 2**30
"""Positions are 32 bits wide; this leaves room for the longest sequence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutedSequence:
    """One sequence of a foreign file.

    Attributes:
        ids: [T, rows, K] of any integer dtype, as the engine wrote them.
        num_prompt: how many of the T tokens are prompt; None = the file does not say.
        token_ids: of the T tokens, and maybe of the one after them; None = the file does not say.
        start: position of the first of them.
    """

    ids: NDArray[Any]
    num_prompt: int | None = None
    token_ids: Sequence[int] | None = None
    start: int = 0


def build_trace(
    sequences: Sequence[RoutedSequence], shape: RouterShape, *, path: Path, metadata: Mapping[str, Any]
) -> RoutingTrace:
    """Make a trace of ids that an engine wrote.

    Args:
        sequences: at least one; all with the same rows and K.
        shape: of the model.
        path: of the file, for errors.
        metadata: `engine` and what else is known.

    Raises:
        InputError: ids that can't be right, or could mean two things; the message says which option decides.
    """
    kinds = {sequence.ids.shape[1:] for sequence in sequences if len(sequence.ids)}
    if not kinds:
        raise InputError(f"{path} holds no routing of any token; was the engine told to return it?")
    if len(kinds) > 1:
        raise InputError(
            f"{path}: sequences have {sorted(kinds)} (layers, k); import each kind into a trace of its own"
        )
    filled = [sequence for sequence in sequences if len(sequence.ids)]
    if any(not 0 <= sequence.start < _MAX_POSITION for sequence in sequences):
        raise InputError(f"{path}: a sequence starts at a position outside [0, {_MAX_POSITION}); export it again")
    num_experts = shape.require("num_experts", "--experts")
    ids = np.concatenate([_signed(sequence.ids, num_experts, path) for sequence in filled]).transpose(1, 0, 2)
    rows = _routed_rows(ids, shape, path)
    ids = ids[list(rows)]
    _require_possible(ids, num_experts, shape, path)
    chosen = torch.from_numpy(np.ascontiguousarray(ids))
    lengths = [len(sequence.ids) for sequence in filled]
    return RoutingTrace(
        topk_ids=chosen,
        layer_index=torch.tensor(list(rows.values()), dtype=torch.int32),
        seq_offsets=torch.tensor([0, *lengths]).cumsum(0),
        counts=count_rows(chosen, num_experts=num_experts),
        metadata={**metadata, "id_space": "logical", **_order(ids)},
        position=torch.cat([torch.arange(s.start, s.start + len(s.ids)) for s in filled]).int(),
        **_token_arrays(filled, path),
    )


def _signed(ids: NDArray[Any], num_experts: int, path: Path) -> NDArray[np.int64]:
    """Ids with -1 for none, whether the engine wrote -1 or let it wrap around to all ones."""
    wide = ids.astype(np.int64)
    if ids.dtype.kind != "u":
        return wide
    ones = int(np.iinfo(ids.dtype).max)
    if not (wide == ones).any():
        return wide
    if num_experts > ones:
        raise InputError(
            f"{path}: id {ones} in {ids.dtype} may be expert {ones} or a -1 that wrapped around; "
            "let the engine write a wider type"
        )
    return np.where(wide == ones, -1, wide)


def _routed_rows(ids: NDArray[np.int64], shape: RouterShape, path: Path) -> dict[int, int]:
    """Find which rows are routed layers, and which decoder layer each is: {row: layer}."""
    num_rows = len(ids)
    is_empty = [bool((row == -1).all()) for row in ids]
    is_zero = [
        bool((row[(row != -1).any(-1)] == 0).all()) and not empty for row, empty in zip(ids, is_empty, strict=True)
    ]
    if all(zero or empty for zero, empty in zip(is_zero, is_empty, strict=True)):
        raise InputError(
            f"{path}: every id is 0 or none, as fused kernels that do not return their ids write it; "
            "turn these kernels off and record again"
        )
    known = shape.moe_layers
    if known is not None and num_rows == len(known):
        rows = dict(enumerate(known))
    elif known is not None and num_rows == shape.num_layers:
        rows = {layer: layer for layer in known}
        busy = [row for row in range(num_rows) if row not in rows and not (is_zero[row] or is_empty[row])]
        if busy:
            raise InputError(f"{path}: layers {busy} are dense by the config and have ids; give the right --config")
    elif known is not None:
        total = "" if shape.num_layers is None else f" of {shape.num_layers}"
        raise InputError(
            f"{path} has {num_rows} rows of layers, and the model has {len(known)} routed ones{total}; "
            "give the right --config, or name them by --layers"
        )
    else:
        rows = {row: row for row in range(num_rows)}
    # A row that the config calls routed may well hold expert 0 alone, where K = 1 and it has collapsed.
    suspect = [row for row in rows if is_empty[row] or (is_zero[row] and known is None)]
    if suspect:
        raise InputError(
            f"{path}: rows {suspect} hold only expert 0 or none, as engines fill dense layers; "
            "give the model's config.json (--config), or name the decoder layers of all rows by --layers"
        )
    if known is None:
        raise InputError(
            f"{path} has {num_rows} rows of layers and does not say which decoder layers they are; "
            "give the model's config.json (--config), or name them by --layers"
        )
    return rows


def _require_possible(ids: NDArray[np.int64], num_experts: int, shape: RouterShape, path: Path) -> None:
    low, high = int(ids.min()), int(ids.max())
    if low < -1 or high >= num_experts:
        raise InputError(
            f"{path}: expert id {low if low < -1 else high} is outside [0, {num_experts}); "
            "give the right --experts or --config, or, for physical ids, the map to logical ones"
        )
    if shape.top_k is not None and shape.top_k != ids.shape[2]:
        raise InputError(
            f"{path} has {ids.shape[2]} choices per token, and the model {shape.top_k}; give the right --config"
        )
    ordered = np.sort(ids, axis=-1)
    repeated = ((ordered[..., 1:] == ordered[..., :-1]) & (ordered[..., 1:] != -1)).any(-1)
    if repeated.any():
        row, token = np.argwhere(repeated)[0]
        ids_there = ids[row, token].tolist()[:8]
        raise InputError(
            f"{path}: token {token} chooses an expert twice in row {row} ({ids_there}), and no router does that; "
            "these are not top-k ids of this layout"
        )


def _order(ids: NDArray[np.int64]) -> dict[str, bool]:
    """Note where all choices are in the order of their ids: then the scores' order was lost on the way."""
    if ids.shape[2] < 2 or ids.size < 64:
        return {}
    is_ascending = (np.diff(ids, axis=-1) > 0) | (ids[..., 1:] == -1)
    return {"is_ordered": False} if is_ascending.all() else {}


def _token_arrays(sequences: Sequence[RoutedSequence], path: Path) -> dict[str, Any]:
    arrays: dict[str, Any] = {}
    if all(sequence.token_ids is not None for sequence in sequences):
        arrays["token_ids"] = torch.cat([_token_ids(sequence, path) for sequence in sequences])
    if all(sequence.num_prompt is not None for sequence in sequences):
        phases = [
            (torch.arange(len(s.ids)) >= (s.num_prompt or 0)).to(torch.uint8) * int(Phase.GENERATED) for s in sequences
        ]
        arrays["phase"] = torch.cat(phases)
    return arrays


def _token_ids(sequence: RoutedSequence, path: Path) -> torch.Tensor:
    assert sequence.token_ids is not None  # The caller looked.
    routed, known = len(sequence.ids), len(sequence.token_ids)
    # The last token that is sampled is never routed.
    if known not in (routed, routed + 1):
        raise InputError(
            f"{path}: a sequence has {known} tokens from position {sequence.start} on, and {routed} were routed; "
            "routing covers all, or all but the last"
        )
    values = list(sequence.token_ids)[:routed]
    if not all(type(value) is int and 0 <= value < 2**31 for value in values):
        raise InputError(f"{path}: token ids must be integers from 0 to 2**31 - 1; export it again")
    return torch.tensor(values, dtype=torch.int32)


def build_counts(
    counts: Mapping[int, NDArray[np.int64]], *, path: Path, metadata: Mapping[str, Any], top_k: int | None = None
) -> RoutingTrace:
    """Make a trace of counts alone.

    Args:
        counts: [E] rows per expert, by decoder layer.
        path: of the file, for errors.
        metadata: `engine` and what else is known.
        top_k: K, where known.

    Raises:
        InputError: no counts, or none that could be.
    """
    layers = sorted(counts)
    if not layers or not any(row.any() for row in counts.values()):
        raise InputError(f"{path} holds no count above 0; was anything recorded?")
    if not 0 <= layers[0] <= layers[-1] < MAX_SIZE:
        raise InputError(f"{path} has the decoder layer {layers[-1]}, and no model has so many; export it again")
    widths = {len(row) for row in counts.values()}
    if len(widths) > 1:
        raise InputError(f"{path}: layers have {sorted(widths)} experts; import each kind into a trace of its own")
    if any((row < 0).any() for row in counts.values()):
        raise InputError(f"{path} has counts below 0, so they have run over; record for a shorter time")
    return RoutingTrace(
        topk_ids=torch.zeros(len(layers), 0, top_k or 1, dtype=torch.int64),
        layer_index=torch.tensor(layers, dtype=torch.int32),
        seq_offsets=torch.zeros(1, dtype=torch.int64),
        counts=torch.from_numpy(np.stack([counts[layer].astype(np.int64) for layer in layers])),
        metadata={**metadata, "id_space": "logical", "content": "counts"},
    )
