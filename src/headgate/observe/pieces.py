"""Cut traces by layer, sequence and phase, and put them together."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.functional import pad

from headgate.errors import InputError
from headgate.flow import NO_EXPERT
from headgate.observe.trace import ARRAYS, Phase, RoutingTrace

MODEL_NAMES = ("model", "revision", "config_hash", "tokenizer_hash", "id_space", "content")
"""Metadata that traces must share to be put together, whether they differ in their tokens or in their layers."""

_SLOT_FILLS = {"topk_ids": NO_EXPERT, "topk_weights": 0, "is_dropped": False, "contribution_norms": 0}
"""The arrays with the axis K, and what an empty slot holds."""


def count_rows(
    topk_ids: Int[Tensor, "L T K"],
    *,
    num_experts: int,
    is_dropped: Bool[Tensor, "L T K"] | None = None,
    phase: UInt8[Tensor, " T"] | None = None,
) -> Int[Tensor, "L E"]:
    """Count rows per expert and layer: choices that were not dropped, of tokens that are not padding.

    Returns:
        [L, E] int64.

    Example:
        >>> import torch
        >>> count_rows(torch.tensor([[[0, 2], [2, -1]]]), num_experts=3).tolist()
        [[1, 0, 2]]
    """
    is_row = topk_ids != NO_EXPERT
    if is_dropped is not None:
        is_row = is_row & ~is_dropped
    if phase is not None:
        is_row = is_row & (phase != Phase.PADDING)[None, :, None]
    # Empty slots go to a bucket of their own, which is cut off.
    buckets = topk_ids.where(is_row, num_experts).flatten(1)
    return torch.stack([torch.bincount(row, minlength=num_experts + 1)[:num_experts] for row in buckets])


def count_groups(
    topk_ids: Int[Tensor, "T K"], group: Int[Tensor, " T"], *, num_groups: int, num_experts: int
) -> Int[Tensor, "G E"]:
    """Count the choices of each expert in each group of tokens, such as sequences, passes or kinds of tokens.

    Args:
        topk_ids: [T, K] of one layer; -1 = no expert.
        group: [T] from 0.
        num_groups: G.
        num_experts: E.

    Returns:
        [G, E] int64.

    Example:
        >>> import torch
        >>> count_groups(torch.tensor([[0, 2], [2, -1]]), torch.tensor([1, 0]), num_groups=2, num_experts=3).tolist()
        [[0, 0, 1], [1, 0, 1]]
    """
    # A column more, which is cut off: -1 falls into it, so that nothing needs to be left out first.
    width = num_experts + 1
    cells = (topk_ids + (group * width + 1)[:, None]).flatten()
    return torch.bincount(cells, minlength=num_groups * width).view(num_groups, width)[:, 1:]


def resolve_layers(layer_index: Int[Tensor, " L"], layers: Collection[int] | None) -> NDArray[np.int64]:
    """Find the rows of some decoder layers; None = all.

    Raises:
        InputError: a layer that the trace lacks.
    """
    known = layer_index.tolist()
    wanted = known if layers is None else list(layers)
    missing = [layer for layer in wanted if layer not in known]
    if missing:
        raise InputError(f"layers (={missing}) are not in the trace, which has {known}; name some of those")
    return np.array([known.index(layer) for layer in wanted], dtype=np.int64)


def resolve_tokens(
    seq_offsets: Int[Tensor, " S_plus_1"],
    phase: UInt8[Tensor, " T"] | None,
    *,
    sequences: Collection[int] | None,
    phases: Collection[Phase] | None,
) -> tuple[NDArray[np.int64], Int[Tensor, " S_wanted_plus_1"]]:
    """Find the tokens of some sequences and phases; None = all.

    Returns:
        The tokens' indices, and the new `seq_offsets`.

    Raises:
        InputError: a sequence that the trace lacks, or phases of a trace without them.
    """
    offsets = seq_offsets.numpy()
    num_sequences = len(offsets) - 1
    wanted = range(num_sequences) if sequences is None else list(sequences)
    for sequence in wanted:
        if not 0 <= sequence < num_sequences:
            raise InputError(f"sequence (={sequence}) is not in the trace, which has {num_sequences}; count from 0")
    ranges = [np.arange(offsets[sequence], offsets[sequence + 1]) for sequence in wanted]
    if phases is not None:
        if phase is None:
            raise InputError("phases were asked for, and the trace records none; leave them out")
        kinds = np.array([int(kind) for kind in phases], dtype=np.uint8)
        ranges = [tokens[np.isin(phase.numpy()[tokens], kinds)] for tokens in ranges]
    lengths = torch.tensor([0, *map(len, ranges)], dtype=torch.int64)
    empty = np.zeros(0, dtype=np.int64)
    return np.concatenate([empty, *ranges]), lengths.cumsum(0)


def select(
    trace: RoutingTrace,
    *,
    layers: Collection[int] | None = None,
    sequences: Collection[int] | None = None,
    phases: Collection[Phase] | None = None,
) -> RoutingTrace:
    """Take a part of a trace; its counts are those of the part.

    Args:
        trace: of tokens, not of counts alone.
        layers: decoder layers, as in `layer_index`; None = all.
        sequences: from 0, in the order wanted; None = all.
        phases: kinds of tokens; None = all.

    Raises:
        InputError: something that the trace lacks.
    """
    rows = resolve_layers(trace.layer_index, layers)
    tokens, offsets = resolve_tokens(trace.seq_offsets, trace.phase, sequences=sequences, phases=phases)
    part = replace(take_rows(take_tokens(trace, tokens), rows), seq_offsets=offsets)
    return replace(part, counts=recount(part))


def take_rows(trace: RoutingTrace, rows: NDArray[np.int64]) -> RoutingTrace:
    """Take some layers by their places in the trace, in the order given."""
    names = [name for name, axes in _axes().items() if axes[0] == "L" and getattr(trace, name) is not None]
    taken = {name: getattr(trace, name)[torch.from_numpy(rows)] for name in names}
    return replace(trace, **taken, metadata=metadata_of_layers(trace.metadata, rows))


def take_tokens(trace: RoutingTrace, tokens: NDArray[np.int64]) -> RoutingTrace:
    """Take some tokens, in the order given, as one sequence; the counts stay those of the whole."""
    index = torch.from_numpy(tokens)
    taken = {
        name: getattr(trace, name).index_select(axes.index("T"), index)
        for name, axes in _axes().items()
        if "T" in axes and getattr(trace, name) is not None
    }
    return replace(trace, **taken, seq_offsets=torch.tensor([0, len(tokens)]))


def recount(trace: RoutingTrace) -> Int[Tensor, "L E"]:
    """Count a trace's rows again from its choices."""
    return count_rows(trace.topk_ids, num_experts=trace.num_experts, is_dropped=trace.is_dropped, phase=trace.phase)


