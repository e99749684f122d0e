"""How long an artifact takes to many workers, each on a link of its own, beside the time to one.

Machines are network namespaces, links are limited by tbf(8); so this needs root.
`python -m bench.swarm` runs it alone.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from corps.client import Client
from corps.model.artifact import Transfer
from corps.model.command import Copied, Copy
from corps.model.view import CopyView
from corps.pack.build import pack
from tests.support.artifacts import upload
from tests.support.cluster import Cluster
from tests.support.netns import Network, network

WORKERS = 16
LINK = "100mbit"
LINK_BITS_S = 100e6
SLOW, SLOW_LINK = "w3", "20mbit"
SIZE_BYTES = 64 << 20
BUDGET_TIMES = 1.6
BUDGET_SLOW_TIMES = 1.8
LOOK_S = 0.05
SUBNET = 7
MASTER = "m"
BEAT = ("--heartbeat", "2")  # all these machines share the cores of one

Record = Callable[[str, float, str, float, str], None]


class Copying(NamedTuple):
    """One copy of new content: until the operator is told that all have it."""

    seconds: float
    rows: tuple[CopyView, ...]

    def told(self) -> str:
        sent = sum(row.bytes_sent - row.bytes_from_peers for row in self.rows)
        return f"{self.seconds:.2f} s, {sent / (1 << 20):.0f} MiB from the master"


def run(record: Record) -> None:
    """All figures of this module."""
    with machines(WORKERS) as (made, lan):
        one = copy(made, "w1")
        many = copy(made, "all")
        lan.limit(SLOW, SLOW_LINK)
        beside = copy_beside(made, SLOW)
    link_s = SIZE_BYTES * 8 / LINK_BITS_S
    text = f"one {one.told()}, the link alone {link_s:.2f} s; {WORKERS} {many.told()}"
    figure = f"64 MiB to {WORKERS} workers on {LINK}, times the time to one"
    record(figure, many.seconds / one.seconds, "x", BUDGET_TIMES, text)
    figure = f"the same to {WORKERS - 1}, while one more is on {SLOW_LINK}"
    record(figure, beside / one.seconds, "x", BUDGET_SLOW_TIMES, f"{beside:.2f} s")


def copy(made: Cluster, to: str, size_bytes: int = SIZE_BYTES, *, swarm: bool = True) -> Copying:
    digest = new_content(made, size_bytes)
    command = Copy(name="big", digest=digest, to=to, transfer=Transfer(swarm=swarm))
    begin = time.perf_counter()
    rows = made.client.submit(command, Copied).workers
    seconds = time.perf_counter() - begin
    failed = [row.result for row in rows if row.result != "installed"]
    if failed:
        raise RuntimeError(f"not copied: {failed}")
    return Copying(seconds, rows)


def copy_beside(made: Cluster, slow: str) -> float:
    """Until all but one have it, which is a peer like them."""
    digest = new_content(made, SIZE_BYTES)
    begin = time.perf_counter()
    with Client(made.settings) as other, ThreadPoolExecutor(1) as pool:
        copying = pool.submit(other.submit, Copy(name="big", digest=digest, to="all"), Copied)
        while not copying.done():
            (there,) = [a.workers for a in made.client.artifacts() if a.digest == digest] or [()]
            if len(there) >= WORKERS - 1 and slow not in there:
                break
            time.sleep(LOOK_S)
        seconds = time.perf_counter() - begin
        (row,) = [row for row in copying.result().workers if row.worker == slow]
    if row.result != "installed":
        raise RuntimeError(f"not copied: {row.result}")
    return seconds


def new_content(made: Cluster, size_bytes: int) -> str:
    """At the master: what no worker has, and does not compress."""
    directory = Path(tempfile.mkdtemp(prefix="corps-bench-"))
    try:
        entry = directory / "run"
        entry.write_text("#!/bin/sh\n")
        entry.chmod(0o755)
        (directory / "data").write_bytes(os.urandom(size_bytes))
        packed = pack(directory, entry="run", libraries=(), with_libraries=False)
        return upload(made.client, packed)
    finally:
        shutil.rmtree(directory)


@contextmanager
def machines(count: int, link: str = LINK) -> Iterator[tuple[Cluster, Network]]:
    """A master and workers, each with a machine and a link of its own."""
    directory = Path(tempfile.mkdtemp(prefix="corps-bench-"))
    made = Cluster(directory)
    try:
        with network(SUBNET) as lan:
            try:
                prefix = lan.add_machine(MASTER)
                listen = f"{lan.address(MASTER)}:0"
                names = [f"w{number}" for number in range(1, count + 1)]
                made.enroll(*names)
                made.start_master(*BEAT, listen=listen, prefix=prefix)
                for name in names:
                    made.start_worker(name, prefix=lan.add_machine(name))
                made.wait_state(**dict.fromkeys(names, "ready"))
                for name in (MASTER, *names):
                    lan.limit(name, link)
                yield made, lan
            finally:
                made.end()
    finally:
        shutil.rmtree(directory, ignore_errors=True)


def _print(figure: str, value: float, unit: str, budget: float, limit: str) -> None:
    mark = "" if value <= budget else "  MISSED"
    print(f"{figure:58} {value:9.3f} {unit:5} budget {budget:g}{mark}   {limit}", flush=True)


if __name__ == "__main__":
    run(_print)
