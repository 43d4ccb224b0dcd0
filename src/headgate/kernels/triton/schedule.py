"""Which tiles each product works in: small tables by rows per expert, tuned on the machine or fixed.

A bucket of rows per expert, not the number of tokens, keys the choice, so a new batch size compiles and tunes nothing.
Tuning measures a bucket's configurations once for each model shape and keeps the result in Triton's cache on disk.
It may choose differently on another machine, and another order of summation has other bits: under
`torch.use_deterministic_algorithms(True)` each table's first configuration is taken instead, everywhere.

The first ones are chosen by what the compiler says of them for an H100 (compute capability 9.0: 227 KiB of shared
memory and 65536 registers per processor), see `tests/kernels/triton/test_compile.py`; no time has been measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

import torch
from triton import Config, knobs

Bucket: TypeAlias = Literal["few", "some", "many"]

SHARED_MEMORY_BYTES = 227 * 1024
"""Of one block: CUDA C++ Programming Guide, table "Technical Specifications per Compute Capability", 9.0."""

PROCESSORS = 132
"""Of an H100 SXM, taken where there is no card to ask, so that the interpreter checks what runs there."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Schedule:
    """The configurations of a kernel.

    Attributes:
        few: up to 8 rows per expert, so that hardly an expert has more than the 16 of a tile: a second tile would read
            its weights again.
        some: up to 64.
        many: more.
        matrices: tiles of the right operand that a step holds besides one of the left.
    """

    few: tuple[Config, ...]
    some: tuple[Config, ...]
    many: tuple[Config, ...]
    matrices: int = 1

    @property
    def configs(self) -> tuple[Config, ...]:
        """All of them."""
        return (*self.few, *self.some, *self.many)

    def prune(
        self, _configs: object, _arguments: object, *, BUCKET: Bucket, PRECISION: str, **_: object
    ) -> list[Config]:
        """Those of a bucket that fit into shared memory; where none does, the one that needs least."""
        configs: tuple[Config, ...] = getattr(self, BUCKET)
        item_bytes = 2 if PRECISION == "half" else 4
        fitting = [config for config in configs if self.shared_bytes(config, item_bytes) <= SHARED_MEMORY_BYTES]
        return fitting or [min(configs, key=lambda config: self.shared_bytes(config, item_bytes))]

    def shared_bytes(self, config: Config, item_bytes: int) -> int:
        """What the stages of the pipeline hold at once, which the interpreter does not check."""
        block = config.kwargs
        step = (block.get("BLOCK_M", 0) + self.matrices * block["BLOCK_N"]) * block["BLOCK_K"]
        return int(step * item_bytes * config.num_stages)

    def first(self, bucket: Bucket, precision: str) -> Mapping[str, int]:
        """The blocks of the configuration that is taken without tuning."""
        blocks: Mapping[str, int] = self.prune((), (), BUCKET=bucket, PRECISION=precision)[0].kwargs
        return blocks


def _config(block_m: int, block_n: int, block_k: int, *, warps: int, stages: int, group: int = 8) -> Config:
    blocks = {"BLOCK_M": block_m, "BLOCK_N": block_n, "BLOCK_K": block_k, "GROUP": group}
    return Config(blocks, num_warps=warps, num_stages=stages)


def _for_one_token(block_n: int, block_k: int, *, warps: int, stages: int) -> Config:
    # The kernel's loop asks for the pipeline itself, so the stages are its argument, too.
    return Config({"BLOCK_N": block_n, "BLOCK_K": block_k, "STAGES": stages}, num_warps=warps, num_stages=stages)


