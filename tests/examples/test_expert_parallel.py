"""The example under torchrun, with a worker killed in mid-run: it goes on, and the loss curve joins bit for bit."""

import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "expert_parallel.py"
STEP = re.compile(r"step (\d+) loss (\S+)")
STEPS, SAVE_EVERY, KILL_AT = 90, 30, 40


@pytest.mark.skipif(sys.platform == "win32", reason="torchrun's workers are found and killed by POSIX means")
def test_a_killed_worker_costs_the_steps_since_the_last_checkpoint_and_no_bit(tmp_path):
    arguments = [str(EXAMPLE), str(tmp_path / "run"), f"--steps={STEPS}", f"--save-every={SAVE_EVERY}"]
    launch = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node=2", "--max-restarts=1", "--standalone"]
    seen: list[tuple[int, str]] = []
    errors = tmp_path / "stderr.txt"
    with (
        errors.open("w") as stderr,
        subprocess.Popen(
            [*launch, *arguments],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, "OMP_NUM_THREADS": "1"},
        ) as process,
    ):
        for line in process.stdout:
            if found := STEP.match(line):
                seen.append((int(found[1]), found[2]))
                if len(seen) == KILL_AT:
                    kill_one_worker(process.pid)
    assert process.returncode == 0, errors.read_text()
    steps = [step for step, _ in seen]
    restart = next(place for place in range(1, len(steps)) if steps[place] != steps[place - 1] + 1)
    assert steps[restart] == SAVE_EVERY + 1
    assert steps[-1] == STEPS
    before, after = dict(seen[:restart]), dict(seen[restart:])
    repeated = before.keys() & after.keys()
    assert len(repeated) >= KILL_AT - SAVE_EVERY
    assert {step: before[step] for step in repeated} == {step: after[step] for step in repeated}
    assert float(after[STEPS]) < float(before[1])


def kill_one_worker(launcher: int) -> None:
    children = subprocess.check_output(["pgrep", "-P", str(launcher), "-f", EXAMPLE.name], text=True).split()
    os.kill(int(children[-1]), signal.SIGKILL)
