"""`RoutingCallback`: the routing of a model that Lightning trains, in its own loggers."""

from __future__ import annotations

from typing import Any

from headgate.errors import BackendError
from headgate.integrations.monitor import RoutingMonitor

try:
    from lightning.pytorch import Callback, LightningModule, Trainer
except ImportError as error:
    raise BackendError("RoutingCallback needs lightning; install it with: pip install 'headgate[lightning]'") from error


class RoutingCallback(Callback):
    """Logs the routing every `log_every_n_steps` steps of a trainer, to all of its loggers.

    An entry is of all batches since the last; see `headgate.observe.tallies.describe_tallies` for its keys. Batches of
    validation don't count.

    Args:
        per_layer: whether to log each layer's own numbers too.
    """

    def __init__(self, *, per_layer: bool = False) -> None:
        self._per_layer = per_layer
        self._monitor: RoutingMonitor | None = None
        self._last_step = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Begin to watch.

        Raises:
            InputError: the model has no routed layer, or is compiled.
        """
        self._monitor = RoutingMonitor(pl_module, per_layer=self._per_layer)
        self._last_step = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        """Add up a batch; log where the trainer does. Under gradient accumulation a step is several batches."""
        if self._monitor is None:
            return
        self._monitor.fold()
        step, every = trainer.global_step, trainer.log_every_n_steps  # type: ignore[attr-defined]
        if step != self._last_step and step % every == 0:
            values = self._monitor.read()
            for logger in trainer.loggers:
                logger.log_metrics(values, step=step)
        self._last_step = step

    def on_validation_batch_end(self, trainer: Trainer, pl_module: LightningModule, *batch: Any) -> None:
        """Forget a batch of validation."""
        if self._monitor is not None:
            self._monitor.discard()

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop watching."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop watching."""
        self._close()

    def _close(self) -> None:
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
