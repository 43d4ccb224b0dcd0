"""`write_routing`: routing in TensorBoard, for a training loop of one's own."""

from __future__ import annotations

from collections.abc import Mapping

from headgate.errors import BackendError

try:
    from torch.utils.tensorboard import SummaryWriter
except ImportError as error:
    raise BackendError(
        "write_routing needs tensorboard; install it with: pip install 'headgate[tensorboard]'"
    ) from error


def write_routing(writer: SummaryWriter, values: Mapping[str, float], *, step: int) -> None:
    """Write the numbers of one logging step, each as a scalar under its own name.

    Args:
        writer: of `torch.utils.tensorboard`.
        values: of `RoutingMonitor.read` or `routing_values`; their number is bounded.
        step: of the optimizer.

    Example:
        >>> import tempfile, torch, headgate
        >>> from headgate.integrations.monitor import RoutingMonitor
        >>> layer = headgate.MoE(8, 16, num_experts=4, top_k=2)
        >>> with tempfile.TemporaryDirectory() as folder, SummaryWriter(folder) as writer:
        ...     with RoutingMonitor(layer) as monitor:
        ...         _ = layer(torch.randn(3, 8))
        ...         monitor.fold()
        ...         write_routing(writer, monitor.read(), step=1)
    """
    for name, value in values.items():
        writer.add_scalar(name, value, global_step=step)
