"""What TLS costs: memory of each worker, a storm of reconnects, a launch.

`python -m bench.trust` runs it alone.
"""

from __future__ import annotations

import asyncio
import functools
import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import median
from typing import NamedTuple, TextIO, cast

import uvloop

from bench.cluster import Cluster, anonymous_kib, cluster, cpu_s
from corps.cli.lock import keeper_holder
from corps.client import Client
from corps.config import Settings
from corps.model.command import Launch
from corps.trust.contexts import Purpose
from corps.trust.credentials import DIRECTORY, Credentials
from corps.wire.codec import CONTROL_PREFACE, PROTOCOL_VERSION, encode_frame
from corps.wire.worker import Heartbeat, Hello, Inventory
from tests.support.tls import enroll

WORKERS, STORM, LAUNCHES = 2_000, 1_000, 200
BEAT_S = 5.0
RETRY_S = 1.0
DEADLINE_S = 120.0
Record = Callable[[str, float, str, float, str], None]


def run(record: Record) -> None:
    with master(WORKERS) as made:
        memory(made, record)
        storm(made, record)
    launches(record)


# ---- many workers


class Made(NamedTuple):
    pid: int
    address: str
    directory: Path
    client: Client


def memory(made: Made, record: Record) -> None:
    """Anonymous memory for each worker: its connection, and all that is known of it. What the
    first one needs of libraries is there before."""
    with crowd(made, "tls", 1):
        pass
    grown = {}
    for kind in ("plain", "tls"):
        before = anonymous_kib(made.pid)
        with crowd(made, kind, WORKERS):
            grown[kind] = (anonymous_kib(made.pid) - before) / WORKERS
    text = f"the same in plain text, before: {grown['plain']:.1f} KiB"
    record(
        f"memory of the master for each of {WORKERS:,} TLS workers", grown["tls"], "KiB", 45, text
    )


def storm(made: Made, record: Record) -> None:
    """All drop and dial at once, without the jitter that real workers have."""
    with crowd(made, "tls", STORM) as (process, said):
        before = cpu_s(made.pid)
        process.send_signal(signal.SIGUSR1)
        taken = float(said.readline())
        used = cpu_s(made.pid) - before
        _wait(lambda: _ready(made) >= STORM)
    text = f"{used:.1f} s of the master's CPU, {used / STORM * 1e3:.2f} ms each"
    record(f"{STORM:,} TLS workers reconnect at once, all welcome", taken, "s", 10, text)


@contextmanager
def master(count: int) -> Iterator[Made]:
    """A master on one core, whose members are `tls-0` and so on."""
    directory = Path(tempfile.mkdtemp(prefix="corps-bench-"))
    enroll(Settings(dir=str(directory)), *(f"tls-{number}" for number in range(count)))
    words = ["--dir", str(directory), "master", "--listen", "127.0.0.1:0", "--heartbeat", "5"]
    process = subprocess.Popen(
        ["taskset", "-c", "0", sys.executable, "-m", "corps.cli.main", *words],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    client = Client(Settings(dir=str(directory)))
    try:
        address = directory / "master" / "address"
        _wait(address.exists)
        yield Made(process.pid, address.read_text().strip(), directory, client)
    finally:
        client.close()
        process.terminate()
        process.wait()
        shutil.rmtree(directory)


@contextmanager
def crowd(made: Made, kind: str, count: int) -> Iterator[tuple[subprocess.Popen[str], TextIO]]:
    """So many workers in another process, all ready."""
    code = f"from bench.trust import load; load({kind!r}, {count}, {made.address!r}, "
    code += f"{str(made.directory)!r})"
    cores = f"{min(1, (os.cpu_count() or 1) - 1)}-{(os.cpu_count() or 1) - 1}"
    words = ["taskset", "-c", cores, sys.executable, "-c", code]
    process = subprocess.Popen(words, stdout=subprocess.PIPE, text=True)
    try:
        said = cast(TextIO, process.stdout)
        said.readline()
        _wait(lambda: _ready(made) >= count)
        yield process, said
    finally:
        process.terminate()
        process.wait()
        said.close()
        _wait(lambda: _ready(made) == 0)


def _ready(made: Made) -> int:
    return sum(worker.state == "ready" for worker in made.client.workers())


# ---- the other process


class _Worker(asyncio.Protocol):
    """Says hello, and notes that it is welcome."""

    def __init__(self, name: str) -> None:
        self._name = name
        loop = asyncio.get_running_loop()
        self.welcome: asyncio.Future[None] = loop.create_future()
        self.transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast(asyncio.Transport, transport)
        hello = Hello(
            protocol=PROTOCOL_VERSION,
            name=self._name,
            state_id=f"state-{self._name}",
            boot_id="bench",
            cluster=None,
            labels={},
            cpu_count=1,
            memory_bytes=1,
            version="bench",
            process_id=os.urandom(8).hex(),
        )
        inventory = Inventory(reports=(), artifacts=(), is_last=True)
        self.transport.write(CONTROL_PREFACE + encode_frame(hello) + encode_frame(inventory))

    def data_received(self, data: bytes) -> None:
        if not self.welcome.done():
            self.welcome.set_result(None)

    def connection_lost(self, exc: Exception | None) -> None:
        if not self.welcome.done():
            self.welcome.set_exception(exc or ConnectionError("closed"))


def load(kind: str, count: int, address: str, directory: str) -> None:
    """Keeps `count` workers connected; SIGUSR1: all of them drop and dial again."""
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, count + 100))
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.run(_load(kind, count, address, Settings(dir=directory)))


