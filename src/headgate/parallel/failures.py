"""Say which rank failed, where torch's own message names a port or a timeout."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass

import torch.distributed as dist
from torch.distributed.distributed_c10d import PrefixStore, Store, _get_default_store

from headgate.errors import InputError, RankError

_KEYS = "headgate/failures"
_VERDICT = "verdict"
_LOST = "lost"
"""What a rank reports that lost another, rather than failed itself."""

_POLL_S = 0.05
_LINGER_S = 0.5
"""Rank 0 may keep the store, so it stays until the others have read the verdict, ten polls long."""

_STORE_IS_GONE = "ended, or the process that keeps the ranks' store did"


@contextmanager
def name_failed_ranks(*, grace_s: float = 3.0) -> Iterator[None]:
    """Name the rank to blame where a collective within the block fails on this one.

    Put it around the training loop, on every rank. A rank that is killed ends the others' collectives at once, one
    that hangs does so after the timeout of the process group (`init_process_group(timeout=...)`). Each rank that is
    left then says so in the group's store, and whoever says nothing for `grace_s` seconds is named. An exception on
    one rank leaves the block as it is; the others' error quotes it.

    Args:
        grace_s: how long to wait for the ranks that have not answered. Longer than ranks differ in a step.

    Raises:
        InputError: torch.distributed is not initialised.
        RankError: another rank was killed, hangs or raised; which one, and what.

    Example:
        >>> from torch.distributed import HashStore, destroy_process_group, init_process_group
        >>> init_process_group("gloo", store=HashStore(), rank=0, world_size=1)
        >>> with name_failed_ranks():
        ...     dist.barrier()
        >>> destroy_process_group()
    """
    if not dist.is_initialized():
        raise InputError("torch.distributed (=not initialised) must be up; call init_process_group first")
    board = Board(PrefixStore(_KEYS, _get_default_store()), dist.get_rank(), dist.get_world_size())
    board.clear()
    try:
        yield
    except BaseException as error:
        reason = _first_line(error)
        if not _is_lost_peer(error):
            with suppress(dist.DistError):
                board.report(f"{type(error).__name__}: {reason}")
            raise
        raise explain_blame(board.blame(grace_s), reason, grace_s) from error


@dataclass(frozen=True, slots=True)
class Board:
    """Where each rank leaves its report for the others.

    Attributes:
        store: that all ranks see.
        rank: this one.
        num_ranks: W.
    """

    store: Store
    rank: int
    num_ranks: int

    def clear(self) -> None:
        """Take back what this rank said, and the verdict: another attempt begins."""
        self.store.delete_key(str(self.rank))
        self.store.delete_key(_VERDICT)

    def report(self, text: str) -> None:
        """Leave this rank's report."""
        self.store.set(str(self.rank), text)

    def blame(self, grace_s: float) -> dict[int, str | None]:
        """Report that another rank was lost, and find out which: each with what it raised, None = it said nothing."""
        try:
            self.report(_LOST)
            verdict = self._await_verdict(time.monotonic() + grace_s)
            if self.rank == 0:
                time.sleep(_LINGER_S)
        except dist.DistError:
            return {0: _STORE_IS_GONE}
        return verdict

    def _await_verdict(self, deadline: float) -> dict[int, str | None]:
        while not self.store.check([_VERDICT]):
            reports = {rank: self._read(rank) for rank in range(self.num_ranks)}
            raised = {rank: text for rank, text in reports.items() if text not in (None, _LOST)}
            silent = {rank: None for rank, text in reports.items() if text is None}
            if raised or not silent or time.monotonic() > deadline:
                self.store.set(_VERDICT, json.dumps(raised or silent))
                break
            time.sleep(_POLL_S)
        # One verdict for all: the first to come to one speaks for the others.
        found: Mapping[str, str | None] = json.loads(self.store.get(_VERDICT))
        return {int(rank): text for rank, text in found.items()}

    def _read(self, rank: int) -> str | None:
        return self.store.get(str(rank)).decode() if self.store.check([str(rank)]) else None


def _is_lost_peer(error: BaseException) -> bool:
    """Whether an error came from a collective; gloo's are plain RuntimeErrors with its source file in front."""
    return isinstance(error, dist.DistError) or (isinstance(error, RuntimeError) and "gloo" in str(error))


def _first_line(error: BaseException) -> str:
    return (str(error).splitlines() or [""])[0]


def explain_blame(blamed: Mapping[int, str | None], reason: str, grace_s: float) -> RankError:
    """Put a verdict, and torch's own reason, into an error."""
    remedy = "start again from the last checkpoint, as `torchrun --max-restarts` does"
    if not blamed:
        return RankError(
            f"a collective failed although every rank answers ({reason}); look at the network, and {remedy}"
        )
    said = "; ".join(
        f"rank {rank} was killed or hangs: it has not answered for {grace_s:g} s"
        if text is None
        else f"rank {rank} {text if text == _STORE_IS_GONE else f'raised {text}'}"
        for rank, text in sorted(blamed.items())
    )
    return RankError(f"{said} (torch says: {reason}); look at that rank's log, and {remedy}")
