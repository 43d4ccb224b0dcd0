"""Join the ranks that torchrun started, and let the first of them do what only one should."""

from __future__ import annotations

import atexit
import gc
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore
from torch.distributed.rendezvous import rendezvous

from headgate.errors import HeadgateError
from headgate.parallel.failures import name_failed_ranks

_Value = TypeVar("_Value")
_LEAVE_S = 0.1
"""A thousand times what a thread needs to drop a tensor."""


def rank() -> int:
    """This process among the ranks; 0 without torch.distributed."""
    return dist.get_rank() if dist.is_initialized() else 0


def num_ranks() -> int:
    """W; 1 without torch.distributed."""
    return dist.get_world_size() if dist.is_initialized() else 1


def gather_from_ranks(value: _Value, group: dist.ProcessGroup | None = None) -> list[_Value]:
    """What each rank of a group has, by rank; its own alone without torch.distributed.

    Args:
        value: can be pickled.
        group: None = all; every one of its ranks must call this.

    Example:
        >>> gather_from_ranks(3)
        [3]
    """
    if not dist.is_initialized():
        return [value]
    found: list[Any] = [None] * dist.get_world_size(group)
    dist.all_gather_object(found, value, group=group)
    return found


@contextmanager
def join_ranks(device_type: str = "cpu", *, timeout_s: float = 600.0) -> Iterator[None]:
    """Be one of torchrun's ranks within the block: gloo on CPUs, NCCL on GPUs. A process of its own stays alone.

    Args:
        device_type: "cpu", or "cuda", where each rank gets the GPU of its local number.
        timeout_s: how long a collective waits for a rank that hangs.

    Raises:
        RankError: another rank was killed, hangs or raised; see `name_failed_ranks`.

    Example:
        >>> with join_ranks():
        ...     rank(), num_ranks()
        (0, 1)
    """
    if not dist.is_torchelastic_launched():
        yield
        return
    if device_type == "cuda":
        torch.cuda.set_device(int(os.environ["LOCAL_RANK"]))
    backend, timeout = "nccl" if device_type == "cuda" else "gloo", timedelta(seconds=timeout_s)
    store, number, size = next(rendezvous("env://", timeout=timeout))
    # torchrun keeps one store over its restarts: under the same names a rank may find where another listened before.
    own_store = PrefixStore(f"headgate/attempt-{os.environ['TORCHELASTIC_RESTART_COUNT']}", store)
    dist.init_process_group(backend, store=own_store, rank=number, world_size=size, timeout=timeout)
    with name_failed_ranks():
        yield
    # Not after a failure: the others may not be there to take leave of.
    dist.destroy_process_group()
    atexit.register(_let_threads_end)


def _let_threads_end() -> None:
    """Let gloo's threads drop the last tensors of Python's while there is an interpreter.

    One that does so later kills a process that has done all its work: https://github.com/pytorch/pytorch/pull/179291.
    What is collected here takes its threads along; those of a group that is still referred to get time instead.
    """
    gc.collect()
    time.sleep(_LEAVE_S)


def on_first_rank(work: Callable[[], _Value]) -> _Value:
    """Let rank 0 do something, and all ranks have its result, or its error.

    Args:
        work: called on rank 0 alone, so it must call no collective; its result can be pickled.

    Raises:
        HeadgateError: what rank 0 raised, on all ranks.

    Example:
        >>> on_first_rank(lambda: 3)
        3
    """
    if not dist.is_initialized():
        return work()
    outcome: list[Any] = [None]
    if dist.get_rank() == 0:
        try:
            outcome = [work()]
        except HeadgateError as error:
            outcome = [error]
    dist.broadcast_object_list(outcome, src=0)
    if isinstance(outcome[0], HeadgateError):
        raise outcome[0]
    value: _Value = outcome[0]
    return value
