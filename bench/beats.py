"""Thousands of workers that only beat, on real sockets, and what that costs a real master."""

from __future__ import annotations

import asyncio
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.cluster import cpu_s, pss_kib
from corps.client import Client
from corps.config import Settings
from corps.wire.codec import CONTROL_PREFACE, PROTOCOL_VERSION, encode_frame
from corps.wire.worker import Heartbeat, Hello, Inventory

JOIN_DEADLINE_S = 60.0


async def _worker(number: int, address: tuple[str, int], every_s: float, end: float) -> None:
    reader, writer = await asyncio.open_connection(*address)
    hello = Hello(
        protocol=PROTOCOL_VERSION,
        name=f"beat-{number}",
        state_id=f"state-{number}",
        boot_id="bench",
        cluster=None,
        labels={},
        cpu_count=1,
        memory_bytes=1,
        version="bench",
    )
    writer.write(CONTROL_PREFACE + encode_frame(hello))
    await reader.readexactly(4)
    writer.write(encode_frame(Inventory(reports=(), artifacts=(), is_last=True)))
    await asyncio.sleep(every_s * number / 5_000 % every_s)
    beats = 0
    while time.monotonic() < end:
        beats += 1
        writer.write(encode_frame(Heartbeat(seq=beats)))
        await asyncio.sleep(every_s)
    writer.close()


async def _all(count: int, address: tuple[str, int], every_s: float, end: float) -> None:
    tasks = []
    for number in range(count):
        tasks.append(asyncio.create_task(_worker(number, address, every_s, end)))
        if number % 50 == 0:
            await asyncio.sleep(0.05)
    await asyncio.gather(*tasks)


def load(count: int, address: str, every_s: float, for_s: float) -> None:
    """The other process: keeps `count` workers beating until `for_s` from now."""
    host, _, port = address.rpartition(":")
    resource.setrlimit(resource.RLIMIT_NOFILE, (count + 100, count + 100))
    asyncio.run(_all(count, (host, int(port)), every_s, time.monotonic() + for_s))


def measure(count: int, every_s: float, for_s: float) -> dict[str, float]:
    """Share of one core that the master uses, and its memory, with all of them ready."""
    directory = Path(tempfile.mkdtemp(prefix="corps-bench-"))
    base = [sys.executable, "-m", "corps.cli.main", "--dir", str(directory)]
    master = subprocess.Popen(
        [*base, "master", "--listen", "127.0.0.1:0", "--heartbeat", str(every_s)],
        stderr=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
    )
    loader: subprocess.Popen[bytes] | None = None
    try:
        client = Client(Settings(dir=str(directory)))
        _wait((directory / "master" / "address").exists)
        address = (directory / "master" / "address").read_text().strip()
        code = f"from bench.beats import load; load({count}, {address!r}, {every_s}, 600)"
        loader = subprocess.Popen([sys.executable, "-c", code], env=os.environ)
        _wait(lambda: sum(w.state == "ready" for w in client.workers()) == count)
        client.close()
        time.sleep(2 * every_s)
        begin_cpu, begin = cpu_s(master.pid), time.monotonic()
        time.sleep(for_s)
        share = (cpu_s(master.pid) - begin_cpu) / (time.monotonic() - begin)
        return {"share": share, "pss_mib": pss_kib(master.pid) / 1024}
    finally:
        for process in (loader, master):
            if process is not None:
                process.terminate()
                process.wait()
        shutil.rmtree(directory)


def _wait(predicate: object) -> None:
    assert callable(predicate)
    end = time.monotonic() + JOIN_DEADLINE_S
    while not predicate():
        if time.monotonic() > end:
            raise RuntimeError("the simulated workers did not all join")
        time.sleep(0.2)
