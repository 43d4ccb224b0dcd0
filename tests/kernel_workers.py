"""What processes and threads run in tests/kernels/test_processes.py. A module of its own, so that a spawned process can
import it."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import torch
from torch.utils.data import DataLoader, Dataset

from expert_problems import SPECS, arguments_of, make_problem
from headgate import RouterSpec
from headgate.kernels.experts import experts
from headgate.kernels.route import route_native
from headgate.nn.native_route import make_formula

MOST_SECONDS = 60  # A worker that hangs is ended, so that its test fails.


class Work:
    """Experts and a router with enough to do for several threads; its result is bytes."""

    def __init__(self, index: int) -> None:
        problem = make_problem((200 + index, 96, 64, 4, 2), SPECS["gpt_oss"], torch.bfloat16)
        self.arguments = arguments_of(problem)
        generator = torch.Generator().manual_seed(index)
        weight = torch.randn(64, 96, generator=generator).bfloat16()
        self.routed = (problem.x, weight, None, None, make_formula(RouterSpec(num_experts=64, top_k=4)))

    def run(self) -> bytes:
        tensors = [experts(*self.arguments).view(torch.int16), *route_native(*self.routed)]
        return b"".join(tensor.numpy().tobytes() for tensor in tensors)


class Outcomes(Dataset[bytes]):
    """Each item is computed where it is asked for."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, index: int) -> bytes:
        return Work(index).run()


def run_in_fork(work: Work) -> bytes:
    """The result of a child process that has this one's memory, but none of its threads."""
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        signal.alarm(MOST_SECONDS)
        with os.fdopen(write, "wb") as pipe:
            pipe.write(work.run())
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        result = pipe.read()
    assert os.waitpid(child, 0)[1] == 0
    return result


def check_forks() -> None:
    """Children of a process that used the kernels with four threads get its bits, and do not disturb it."""
    torch.set_num_threads(4)
    work = Work(0)
    before = work.run()
    assert all(run_in_fork(work) == before for _ in range(2))
    assert work.run() == before
    torch.set_num_threads(1)
    assert run_in_fork(work) == before
    print("forked children: same bits")


def check_loader(context: str, num_workers: int) -> None:
    """Workers of a DataLoader get the bits of the process that has them."""
    torch.set_num_threads(4)
    here = [Work(index).run() for index in range(len(Outcomes()))]
    loader = DataLoader(
        Outcomes(), batch_size=None, num_workers=num_workers, multiprocessing_context=context, timeout=MOST_SECONDS
    )
    assert list(loader) == here
    print(f"workers by {context}: same bits")


def count_tasks() -> int:
    """The threads of this process, as the system counts them."""
    return len(list(Path("/proc/self/task").iterdir()))


def check_pool() -> None:
    """PyTorch's pool grows to the number of threads that was set, and no further; for a fresh process on Linux."""
    torch.set_num_threads(1)
    work = Work(0)
    work.run()
    alone = count_tasks()
    for num_threads in (2, 3, 5):  # rising, since threads that are let go may take a while to end
        torch.set_num_threads(num_threads)
        work.run()
        assert count_tasks() == alone + num_threads - 1, (alone, num_threads, count_tasks())
    print("as many threads as set")
