"""Engines that keep counts: TensorRT-LLM's expert statistic, DeepSpeed, and llama.cpp's trace of activations."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray

from headgate.errors import ArtifactError, InputError
from headgate.observe.container import map_container
from headgate.observe.importers.build import RoutedSequence, build_counts, build_trace
from headgate.observe.importers.decode import load_pickled_tensors, read_json, read_number_rows
from headgate.observe.importers.megatron_counts import Ranks
from headgate.observe.importers.shape import RouterShape
from headgate.observe.trace import RoutingTrace

Counted = Literal["all", "first"]

_KEY = re.compile(r"(\d{1,9})_(\d{1,6})")


def import_tensorrt_llm(folder: Path, shape: RouterShape, *, ranks: Ranks | None = None) -> RoutingTrace:
    """Read the folder that `EXPERT_STATISTIC_PATH` names.

    `meta_info.json`, and per rank `rank{r}.safetensors` with counts under `{iteration}_{layer}`, or
    `rank{r}_raw.safetensors` with each token's experts under the same names.

    Args:
        folder: with these files.
        shape: of the model, where it is known; sizes of `meta_info.json` must agree.
        ranks: with several ranks: whether they had their own "tokens", or the "same" ones.

    Raises:
        InputError: what the files say could mean two things, or can't be.
        ArtifactError: a file can't be read.
    """
    meta = read_json(folder / "meta_info.json")
    if not isinstance(meta, dict) or type(meta.get("num_experts")) is not int:
        raise ArtifactError(f"{folder / 'meta_info.json'} does not say num_experts; give the folder of the statistic")
    if shape.num_experts not in (None, meta["num_experts"]):
        raise InputError(f"num_experts (={shape.num_experts}) must be that of meta_info.json (={meta['num_experts']})")
    raw = sorted(folder.glob("rank*_raw.safetensors"))
    files = raw or sorted(folder.glob("rank*.safetensors"))
    if not files:
        raise ArtifactError(f"{folder} has no rank*.safetensors; give the folder of the statistic")
    if len(files) > 1 and ranks not in ("tokens", "same"):
        raise InputError(
            f"ranks (={len(files)}) may have counted different tokens (data parallel) or the same (tensor parallel); "
            "say which by --ranks tokens or --ranks same"
        )
    used = files if ranks == "tokens" else files[:1]
    top_k = meta.get("num_experts_per_token")
    known = RouterShape(
        num_experts=meta["num_experts"],
        top_k=top_k if type(top_k) is int else shape.top_k,
        num_layers=shape.num_layers,
        moe_layers=shape.moe_layers,
    )
    return _of_raw(used, known) if raw else _of_counts(used, known)


def _entries(file: Path) -> list[tuple[int, int, NDArray[np.int64]]]:
    """(iteration, layer, values) of a rank's file, in order."""
    arrays, _ = map_container(file)
    found = []
    for name, array in arrays.items():
        key = _KEY.fullmatch(name)
        if key is None or array.dtype.kind not in "iu":
            raise ArtifactError(f"{file}: array {ascii(name)[:40]} is not named iteration_layer, or not of integers")
        found.append((int(key[1]), int(key[2]), np.asarray(array, dtype=np.int64)))
    return sorted(found, key=lambda entry: entry[:2])


def _of_counts(files: Sequence[Path], shape: RouterShape) -> RoutingTrace:
    num_experts = shape.require("num_experts", "--experts")
    counts: dict[int, NDArray[np.int64]] = defaultdict(lambda: np.zeros(num_experts, np.int64))
    for file in files:
        for _, layer, values in _entries(file):
            if values.shape != (num_experts,):
                raise ArtifactError(f"{file}: layer {layer} has counts of shape {values.shape}, not ({num_experts},)")
            counts[layer] += values
    shape.require_layers(counts, files[0])
    return build_counts(dict(counts), path=files[0], metadata={"engine": "tensorrt-llm"}, top_k=shape.top_k)


