"""The routing trace: what every layer decided for every token, as a value and as the arrays of a file.

Layer-major, with logical expert ids. Expert choice is written as token choice: the experts that took a token, best
first. Letters: L layers, T tokens, K choices, E experts, S sequences; where layers differ in K or E, the largest.
`docs/trace-format.md` is the specification of the file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy.typing import NDArray
from torch import Tensor

from headgate.errors import ArtifactError, InputError
from headgate.flow import NO_EXPERT
from headgate.observe.views import TraceViews

FORMAT = "headgate-routing"
FORMAT_VERSION = 1
METADATA_KEY = "headgate"
"""The entry of the file's `__metadata__` that holds the JSON string."""

_U8_EXPERTS = 255
"""Up to so many experts an id fits a byte besides the mark for none, which is all ones."""


class Phase(IntEnum):
    """What a token was when it was routed."""

    PROMPT = 0
    GENERATED = 1
    REJECTED_DRAFT = 2
    PADDING = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class ArrayRule:
    """What the format says of one array.

    Attributes:
        dtypes: numpy's names of those allowed.
        axes: letters; "S1" is S + 1, "B" is ceil(K / 8).
        is_required: whether a file without it is no trace.
    """

    dtypes: tuple[str, ...]
    axes: tuple[str, ...]
    is_required: bool = False


ARRAYS: Mapping[str, ArrayRule] = {
    "topk_ids": ArrayRule(dtypes=("uint8", "uint16"), axes=("L", "T", "K"), is_required=True),
    "layer_index": ArrayRule(dtypes=("int32",), axes=("L",), is_required=True),
    "seq_offsets": ArrayRule(dtypes=("int64",), axes=("S1",), is_required=True),
    "counts": ArrayRule(dtypes=("int64",), axes=("L", "E"), is_required=True),
    "topk_weights": ArrayRule(dtypes=("float16",), axes=("L", "T", "K")),
    "token_ids": ArrayRule(dtypes=("int32",), axes=("T",)),
    "position": ArrayRule(dtypes=("int32",), axes=("T",)),
    "phase": ArrayRule(dtypes=("uint8",), axes=("T",)),
    "forward_id": ArrayRule(dtypes=("int32",), axes=("T",)),
    "select_margin": ArrayRule(dtypes=("float16",), axes=("L", "T")),
    "router_entropy": ArrayRule(dtypes=("float16",), axes=("L", "T")),
    "router_logits": ArrayRule(dtypes=("float16",), axes=("L", "T", "E")),
    "dropped": ArrayRule(dtypes=("uint8",), axes=("L", "T", "B")),
    "select_bias": ArrayRule(dtypes=("float32",), axes=("L", "E")),
    "contribution_norms": ArrayRule(dtypes=("float16",), axes=("L", "T", "K")),
    "shared_norms": ArrayRule(dtypes=("float16",), axes=("L", "T")),
    "output_norms": ArrayRule(dtypes=("float16",), axes=("L", "T")),
    "sum_error": ArrayRule(dtypes=("float32",), axes=("L", "T")),
}
"""Every array that the format names."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RoutingTrace(TraceViews):
    """The routing of some sequences through some layers. What was not recorded is None.

    A trace of counts alone (`metadata["content"] == "counts"`) has no tokens: T = 0.

    Attributes:
        topk_ids: [L, T, K] int64, best first; -1 = no expert in this slot.
        layer_index: [L] int32, the decoder layer of each row.
        seq_offsets: [S + 1] int64; sequence s is tokens `seq_offsets[s]` to `seq_offsets[s + 1]`.
        counts: [L, E] int64, rows per expert: choices that were not dropped, of tokens that are not padding.
        metadata: plain values; `format`, `version` and what `record` adds.
        topk_weights: [L, T, K] float16, as applied.
        token_ids: [T] int32.
        position: [T] int32, within the sequence.
        phase: [T] uint8 `Phase`.
        forward_id: [T] int32, which forward pass of the recording.
        select_margin: [L, T] float16, see `headgate.observe.metrics.select_margin`.
        router_entropy: [L, T] float16, nats, see `headgate.observe.metrics.router_entropy`.
        router_logits: [L, T, E] float16, raw.
        is_dropped: [L, T, K] bool, chosen but the expert was full.
        select_bias: [L, E] float32, added to what selection ranked.
        contribution_norms: [L, T, K] float16, L2 norm of what each choice adds to the token, weight included.
        shared_norms: [L, T] float16, L2 norm of what the shared experts add.
        output_norms: [L, T] float16, L2 norm of what the layer returns.
        sum_error: [L, T] float32, L2 norm of that less the sum of its parts, over `output_norms`.
    """

    topk_ids: Int[Tensor, "L T K"]
    layer_index: Int[Tensor, " L"]
    seq_offsets: Int[Tensor, " S_plus_1"]
    counts: Int[Tensor, "L E"]
    metadata: Mapping[str, Any]
    topk_weights: Float[Tensor, "L T K"] | None = None
    token_ids: Int[Tensor, " T"] | None = None
    position: Int[Tensor, " T"] | None = None
    phase: UInt8[Tensor, " T"] | None = None
    forward_id: Int[Tensor, " T"] | None = None
    select_margin: Float[Tensor, "L T"] | None = None
    router_entropy: Float[Tensor, "L T"] | None = None
    router_logits: Float[Tensor, "L T E"] | None = None
    is_dropped: Bool[Tensor, "L T K"] | None = None
    select_bias: Float[Tensor, "L E"] | None = None
    contribution_norms: Float[Tensor, "L T K"] | None = None
    shared_norms: Float[Tensor, "L T"] | None = None
    output_norms: Float[Tensor, "L T"] | None = None
    sum_error: Float[Tensor, "L T"] | None = None

    @property
    def num_tokens(self) -> int:
        """T."""
        return self.topk_ids.shape[1]

    @property
    def num_experts(self) -> int:
        """E, of the layer that has most."""
        return self.counts.shape[1]

    def chunks(self) -> Sequence[RoutingTrace]:
        """The trace in pieces that fit memory, as `TraceFile.chunks`: this one is in memory already."""
        return (self,)

    def uncounted_chunks(self) -> Sequence[RoutingTrace]:
        """The same, as `TraceFile.uncounted_chunks`."""
        return (self,)

    def of_tokens(self, name: str) -> Tensor | None:
        """An array with the single axis T, or None where it was not recorded."""
        value: Tensor | None = getattr(self, name)
        return value

    def take(self, tokens: NDArray[np.int64]) -> RoutingTrace:
        """Some tokens, in the order given, as one sequence; the counts stay those of the whole."""
        from headgate.observe.pieces import take_tokens  # It makes values of this module.

        return take_tokens(self, tokens)


@dataclass(frozen=True, slots=True, kw_only=True)
class TraceSizes:
    """The lengths of a trace's axes; letters as in this module."""

    L: int
    T: int
    K: int
    E: int
    S: int


