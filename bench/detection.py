"""How soon a worker that is frozen, cut off or killed is known, and how seldom a sound one is lost.

A worker is frozen by SIGSTOP, or the link of its network namespace goes down; the clock runs until
a waiting operator has been told. False losses: nothing is wrong, but both cores and the disk are
saturated by programs of our own.

    python -m bench.detection [--times N] [--false-losses SECONDS]
"""

from __future__ import annotations

import argparse
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from corps.client import Client
from corps.config import Settings
from corps.errors import CorpsError
from corps.model.view import EventView
from tests.support.netns import Network, network
from tests.support.tls import enroll

BEAT_S = 0.5
LOST_MS = 100.0  # beyond two heartbeats
SEEN_MS = 100.0
AT_ONCE = 5  # workers that are frozen or cut at a time
SUBNET = 9
DEADLINE_S = 60.0
BURN = "while True: pass"
DISK_BYTES = 256 << 20

Row = tuple[str, float, str, float, str]  # figure, measured, unit, budget, limit in this run


class Lan:
    """A master, and workers each in a network namespace of its own."""

    def __init__(self, directory: Path, net: Network, beat_s: float, count: int) -> None:
        self.settings = Settings(dir=str(directory))
        self.client = Client(self.settings)
        self.net = net
        self.daemons: dict[str, subprocess.Popen[bytes]] = {}
        self._prefixes: dict[str, list[str]] = {}
        listen = ["--listen", f"{net.host_address}:0"]
        names = [f"w{number}" for number in range(1, count + 1)]
        enroll(self.settings, *names)
        self._start("master", [], ["master", *listen, "--heartbeat", str(beat_s)])
        address_file = self.settings.master_dir / "address"
        _wait(address_file.exists)
        self._address = address_file.read_text().strip()
        for name in names:
            self._prefixes[name] = net.add_machine(name)
            self.start_worker(name)
        self.wait_ready()

    def start_worker(self, name: str) -> None:
        words = ["worker", "--master", self._address, "--name", name]
        self._start(name, self._prefixes[name], words)

    @property
    def names(self) -> list[str]:
        return [name for name in self.daemons if name != "master"]

    def wait_ready(self) -> None:
        _wait(
            lambda: {w.name for w in self.client.workers() if w.state == "ready"} >= {*self.names}
        )

    def end(self) -> None:
        with contextlib.suppress(CorpsError):
            self.client.shutdown(self.names)
        self.client.close()
        for daemon in self.daemons.values():
            daemon.send_signal(signal.SIGCONT)
            daemon.terminate()
        for daemon in self.daemons.values():
            daemon.wait()

    def _start(self, name: str, prefix: list[str], words: list[str]) -> None:
        base = [sys.executable, "-m", "corps.cli.main", "--dir", self.settings.dir]
        with (Path(self.settings.dir) / f"{name}.out").open("ab") as log:
            self.daemons[name] = subprocess.Popen(
                [*prefix, *base, *words], stdout=log, stderr=log, stdin=subprocess.DEVNULL
            )


@contextlib.contextmanager
def lan(beat_s: float, count: int) -> Iterator[Lan]:
    directory = Path(tempfile.mkdtemp(prefix="corps-bench-"))
    with network(SUBNET) as net:
        made = Lan(directory, net, beat_s, count)
        try:
            yield made
        finally:
            made.end()
            shutil.rmtree(directory)


def lost_ms(made: Lan, times: int, harm: Callable[[str], None]) -> dict[str, float]:
    """By worker, how long after `harm` a waiting operator was told that it is lost."""
    names = made.names[:times]
    after = made.client.events(after=-1)[-1].seq
    began: dict[str, float] = {}
    for name in names:
        began[name] = time.perf_counter()
        harm(name)
    found: dict[str, float] = {}
    while len(found) < len(names):
        for event, now in _told(made.client, after):
            after = event.seq
            if event.kind == "worker-lost" and event.subject in began:
                found.setdefault(event.subject, (now - began[event.subject]) * 1e3)
    return found


def freeze(made: Lan, times: int) -> list[float]:
    """`times` losses by SIGSTOP, some at once."""
    return _rounds(
        made,
        times,
        lambda name: made.daemons[name].send_signal(signal.SIGSTOP),
        lambda name: made.daemons[name].send_signal(signal.SIGCONT),
    )