def metadata_of_layers(metadata: Mapping[str, Any], rows: NDArray[np.int64]) -> Mapping[str, Any]:
    """The metadata of a trace of which only some rows are kept."""
    layers = metadata.get("layers")
    if not layers:
        return metadata
    return {**metadata, "layers": [layers[row] for row in rows.tolist()]}


def concatenate(parts: Sequence[RoutingTrace], *, continues: Sequence[bool] | None = None) -> RoutingTrace:
    """Put the tokens of traces of the same layers one after the other.

    Args:
        parts: at least one; all with the same arrays. Where they differ in K, empty slots are added.
        continues: whether the first sequence of a part goes on with the last one of the part before; None = never.

    Raises:
        InputError: traces that are not of the same model and layers, or record different things.
    """
    if not parts:
        raise InputError("there are no traces to put together; give at least one")
    if len(parts) == 1:
        return parts[0]
    require_same_kind(parts)
    width = max(part.topk_ids.shape[2] for part in parts)
    joined: dict[str, Any] = {}
    for name, axes in _axes().items():
        values = [getattr(part, name) for part in parts]
        if "T" not in axes or values[0] is None:
            continue
        if name in _SLOT_FILLS:
            values = [pad(value, (0, width - value.shape[2]), value=_SLOT_FILLS[name]) for value in values]
        joined[name] = torch.cat(values, dim=axes.index("T"))
    flags = continues or [False] * len(parts)
    return replace(
        parts[0],
        **joined,
        seq_offsets=_join_offsets(parts, flags),
        counts=torch.stack([part.counts for part in parts]).sum(0),
        metadata=_join_metadata([part.metadata for part in parts]),
    )


