"""What each rank of a demo run under torchrun does of it; one process alone does it all."""

from __future__ import annotations

from pathlib import Path

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor.parallel import parallelize_module

from headgate.demo.config import DemoConfig
from headgate.demo.corpus import Corpus, held_out_pieces
from headgate.demo.model import is_routed
from headgate.demo.record import record_routings
from headgate.demo.tokenizer import Tokenizer
from headgate.nn import tap
from headgate.observe.merge import merge_files
from headgate.observe.reader import open_trace
from headgate.observe.writer import save_trace
from headgate.parallel.gradients import average_gradients, clip_grad_norm_
from headgate.parallel.launch import num_ranks, on_first_rank, rank
from headgate.parallel.style import ExpertParallel


def spread_experts(model: nn.Module, config: DemoConfig) -> None:
    """Give each rank its part of every layer's experts; nothing for one rank, or a dense model."""
    if num_ranks() > 1 and is_routed(model):
        device_type = torch.device(config.training.device).type
        mesh = init_device_mesh(device_type, (num_ranks(),), mesh_dim_names=("ep",))
        parallelize_module(model, mesh["ep"], {"layers.*.moe": ExpertParallel()})


def share_of(sequences: Tensor) -> Tensor:
    """This rank's sequences of a batch: the ranks' shares, in rank order, are the batch."""
    return sequences.tensor_split(num_ranks())[rank()]


def sum_over_ranks(value: Tensor) -> Tensor:
    """Add up what the ranks have."""
    if num_ranks() > 1:
        dist.all_reduce(value)
    return value


def settle_gradients(model: nn.Module, max_norm: float) -> Tensor:
    """Make every rank's gradients those of the whole batch, no longer than a norm; return the norm before."""
    if num_ranks() > 1:
        average_gradients(model)
    return clip_grad_norm_(model, max_norm)


def agree_to_stop(wants_to: bool, *, device: str) -> bool:
    """Whether any rank was asked to stop; the device is the one whose tensors the ranks exchange."""
    return bool(sum_over_ranks(torch.tensor(int(wants_to), device=device)))


def record_held_out(path: Path, model: nn.Module, corpus: Corpus, tokenizer: Tokenizer, config: DemoConfig) -> None:
    """Write the trace of the held-out text: each rank records its part of it, and rank 0 merges them in rank order.

    Args:
        path: of the trace.
        model: with its experts on the ranks, in evaluation mode.
        corpus: whose held-out text to use.
        tokenizer: of that text.
        config: of the run.

    Raises:
        ArtifactError: a file can't be written.
    """
    shares = held_out_pieces(corpus, config.training.sequence_length).tensor_split(num_ranks())
    part, size = _part_path(path, rank()), config.training.batch_size
    with tap(model) as tape, torch.inference_mode():
        # As many passes on each rank: whoever has run out of text may still have experts that others need.
        for start in range(0, len(shares[0]), size):
            model(shares[rank()][start : start + size, :-1].to(config.training.device))
    save_trace(part, record_routings(model, tape, shares[rank()], tokenizer, config))
    if num_ranks() > 1:
        dist.barrier()
    on_first_rank(lambda: _merge_parts(path))


def _merge_parts(path: Path) -> None:
    parts = [_part_path(path, number) for number in range(num_ranks())]
    merge_files([open_trace(part) for part in parts], path, by="tokens", overwrite=True)
    for part in parts:
        part.unlink()


def _part_path(path: Path, number: int) -> Path:
    return path.with_name(f".{path.stem}.rank{number}{path.suffix}")
