"""vLLM's routed experts, in its four generations.

1. v0.20: an array `(tokens, layers, k)` of all layers, dense ones filled with zeros, saved as `.npy`.
2. v0.21: nested lists in the JSON response: `prompt_routed_experts` of the request, `routed_experts` of each choice;
   -1 where a cached prefix was not routed again.
3. later responses: `choices[i].routed_experts` is the base64 of a `.npy` of u8 or u16; null where it was aborted.
   `verifiers` passes the same on as `{"data": base64 of u8, "shape": [tokens, layers, k]}`.
4. the auxiliary output connector: raw blocks of row-major bytes, whose shape and dtype only the caller knows.

References:
    https://docs.vllm.ai/en/v0.21.0/training/routed_experts_replay/,
    https://docs.vllm.ai/en/latest/training/routed_experts/
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from headgate.errors import ArtifactError, InputError
from headgate.files import explain_os_errors
from headgate.observe.importers.build import RoutedSequence, build_trace
from headgate.observe.importers.decode import decode_base64, nested_ids, parse_npy, read_json, read_json_lines
from headgate.observe.importers.shape import RouterShape
from headgate.observe.trace import RoutingTrace
from headgate.wording import number_of

RAW_DTYPES = ("uint8", "uint16", "int16", "int32")


def import_vllm(paths: Sequence[Path], shape: RouterShape, *, raw_dtype: str | None = None) -> RoutingTrace:
    """Read vLLM's routing.

    Args:
        paths: `.npy` (one sequence each), `.json` or `.jsonl` responses, or `.bin` raw blocks of one sequence.
        shape: of the model.
        raw_dtype: of `.bin` blocks.

    Raises:
        InputError: what the files say could mean two things, or can't be.
        ArtifactError: a file can't be read.
    """
    sequences: list[RoutedSequence] = []
    for path in paths:
        sequences += _read(path, shape, raw_dtype)
    return build_trace(sequences, shape, path=paths[0], metadata={"engine": "vllm"})


def _read(path: Path, shape: RouterShape, raw_dtype: str | None) -> list[RoutedSequence]:
    if path.suffix == ".npy":
        with explain_os_errors("read", path):
            return [RoutedSequence(ids=_three_axes(parse_npy(path.read_bytes(), path), path))]
    if path.suffix == ".bin":
        return [RoutedSequence(ids=_read_raw(path, shape, raw_dtype))]
    if path.suffix == ".jsonl":
        return [found for response in read_json_lines(path) for found in _of_response(response, path)]
    if path.suffix == ".json":
        return _of_response(read_json(path), path)
    raise InputError(f"{path} must end in .npy, .json, .jsonl or .bin, which say what of vLLM's it is; rename it")


def _three_axes(ids: NDArray[Any], path: Path) -> NDArray[Any]:
    if ids.ndim != 3:
        raise ArtifactError(f"{path}: the routing has {ids.ndim} axes, not (tokens, layers, k); export it again")
    return ids


def _read_raw(path: Path, shape: RouterShape, raw_dtype: str | None) -> NDArray[Any]:
    if raw_dtype not in RAW_DTYPES:
        raise InputError(
            f"raw_dtype (={raw_dtype}) must be one of {', '.join(RAW_DTYPES)}: {path} does not say; give --dtype"
        )
    with explain_os_errors("read", path):
        content = path.read_bytes()
    width = np.dtype(raw_dtype).itemsize
    flat = np.frombuffer(content[: len(content) // width * width], raw_dtype)
    return shape_flat(flat, shape, path, len(content))


def shape_flat(flat: NDArray[Any], shape: RouterShape, path: Path, num_bytes: int) -> NDArray[Any]:
    """Give flat ids the shape [tokens, layers, k] that only the model's config knows.

    Raises:
        InputError: the config does not say, or they do not fit.
    """
    top_k = shape.require("top_k", "--top-k")
    if shape.moe_layers is None:
        raise InputError(f"{path} does not say how many layers it holds; give the model's config.json (--config)")
    # Engines write either the routed layers or all of them.
    usual = {len(shape.moe_layers), shape.num_layers or len(shape.moe_layers)}
    counts = sorted(usual if shape.num_rows is None else {shape.num_rows})
    fits = [layers for layers in counts if flat.nbytes == num_bytes and flat.size % (layers * top_k) == 0]
    if not fits:
        width = number_of(flat.dtype.itemsize, "byte")
        raise InputError(
            f"{path} has {num_bytes} bytes, which are no whole number of tokens with {' or '.join(map(str, counts))} "
            f"layers and {top_k} choices of {width}; give the right --config or --dtype"
        )
    if len(fits) > 1:
        raise InputError(f"{path} may hold {fits[0]} or {fits[1]} layers per token, both fit; say which by --rows")
    return flat.reshape(-1, fits[0], top_k)


def _of_response(response: Any, path: Path) -> list[RoutedSequence]:
    if not isinstance(response, dict):
        raise ArtifactError(f"{path}: a response is no JSON object; save what the server sent")
    if "layer_list" in response and "moe_layer_count" in response:
        raise InputError(
            f"{path} says where experts lie (a placement for vLLM-Ascend), not where tokens went; give recorded routing"
        )
    choices = response.get("choices", response.get("outputs"))
    if not isinstance(choices, list) or not all(isinstance(choice, dict) for choice in choices):
        raise ArtifactError(f"{path}: a response has no list of choices; save what the server sent")
    prompt = response.get("prompt_routed_experts")
    return [
        _of_choice(choice, prompt, response, path) for choice in choices if choice.get("routed_experts") is not None
    ]


def _of_choice(choice: dict[str, Any], prompt: Any, response: dict[str, Any], path: Path) -> RoutedSequence:
    routed = choice["routed_experts"]
    own_ids: Any = choice.get("token_ids")
    prompt_ids: Any = response.get("prompt_token_ids", choice.get("prompt_token_ids"))
    both = [*prompt_ids, *own_ids] if isinstance(prompt_ids, list) and isinstance(own_ids, list) else None
    if isinstance(routed, str | dict):
        ids = _with_shape(routed, path) if isinstance(routed, dict) else _of_npy(routed, path)
        return RoutedSequence(ids=ids, token_ids=both, num_prompt=None if both is None else len(prompt_ids))
    generated = nested_ids(routed, path)
    if prompt is None:
        own = own_ids if isinstance(own_ids, list) else None
        return RoutedSequence(ids=generated, token_ids=own, num_prompt=0)
    first = nested_ids(prompt, path)
    if len(generated) and len(first) and first.shape[1:] != generated.shape[1:]:
        raise ArtifactError(f"{path}: prompt and choice are routed through different layers; export it again")
    joined = np.concatenate([part for part in (first, generated) if len(part)] or [first])
    return RoutedSequence(ids=joined, token_ids=both, num_prompt=len(first))


def _of_npy(text: str, path: Path) -> NDArray[Any]:
    return _three_axes(parse_npy(decode_base64(text, path), path), path)


def _with_shape(routed: dict[str, Any], path: Path) -> NDArray[Any]:
    """Ids as `verifiers` passes them on: base64 of raw u8, and their shape."""
    data: Any = routed.get("data")
    shape: Any = routed.get("shape")
    is_shape = isinstance(shape, list) and len(shape) == 3 and all(type(size) is int and size >= 0 for size in shape)
    if not isinstance(data, str) or not is_shape:
        raise ArtifactError(f"{path}: routed_experts has no data and shape [tokens, layers, k]; export it again")
    content = decode_base64(data, path)
    if math.prod(shape) != len(content):
        raise ArtifactError(
            f"{path}: routed_experts claims the shape {shape} and has {len(content)} bytes; one byte is one id"
        )
    return np.frombuffer(content, np.uint8).reshape(shape)
