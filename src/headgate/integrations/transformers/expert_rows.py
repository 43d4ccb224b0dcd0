"""Some experts of a checkpoint, and everything else: which tensors and rows a rank reads, under transformers' names.

A checkpoint has a layer's experts stacked, `experts.gate_up_proj` [E, 2F, D], or one by one, `experts.3.w1.weight`.
transformers' own conversions turn either into the parameters of the model; here, what they get to see is cut down to
the experts that are wanted, in the order in which they are wanted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from headgate.errors import ArtifactError, BackendError
from headgate.integrations.transformers.gates import WEIGHT_NAMES
from headgate.integrations.transformers.sites import Site

EXPERT_NUMBER = re.compile(r"experts\.(\d+)\.")
"""Where the name of a tensor of one expert says which."""

# Operations that treat every expert by itself when they work on another axis than the first.
_ALONG_AN_AXIS = ("Concatenate", "Chunk", "Split", "Interleave")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ExpertRows:
    """Rows of a tensor on disk, read when they are asked for; to transformers, a slice like those of safetensors.

    Attributes:
        source: the slice of safetensors.
        rows: which of its first axis, in order.
    """

    source: Any
    rows: tuple[int, ...]

    def get_shape(self) -> list[int]:
        """Of the rows together."""
        return [len(self.rows), *self.source.get_shape()[1:]]

    def get_dtype(self) -> str:
        """As safetensors writes it."""
        dtype: str = self.source.get_dtype()
        return dtype

    def __getitem__(self, index: Any) -> Tensor:
        """Read the rows; neighbours in one go, and nothing beside them."""
        runs = _runs(self.rows)
        rows: Tensor
        if len(runs) == 1:
            rows = self.source[slice(*runs[0])]
        else:
            rows = self.source[0:0].new_empty(self.get_shape())
            place = 0
            for first, last in runs:
                rows[place : place + last - first] = self.source[first:last]
                place += last - first
        found: Tensor = rows[index]
        return found


def _runs(rows: Sequence[int]) -> list[tuple[int, int]]:
    """Half-open ranges of neighbours, in the order of the rows."""
    runs: list[tuple[int, int]] = []
    for row in rows:
        if runs and runs[-1][1] == row:
            runs[-1] = (runs[-1][0], row + 1)
        else:
            runs.append((row, row + 1))
    return runs


def keep_experts(experts: Any, count: int) -> None:
    """Give an experts module on the meta device room for `count` experts alone."""
    for name in WEIGHT_NAMES:
        weight = getattr(experts, name, None)
        if weight is not None:
            setattr(experts, name, nn.Parameter(weight.new_empty((count, *weight.shape[1:]))))


def choose_tensors(
    model: Any, sites: Iterable[Site], held: Mapping[str, tuple[int, ...]], tensors: Mapping[str, Any]
) -> dict[str, Any]:
    """Keep what one rank reads of a checkpoint.

    Args:
        model: on the meta device, with all experts.
        sites: its experts.
        held: the experts of this rank by the path of the site, in the order in which it holds them.
        tensors: of the checkpoint, as slices of safetensors.

    Returns:
        The same names and slices without other ranks' experts, numbered from 0 where they come one by one.

    Raises:
        BackendError: a conversion of transformers mixes experts, so that some alone can't be read.
        ArtifactError: a layer of the checkpoint has another number of experts than the model.
    """
    names = _Names(model)
    owner = {f"{site.path}.{name}": site for site in sites for name in WEIGHT_NAMES}
    kept: dict[str, Any] = {}
    found: dict[tuple[str, str], set[int]] = {}
    for key, source in tensors.items():
        target, pattern = names.rename(key)
        site = owner.get(target)
        if site is None:
            kept[key] = source
            continue
        names.require_separate(target, pattern)
        mine = held[site.path]
        number = EXPERT_NUMBER.search(key)
        if pattern is None or "*" not in pattern or number is None:
            _require_count(key, source.get_shape()[0], site)
            kept[key] = ExpertRows(source=source, rows=mine)
            continue
        expert = int(number[1])
        found.setdefault((target, pattern), set()).add(expert)
        if expert in mine:
            kept[f"{key[: number.start(1)]}{mine.index(expert)}{key[number.end(1) :]}"] = source
    for (target, _), experts in found.items():
        _require_count(target, len(experts), owner[target])
    return kept


def _require_count(name: str, count: int, site: Site) -> None:
    if count != site.module.num_experts:
        raise ArtifactError(
            f"{name} has {count} experts in the checkpoint and {site.module.num_experts} in the model; "
            "use the config.json that belongs to it"
        )


class _Names:
    """What transformers makes of a checkpoint's names."""

    def __init__(self, model: Any) -> None:
        from transformers.conversion_mapping import get_model_conversion_mapping
        from transformers.core_model_loading import WeightConverter, WeightRenaming

        mapping = get_model_conversion_mapping(model)
        self._renamings = [entry for entry in mapping if isinstance(entry, WeightRenaming)]
        self._converters = [entry for entry in mapping if isinstance(entry, WeightConverter)]
        self._prefix, self._state = model.base_model_prefix, model.state_dict()

    def rename(self, key: str) -> tuple[str, str | None]:
        """The parameter that a tensor becomes, or a part of it, and the pattern of the conversion, if there is one."""
        from transformers.core_model_loading import rename_source_key

        target, pattern = rename_source_key(key, self._renamings, self._converters, self._prefix, self._state)
        if target not in self._state and key in self._state:
            return key, None
        return target, pattern

    def require_separate(self, target: str, pattern: str | None) -> None:
        """Require that a conversion treats each expert by itself."""
        if pattern is None:
            return
        converter = next(entry for entry in self._converters if pattern in entry.source_patterns)
        mixing = [type(step).__name__ for step in converter.operations if not _is_separate(step)]
        if mixing or len(converter.target_patterns) > 1:
            raise BackendError(
                f"{target} is made by a conversion of transformers (={', '.join(mixing) or 'one to many'}) that mixes "
                "experts, so no rank can read its own alone; load the whole model, and call expert_parallel on it"
            )


def _is_separate(step: Any) -> bool:
    name = type(step).__name__
    if name == "MergeModulelist":
        return bool(step.dim == 0)
    if name == "Transpose":
        return 0 not in (step.dim0, step.dim1)
    return name in _ALONG_AN_AXIS and step.dim != 0


def read_slices(files: Iterable[Any]) -> dict[str, Any]:
    """Every tensor of some safetensors files as a slice, of which nothing is read yet.

    Raises:
        ArtifactError: a file that can't be read.
    """
    from safetensors import SafetensorError, safe_open

    tensors: dict[str, Any] = {}
    for path in files:
        try:
            opened: Any = safe_open(path, framework="pt")
            tensors |= {name: opened.get_slice(name) for name in opened.keys()}  # noqa: SIM118 - not a dict
        except (SafetensorError, OSError) as error:
            raise ArtifactError(f"{path} can't be read: {error}; download it again") from error
    return tensors


def first_dtype(tensors: Mapping[str, Any]) -> torch.dtype:
    """The dtype of a checkpoint whose configuration names none: that of its first floating tensor."""
    names = {"F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16}
    return next((names[t.get_dtype()] for t in tensors.values() if t.get_dtype() in names), torch.float32)
