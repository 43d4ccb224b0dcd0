"""Rows on their way between ranks: an uneven all-to-all to wait for later, and its way back for gradients."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
from jaxtyping import Shaped
from torch import Tensor

from headgate.parallel.turns import give_way


class Transfer:
    """One all-to-all of rows, begun and then awaited; backward, gradients go the other way, also begun and awaited.

    Between `begin` and `end`, and between their gradients, the caller can compute something else. A rank's own rows
    pass through, but nothing of them crosses a wire. Used once.

    Args:
        sent: rows for each rank, in the order in which they lie.
        received: rows from each rank.
        group: the ranks.
        gives_way: whether other calls of `run_in_turns` go on before this one waits.
    """

    def __init__(
        self, sent: Sequence[int], received: Sequence[int], group: dist.ProcessGroup, *, gives_way: bool = False
    ) -> None:
        self._sent, self._received, self._group, self._gives_way = list(sent), list(received), group, gives_way
        self._forward: _Underway | None = None
        self._backward: _Underway | None = None

    def begin(self, rows: Shaped[Tensor, "R ..."]) -> Shaped[Tensor, "S ..."]:
        """Start to send rows; what comes back may be read only after `end`."""
        begun: Tensor = _Begin.apply(rows, self)  # type: ignore[no-untyped-call]
        return begun

    def end(self, begun: Shaped[Tensor, "S ..."]) -> Shaped[Tensor, "S ..."]:
        """Wait for the rows from all ranks, in rank order."""
        ended: Tensor = _End.apply(begun, self)  # type: ignore[no-untyped-call]
        return ended

    def _start_forward(self, rows: Tensor) -> Tensor:
        self._forward = _Underway(rows, self._sent, self._received, self._group)
        return self._forward.arriving

    def _finish_forward(self) -> None:
        assert self._forward is not None  # `begin` comes first.
        self._wait(self._forward)
        self._forward = None

    def _start_backward(self, grad: Tensor) -> None:
        self._backward = _Underway(grad, self._received, self._sent, self._group)

    def _finish_backward(self) -> Tensor:
        assert self._backward is not None  # The gradient of `end` comes first.
        arrived = self._wait(self._backward)
        self._backward = None
        return arrived

    def _wait(self, underway: _Underway) -> Tensor:
        if self._gives_way:
            give_way()
        return underway.wait()


class _Underway:
    """A collective that runs, and the memory that it reads and writes."""

    def __init__(self, rows: Tensor, sent: list[int], received: list[int], group: dist.ProcessGroup) -> None:
        self._leaving = rows.contiguous()
        self.arriving = rows.new_empty(sum(received), *rows.shape[1:])
        self._work = dist.all_to_all_single(self.arriving, self._leaving, received, sent, group=group, async_op=True)

    def wait(self) -> Tensor:
        self._work.wait()
        return self.arriving


class _Begin(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, rows: Tensor, transfer: Transfer) -> Tensor:
        ctx.transfer = transfer
        return transfer._start_forward(rows)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        return ctx.transfer._finish_backward(), None


class _End(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, begun: Tensor, transfer: Transfer) -> Tensor:
        ctx.transfer = transfer
        transfer._finish_forward()
        return begun.view_as(begun)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None]:
        ctx.transfer._start_backward(grad)
        # Only a stand-in of the right shape for `_Begin`, which takes the gradient from the transfer.
        return grad, None
