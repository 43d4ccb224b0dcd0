"""A rank that is killed, hangs or raises: the others end in time, and name it. Real processes, real signals."""

from datetime import timedelta

import pytest
import torch.distributed as dist

from headgate.errors import InputError
from headgate.parallel.failures import Board, explain_blame, name_failed_ranks
from parallel import faults
from parallel.ranks import forked

NUM_RANKS = 3
# On a machine where much else runs; a hang would take for ever.
PATIENCE_S = 30.0
IN_TIME_S = {"killed": faults.TIMEOUT_S, "stopped": 2 * faults.TIMEOUT_S, "raised": faults.TIMEOUT_S}
SAYS = {
    "killed": "RankError: rank 1 was killed or hangs: it has not answered for 0.5 s (torch says: ",
    "stopped": "RankError: rank 1 was killed or hangs: it has not answered for 0.5 s (torch says: ",
    "raised": "RankError: rank 1 raised ValueError: no such token (torch says: ",
}


@pytest.mark.parametrize("kind", ["killed", "stopped", "raised"])
def test_the_others_end_in_time_and_name_the_rank(tmp_path, kind):
    context = forked()
    processes = [
        context.Process(target=faults.exchange_until_failure, args=(rank, NUM_RANKS, str(tmp_path), kind), daemon=True)
        for rank in range(NUM_RANKS)
    ]
    for process in processes:
        process.start()
    others = [rank for rank in range(NUM_RANKS) if rank != faults.FAILING]
    try:
        for rank in others:
            processes[rank].join(240)
            assert processes[rank].exitcode == 1
    finally:
        for process in processes:
            process.kill()
            process.join()
    for rank in others:
        took_s, message = (tmp_path / f"{rank}.txt").read_text().split("\n", 1)
        assert message.startswith(SAYS[kind])
        assert message.endswith("start again from the last checkpoint, as `torchrun --max-restarts` does")
        assert float(took_s) < IN_TIME_S[kind] + faults.GRACE_S + PATIENCE_S
    if kind == "raised":
        assert (tmp_path / "1.txt").read_text().endswith("ValueError: no such token")


def test_the_first_to_come_to_a_verdict_speaks_for_all():
    store = dist.HashStore()
    boards = [Board(store, rank, 3) for rank in range(3)]
    assert boards[2].blame(0.0) == {0: None, 1: None}
    boards[1].report("ValueError: late")
    assert boards[1].blame(0.0) == {0: None, 1: None}
    boards[1].clear()
    boards[1].report("ValueError: x")
    assert boards[2].blame(60.0) == {1: "ValueError: x"}


def test_ranks_that_all_answer_blame_the_network():
    store = dist.HashStore()
    boards = [Board(store, rank, 2) for rank in range(2)]
    boards[1].report("lost")
    assert boards[0].blame(60.0) == {}
    assert str(explain_blame({}, "a port", 1.0)) == (
        "a collective failed although every rank answers (a port); look at the network, and start again from the last "
        "checkpoint, as `torchrun --max-restarts` does"
    )


def test_a_store_that_is_gone_tells_who_kept_it():
    listener = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    client = dist.TCPStore("127.0.0.1", listener.port, is_master=False, timeout=timedelta(seconds=2))
    board = Board(client, 1, 2)
    board.clear()
    del listener
    blamed = board.blame(0.0)
    assert "rank 0 ended, or the process that keeps the ranks' store did (torch says: a port)" in str(
        explain_blame(blamed, "a port", 1.0)
    )


def test_it_needs_a_group():
    with (
        pytest.raises(InputError, match=r"not initialised.*call init_process_group first"),
        name_failed_ranks(),
    ):
        pass