def to_arrays(trace: RoutingTrace) -> dict[str, NDArray[Any]]:
    """The arrays of a file.

    Raises:
        InputError: more experts than a u16 holds.
    """
    num_experts = trace.num_experts
    if num_experts > np.iinfo(np.uint16).max:
        raise InputError(f"E (={num_experts}) must be at most 65535: a trace stores expert ids as u16")
    id_dtype = np.uint8 if num_experts <= _U8_EXPERTS else np.uint16
    # -1 becomes all ones.
    arrays: dict[str, NDArray[Any]] = {"topk_ids": trace.topk_ids.numpy().astype(id_dtype)}
    if trace.is_dropped is not None:
        # Bit k % 8 of byte k // 8.
        arrays["dropped"] = np.packbits(trace.is_dropped.numpy(), axis=-1, bitorder="little")
    for name, rule in ARRAYS.items():
        value = getattr(trace, name, None)
        if name not in ("topk_ids", "dropped") and value is not None:
            arrays[name] = value.numpy().astype(rule.dtypes[0])
    return arrays


def from_arrays(arrays: Mapping[str, NDArray[Any]], metadata: Mapping[str, Any], *, path: Path) -> RoutingTrace:
    """The value of a file's arrays, or of a part of them; everything is copied.

    Args:
        arrays: laid out as `check_layout` requires.
        metadata: of the file.
        path: of the file, for errors.

    Raises:
        ArtifactError: an expert id that there is no expert for.
    """
    stored = arrays["topk_ids"]
    ids = _decode_ids(stored, arrays["counts"].shape[1], path)
    plain = {
        name: torch.from_numpy(array.copy())
        for name, array in arrays.items()
        if name in ARRAYS and name not in ("topk_ids", "dropped")
    }
    if "dropped" in arrays:
        bits = np.unpackbits(arrays["dropped"], axis=-1, count=stored.shape[2], bitorder="little")
        plain["is_dropped"] = torch.from_numpy(bits.astype(bool))
    return RoutingTrace(topk_ids=ids, metadata=metadata, **plain)


