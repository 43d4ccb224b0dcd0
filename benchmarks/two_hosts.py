"""Claim: between hosts, the exchange in two levels sends fewer bytes than the flat one, and so takes less time.

Timed besides: a step of two halves of the tokens, one after the other and in turns (`run_in_turns`).

Two hosts are two network namespaces of this machine, joined by one cable (a veth pair) with a limited rate; each runs
two of four processes, started by torchrun, which meet across the cable. Needs root and iproute2:

    python benchmarks/two_hosts.py --rate 100mbit

"Computed" is distinct (token, rank) or (token, node) pairs times the bytes of a row, there and back, and the ids,
weights and counts that go with them; "measured" is what the interfaces say left both hosts, headers and all.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer
from support.hosts import Host, HostsError, two_hosts
from support.report import describe_setting, print_table, write_results
from support.spread import Setting

SCRIPT = Path(__file__).parent / "support" / "spread.py"
SIZES = {"d_model": 512, "d_ff": 256, "num_experts": 32, "num_tokens": 512}
PORT = 29500
PATIENCE_S = 300
EXCHANGES = {"flat": False, "two levels": True}


def run_hosts(hosts: tuple[Host, Host], setting: Setting) -> dict[str, Any]:
    """Measure on two processes of each host."""
    processes = []
    for number, host in enumerate(hosts):
        torchrun = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=2"]
        place = [f"--node-rank={number}", f"--master-addr={hosts[0].address}", f"--master-port={PORT}"]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "GLOO_SOCKET_IFNAME": host.interface}
        own = Setting(**{**json.loads(setting.to_json()), "interface": host.interface})
        command = host.command(*torchrun, *place, str(SCRIPT), own.to_json())
        processes.append(subprocess.Popen(command, env=environment))
    try:
        for process in processes:
            if process.wait(PATIENCE_S):
                raise HostsError(f"a host ended with status {process.returncode}; its message is above")
    finally:
        for process in processes:
            process.kill()
    found: dict[str, Any] = json.loads(Path(setting.results).read_text(encoding="utf-8"))
    return found


def main(
    rate: Annotated[str, typer.Option(help="Of the cable in each direction, as tc takes it.")] = "100mbit",
    top_k: Annotated[list[int] | None, typer.Option(min=1, help="K; again for more. Default: 2 and 8.")] = None,
    rounds: Annotated[int, typer.Option(min=2, help="Timed rounds of a case.")] = 5,
) -> None:
    """Compare the flat exchange with that in two levels, between two hosts."""
    setting = describe_setting()
    records, lines = [], []
    try:
        with two_hosts(rate) as hosts, tempfile.TemporaryDirectory() as folder:
            for k in top_k or (2, 8):
                for name, two_level in EXCHANGES.items():
                    options = {
                        **SIZES,
                        "top_k": k,
                        "rounds": rounds,
                        "num_nodes": 2,
                        "two_level": two_level,
                        "in_halves": True,
                    }
                    found = run_hosts(hosts, Setting(**options, results=f"{folder}/results.json"))
                    records.append({"exchange": name, "rate": rate, **options, **found})
                    lines.append(_line(name, k, found))
                    write_results("two_hosts", setting, records, rate=rate)
    except HostsError as error:
        print(f"not measured: {error}")
        return
    columns = ["K", "exchange", "rows across MB", "with ids MB", "measured MB", "step ms", "quartiles", "exchange ms"]
    columns += ["halves ms", "quartiles", "in turns ms", "quartiles"]
    sizes = ", ".join(f"{name} {value}" for name, value in SIZES.items())
    print_table(f"Two hosts with two processes each, {rate} between them: {sizes}", columns, lines, setting)
    print("MB of one forward pass, from both hosts; a step is forward and backward, of all tokens or of two halves.")


def _line(name: str, top_k: int, found: dict[str, Any]) -> list[object]:
    sizes = (found["across_bytes"], found["across_bytes"] + found["across_message_bytes"], found["crossed_bytes"])
    step, exchange, halves, turns = (_times(found, key) for key in ("step_s", "exchange_s", "halves_s", "turns_s"))
    return [top_k, name, *(f"{size / 1e6:.4f}" for size in sizes), *step, exchange[0], *halves, *turns]


def _times(found: dict[str, Any], key: str) -> tuple[str, str]:
    """Milliseconds: median, and quartiles."""
    lower, upper = found[f"{key}_quartiles"]
    return f"{found[key] * 1e3:.0f}", f"{lower * 1e3:.0f}-{upper * 1e3:.0f}"


if __name__ == "__main__":
    typer.run(main)
