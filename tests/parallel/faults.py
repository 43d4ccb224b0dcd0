"""What the ranks of the fault tests run: one of them fails in its third step, the others should say so."""

import os
import signal
import time
from datetime import timedelta
from pathlib import Path

import torch
import torch.distributed as dist

from headgate.parallel.failures import name_failed_ranks

TIMEOUT_S = 3.0
GRACE_S = 0.5
FAILING = 1


def exchange_until_failure(rank: int, num_ranks: int, folder: str, kind: str) -> None:
    """Step until rank 1 fails; every other rank leaves `<rank>.txt` with its error and how long it took."""
    torch.set_num_threads(1)
    os.environ["GLOO_SOCKET_IFNAME"] = "lo"
    dist.init_process_group(
        "gloo",
        init_method=(Path(folder) / "store").as_uri(),
        rank=rank,
        world_size=num_ranks,
    )
    # Only now a short one: the ranks of a busy machine do not all start within it.
    dist.barrier()
    group = dist.new_group(timeout=timedelta(seconds=TIMEOUT_S))
    dist.barrier(group)
    began = 0.0
    try:
        with name_failed_ranks(grace_s=GRACE_S):
            for step in range(4):
                began = time.monotonic()
                if step == 2 and rank == FAILING:
                    fail(kind)
                dist.all_to_all_single(torch.empty(num_ranks), torch.ones(num_ranks), group=group)
    except Exception as error:
        took_s = time.monotonic() - began
        (Path(folder) / f"{rank}.txt").write_text(f"{took_s}\n{type(error).__name__}: {error}")
        raise SystemExit(1) from error


def fail(kind: str) -> None:
    if kind == "killed":
        os.kill(os.getpid(), signal.SIGKILL)
    elif kind == "stopped":
        os.kill(os.getpid(), signal.SIGSTOP)
    else:
        raise ValueError("no such token")
