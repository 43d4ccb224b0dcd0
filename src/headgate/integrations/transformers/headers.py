"""What a checkpoint holds, from the headers of its safetensors files: names, shapes and dtypes, no weights."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from headgate.errors import ArtifactError
from headgate.planning.catalogue import find_model
from headgate.planning.parameters import ModelShape

_SCALES = re.compile(r"(_scales?|scale_inv|\.scales|qzeros|g_idx|input_scale)$")
_MTP = re.compile(r"(^|\.)(mtp|nextn)")
_LAYER = re.compile(r"(?:^|\.)layers\.(\d+)\.")
_BUFFERS = re.compile(r"(correction_bias|inv_freq|tid2eid)$")
_BITS = {"BOOL": 8, "U8": 8, "I8": 8, "I16": 16, "I32": 32, "I64": 64, "F16": 16, "BF16": 16, "F32": 32, "F64": 64}

Tensor = tuple[str, str, tuple[int, ...]]
"""Name, dtype as safetensors writes it, shape."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Checkpoint:
    """What the headers say.

    Attributes:
        source: where they are.
        parameters: of the model: neither MTP layers, nor scales, nor buffers.
        mtp_parameters: of multi-token-prediction layers, which transformers does not load.
        buffers: numbers that are no parameters, such as selection biases.
        num_bytes: of all tensors.
        scale_bytes: of them, scales of quantised weights.
        difference: parameters here less those of the model.
    """

    source: str
    parameters: int
    mtp_parameters: int
    buffers: int
    num_bytes: int
    scale_bytes: int
    difference: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values."""
        return asdict(self)


def read_checkpoint(model: str, shape: ModelShape) -> Checkpoint | None:
    """Read the headers of a model's checkpoint, and compare its parameters with the model's.

    Args:
        model: a directory, or the config.json in one. A name of the catalogue has no files, nor has a Hub id that is
            not on this disk.
        shape: the model.

    Returns:
        What it holds; None where there are no safetensors.

    Raises:
        ArtifactError: a file whose header can't be read.
    """
    folder = _folder(model)
    files = [] if folder is None else sorted(folder.glob("*.safetensors"))
    if folder is None or not files:
        return None
    return compare_headers(_read_headers(files), shape, source=str(folder))


def _folder(model: str) -> Path | None:
    path = Path(model)
    if path.is_dir():
        return path
    if path.is_file():
        # Under another name it was put down apart from a checkpoint, and what lies beside it is not its own.
        return path.parent if path.name == "config.json" else None
    return None if find_model(model) is not None and "/" not in model else _cached(model)


def _cached(model: str) -> Path | None:
    """Where the Hub's cache keeps a model that was downloaded before."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        config = try_to_load_from_cache(model, "config.json")
    except HFValidationError:
        return None
    return Path(config).parent if isinstance(config, str) else None


def _read_headers(files: Iterable[Path]) -> Iterator[Tensor]:
    from safetensors import SafetensorError, safe_open

    for path in files:
        try:
            with safe_open(path, framework="numpy") as opened:
                for name in opened.keys():  # noqa: SIM118 - not a dict
                    part = opened.get_slice(name)
                    yield name, str(part.get_dtype()), tuple(part.get_shape())
        except (SafetensorError, OSError) as error:
            raise ArtifactError(f"{path} can't be read: {error}; download it again") from error


def compare_headers(tensors: Iterable[Tensor], shape: ModelShape, *, source: str) -> Checkpoint:
    """Count what the headers list.

    Args:
        tensors: name, dtype and shape of each.
        shape: the model.
        source: where they are.

    Example:
        >>> empty = {"weights": (), "routed": (), "cache": ()}
        >>> shape = ModelShape(
        ...     name="m", model_type="", class_name="", d_model=2, vocab_size=0, num_layers=1, **empty
        ... )
        >>> compare_headers([("layers.1.up.weight", "BF16", (2, 3))], shape, source="m").mtp_parameters
        6
    """
    parameters = mtp = buffers = num_bytes = scale_bytes = 0
    for name, dtype, sizes in tensors:
        size = math.prod(sizes) * bits_of(dtype) // 8
        num_bytes += size
        if _SCALES.search(name):
            scale_bytes += size
        elif _BUFFERS.search(name):
            buffers += math.prod(sizes)
        elif _is_mtp(name, shape.num_layers):
            mtp += _num_values(name, dtype, sizes)
        elif not (shape.tied_head and name.endswith("lm_head.weight")):
            parameters += _num_values(name, dtype, sizes)
    return Checkpoint(
        source=source,
        parameters=parameters,
        mtp_parameters=mtp,
        buffers=buffers,
        num_bytes=num_bytes,
        scale_bytes=scale_bytes,
        difference=parameters - shape.total,
    )


def bits_of(dtype: str) -> int:
    """Bits of one number of a dtype of safetensors; all of its 8-bit floats begin with F8.

    Example:
        >>> bits_of("F8_E4M3"), bits_of("BF16"), bits_of("F4")
        (8, 16, 4)
    """
    return _BITS.get(dtype) or (4 if dtype.startswith("F4") else 8)


def _is_mtp(name: str, num_layers: int) -> bool:
    """Whether a tensor belongs to a layer that predicts further tokens: named so, or after the last layer."""
    layer = _LAYER.search(name)
    return bool(_MTP.search(name)) or (layer is not None and num_layers > 0 and int(layer[1]) >= num_layers)


def _num_values(name: str, dtype: str, sizes: tuple[int, ...]) -> int:
    """Numbers of a tensor; formats of 4 bits come as bytes or words that hold several."""
    count = math.prod(sizes)
    if name.endswith("_blocks") and dtype == "U8":
        return 2 * count
    if name.endswith(("qweight", "weight_packed")):
        return count * bits_of(dtype) // 4
    return count
