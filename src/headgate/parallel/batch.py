"""One batch of the tokens of several ranks: what is decided or measured over a batch is so over all of them.

The ranks' tokens, in rank order, are the batch. A decision that compares tokens with each other (capacity of the batch,
expert choice, Sinkhorn) gathers what it reads of every token, is made for the whole batch on every rank by the same
pure functions as on one, and each rank keeps its own tokens' part. A balance loss needs only its sums. What a token
decides alone (ordinary top-k, a sequence's own capacity) communicates nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Self

import torch
import torch.distributed as dist
from jaxtyping import Shaped, UInt8
from torch import Tensor, nn

from headgate.errors import InputError
from headgate.nn.tape import find_routers


def share_batch(model: nn.Module, group: dist.ProcessGroup | None = None, *, average_gradients: bool = True) -> None:
    """Make the tokens of all ranks of a group one batch for every router of a model.

    Capacity, expert choice, Sinkhorn and every balance loss then mean what one process would make of all the tokens,
    rank after rank; the values of the losses are those of the whole batch, on every rank. `ExpertParallel` does this
    for its layers; call it where the experts are not spread, as under plain data parallelism. Ranks may differ in their
    number of tokens, also down to none, and in their padding; each must run the model's layers in the same order.

    The gradient of a loss f of the whole batch reaches rank r through r's own tokens alone, as W * df/d(own scores):
    averaged over the W ranks, as DDP and FSDP do, that is the gradient of f. `average_gradients=False` leaves the W
    out, for gradients that are added up.

    Args:
        model: holds the routed layers.
        group: the ranks that share a batch; None = all.
        average_gradients: whether the gradients of the router will be averaged over the ranks, or added.

    Raises:
        InputError: the model holds no routed layer, or this process is not in the group.

    Example:
        >>> import torch, headgate
        >>> from headgate.parallel import share_batch
        >>> store = torch.distributed.HashStore()
        >>> torch.distributed.init_process_group("gloo", store=store, rank=0, world_size=1)
        >>> layer = headgate.MoE(8, 16, num_experts=4, router="switch")
        >>> share_batch(layer)
        >>> layer(torch.randn(2, 5, 8)).shape
        torch.Size([2, 5, 8])
        >>> torch.distributed.destroy_process_group()
    """
    routers = find_routers(model)
    if not routers:
        raise InputError(f"model (={type(model).__name__}) holds no routed layer; put a headgate.MoE in it")
    peers = GroupPeers(group, average_gradients=average_gradients)
    for router in routers.values():
        router.peers = peers


class GroupPeers:
    """The ranks of a process group, as a router sees them: `headgate.nn.routing.Peers`.

    Args:
        group: the ranks, in the order of their tokens; None = all.
        average_gradients: see `share_batch`.

    Raises:
        InputError: this process is not in the group.
    """

    def __init__(self, group: dist.ProcessGroup | None, *, average_gradients: bool) -> None:
        if not (dist.is_available() and dist.is_initialized()):
            raise InputError("torch.distributed is not initialised; start with torchrun and call init_process_group()")
        self.rank, self.num_ranks = dist.get_rank(group), dist.get_world_size(group)
        if self.rank < 0:
            raise InputError(f"rank (={dist.get_rank()}) is not in the group; pass the group that it shares a batch in")
        self.group = group
        self._gradient_factor = self.num_ranks if average_gradients else 1

    # Lengths are known only at run time: what ranks tell each other is not compiled, all around it is.
    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def gather(self, *values: Shaped[Tensor, "T ..."]) -> tuple[tuple[Tensor, ...], slice]:
        """Each token's values, on all ranks, without gradient: [T, ...] -> [tokens of all, ...]; and which are own.

        Two collectives: the ranks' numbers of tokens, then one row of bytes per token, padded to the longest rank's.
        """
        num_own = values[0].shape[0]
        counts = self._gather_alike(torch.tensor([num_own], device=values[0].device)).flatten().tolist()
        rows = _pack(values)
        padded = rows.new_zeros(max(counts), rows.shape[1])
        padded[:num_own] = rows
        parts = self._gather_alike(padded)
        everyone = torch.cat([part[:count] for part, count in zip(parts, counts, strict=True)])
        first = sum(counts[: self.rank])
        return _unpack(everyone, values), slice(first, first + num_own)

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def add(self, sums: Shaped[Tensor, " n"]) -> Shaped[Tensor, " n"]:
        """Sums over own tokens -> sums over all ranks' tokens, through which gradients reach the own ones.

        Added in rank order, whatever the backend: the same bits on every rank and in every run.
        """
        total: Tensor = _AddRanks.apply(sums, self)  # type: ignore[no-untyped-call]
        return total

    def _gather_alike(self, values: Shaped[Tensor, ...]) -> Shaped[Tensor, "W ..."]:
        """The tensors of all ranks, of one shape."""
        everyone = values.new_empty(self.num_ranks, *values.shape)
        dist.all_gather(list(everyone), values.contiguous(), group=self.group)
        return everyone

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        # A copied model talks to the same ranks, and a process group can't be copied.
        return self


class _AddRanks(torch.autograd.Function):
    """The sum over ranks. Every rank backpropagates the same loss, so each part's gradient is known where it is."""

    @staticmethod
    def forward(ctx: Any, sums: Tensor, peers: GroupPeers) -> Tensor:
        ctx.factor = peers._gradient_factor
        parts = peers._gather_alike(sums)
        total = parts[0].clone()
        for part in parts[1:]:
            total += part
        return total

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return grad * ctx.factor, None


def _pack(values: Sequence[Shaped[Tensor, "T ..."]]) -> UInt8[Tensor, "T n"]:
    """The bytes of each token's values, one after the other."""
    columns = [value.detach().flatten().view(torch.uint8).view(len(value), _row_bytes(value)) for value in values]
    return torch.cat(columns, dim=1)


def _unpack(rows: UInt8[Tensor, "T n"], like: Sequence[Tensor]) -> tuple[Tensor, ...]:
    """The values that `_pack` packed, of as many tokens as there are rows."""
    columns = torch.split(rows, [_row_bytes(value) for value in like], dim=1)
    return tuple(
        # A flat copy starts where its dtype may start; a column of bytes need not.
        column.flatten().clone().view(value.dtype).view(len(rows), *value.shape[1:])
        for column, value in zip(columns, like, strict=True)
    )


def _row_bytes(value: Tensor) -> int:
    """Bytes per token, also where there is no token."""
    return value.shape[1:].numel() * value.element_size()
