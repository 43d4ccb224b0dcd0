"""What each process of the data-parallel test runs. A module of its own, so that a spawned process can import it."""

import os
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

import headgate
from headgate.balance import Balance

D, F, E, K = 8, 12, 6, 2


def make_layer(**options: Any) -> headgate.MoE:
    torch.manual_seed(0)
    return headgate.MoE(D, F, num_experts=E, top_k=K, dtype=torch.float64, **options)


def task_loss(y: torch.Tensor) -> torch.Tensor:
    return y.square().mean()


def train_on_rank(rank: int, port: int, x: torch.Tensor, folder: str) -> None:
    """One step of rank `rank` of 2 on x[rank]; its gradients and its selection bias go to a file in `folder`."""
    os.environ.update(MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
    torch.set_num_threads(1)
    dist.init_process_group("gloo", rank=rank, world_size=2)
    layer = make_layer(balance=Balance(switch=0.2, global_batch=0.3, bias_rate=0.01))
    model = nn.parallel.DistributedDataParallel(layer)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    headgate.attach_balance(model, optimizer)
    task_loss(model(x[rank])).backward()
    optimizer.step()
    state = {"bias": layer.router.selection_bias, **{n: p.grad for n, p in layer.named_parameters()}}
    torch.save(state, f"{folder}/rank{rank}.pt")
    dist.destroy_process_group()