ONE_TOKEN = Schedule(
    few=(
        _for_one_token(16, 512, warps=4, stages=4),
        _for_one_token(8, 512, warps=4, stages=4),
        _for_one_token(16, 256, warps=4, stages=6),
        _for_one_token(32, 256, warps=8, stages=4),
    ),
    some=(),
    many=(),
)
UP = Schedule(
    few=(
        _config(16, 32, 128, warps=4, stages=4),
        _config(16, 64, 64, warps=4, stages=5),
        _config(16, 32, 256, warps=8, stages=3),
        _config(16, 16, 128, warps=4, stages=5),
    ),
    some=(
        _config(64, 64, 64, warps=4, stages=4),
        _config(32, 64, 64, warps=4, stages=4),
        _config(64, 32, 128, warps=4, stages=3),
    ),
    many=(
        _config(128, 128, 64, warps=8, stages=4),
        _config(128, 64, 64, warps=8, stages=4),
        _config(128, 64, 64, warps=4, stages=4),
        _config(64, 128, 64, warps=8, stages=4),
        _config(64, 64, 32, warps=4, stages=3),
    ),
    matrices=2,
)
PRODUCT = Schedule(
    few=(
        _config(16, 64, 128, warps=4, stages=4),
        _config(16, 128, 64, warps=4, stages=5),
        _config(16, 32, 256, warps=4, stages=4),
        _config(16, 32, 128, warps=4, stages=5),
    ),
    some=(
        _config(64, 128, 64, warps=4, stages=4),
        _config(32, 128, 64, warps=4, stages=4),
        _config(64, 64, 64, warps=4, stages=5),
    ),
    many=(
        _config(128, 256, 64, warps=8, stages=4),
        _config(128, 128, 64, warps=8, stages=4),
        _config(128, 128, 64, warps=4, stages=4),
        _config(64, 256, 64, warps=8, stages=4),
        _config(64, 64, 32, warps=4, stages=3),
    ),
)
# One BLOCK_N for each bucket: the parts of a row's weight gradient, whose number it decides, are made before tuning.
ACTIVATION_GRADIENT = Schedule(
    few=(_config(16, 64, 128, warps=4, stages=4), _config(16, 64, 64, warps=4, stages=5)),
    some=(_config(64, 64, 64, warps=8, stages=4), _config(32, 64, 64, warps=4, stages=4)),
    many=(
        # Fewer warps spill where gates are interleaved and clamped.
        _config(128, 128, 64, warps=16, stages=4),
        _config(128, 128, 64, warps=8, stages=4),
        _config(64, 128, 64, warps=8, stages=4),
        _config(64, 128, 32, warps=8, stages=3),
    ),
)
# Here BLOCK_K is rows, and a tile of the matrix has BLOCK_M by BLOCK_N entries.
WEIGHT_GRADIENT = Schedule(
    few=(_config(128, 128, 16, warps=8, stages=2), _config(64, 128, 16, warps=4, stages=2)),
    some=(_config(128, 128, 32, warps=8, stages=3), _config(64, 128, 32, warps=4, stages=3)),
    many=(
        _config(128, 256, 64, warps=8, stages=3),
        _config(128, 128, 64, warps=8, stages=4),
        _config(128, 128, 32, warps=4, stages=4),
        _config(64, 64, 32, warps=4, stages=3),
    ),
)


def bucket_of(num_rows: int, num_experts: int) -> Bucket:
    """The bucket of so many rows, by the mean over the experts that could have some.

    Example:
        >>> bucket_of(8, 64), bucket_of(2048, 64), bucket_of(32768, 64)
        ('few', 'some', 'many')
    """
    num_busy = max(min(num_rows, num_experts), 1)
    if num_rows <= 8 * num_busy:
        return "few"
    return "some" if num_rows <= 64 * num_busy else "many"


def precision_of(dtype: torch.dtype) -> str:
    """How products are computed: float32 with tf32 only where PyTorch's own products may use it."""
    if dtype != torch.float32:
        return "widen" if dtype == torch.bfloat16 and is_interpreted() else "half"
    return "tf32" if torch.backends.cuda.matmul.fp32_precision == "tf32" else "ieee"


def count_splits(num_programs: int, num_summed: int, block_k: int, processors: int) -> int:
    """In how many parts a sum is taken, so that every processor has a program; each has four steps or more.

    Example:
        >>> count_splits(256, 2048, 128, 132), count_splits(24, 2048, 128, 132)
        (1, 4)
    """
    splits = 1
    while num_programs * splits < processors and num_summed >= 8 * splits * block_k:
        splits *= 2
    return splits


def processors_of(device: torch.device) -> int:
    """The card's streaming multiprocessors."""
    return torch.cuda.get_device_properties(device).multi_processor_count if device.type == "cuda" else PROCESSORS


def is_interpreted() -> bool:
    """Whether Triton's interpreter runs the kernels, on the CPU."""
    return bool(knobs.runtime.interpret)


def launch(kernel: Any, grid: Any, *, is_fixed: bool = False, **arguments: Any) -> None:
    """Run a tuned kernel, with the configuration that was measured to be best or with the bucket's first one.

    Args:
        kernel: one that is `tuned`.
        grid: from a configuration's blocks to the number of programs.
        is_fixed: the caller needs the first configuration.
        arguments: the kernel's, all by name.
    """
    if is_fixed or is_interpreted() or torch.are_deterministic_algorithms_enabled():
        config = kernel.early_config_prune(kernel.configs, {}, **arguments)[0]
        kernel.fn[grid](**arguments, **config.all_kwargs())
    else:
        kernel[grid](**arguments)
