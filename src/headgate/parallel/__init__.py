"""Expert parallelism on torch.distributed: experts spread over ranks, tokens sent to them and back."""

from headgate.parallel.batch import share_batch
from headgate.parallel.checkpoint import Resumed, latest_checkpoint, load_checkpoint, save_checkpoint
from headgate.parallel.exchange import Traffic
from headgate.parallel.failures import name_failed_ranks
from headgate.parallel.gradients import average_gradients, clip_grad_norm_, group_by_mesh
from headgate.parallel.launch import join_ranks, on_first_rank
from headgate.parallel.relayout import relayout
from headgate.parallel.style import ExpertParallel
from headgate.parallel.traffic import measure_traffic
from headgate.parallel.turns import run_in_turns

__all__ = [
    "ExpertParallel",
    "Resumed",
    "Traffic",
    "average_gradients",
    "clip_grad_norm_",
    "group_by_mesh",
    "join_ranks",
    "latest_checkpoint",
    "load_checkpoint",
    "measure_traffic",
    "name_failed_ranks",
    "on_first_rank",
    "relayout",
    "run_in_turns",
    "save_checkpoint",
    "share_batch",
]
