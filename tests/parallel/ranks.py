"""Processes that stay for the whole test session and run a test's function as the ranks of a gloo group.

A start of Python and torch takes seconds, and is made once: all are forked from one process that has imported what
they need, in milliseconds, and a call of processes that are there takes no longer.
"""

from __future__ import annotations

import os
import pickle
import time
import traceback
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from multiprocessing import get_context
from multiprocessing.connection import Connection, wait
from multiprocessing.context import ForkServerContext
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

COLLECTIVE_TIMEOUT_S = 240
# A rank whose peer failed sits in a collective; what it would say at last is not worth waiting for.
GRACE_S = 1
# Installed packages alone: the process that is forked from does not know the folder of the tests.
PRELOADED = [
    "headgate.parallel",
    "headgate.demo.run",
    "headgate.integrations.transformers",
    "torch.distributed.fsdp",
    "torch._dynamo",
    "transformers.models.mixtral.modeling_mixtral",
]


def forked() -> ForkServerContext:
    """Make processes of a fork of one that has imported torch and headgate."""
    context = get_context("forkserver")
    context.set_forkserver_preload(PRELOADED)
    return context


class RanksError(AssertionError):
    """What went wrong on which rank: a traceback each, or that nothing came back in time."""


class Ranks:
    """Processes, started at the first call that needs them.

    Args:
        folder: where the groups meet; made and removed by the caller.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._workers: list[Any] = []
        self._pipes: list[Connection] = []
        # Calls for the same number of ranks in a row share a group; each group meets at a file of its own.
        self._num_ranks, self._num_groups = 0, 0
        self._is_underway = False

    def run(self, num_ranks: int, function: Callable[..., Any], *args: Any, timeout_s: float = 300) -> list[Any]:
        """Call `function(*args)` on every rank of a gloo group of `num_ranks`; return what each returned, by rank.

        Args:
            num_ranks: W.
            function: a function at the top of a module that can be imported (`parallel.NAME` for `tests/parallel`).
            args: the same for all; `dist.get_rank()` tells the ranks apart.
            timeout_s: for all of it; long, for machines where much else runs.

        Raises:
            RanksError: a rank raised or did not answer; then all are replaced.
        """
        return self.begin(num_ranks, function, *args, timeout_s=timeout_s)()

    def begin(
        self, num_ranks: int, function: Callable[..., Any], *args: Any, timeout_s: float = 300
    ) -> Callable[[], list[Any]]:
        """Start what `run` does; the function that is returned waits for it. Meanwhile this process can do its part."""
        if self._is_underway:  # What was begun before, nobody waited for.
            self.stop()
        for rank in range(len(self._workers), num_ranks):
            self._start(rank)
        if num_ranks != self._num_ranks:
            self._num_ranks, self._num_groups = num_ranks, self._num_groups + 1
        place = (self._folder / f"group{self._num_groups}").as_uri()
        call = pickle.dumps((place, num_ranks, function, args))
        for pipe in self._pipes[:num_ranks]:
            pipe.send_bytes(call)
        self._is_underway = True
        return partial(self._finish, num_ranks, time.monotonic() + timeout_s)

    def _finish(self, num_ranks: int, deadline: float) -> list[Any]:
        answers = self._collect(num_ranks, deadline)
        self._is_underway = False
        failures = [f"rank {rank}: {answers[rank][1]}" for rank in sorted(answers) if not answers[rank][0]]
        silent = [f"rank {rank}: no answer" for rank in range(num_ranks) if rank not in answers]
        if silent:
            self.stop()
        if failures or silent:
            self._num_ranks = 0
            raise RanksError("\n".join(failures + silent))
        return [answers[rank][1] for rank in range(num_ranks)]

    def _collect(self, num_ranks: int, deadline: float) -> dict[int, tuple[bool, Any]]:
        answers: dict[int, tuple[bool, Any]] = {}
        waiting = dict(zip(self._pipes[:num_ranks], range(num_ranks), strict=True))
        while waiting and (left := deadline - time.monotonic()) > 0:
            for pipe in wait(list(waiting), left):
                assert isinstance(pipe, Connection)
                rank = waiting.pop(pipe)
                try:
                    answers[rank] = pickle.loads(pipe.recv_bytes())
                except EOFError:
                    answers[rank] = (False, "the process ended")
                if not answers[rank][0]:
                    deadline = min(deadline, time.monotonic() + GRACE_S)
        return answers

    def _start(self, rank: int) -> None:
        context = forked()
        ours, theirs = context.Pipe()
        worker = context.Process(target=serve, args=(rank, theirs), daemon=True)
        worker.start()
        theirs.close()
        self._workers.append(worker)
        self._pipes.append(ours)

    def stop(self) -> None:
        """End the processes; the next `run` starts others."""
        for pipe in self._pipes:
            pipe.close()
        deadline = time.monotonic() + GRACE_S
        for worker in self._workers:
            worker.join(max(0.0, deadline - time.monotonic()))
            if worker.is_alive():
                worker.kill()
                worker.join()
        self._workers, self._pipes, self._num_ranks, self._is_underway = [], [], 0, False


def serve(rank: int, pipe: Connection) -> None:
    """Answer calls until the other end closes the pipe."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    joined = ""
    while True:
        try:
            place, num_ranks, function, args = pickle.loads(pipe.recv_bytes())
        except EOFError:
            break
        try:
            if place != joined:
                _join_group(place, rank, num_ranks)
                joined = place
            answer = (True, function(*args))
        except Exception:  # noqa: BLE001  Whatever the function raises is the test's to see.
            answer = (False, traceback.format_exc())
        pipe.send_bytes(pickle.dumps(answer))


def _join_group(place: str, rank: int, num_ranks: int) -> None:
    """Leave the old default group, and all that tests made in it, for one that meets at `place`."""
    if dist.is_initialized():
        dist.destroy_process_group()
    timeout = timedelta(seconds=COLLECTIVE_TIMEOUT_S)
    dist.init_process_group("gloo", init_method=place, rank=rank, world_size=num_ranks, timeout=timeout)
