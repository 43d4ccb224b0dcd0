"""Expert parallelism on torch.distributed: experts spread over ranks, tokens sent to them and back."""

from headgate.parallel.checkpoint import Resumed, latest_checkpoint, load_checkpoint, save_checkpoint
from headgate.parallel.failures import name_failed_ranks
from headgate.parallel.gradients import average_gradients, clip_gradients
from headgate.parallel.launch import join_ranks, on_first_rank
from headgate.parallel.style import ExpertParallel

__all__ = [
    "ExpertParallel",
    "Resumed",
    "average_gradients",
    "clip_gradients",
    "join_ranks",
    "latest_checkpoint",
    "load_checkpoint",
    "name_failed_ranks",
    "on_first_rank",
    "save_checkpoint",
]