def _of_raw(files: Sequence[Path], shape: RouterShape) -> RoutingTrace:
    sequences, layers = [], None
    for file in files:
        passes: dict[int, dict[int, NDArray[np.int64]]] = defaultdict(dict)
        for iteration, layer, values in _entries(file):
            passes[iteration][layer] = values
        for iteration, found in passes.items():
            layers = tuple(found) if layers is None else layers
            if tuple(found) != layers or len({ids.shape for ids in found.values()}) > 1:
                raise InputError(
                    f"{file}: iteration {iteration} has not the same tokens in every layer; import whole ones"
                )
            if next(iter(found.values())).ndim != 2:
                raise ArtifactError(f"{file}: iteration {iteration} has no [tokens, k] ids; give what was recorded")
            sequences.append(RoutedSequence(ids=np.stack(list(found.values()), axis=1)))
    if layers is None:
        raise InputError(f"{files[0]} holds no iteration; was anything recorded?")
    shape.require_layers(layers, files[0])
    named = RouterShape(num_experts=shape.num_experts, top_k=shape.top_k, moe_layers=layers)
    return build_trace(sequences, named, path=files[0], metadata={"engine": "tensorrt-llm"})


def import_deepspeed(path: Path, shape: RouterShape, *, counted: Counted | None = None) -> RoutingTrace:
    """Read the `exp_counts` that DeepSpeed's `MoE.forward` returns: a `.pt` with a list of tensors [E], one per layer.

    Args:
        path: of the `.pt`.
        shape: of the model; its routed layers must be known.
        counted: whether each token's "all" choices were counted, or, as versions before the fix did, the "first".

    Raises:
        InputError: what the file says could mean two things, or can't be.
        ArtifactError: not such a file.

    References:
        https://github.com/deepspeedai/DeepSpeed/pull/2559
    """
    values = load_pickled_tensors(path)
    is_list = isinstance(values, list | tuple) and len(values) > 0
    if not is_list or not all(isinstance(row, torch.Tensor) and row.dim() == 1 for row in values):
        raise ArtifactError(f"{path} is no list of exp_counts [experts], one per layer; save what MoE.forward returned")
    if any(row.is_floating_point() and not torch.equal(row, row.round()) for row in values):
        raise ArtifactError(f"{path}: exp_counts are no whole numbers; save them as MoE.forward returned them")
    num_experts = shape.require("num_experts", "--experts")
    wrong = [len(row) for row in values if len(row) != num_experts]
    if wrong:
        raise InputError(f"{path} counts {wrong[0]} experts, and the model has {num_experts}; give the right --experts")
    if counted is None:
        raise InputError(
            f"{path} may count all choices of a token or, as older versions do with top-2, only the first; say which "
            "by --counted all or --counted first"
        )
    if shape.moe_layers is None or len(shape.moe_layers) != len(values):
        raise InputError(
            f"{path} has counts of {len(values)} layers and does not say which; name them by --layers or --config"
        )
    counts = {layer: row.long().numpy() for layer, row in zip(shape.moe_layers, values, strict=True)}
    metadata = {"engine": "deepspeed", **({"counted": "first choice"} if counted == "first" else {})}
    return build_counts(counts, path=path, metadata=metadata, top_k=1 if counted == "first" else shape.top_k)


def import_llama_cpp(path: Path, shape: RouterShape) -> RoutingTrace:
    """Read the CSV of llama.cpp's `moe-trace`: one line `layer,expert` per activation, without tokens.

    Args:
        path: of the CSV.
        shape: of the model; its number of experts must be known.

    Raises:
        InputError: an expert that there is none of, or nothing recorded.
        ArtifactError: not such a file.

    References:
        https://github.com/ggml-org/llama.cpp/pull/28544
    """
    num_experts = shape.require("num_experts", "--experts")
    counts: dict[int, NDArray[np.int64]] = defaultdict(lambda: np.zeros(num_experts, np.int64))
    for layer, expert in read_number_rows(path, ("layer", "expert")):
        if expert >= num_experts:
            raise InputError(f"{path}: expert id {expert} is outside [0, {num_experts}); give the right --experts")
        counts[layer][expert] += 1
    shape.require_layers(counts, path)
    return build_counts(dict(counts), path=path, metadata={"engine": "llama.cpp"}, top_k=shape.top_k)
