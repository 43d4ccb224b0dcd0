"""Formats of weights: how many bytes a tensor takes, its scales included."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

from headgate.errors import InputError


@dataclass(frozen=True, slots=True, kw_only=True)
class WeightFormat:
    """How numbers are stored.

    Attributes:
        name: as the command line takes it.
        value_bits: of one number.
        block: numbers that share a scale: so many along the last axis, or along the last two; empty for none.
        scale_bits: of one scale.
        arithmetic: what products can multiply it in, where a device has that.
        source: of block and scales.
    """

    name: str
    value_bits: int
    block: tuple[int, ...] = ()
    scale_bits: int = 0
    arithmetic: str
    source: str

    @property
    def is_quantised(self) -> bool:
        """Whether it takes scales; norms, biases, embedding, head and router then stay in 16 bits."""
        return bool(self.block)

    def tensor_bytes(self, shape: tuple[int, ...]) -> int:
        """Bytes of a tensor: numbers, and one scale for each block or part of a block.

        Example:
            >>> FORMATS["mxfp4"].tensor_bytes((2, 64))  # 128 numbers of half a byte, 4 scales of a byte
            68
        """
        values = math.prod(shape) * self.value_bits
        return math.ceil((values + self.scale_bits * self._num_blocks(shape)) / 8)

    def _num_blocks(self, shape: tuple[int, ...]) -> int:
        if not self.block:
            return 0
        blocked = shape[-len(self.block) :]
        per_axis = (math.ceil(size / block) for size, block in zip(blocked, self.block, strict=True))
        return math.prod(shape[: -len(self.block)]) * math.prod(per_axis)


def _plain(name: str, bits: int, arithmetic: str) -> WeightFormat:
    return WeightFormat(name=name, value_bits=bits, arithmetic=arithmetic, source="no scales")


_MX = "OCP Microscaling Formats (MX) specification 1.0, 2023: blocks of 32, an 8-bit exponent each"
_GGUF = "llama.cpp, ggml-common.h"

FORMATS: Mapping[str, WeightFormat] = MappingProxyType(
    {
        known.name: known
        for known in (
            _plain("fp32", 32, "fp32"),
            _plain("bf16", 16, "bf16"),
            _plain("fp16", 16, "bf16"),
            WeightFormat(
                name="fp8",
                value_bits=8,
                block=(128, 128),
                scale_bits=32,
                arithmetic="fp8",
                source="DeepSeek-V3 README_WEIGHTS: blocks of 128 x 128, a float32 scale each",
            ),
            WeightFormat(name="mxfp8", value_bits=8, block=(32,), scale_bits=8, arithmetic="fp8", source=_MX),
            WeightFormat(name="mxfp4", value_bits=4, block=(32,), scale_bits=8, arithmetic="fp4", source=_MX),
            WeightFormat(
                name="nvfp4",
                value_bits=4,
                block=(16,),
                scale_bits=8,
                arithmetic="fp4",
                source="NVIDIA, Introducing NVFP4, 2025: blocks of 16, an 8-bit scale each; a tensor's own is left out",
            ),
            WeightFormat(
                name="int4",
                value_bits=4,
                block=(128,),
                scale_bits=16,
                arithmetic="bf16",
                source="GPTQ and AWQ checkpoints' usual group of 128, a 16-bit scale each; zero points are left out",
            ),
            WeightFormat(
                name="q8_0",
                value_bits=8,
                block=(32,),
                scale_bits=16,
                arithmetic="bf16",
                source=f"{_GGUF}, block_q8_0: 34 bytes for 32 numbers",
            ),
            WeightFormat(
                name="q4_k",
                value_bits=4,
                block=(256,),
                scale_bits=128,
                arithmetic="bf16",
                source=f"{_GGUF}, block_q4_K: 144 bytes for 256 numbers",
            ),
        )
    }
)


def find_format(name: str) -> WeightFormat:
    """Find a format by its name; torch's own names work too.

    Raises:
        InputError: there is none of that name.

    Example:
        >>> find_format("bfloat16").name
        'bf16'
    """
    wanted = {"float32": "fp32", "bfloat16": "bf16", "float16": "fp16"}.get(name.lower(), name.lower())
    if wanted in FORMATS:
        return FORMATS[wanted]
    near = difflib.get_close_matches(wanted, FORMATS, n=1)
    hint = f"did you mean {near[0]}?" if near else "pass one of them"
    raise InputError(f"dtype (={name}) must be one of {', '.join(FORMATS)}; {hint}")
