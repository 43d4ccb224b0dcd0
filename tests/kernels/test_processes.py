"""The kernels in several processes and threads: the same bits everywhere, and no more threads than were asked for."""

import ctypes
import os
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from headgate.kernels import experts_call, native, route
from headgate.kernels import threads as threads_module
from headgate.kernels.threads import Threads
from kernel_workers import Work, count_tasks

pytestmark = pytest.mark.skipif(native.library() is None, reason=f"no native library: {native.why_missing()}")

TESTS = str(Path(__file__).parents[1])


@pytest.fixture
def restored_threads():
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


@pytest.mark.skipif(sys.platform != "linux", reason="forks, and counts the threads of OpenMP's pool in /proc")
def test_pool_forked_children_and_forked_workers(run_fresh):
    # In one process of its own: pytest's threads would make the forks unsafe, and new Pythons warn of it.
    source = "import kernel_workers as w; w.check_pool(); w.check_forks(); w.check_loader('fork', 2)"
    assert run_fresh(source, PYTHONPATH=TESTS).splitlines() == [
        "as many threads as set",
        "forked children: same bits",
        "workers by fork: same bits",
    ]


def test_spawned_workers_get_the_same_bits(run_fresh):
    source = "import kernel_workers as w\nif __name__ == '__main__':\n    w.check_loader('spawn', 1)"
    assert run_fresh(source, PYTHONPATH=TESTS) == "workers by spawn: same bits\n"


@pytest.mark.parametrize("num_callers", [2, 4])
@pytest.mark.parametrize("whose", ["torch's", "own"])
def test_python_threads_at_once_do_not_disturb_each_other(whose, num_callers, monkeypatch, restored_threads):
    torch.set_num_threads(3)
    if whose == "own":
        monkeypatch.setattr(experts_call, "thread_pool", lambda: (0, 3))
        monkeypatch.setattr(route, "current_threads", lambda: Threads(parallel_for=None, num_threads=3))
    works = [Work(index) for index in range(num_callers)]
    alone = [work.run() for work in works]
    assert len(set(alone)) == num_callers
    start = threading.Barrier(num_callers)

    def call(work):
        start.wait()
        return [work.run() for _ in range(15)]

    with ThreadPoolExecutor(num_callers) as pool:
        together = list(pool.map(call, works))
    assert together == [[expected] * 15 for expected in alone]


def test_pytorch_number_of_threads_is_asked_for(monkeypatch, restored_threads):
    """A parallel loop in place of PyTorch's sees how many pieces the library wants, and runs them one by one."""
    body = ctypes.CFUNCTYPE(None, ctypes.c_int64, ctypes.c_int64, ctypes.c_void_p)
    seen = []

    @ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int64, ctypes.c_int64, ctypes.c_int64, body, ctypes.c_void_p)
    def run_in_turn(begin, end, grain_size, run, context):
        seen.append((begin, end, grain_size))
        for piece in range(begin, end):
            run(piece, piece + 1, context)
        return 0

    work = Work(0)
    expected = work.run()
    pool = SimpleNamespace(owner=os.getpid(), address=ctypes.cast(run_in_turn, ctypes.c_void_p).value)
    monkeypatch.setattr(threads_module, "_torch_parallel_for", lambda: pool)
    for num_threads in (1, 2, 3, 8):
        torch.set_num_threads(num_threads)
        assert work.run() == expected
        # One loop for the experts, one for the router; none at all where one thread does everything.
        assert seen == ([] if num_threads == 1 else [(0, num_threads, 1)] * 2)
        seen.clear()


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
@pytest.mark.parametrize("num_threads", [1, 2, 4])
def test_own_threads_are_as_many_as_asked_for(num_threads, monkeypatch):
    """As a forked child has them: they live as long as the call, so that another thread sees them come."""
    monkeypatch.setattr(experts_call, "thread_pool", lambda: (0, num_threads))
    monkeypatch.setattr(route, "current_threads", lambda: Threads(parallel_for=None, num_threads=num_threads))
    work, is_done = Work(0), threading.Event()

    def call():
        while not is_done.is_set():
            work.run()

    idle = count_tasks()
    caller = threading.Thread(target=call)
    caller.start()
    most = 0
    for _ in range(3000 if num_threads == 1 else 200_000):
        most = max(most, count_tasks() - idle)
        if most >= num_threads and num_threads > 1:
            break
    is_done.set()
    caller.join()
    assert most == num_threads