def cut(made: Lan, times: int) -> list[float]:
    """`times` losses by a link that goes down."""
    return _rounds(made, times, made.net.cut, made.net.mend)


def killed(made: Lan, times: int) -> list[float]:
    """Milliseconds from kill -9 of a worker daemon until a waiting operator was told."""
    taken = []
    for turn in range(times):
        name = made.names[turn % len(made.names)]
        after = made.client.events(after=-1)[-1].seq
        begin = time.perf_counter()
        made.daemons[name].kill()
        while not (
            seen := [
                now
                for event, now in _told(made.client, after)
                if event.kind in ("worker-suspect", "worker-lost") and event.subject == name
            ]
        ):
            pass
        taken.append((seen[0] - begin) * 1e3)
        made.daemons[name].wait()
        made.start_worker(name)
        made.wait_ready()
    return taken


def false_losses(made: Lan, for_s: float) -> tuple[int, int]:
    """Workers that were called lost, and suspect, while nothing was wrong with them."""
    after = made.client.events(after=-1)[-1].seq
    with saturated(Path(made.settings.dir)):
        time.sleep(for_s)
    events = []
    while batch := made.client.events(after):
        events += batch
        after = batch[-1].seq
    kinds = [event.kind for event in events]
    return kinds.count("worker-lost"), kinds.count("worker-suspect")


@contextlib.contextmanager
def saturated(directory: Path) -> Iterator[None]:
    """Two burners for each core, and a disk that is written and synced without a pause."""
    burners = [[sys.executable, "-c", BURN] for _ in range(2 * (os.cpu_count() or 1))]
    blocks = f"count={DISK_BYTES >> 20}"
    written = f"while dd if=/dev/zero of={directory}/fill bs=1M {blocks} conv=fsync; do :; done"
    commands = [*burners, ["sh", "-c", written]]
    running = [
        subprocess.Popen(command, stderr=subprocess.DEVNULL, start_new_session=True)
        for command in commands
    ]
    try:
        yield
    finally:
        for process in running:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def measure(times: int, false_s: float) -> list[Row]:
    """The figures of this module."""
    rows: list[Row] = []
    budget_ms = 2 * BEAT_S * 1e3 + LOST_MS
    with lan(BEAT_S, AT_ONCE) as made:
        for what, harm in (("frozen", freeze), ("cut off", cut)):
            found = harm(made, times)
            late = sum(taken > budget_ms for taken in found)
            told = f"of {len(found)}, heartbeat {BEAT_S:g} s, {late} late"
            rows.append((f"{what} worker known as lost (worst)", max(found), "ms", budget_ms, told))
        found = killed(made, max(3, times // 5))
        told = f"of {len(found)}"
        rows.append(("killed worker daemon seen (worst)", max(found), "ms", SEEN_MS, told))
    with lan(1.0, AT_ONCE) as made:
        lost, suspect = false_losses(made, false_s)
        told = f"{false_s:g} s, {AT_ONCE} workers, both cores and the disk full; {suspect} suspect"
        rows.append(("sound workers called lost", float(lost), "", 0.0, told))
    return rows


def _rounds(
    made: Lan, times: int, harm: Callable[[str], None], mend: Callable[[str], None]
) -> list[float]:
    taken: list[float] = []
    while len(taken) < times:
        found = lost_ms(made, min(AT_ONCE, times - len(taken)), harm)
        taken += found.values()
        for name in found:
            mend(name)
        made.wait_ready()
    return taken


def _told(client: Client, after: int) -> list[tuple[EventView, float]]:
    events = client.events(after, wait_s=5)
    now = time.perf_counter()
    return [(event, now) for event in events]


def _wait(is_so: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while True:
        with contextlib.suppress(OSError):
            if is_so():
                return
        if time.monotonic() > end:
            raise RuntimeError("the cluster did not become what it should be")
        time.sleep(0.02)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.detection")
    parser.add_argument("--times", type=int, default=100)
    parser.add_argument("--false-losses", type=float, default=60.0, metavar="SECONDS")
    arguments = parser.parse_args()
    for figure, value, unit, budget, told in measure(arguments.times, arguments.false_losses):
        mark = "" if value <= budget else "  MISSED"
        print(f"{figure:45} {value:9.1f} {unit:3} budget {budget:g}{mark}   {told}", flush=True)


if __name__ == "__main__":
    main()
