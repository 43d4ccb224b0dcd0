"""The trace file: what every layer decided for every token, in one `.safetensors` file.

Layer-major, with logical expert ids. Expert choice is written as token choice: the experts that took a token, best
first. Letters: L layers, T tokens, K choices, E experts, S sequences; where layers differ in K or E, the largest.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from numpy.typing import NDArray
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save as encode
from torch import Tensor

from headgate.errors import ArtifactError, InputError
from headgate.flow import NO_EXPERT
from headgate.observe.files import explain_os_errors, replace_file

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
class RoutingTrace:
    """The routing of some sequences through some layers.

    Attributes:
        topk_ids: [L, T, K] int64, best first; -1 = no expert in this slot.
        topk_weights: [L, T, K] float16, as applied.
        layer_index: [L] int32, the decoder layer of each row.
        seq_offsets: [S + 1] int64; sequence s is tokens `seq_offsets[s]` to `seq_offsets[s + 1]`.
        token_ids: [T] int32.
        position: [T] int32, within the sequence.
        phase: [T] uint8 `Phase`.
        forward_id: [T] int32, which forward pass of the recording.
        select_margin: [L, T] float16, see `headgate.observe.metrics.select_margin`.
        router_entropy: [L, T] float16, nats, see `headgate.observe.metrics.router_entropy`.
        is_dropped: [L, T, K] bool, chosen but the expert was full.
        counts: [L, E] int64, rows per expert.
        select_bias: [L, E] float32, added to what selection ranked; None where no layer has one.
        metadata: plain values; `format`, `version` and what `record` adds.
    """

    topk_ids: Int[Tensor, "L T K"]
    topk_weights: Float[Tensor, "L T K"]
    layer_index: Int[Tensor, " L"]
    seq_offsets: Int[Tensor, " S_plus_1"]
    token_ids: Int[Tensor, " T"]
    position: Int[Tensor, " T"]
    phase: UInt8[Tensor, " T"]
    forward_id: Int[Tensor, " T"]
    select_margin: Float[Tensor, "L T"]
    router_entropy: Float[Tensor, "L T"]
    is_dropped: Bool[Tensor, "L T K"]
    counts: Int[Tensor, "L E"]
    select_bias: Float[Tensor, "L E"] | None
    metadata: Mapping[str, Any]


def save_trace(path: Path | str, trace: RoutingTrace) -> None:
    """Write a trace file, in one step.

    Raises:
        InputError: more experts than a u16 holds.
        ArtifactError: the file can't be written.
    """
    header = {**trace.metadata, "format": FORMAT, "version": FORMAT_VERSION}
    text = json.dumps(header, sort_keys=True, ensure_ascii=False)
    replace_file(Path(path), encode(_to_arrays(trace), metadata={METADATA_KEY: text}))


def load_trace(path: Path | str) -> RoutingTrace:
    """Read a trace file.

    Raises:
        ArtifactError: there is no such file, it isn't a trace, or a later version wrote it.
    """
    if not Path(path).is_file():
        raise ArtifactError(f"there is no file {path}; check the path")
    with explain_os_errors("read", Path(path)):
        try:
            with safe_open(path, framework="numpy") as file:
                metadata = _checked_metadata(path, file.metadata())
                arrays = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 - not a mapping
        except SafetensorError as error:
            raise ArtifactError(f"{path} is not a safetensors file ({error}); record it again") from error
    try:
        return _from_arrays(arrays, metadata)
    except KeyError as error:
        raise ArtifactError(f"{path} lacks the array {error}; record it again with this version") from error


def _checked_metadata(path: Path | str, metadata: Mapping[str, str] | None) -> dict[str, Any]:
    try:
        header: dict[str, Any] = json.loads((metadata or {})[METADATA_KEY])
    except (KeyError, json.JSONDecodeError):
        header = {}
    if header.get("format") != FORMAT:
        raise ArtifactError(f"{path} is not a routing trace; give a file that a Headgate recording wrote")
    if header.get("version") != FORMAT_VERSION:
        raise ArtifactError(
            f"{path} has trace version {header.get('version')}, this Headgate reads {FORMAT_VERSION}; "
            "use the Headgate that wrote it, or record it again"
        )
    return header


def _to_arrays(trace: RoutingTrace) -> dict[str, NDArray[Any]]:
    num_experts = trace.counts.shape[1]
    if num_experts > np.iinfo(np.uint16).max:
        raise InputError(f"E (={num_experts}) must be at most 65535: a trace stores expert ids as u16")
    id_dtype = np.uint8 if num_experts <= _U8_EXPERTS else np.uint16
    arrays: dict[str, NDArray[Any]] = {
        # -1 becomes all ones.
        "topk_ids": trace.topk_ids.numpy().astype(id_dtype),
        "topk_weights": trace.topk_weights.to(torch.float16).numpy(),
        "layer_index": trace.layer_index.numpy().astype(np.int32),
        "seq_offsets": trace.seq_offsets.numpy().astype(np.int64),
        "token_ids": trace.token_ids.numpy().astype(np.int32),
        "position": trace.position.numpy().astype(np.int32),
        "phase": trace.phase.numpy().astype(np.uint8),
        "forward_id": trace.forward_id.numpy().astype(np.int32),
        "select_margin": trace.select_margin.to(torch.float16).numpy(),
        "router_entropy": trace.router_entropy.to(torch.float16).numpy(),
        # Bit k % 8 of byte k // 8.
        "dropped": np.packbits(trace.is_dropped.numpy(), axis=-1, bitorder="little"),
        "counts": trace.counts.numpy().astype(np.int64),
    }
    if trace.select_bias is not None:
        arrays["select_bias"] = trace.select_bias.float().numpy()
    return {name: np.ascontiguousarray(array) for name, array in arrays.items()}


def _from_arrays(arrays: Mapping[str, NDArray[Any]], metadata: dict[str, Any]) -> RoutingTrace:
    stored_ids = arrays["topk_ids"]
    ids = torch.from_numpy(stored_ids.astype(np.int64))
    num_choices = ids.shape[2]
    dropped = np.unpackbits(arrays["dropped"], axis=-1, count=num_choices, bitorder="little")
    bias = arrays.get("select_bias")
    plain = {
        name: torch.from_numpy(arrays[name].copy())
        for name in (
            "topk_weights",
            "layer_index",
            "seq_offsets",
            "token_ids",
            "position",
            "phase",
            "forward_id",
            "select_margin",
            "router_entropy",
            "counts",
        )
    }
    return RoutingTrace(
        topk_ids=ids.masked_fill(ids == np.iinfo(stored_ids.dtype).max, NO_EXPERT),
        is_dropped=torch.from_numpy(dropped.astype(bool)),
        select_bias=None if bias is None else torch.from_numpy(bias.copy()),
        metadata=metadata,
        **plain,
    )
