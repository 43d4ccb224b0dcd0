"""An expert parameter as the one stacked tensor that it is on all ranks together, for torch.distributed.checkpoint."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

import torch
from torch import Tensor, nn
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import TensorWriteData, WriteItem, WriteItemType
from torch.distributed.tensor import DTensor

from headgate.errors import InputError
from headgate.parallel.spread import Spread, find_spread


class LogicalExperts(Tensor):
    """A tensor [E, ...] of which this rank holds the rows of some experts, whatever the layout.

    It has a shape, a dtype and the three methods by which torch.distributed.checkpoint asks an object for its chunks:
    one chunk per expert, so that a file does not depend on the layout it was written in. An expert that several ranks
    hold is written once (the planner drops what is offered twice), and read by all of them. It takes part in no
    arithmetic.

    Args:
        rows: [n, ...] the rows that this rank holds; what is read goes into them.
        expert_ids: n experts, one for each row.
        num_experts: E.
    """

    rows: Tensor
    row_of_expert: Mapping[int, int]

    @staticmethod
    def __new__(cls, rows: Tensor, expert_ids: Sequence[int], num_experts: int) -> LogicalExperts:
        """Make the tensor without memory of its own."""
        shape = (num_experts, *rows.shape[1:])
        tensor: LogicalExperts = Tensor._make_wrapper_subclass(cls, shape, dtype=rows.dtype, device=rows.device)
        tensor.rows = rows
        tensor.row_of_expert = {expert: row for row, expert in enumerate(expert_ids)}
        return tensor

    def __init__(self, rows: Tensor, expert_ids: Sequence[int], num_experts: int) -> None:
        super().__init__()

    def __repr__(self, **_: Any) -> str:  # type: ignore[override]
        return f"LogicalExperts({tuple(self.shape)}, experts={sorted(self.row_of_expert)})"

    def fill(self, source: Any) -> None:
        """Copy this rank's experts from all of them: a tensor [E, ...], or a slice of one in a file."""
        for expert, row in self.row_of_expert.items():
            self.rows[row].copy_(source[expert])

    @classmethod
    def __torch_dispatch__(cls, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> NoReturn:  # type: ignore[override]
        """Refuse arithmetic."""
        raise TypeError(f"{func} needs the values of all experts, and this rank holds some of them; use the rows")

    def __create_write_items__(self, name: str, _: object) -> list[WriteItem]:
        """Offer each expert's row for writing."""
        properties = TensorProperties.create_from_tensor(self.rows)
        return [
            WriteItem(
                index=MetadataIndex(name, chunk.offsets),
                type=WriteItemType.SHARD,
                tensor_data=TensorWriteData(chunk=chunk, properties=properties, size=self.size()),
            )
            for chunk in self.__create_chunk_list__()
        ]

    def __create_chunk_list__(self) -> list[ChunkStorageMetadata]:
        """Say where in [E, ...] each row lies."""
        rest = self.rows.shape[1:]
        return [
            ChunkStorageMetadata(offsets=torch.Size([expert, *(0 for _ in rest)]), sizes=torch.Size([1, *rest]))
            for expert in self.row_of_expert
        ]

    def __get_tensor_shard__(self, index: MetadataIndex) -> Tensor:
        """Give the row at an offset, [1, ...]."""
        assert index.offset is not None  # Every chunk was offered with one.
        row = self.row_of_expert[index.offset[0]]
        return self.rows[row : row + 1]


def held_experts(model: nn.Module) -> dict[str, tuple[Sequence[int], int]]:
    """For each parameter of spread experts, by its name in the state dict: the experts that this rank holds, and E.

    Raises:
        InputError: FSDP cut a parameter elsewhere than between experts.
    """
    found: dict[str, tuple[Sequence[int], int]] = {}
    for path, (module, spread) in find_spread(model).items():
        clean = path.replace("_orig_mod.", "").replace("_checkpoint_wrapped_module.", "")
        for name in spread.weights:
            full_name = f"{clean}.{name}" if clean else name
            found[full_name] = (experts_here(full_name, module.get_parameter(name), spread), spread.num_experts)
    return found


def experts_here(name: str, parameter: Tensor, spread: Spread) -> Sequence[int]:
    """Of the experts of this rank of the expert-parallel mesh, those that FSDP left here, in the order of the rows.

    Args:
        name: of the parameter, for the error.
        parameter: a DTensor over the experts' mesh, or over that and FSDP's.
        spread: of its layer.

    Raises:
        InputError: FSDP cut the parameter elsewhere than between experts.
    """
    assert isinstance(parameter, DTensor)  # `set_local` makes no others.
    experts: Sequence[int] = spread.local_experts
    coordinate = parameter.device_mesh.get_coordinate()
    assert coordinate is not None  # This rank runs the layer.
    # The experts' own dimensions come last in the mesh; FSDP cuts what lies there once more, as torch.chunk does.
    dimensions = list(zip(parameter.placements, parameter.device_mesh.shape, coordinate, strict=True))
    outer = dimensions[: -spread.ranks.ndim]
    for placement, size, index in outer:
        if placement.is_replicate():
            continue
        # FSDP's own kind of shard is no `Shard`, and has a dimension, too.
        if getattr(placement, "dim", None) != 0:
            raise InputError(
                f"{name} (={parameter.placements}) must be cut between experts, along dimension 0; "
                "leave out FSDP's shard_placement_fn for it"
            )
        per_rank = -(-len(experts) // size)
        experts = experts[index * per_rank : (index + 1) * per_rank]
    return experts
