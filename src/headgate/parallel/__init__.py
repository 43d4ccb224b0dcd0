"""Expert parallelism on torch.distributed: experts spread over ranks, tokens sent to them and back."""

from headgate.parallel.exchange import Traffic
from headgate.parallel.relayout import relayout
from headgate.parallel.style import ExpertParallel
from headgate.parallel.traffic import measure_traffic

__all__ = ["ExpertParallel", "Traffic", "measure_traffic", "relayout"]
