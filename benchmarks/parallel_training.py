"""The claim: a training run on W ranks, with the experts spread over them, has the losses of one process to rounding.

A small language model (`support/parallel_run.py`: two routed layers of 8 experts) trains on 1 to 4 gloo processes of
this machine, for four routers and with the other parameters under DDP, under FSDP2, and with FSDP2 on a mesh of two
dimensions (of 4), where experts are spread over one and sharded over the other. Every run is made twice: the same bits.
Three ranks have 3, 3 and 2 of the 8 sequences. On the mesh of two dimensions each row of ranks has a batch of its own,
as one process has with two accumulated batches.

    python benchmarks/parallel_training.py                      # 100 steps in float32
    python benchmarks/parallel_training.py --steps 10 --ranks 2
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

import torch
import torch.distributed as dist
import torch.multiprocessing as mp
from support.parallel_run import ARRANGEMENTS, RECIPES, Arrangement, train_on_rank, train_whole
from support.report import publish

Runs = dict[tuple[str, Arrangement], tuple[list[float], list[float]]]
"""Losses of both runs, by recipe and arrangement."""


def train_all(rank: int, num_ranks: int, steps: int, folder: str) -> None:
    """Every recipe in every arrangement, twice; rank 0 leaves the losses in the folder."""
    torch.set_num_threads(1)
    place = Path(folder) / f"group-of-{num_ranks}"
    dist.init_process_group("gloo", init_method=place.as_uri(), rank=rank, world_size=num_ranks)
    runs: Runs = {}
    for name, recipe in RECIPES.items():
        for arrangement in ARRANGEMENTS[: 3 if num_ranks == 4 else 2]:
            first, second = (train_on_rank(recipe, arrangement, steps=steps, dtype=torch.float32) for _ in range(2))
            runs[name, arrangement] = first, second
    if rank == 0:
        torch.save(runs, Path(folder) / f"runs-of-{num_ranks}.pt")
    dist.destroy_process_group()


def compare(runs: Runs, num_ranks: int, steps: int) -> list[list[object]]:
    """One row for each run."""
    table: list[list[object]] = []
    for (name, arrangement), (first, second) in runs.items():
        num_batches = 2 if arrangement == "fsdp_2d" else 1
        whole = train_whole(RECIPES[name], steps=steps, num_batches=num_batches, dtype=torch.float32)
        difference = max(abs(a - b) for a, b in zip(first, whole, strict=True))
        table.append([name, arrangement, num_ranks, whole[0], whole[-1], difference, first == second])
    return table


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--ranks", type=int, nargs="+", default=[1, 2, 3, 4])
    options = parser.parse_args()
    torch.set_num_threads(1)
    table: list[list[object]] = []
    with tempfile.TemporaryDirectory() as folder:
        for num_ranks in options.ranks:
            arguments = (num_ranks, options.steps, folder)
            mp.start_processes(train_all, args=arguments, nprocs=num_ranks, start_method="spawn")
            runs = torch.load(Path(folder) / f"runs-of-{num_ranks}.pt")
            table += compare(runs, num_ranks, options.steps)
    columns = ["router", "others", "ranks", "first loss", "last loss", "largest difference", "same bits twice"]
    title = f"Losses of {options.steps} steps, float32, against one process"
    publish("parallel_training", title, columns, table, steps=options.steps)


if __name__ == "__main__":
    main()
