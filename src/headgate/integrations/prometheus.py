"""`RoutingGauges`: routing as Prometheus metrics, for a server or a training loop."""

from __future__ import annotations

import re
from collections.abc import Mapping

from headgate.errors import BackendError

try:
    from prometheus_client import REGISTRY, CollectorRegistry, Gauge
except ImportError as error:
    raise BackendError(
        "RoutingGauges needs prometheus-client; install it with: pip install 'headgate[prometheus]'"
    ) from error

_KEY = re.compile(r"routing/(?:layer_(?P<layer>\d+)/)?(?P<name>\w+?)(?P<worst>_worst)?")


class RoutingGauges:
    """One gauge for each measure, `headgate_routing_NAME`, with the label `layer`: "mean", "worst", or a number.

    The number of series is bounded: six measures, two labels, and at most 64 layers where these are given one by one.
    Experts have no series.

    Args:
        registry: where the gauges are kept; by default the process's own.

    Example:
        >>> import torch, headgate
        >>> from headgate.integrations.monitor import routing_values
        >>> layer, registry = headgate.MoE(8, 16, num_experts=4, top_k=4), CollectorRegistry()
        >>> with headgate.tap(layer) as tape:
        ...     _ = layer(torch.randn(3, 8))
        >>> RoutingGauges(registry).set(routing_values(layer, tape))
        >>> registry.get_sample_value("headgate_routing_max_over_mean", {"layer": "worst"})
        1.0
    """

    def __init__(self, registry: CollectorRegistry = REGISTRY) -> None:
        self._registry = registry
        self._gauges: dict[str, Gauge] = {}

    def set(self, values: Mapping[str, float]) -> None:
        """Show the numbers of one reading.

        Args:
            values: of `RoutingMonitor.read` or `routing_values`.
        """
        for key, value in values.items():
            parts = _KEY.fullmatch(key)
            assert parts is not None  # Both functions give such keys alone.
            name = parts["name"]
            if name not in self._gauges:
                text = f"Routing: {name.replace('_', ' ')}, mean and worst layer"
                self._gauges[name] = Gauge(f"headgate_routing_{name}", text, ["layer"], registry=self._registry)
            self._gauges[name].labels(parts["layer"] or ("worst" if parts["worst"] else "mean")).set(value)
