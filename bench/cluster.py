"""A real cluster for the length of a benchmark, and what /proc says of its daemons."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from corps.client import Client
from corps.config import Settings

TICKS_PER_S = os.sysconf("SC_CLK_TCK")


class Cluster:
    """A master and workers started by `corps up --detach` in a directory of their own."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.settings = Settings(dir=str(directory))
        self.client = Client(self.settings)

    def corps(self, *arguments: str) -> str:
        """One command on the command line; its stdout. Fails loudly."""
        command = [sys.executable, "-m", "corps.cli.main", "--dir", str(self.directory)]
        done = subprocess.run([*command, *arguments], capture_output=True, text=True)
        if done.returncode != 0:
            raise RuntimeError(f"corps {' '.join(arguments)}: {done.stderr or done.stdout}")
        return done.stdout

    def daemons(self) -> dict[str, int]:
        """Pids of the daemons of this cluster, by what they are."""
        found = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                words = Path(f"/proc/{pid}/cmdline").read_bytes().decode().split("\0")
            except (OSError, UnicodeDecodeError):
                continue
            text = " ".join(words)
            if str(self.directory) not in text:
                continue
            if "corps.keeper.main" in text:
                found["keeper"] = int(pid)
            elif "master" in words and "worker" not in words:
                found["master"] = int(pid)
            elif "worker" in words:
                found["worker"] = int(pid)
        return found


@contextmanager
def cluster(workers: int = 1, heartbeat_s: float = 1.0) -> Iterator[Cluster]:
    directory = Path(tempfile.mkdtemp(prefix="corps-bench-"))
    made = Cluster(directory)
    try:
        beat = ("--heartbeat", str(heartbeat_s))
        made.corps("up", "--workers", str(workers), "--detach", *beat)
        yield made
    finally:
        made.client.close()
        try:
            made.corps("down")
        finally:
            shutil.rmtree(directory)


def pss_kib(pid: int) -> int:
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1])
    raise RuntimeError(f"no Pss of {pid}")


def anonymous_kib(pid: int) -> int:
    """Memory of its own: what no file and no other process has."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Anonymous:"):
            return int(line.split()[1])
    raise RuntimeError(f"no anonymous memory of {pid}")


def cpu_s(pid: int) -> float:
    """User and system CPU time of one process so far."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / TICKS_PER_S
