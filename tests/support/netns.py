"""Machines for a test: network namespaces on one bridge, made and removed by the test."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

TBF_BURST = "64kb"
TBF_LATENCY = "50ms"


class Network:
    """A bridge in this namespace and one namespace for each machine, 10.77.N.0/24."""

    def __init__(self, subnet: int) -> None:
        self._id = f"ct{os.getpid() % 10_000}{subnet}"
        self._prefix = f"10.77.{subnet}"
        self.host_address = f"{self._prefix}.1"
        self._machines: list[str] = []

    def set_up(self) -> None:
        _ip("link", "add", self._bridge, "type", "bridge")
        _ip("addr", "add", f"{self.host_address}/24", "dev", self._bridge)
        _ip("link", "set", self._bridge, "up")

    def add_machine(self, name: str) -> list[str]:
        """Make a machine; returns the prefix that runs a command there."""
        space, near, far = self._space(name), self._near(name), "eth0"
        self._machines.append(name)
        _ip("netns", "add", space)
        _ip("link", "add", near, "type", "veth", "peer", "name", far, "netns", space)
        _ip("link", "set", near, "master", self._bridge)
        _ip("link", "set", near, "up")
        address = f"{self._prefix}.{len(self._machines) + 1}/24"
        _ip("-n", space, "addr", "add", address, "dev", far)
        _ip("-n", space, "link", "set", far, "up")
        _ip("-n", space, "link", "set", "lo", "up")
        return self.command(name)

    def command(self, name: str) -> list[str]:
        """The prefix that runs a command on this machine."""
        return ["ip", "netns", "exec", self._space(name)]

    def cut(self, name: str) -> None:
        """Pull the plug: nothing passes, nothing is told."""
        _ip("link", "set", self._near(name), "down")

    def mend(self, name: str) -> None:
        _ip("link", "set", self._near(name), "up")

    def limit(self, name: str, rate: str) -> None:
        """The link of a machine carries no more than that, each way: `100mbit`."""
        for place in (["-n", self._space(name), "eth0"], [self._near(name)]):
            *where, device = place
            command = ["tc", *where, "qdisc", "replace", "dev", device, "root", "tbf"]
            _run([*command, "rate", rate, "burst", TBF_BURST, "latency", TBF_LATENCY])

    def address(self, name: str) -> str:
        return f"{self._prefix}.{self._machines.index(name) + 2}"

    def tear_down(self) -> None:
        for name in self._machines:
            subprocess.run(["ip", "netns", "del", self._space(name)], capture_output=True)
        subprocess.run(["ip", "link", "del", self._bridge], capture_output=True)

    @property
    def _bridge(self) -> str:
        return f"{self._id}b"

    def _space(self, name: str) -> str:
        return f"{self._id}-{name}"

    def _near(self, name: str) -> str:
        return f"{self._id}{name}"


@contextmanager
def network(subnet: int) -> Iterator[Network]:
    made = Network(subnet)
    try:
        made.set_up()
        yield made
    finally:
        made.tear_down()


def _ip(*words: str) -> None:
    _run(["ip", *words])


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, f"{' '.join(command)}: {done.stderr}"
