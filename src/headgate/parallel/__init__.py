"""Expert parallelism on torch.distributed: experts spread over ranks, tokens sent to them and back."""

from headgate.parallel.style import ExpertParallel

__all__ = ["ExpertParallel"]
