"""`log_routing`: the routing of a model that `transformers.Trainer` trains, in the trainer's own log."""

from __future__ import annotations

from typing import Any

from headgate.errors import BackendError, InputError
from headgate.integrations.monitor import RoutingMonitor

try:
    from transformers import Trainer, TrainerCallback
except ImportError as error:
    raise BackendError(
        "log_routing needs transformers and accelerate; install them with: pip install 'headgate[trainer]'"
    ) from error


def log_routing(trainer: Trainer, *, per_layer: bool = False) -> RoutingCallback:
    """Log a trainer's routing wherever it logs its loss: the console, TensorBoard, Weights & Biases, the history.

    At each logging step there is one more entry, of all passes since the last: see
    `headgate.observe.tallies.describe_tallies` for its keys. Passes of evaluation don't count.

    Args:
        trainer: of a model with experts of transformers, layers of Headgate, or both.
        per_layer: whether to log each layer's own numbers too.

    Returns:
        The callback, as `trainer.remove_callback` takes it.

    Raises:
        InputError: when training begins: the model has no routed layer, or is compiled.
    """
    callback = RoutingCallback(trainer, per_layer=per_layer)
    trainer.add_callback(callback)
    return callback


class RoutingCallback(TrainerCallback):
    """What `log_routing` adds to a trainer."""

    def __init__(self, trainer: Trainer, *, per_layer: bool = False) -> None:
        self._trainer, self._per_layer = trainer, per_layer
        self._monitor: RoutingMonitor | None = None

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Begin to watch."""
        if args.torch_compile:
            raise InputError(
                "torch_compile (=True) of the trainer can't be watched without running uncompiled; train without "
                "log_routing, or without torch_compile"
            )
        self._close()
        self._monitor = RoutingMonitor(kwargs["model"], per_layer=self._per_layer)

    def on_substep_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add up a pass of gradient accumulation."""
        if self._monitor is not None:
            self._monitor.fold()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Add up the last pass of a step; log where the trainer does."""
        if self._monitor is None:
            return
        self._monitor.fold()
        if control.should_log:
            self._trainer.log(self._monitor.read())
            # To log takes this mark away, and the trainer's own entry is yet to come.
            control.should_log = True

    def on_prediction_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Forget a pass of evaluation."""
        if self._monitor is not None:
            self._monitor.discard()

    def on_train_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Stop watching."""
        self._close()

    def _close(self) -> None:
        if self._monitor is not None:
            self._monitor.close()
            self._monitor = None