def _axes() -> dict[str, tuple[str, ...]]:
    """The axes of each tensor field of a `RoutingTrace`."""
    named = {field.name for field in fields(RoutingTrace)}
    axes = {name: rule.axes for name, rule in ARRAYS.items() if name in named}
    return {**axes, "is_dropped": ("L", "T", "K")}


def widen(trace: RoutingTrace, num_slots: int) -> RoutingTrace:
    """Add empty slots up to K = `num_slots`."""
    missing = num_slots - trace.topk_ids.shape[2]
    if not missing:
        return trace
    values = {name: getattr(trace, name) for name in _SLOT_FILLS}
    wide: dict[str, Any] = {
        name: pad(value, (0, missing), value=_SLOT_FILLS[name]) for name, value in values.items() if value is not None
    }
    return replace(trace, **wide)


def memory_bytes(trace: RoutingTrace) -> int:
    """What a trace's arrays take in memory."""
    values = (getattr(trace, name) for name in _axes())
    return sum(value.nbytes for value in values if value is not None)


def require_same_kind(parts: Sequence[RoutingTrace]) -> None:
    """Require that traces can be put one after the other.

    Raises:
        InputError: the first trace that differs from trace 0, and in what.
    """
    first = parts[0]
    for number, part in enumerate(parts[1:], start=1):
        for name in ("layer_index", "select_bias"):
            mine, theirs = getattr(first, name), getattr(part, name)
            if (mine is None) != (theirs is None) or (mine is not None and not torch.equal(mine, theirs)):
                raise InputError(f"trace {number} has another {name} than trace 0; put traces of one model together")
        if part.num_experts != first.num_experts:
            raise InputError(
                f"trace {number} has {part.num_experts} experts, and trace 0 has {first.num_experts}; "
                "put traces of one model together"
            )
        for name in _axes():
            if (getattr(first, name) is None) != (getattr(part, name) is None):
                raise InputError(f"only one of trace 0 and trace {number} has {name}; record both alike")
    require_same_model([part.metadata for part in parts], names=(*MODEL_NAMES, "layers"))


def require_same_model(parts: Sequence[Mapping[str, Any]], *, names: Collection[str]) -> None:
    """Require that the metadata of traces says the same under some names.

    Raises:
        InputError: the first trace that differs from trace 0, and in what.
    """
    for number, part in enumerate(parts[1:], start=1):
        for name in names:
            mine, theirs = parts[0].get(name), part.get(name)
            if mine != theirs:
                raise InputError(
                    f"trace {number} has {name} {ascii(theirs)[:80]}, and trace 0 has {ascii(mine)[:80]}; "
                    "put traces of one model together"
                )


def _join_offsets(parts: Sequence[RoutingTrace], continues: Sequence[bool]) -> Int[Tensor, " S_plus_1"]:
    joined = parts[0].seq_offsets
    for part, goes_on in zip(parts[1:], continues[1:], strict=True):
        # A sequence that goes on ends where its second part does.
        kept = joined[:-1] if goes_on else joined
        joined = torch.cat([kept, part.seq_offsets[1:] + joined[-1]])
    return joined


def _join_metadata(parts: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    strings: dict[str, str] = {}
    for part in parts:
        strings.update(part.get("token_strings", {}))
    return {**parts[0], **({"token_strings": strings} if strings else {})}
