"""Expert parallelism on torch.distributed: experts spread over ranks, tokens sent to them and back."""

from headgate.parallel.batch import share_batch
from headgate.parallel.exchange import Traffic
from headgate.parallel.gradients import clip_grad_norm_, group_by_mesh
from headgate.parallel.relayout import relayout
from headgate.parallel.style import ExpertParallel
from headgate.parallel.traffic import measure_traffic

__all__ = [
    "ExpertParallel",
    "Traffic",
    "clip_grad_norm_",
    "group_by_mesh",
    "measure_traffic",
    "relayout",
    "share_batch",
]
