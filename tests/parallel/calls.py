"""What the ranks run in the tests of the harness."""

import torch
import torch.distributed as dist


def add_over_ranks(factor: int) -> tuple[int, int]:
    value = torch.tensor(dist.get_rank() * factor)
    dist.all_reduce(value)
    return dist.get_rank(), int(value)


def fail_on(rank: int) -> None:
    if dist.get_rank() == rank:
        raise ValueError("no good")
    dist.barrier()