async def _load(kind: str, count: int, address: str, settings: Settings) -> None:
    host, _, port = address.rpartition(":")
    contexts = [
        Credentials(settings.worker_dir(f"tls-{number}") / DIRECTORY).client_context()
        for number in range(count if kind == "tls" else 0)
    ]

    async def dial(number: int) -> _Worker:
        name = Purpose.CONTROL.value if contexts else None
        while True:
            worker = _Worker(f"{kind}-{number}")
            try:
                await asyncio.get_running_loop().create_connection(
                    functools.partial(_same, worker),
                    host,
                    int(port),
                    ssl=contexts[number] if contexts else None,
                    server_hostname=name,
                )
                await worker.welcome
                return worker
            except OSError:
                await asyncio.sleep(random.uniform(0, RETRY_S))

    workers: list[_Worker] = []
    beats = asyncio.create_task(_beat(workers))
    for start in range(0, count, 50):  # not a storm yet
        workers += await asyncio.gather(*map(dial, range(start, min(start + 50, count))))
    again = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGUSR1, again.set)
    print("ready", flush=True)
    await again.wait()
    begin = time.monotonic()
    for worker in workers:
        assert worker.transport is not None
        worker.transport.abort()
    workers[:] = await asyncio.gather(*map(dial, range(count)))
    print(time.monotonic() - begin, flush=True)
    await beats


def _same(worker: _Worker) -> _Worker:
    return worker


async def _beat(workers: list[_Worker]) -> None:
    for beat in range(1 << 30):
        for worker in list(workers):
            assert worker.transport is not None
            worker.transport.write(encode_frame(Heartbeat(seq=beat)))
        await asyncio.sleep(BEAT_S / 2)


# ---- a launch


def launches(record: Record) -> None:
    """The same master, one after the other on a worker that joined by TLS and one in plain text."""
    with cluster(1) as made, joined(made, "tls"):
        made.corps("copy", "/bin/sleep")
        times: dict[str, list[float]] = {"w1": [], "tls": []}
        for number in range(LAUNCHES + 10):
            for worker, taken in times.items():
                begin = time.perf_counter()
                made.client.launch(Launch(artifact="sleep", args=("1000",), on=worker))
                if number >= 10:
                    taken.append(time.perf_counter() - begin)
        made.client.kill(("sleep",))
        p50 = {worker: median(taken) * 1e3 for worker, taken in times.items()}
        text = f"TLS {p50['tls']:.2f} ms, plain text {p50['w1']:.2f} ms"
        record(
            "a launch through TLS, times plain text (p50)", p50["tls"] / p50["w1"], "x", 1.3, text
        )


@contextmanager
def joined(made: Cluster, name: str) -> Iterator[None]:
    line = made.corps("token", "create", "--name", name).split()
    address = (made.directory / "master" / "address").read_text().strip()
    words = [sys.executable, "-m", "corps.cli.main", "--dir", str(made.directory), "join"]
    words += [address, "--token", line[line.index("--token") + 1], "--name", name]
    process = subprocess.Popen(words, stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL)
    try:
        _wait(
            lambda: any(
                worker.name == name and worker.state == "ready" for worker in made.client.workers()
            )
        )
        yield
    finally:
        process.terminate()
        process.wait()
        keeper = keeper_holder(made.directory / "workers" / name / "keeper.lock")
        if keeper is not None:
            os.kill(keeper, signal.SIGTERM)


def _wait(predicate: Callable[[], bool]) -> None:
    end = time.monotonic() + DEADLINE_S
    while not predicate():
        if time.monotonic() > end:
            raise RuntimeError(f"not within {DEADLINE_S:g} s")
        time.sleep(0.1)


def _print(figure: str, value: float, unit: str, budget: float, limit: str) -> None:
    mark = "" if value <= budget else "  MISSED"
    print(f"{figure:58} {value:9.3f} {unit:5} budget {budget:g}{mark}   {limit}", flush=True)


if __name__ == "__main__":
    run(_print)