def _decode_ids(stored: NDArray[Any], num_experts: int, path: Path) -> Int[Tensor, "L T K"]:
    is_none = stored == np.iinfo(stored.dtype).max
    highest = int(stored.max(initial=0, where=~is_none))
    if highest >= num_experts and not is_none.all():
        raise ArtifactError(
            f"{path}: topk_ids holds expert id {highest}, and counts has {num_experts} experts; "
            "the file is damaged or was written for another model, record it again"
        )
    ids = torch.from_numpy(stored.astype(np.int64))
    return ids.masked_fill_(torch.from_numpy(is_none), NO_EXPERT) if is_none.any() else ids


def check_layout(arrays: Mapping[str, NDArray[Any]], *, path: Path) -> TraceSizes:
    """Require that a file's arrays are those of a trace, by name, dtype and shape, and that its sequences make sense.

    Raises:
        ArtifactError: the first thing that is not as the format says.
    """
    sizes: dict[str, int] = {}
    for name, rule in ARRAYS.items():
        if name not in arrays:
            if rule.is_required:
                raise ArtifactError(f"{path} lacks the array {name!r}; record it again with this version")
            continue
        _check_array(name, arrays[name], rule, sizes, path)
    offsets = arrays["seq_offsets"]
    num_tokens = sizes["T"]
    if len(offsets) == 0 or offsets[0] != 0 or offsets[-1] != num_tokens or (np.diff(offsets) < 0).any():
        raise ArtifactError(
            f"{path}: seq_offsets must rise from 0 to the number of tokens (={num_tokens}); record it again"
        )
    return TraceSizes(L=sizes["L"], T=num_tokens, K=sizes["K"], E=sizes["E"], S=len(offsets) - 1)


def _check_array(name: str, array: NDArray[Any], rule: ArrayRule, sizes: dict[str, int], path: Path) -> None:
    if array.dtype.name not in rule.dtypes:
        wanted = " or ".join(rule.dtypes)
        raise ArtifactError(f"{path}: {name} has dtype {array.dtype.name}, not {wanted}; record it again")
    if array.ndim != len(rule.axes):
        raise ArtifactError(
            f"{path}: {name} has {array.ndim} axes, not {len(rule.axes)} [{', '.join(rule.axes)}]; record it again"
        )
    for axis, size in zip(rule.axes, array.shape, strict=True):
        known = -(-sizes["K"] // 8) if axis == "B" else sizes.setdefault(axis, size)
        if known != size:
            raise ArtifactError(f"{path}: {name} has {axis} = {size}, and other arrays have {known}; record it again")


def encode_metadata(metadata: Mapping[str, Any]) -> dict[str, str]:
    """The container's `__metadata__` for a trace's metadata."""
    header = {**metadata, "format": FORMAT, "version": FORMAT_VERSION}
    text = json.dumps(header, sort_keys=True, ensure_ascii=False)
    # Half a surrogate pair, which a tokenizer of bytes may hold, has no UTF-8; JSON has an escape for it.
    is_text = text.encode("utf-8", "replace").decode() == text
    return {METADATA_KEY: text if is_text else json.dumps(header, sort_keys=True)}


def decode_metadata(metadata: Mapping[str, str], *, path: Path) -> dict[str, Any]:
    """The metadata of a trace file.

    Raises:
        ArtifactError: it isn't a trace, or a later version wrote it.
    """
    try:
        header: Any = json.loads(metadata[METADATA_KEY])
    except (KeyError, ValueError, RecursionError):
        header = None
    if not isinstance(header, dict) or header.get("format") != FORMAT:
        raise ArtifactError(f"{path} is not a routing trace; give a file that Headgate recorded or imported")
    if header.get("version") != FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has trace version {ascii(header.get('version'))[:20]}, this Headgate reads {FORMAT_VERSION}; "
            "use the Headgate that wrote it, or record it again"
        )
    _check_metadata(header, path)
    return header


def _check_metadata(header: Mapping[str, Any], path: Path) -> None:
    """Require the kinds of the entries that Headgate itself reads; all others are the writer's own."""
    layers = header.get("layers", [])
    if not isinstance(layers, list) or not all(isinstance(layer, dict) for layer in layers):
        raise ArtifactError(f"{path}: the metadata's layers are not a list of objects; record it again")
    strings = header.get("token_strings", {})
    if not isinstance(strings, dict) or not all(isinstance(text, str) for text in strings.values()):
        raise ArtifactError(f"{path}: the metadata's token_strings do not map ids to strings; record it again")
    shape = header.get("model_shape", {})
    if not isinstance(shape, dict) or not all(isinstance(value, int | str | None) for value in shape.values()):
        raise ArtifactError(f"{path}: the metadata's model_shape is no object of numbers; record it again")
    for layer in layers:
        if not isinstance(layer.get("path", ""), str) or not isinstance(layer.get("router") or {}, dict):
            raise ArtifactError(f"{path}: a layer of the metadata has no path or router of text; record it again")
