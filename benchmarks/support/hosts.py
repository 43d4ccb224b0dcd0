"""Two hosts on one machine: network namespaces, joined by one cable (a veth pair) whose rate is limited."""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

_BURST = "256kb"  # more than one packet of 64 KiB, which veth passes on whole
_LATENCY = "200ms"  # how long a packet may wait in the queue before it is thrown away


class HostsError(RuntimeError):
    """Two hosts can't be made here; the message says what is missing."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Host:
    """One of the two.

    Attributes:
        namespace: its name for `ip netns exec`.
        interface: its end of the cable.
        address: its IP address there.
    """

    namespace: str
    interface: str
    address: str

    def command(self, *arguments: str) -> list[str]:
        """The command line that runs there."""
        return ["ip", "netns", "exec", self.namespace, *arguments]


def require_hosts() -> None:
    """Raise where two hosts can't be made.

    Raises:
        HostsError: no root, or no iproute2.
    """
    if os.geteuid() != 0:
        raise HostsError("network namespaces need root; run it as root")
    missing = [name for name in ("ip", "tc") if shutil.which(name) is None]
    if missing:
        raise HostsError(f"{' and '.join(missing)} not found; run: apt-get install iproute2")


@contextmanager
def two_hosts(rate: str | None) -> Iterator[tuple[Host, Host]]:
    """Make two hosts, and remove them afterwards.

    Args:
        rate: of the cable in each direction, as `tc` takes it, such as "200mbit"; None = as fast as memory.

    Raises:
        HostsError: the kernel or the user can't.
    """
    require_hosts()
    number = os.getpid()
    hosts = tuple(
        Host(namespace=f"headgate-{number}-{side}", interface=f"hg{number % 10**6}{side}", address=f"10.231.7.{index}")
        for index, side in enumerate("ab", start=1)
    )
    with ExitStack() as stack:
        for host in hosts:
            _run("ip", "netns", "add", host.namespace)
            stack.callback(_run, "ip", "netns", "del", host.namespace)
        first, second = hosts
        ends = ("netns", first.namespace, "type", "veth", "peer", "name", second.interface, "netns", second.namespace)
        _run("ip", "link", "add", first.interface, *ends)
        for host in hosts:
            _set_up(host, rate)
        yield first, second


def _set_up(host: Host, rate: str | None) -> None:
    _run("ip", "-n", host.namespace, "addr", "add", f"{host.address}/24", "dev", host.interface)
    for interface in ("lo", host.interface):
        _run("ip", "-n", host.namespace, "link", "set", interface, "up")
    if rate is not None:
        limit = ("tbf", "rate", rate, "burst", _BURST, "latency", _LATENCY)
        _run("tc", "-n", host.namespace, "qdisc", "add", "dev", host.interface, "root", *limit)


def _run(*arguments: str) -> None:
    done = subprocess.run(arguments, capture_output=True, text=True, check=False)
    if done.returncode:
        raise HostsError(f"{' '.join(arguments)}: {done.stderr.strip()}")
