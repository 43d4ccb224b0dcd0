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


@pytest.fixture(scope="module")
def ended(tmp_path_factory):
    """Of each kind of failure, all at the same time: the folder in which the ranks left what they said."""
    context, folders, processes = forked(), {}, {}
    for kind in SAYS:
        folders[kind] = tmp_path_factory.mktemp(kind)
        for rank in range(NUM_RANKS):
            args = (rank, NUM_RANKS, str(folders[kind]), kind)
            processes[kind, rank] = context.Process(target=faults.exchange_until_failure, args=args, daemon=True)
            processes[kind, rank].start()
    try:
        for (kind, rank), process in processes.items():
            if rank != faults.FAILING:
                process.join(240)
                assert process.exitcode == 1, (kind, rank)
    finally:
        for process in processes.values():
            process.kill()
            process.join()
    return folders


@pytest.mark.parametrize("kind", SAYS)
def test_the_others_end_in_time_and_name_the_rank(ended, kind):
    for rank in range(NUM_RANKS):
        if rank == faults.FAILING:
            continue
        took_s, message = (ended[kind] / f"{rank}.txt").read_text().split("\n", 1)
        assert message.startswith(SAYS[kind])
        assert message.endswith("start again from the last checkpoint, as `torchrun --max-restarts` does")
        assert float(took_s) < IN_TIME_S[kind] + faults.GRACE_S + PATIENCE_S
    if kind == "raised":
        assert (ended[kind] / "1.txt").read_text().endswith("ValueError: no such token")


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
