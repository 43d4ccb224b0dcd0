"""The search for a kernel's best configuration: all are compiled at once, on every core, then timed in turn.

One after the other, the compiler would take about a second for each of some twenty configurations of a model's first
call; their times take a tenth of that.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from triton import AsyncCompileMode, Config
from triton.runtime.autotuner import Autotuner

from headgate.kernels.triton.schedule import Schedule


class Tuner(Autotuner):  # type: ignore[misc]
    """Triton's autotuner, which keeps what it measured in Triton's cache on disk.

    What is known by now is looked up here: Triton's own way there takes longer than a small kernel runs.
    """

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.known: dict[tuple[object, ...], dict[str, Any]] = {}

    def run(self, *, grid: Any, warmup: bool, **arguments: Any) -> None:
        """Launch with the configuration that is best for these arguments; find it the first time."""
        sizes = (arguments[name] for name in self.keys)
        key = (*sizes, *(value.dtype for value in arguments.values() if isinstance(value, torch.Tensor)))
        blocks = self.known.get(key)
        if blocks is None:
            super().run(grid=grid, warmup=warmup, **arguments)
            self.known[key] = self.best_config.all_kwargs()
        else:
            self.fn.run(grid=grid, warmup=warmup, **arguments, **blocks)

    def prune_configs(self, kwargs: dict[str, Any]) -> list[Config]:
        """The configurations to time for these arguments, compiled: Triton asks for them where it has no answer."""
        configs: list[Config] = super().prune_configs(kwargs)
        compile_together(self.fn, configs, kwargs)
        return configs


def compile_together(kernel: Any, configs: Sequence[Config], arguments: dict[str, Any]) -> None:
    """Compile a kernel for each configuration. One that does not compile says so when it is timed."""
    with ThreadPoolExecutor(os.cpu_count()) as pool, AsyncCompileMode(pool, ignore_errors=True):
        for config in configs:
            kernel.run(**arguments | {"warmup": True}, **config.all_kwargs())


def tuned(schedule: Schedule, key: Sequence[str]) -> Callable[[Any], Tuner]:
    """Declare a kernel whose blocks are those of a schedule.

    Args:
        schedule: its configurations.
        key: the arguments that decide which is the best, besides the tensors' dtypes.
    """

    def wrap(kernel: Any) -> Tuner:
        prune = {"early_config_prune": schedule.prune}
        options = {"prune_configs_by": prune, "cache_results": True}
        return Tuner(kernel, kernel.arg_names, list(schedule.configs), list(key), None, None, **options)

    return wrap
