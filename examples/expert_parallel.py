"""Train a small Mixture-of-Experts model with its experts spread over processes.

    torchrun --nproc-per-node 2 --max-restarts 3 examples/expert_parallel.py runs/parallel

Each process has its own half of every batch and its own half of the experts; a token travels to the processes that own
its experts, and back. Kill one (`kill -9`): torchrun starts all again, and they go on from the last checkpoint with the
very bits they would have had. On GPUs, `--device cuda`.
"""

import argparse

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor.parallel import parallelize_module

import headgate
from headgate import parallel

D, BATCH = 32, 64


class Model(nn.Module):
    """Two routed layers on a residual stream."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.ModuleList(headgate.MoE(D, 64, num_experts=8, top_k=2, balance="bias") for _ in range(2))

    def forward(self, x: Tensor) -> Tensor:
        """Run the layers on x [T, D]."""
        for layer in self.layers:
            x = x + layer(x)
        return x


def make_batch(step: int) -> tuple[Tensor, Tensor]:
    """Inputs and targets of one step, the same whoever asks: a permutation of the features is to be learnt."""
    x = torch.randn(BATCH, D, generator=torch.Generator().manual_seed(step))
    return x, x.roll(1, dims=-1)


def main() -> None:
    """Train, and save now and then."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", help="where checkpoints go; a run that is there goes on")
    parser.add_argument("--steps", type=int, default=100)
    parser.add_argument("--save-every", type=int, default=10, metavar="STEPS")
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    with parallel.join_ranks(options.device, timeout_s=60):
        rank, num_ranks = dist.get_rank(), dist.get_world_size()
        mesh = dist.init_device_mesh(options.device, (num_ranks,), mesh_dim_names=("ep",))
        torch.manual_seed(0)  # The same weights everywhere; then each rank keeps its experts.
        model = Model().to(options.device)
        parallelize_module(model, mesh["ep"], {"layers.*": parallel.ExpertParallel()})
        groups = parallel.group_by_mesh(model.parameters())
        optimizer = torch.optim.AdamW([{"params": parameters} for parameters in groups], lr=1e-2)
        headgate.attach_balance(model, optimizer)
        saved = parallel.latest_checkpoint(options.folder)
        first = 0 if saved is None else parallel.load_checkpoint(saved, model, optimizer).step
        for step in range(first, options.steps):
            x, target = (part.tensor_split(num_ranks)[rank].to(options.device) for part in make_batch(step))
            # This rank's part of the batch's mean, times the ranks that it is averaged over; they may share unevenly.
            loss = (model(x) - target).square().sum() * (num_ranks / (BATCH * D))
            loss.backward()
            parallel.average_gradients(model)
            optimizer.step()
            optimizer.zero_grad()
            dist.all_reduce(mean := loss.detach() / num_ranks)
            if rank == 0:
                print(f"step {step + 1} loss {mean.item():.9f}", flush=True)
            if (step + 1) % options.save_every == 0:
                parallel.save_checkpoint(options.folder, model, optimizer, step=step + 1)


if __name__ == "__main__":
    main()
