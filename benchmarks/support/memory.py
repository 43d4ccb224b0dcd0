"""How far one call raises the process's resident memory: `python -m support.memory` measures it in a fresh process."""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import torch

from support.contenders import list_contenders
from support.problem import DTYPES, SHAPES, make_problem, make_weights

_STATUS = Path("/proc/self/status")
_CLEAR = Path("/proc/self/clear_refs")
_RESET_PEAK = "5"  # proc(5): resets VmHWM to the current resident size
_MAX_RSS_UNIT = 1 if sys.platform == "darwin" else 1024


def peak_growth_bytes(call: Callable[[], object]) -> int:
    """Run `call` once; return its highest resident size minus the one before.

    Where the system can't reset the peak, a call that stays below an earlier peak shows as 0.
    """
    try:
        _CLEAR.write_text(_RESET_PEAK)
    except OSError:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        call()
        return (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * _MAX_RSS_UNIT
    before = _status_bytes("VmRSS")
    call()
    return _status_bytes("VmHWM") - before


def measure_in_fresh_process(shape: str, *, num_tokens: int, routing: str, dtype: str, contender: str) -> int:
    """The growth in bytes during one forward call of one contender, with nothing else in the process."""
    options = [shape, str(num_tokens), routing, dtype, contender]
    command = [sys.executable, "-m", "support.memory", *options]
    folder = Path(__file__).parents[1]
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    if result.returncode != 0:
        raise RuntimeError(f"{' '.join(options)} failed: {result.stderr.strip()[-2000:]}")
    growth: int = json.loads(result.stdout.splitlines()[-1])
    return growth


def _status_bytes(key: str) -> int:
    lines = _STATUS.read_text(encoding="utf-8").splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(f"{key}:"))


@torch.no_grad()
def _main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("shape", "tokens", "routing", "dtype", "contender"):
        parser.add_argument(name)
    arguments = parser.parse_args()
    shape = SHAPES[arguments.shape]
    weights = make_weights(shape, DTYPES[arguments.dtype], is_trained=False)

    def call_for(num_tokens: int) -> Callable[[], object]:
        problem = make_problem(shape, weights, num_tokens=num_tokens, routing=arguments.routing)
        return next(c.run for c in list_contenders(problem) if c.name == arguments.contender)

    # One token first: thread pools, kernels and modules that load on first use are not the call's own.
    call_for(1)()
    print(json.dumps(peak_growth_bytes(call_for(int(arguments.tokens)))))


if __name__ == "__main__":
    _main()
