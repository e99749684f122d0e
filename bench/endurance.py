"""A worker that begins anew with a thousand apps alive, and a cluster after very many launches.

The master remembers 20,000 events and deaths by design, and every heap finds its size only after a
while: memory is judged beyond WARM_UP launches, by the pages that are a daemon's own. Each batch is
removed again, as an operator would.

    python -m bench.endurance [--instances N] [--launches N]
"""

from __future__ import annotations

import argparse
import datetime
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from bench.cluster import Cluster, anonymous_kib, cluster
from corps.client import Client
from corps.keeper.cgroup import name_of
from corps.model.command import Launch

BATCH = 1_000
WARM_UP = 60_000  # launches until all that the master remembers has its full length
DEADLINE_S = 120.0
SLOPE_MAX_KIB = 1.0  # for each 1,000 launches
READOPT_MAX_S = 1.0
DAEMONS = ("master", "worker", "keeper")

Row = tuple[str, float, str, float, str]  # figure, measured, unit, budget, limit in this run


class Sample(NamedTuple):
    """What the daemons have after so many launches."""

    launches: int
    anonymous_kib: dict[str, int]
    fds: dict[str, int]
    zombies: int
    cgroups: int


def readopted(made: Cluster, count: int) -> tuple[float, float]:
    """Seconds until the master shows all running again: since the start, and since the dial."""
    client = made.client
    before = {i.id: i.pid for i in client.launch(_launch("sleep", count, "1000"))}
    os.kill(made.daemons()["worker"], signal.SIGKILL)
    _wait(lambda: {i.state for i in client.instances()} == {"unknown"})
    address = (made.settings.master_dir / "address").read_text().strip()
    log = made.directory / "worker.again"
    words = ["--dir", str(made.directory), "worker", "--master", address, "--name", "w1"]
    with log.open("ab") as output:
        begin = time.time()
        subprocess.Popen(
            [sys.executable, "-m", "corps.cli.main", *words],
            stderr=output,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
    _wait(lambda: _live(client) == count)
    end = time.time()
    assert {i.id: i.pid for i in client.instances()} == before, "the same processes"
    client.kill(("sleep",))
    return end - begin, end - _dialled_at(log)


def endure(made: Cluster, launches: int) -> list[Sample]:
    """Samples after each batch of /bin/true."""
    client, samples = made.client, []
    daemons = made.daemons()
    for done in range(BATCH, launches + 1, BATCH):
        client.launch(_launch("true", BATCH))
        _wait(lambda: _live(client) == 0)
        client.remove(("true",))
        samples.append(_sample(made, done, daemons))
    assert made.daemons() == daemons, "no daemon died on the way"
    return samples


def measure(count: int, launches: int) -> list[Row]:
    """The figures of this module."""
    rows: list[Row] = []
    with cluster() as made:
        made.corps("copy", "/bin/sleep")
        made.corps("copy", "/bin/true")
        whole_s, dialled_s = readopted(made, count)
        told = f"{whole_s:.2f} s with the start of the interpreter"
        rows.append((f"{count} live instances re-adopted", dialled_s, "s", READOPT_MAX_S, told))
    with cluster() as made:
        made.corps("copy", "/bin/true")
        begin = time.monotonic()
        samples = endure(made, launches)
        rate = f"{launches} launches, {launches / (time.monotonic() - begin):.0f}/s"
    first, last = samples[0], samples[-1]
    grown = sum(last.fds.values()) - sum(first.fds.values())
    rows.append(("descriptors more, after all launches", float(max(0, grown)), "", 0.0, rate))
    rows.append(("zombies, after all launches", float(last.zombies), "", 0.0, ""))
    cgroups = float(max(0, last.cgroups - first.cgroups))
    rows.append(("cgroups more, after all launches", cgroups, "", 0.0, ""))
    judged = [sample for sample in samples if sample.launches > WARM_UP]
    for daemon in DAEMONS if len(judged) > 1 else ():
        told = f"{judged[0].anonymous_kib[daemon]} KiB after {judged[0].launches} launches, "
        told += f"{judged[-1].anonymous_kib[daemon]} KiB after {judged[-1].launches}"
        what = f"memory of the {daemon} for 1,000 launches"
        rows.append((what, slope_kib(judged, daemon), "KiB", SLOPE_MAX_KIB, told))
    return rows


def slope_kib(samples: Sequence[Sample], daemon: str) -> float:
    """By least squares, how much more memory 1,000 more launches take."""
    xs = [sample.launches / 1_000 for sample in samples]
    ys = [float(sample.anonymous_kib[daemon]) for sample in samples]
    x_mean, y_mean = sum(xs) / len(xs), sum(ys) / len(ys)
    spread = sum((x - x_mean) ** 2 for x in xs)
    return sum((x - x_mean) * (y - y_mean) for x, y in zip(xs, ys, strict=True)) / spread


def _launch(artifact: str, count: int, *args: str) -> Launch:
    return Launch(artifact=artifact, count=count, args=args)


def _live(client: Client) -> int:
    """How many are running, as the master knows; 0 also when none is left."""
    states = [i.state for i in client.instances()]
    return -1 if set(states) - {"running"} else len(states)


def _sample(made: Cluster, launches: int, daemons: dict[str, int]) -> Sample:
    pids = {name: daemons[name] for name in DAEMONS}
    return Sample(
        launches=launches,
        anonymous_kib={name: anonymous_kib(pid) for name, pid in pids.items()},
        fds={name: len(os.listdir(f"/proc/{pid}/fd")) for name, pid in pids.items()},
        zombies=sum(map(_zombies, pids.values())),
        cgroups=_groups(name_of(str(made.settings.worker_dir("w1")))),
    )


def _groups(root: str) -> int:
    """The groups below those of our keeper, wherever its delegated tree is."""
    paths = [path for path, _, _ in os.walk("/sys/fs/cgroup")]
    roots = [path for path in paths if os.path.basename(path).startswith(root)]
    return sum(len(names) for path in roots for _, names, _ in os.walk(path))


def _zombies(pid: int) -> int:
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return sum(Path(f"/proc/{c}/stat").read_text().rpartition(")")[2][1] == "Z" for c in children)


def _dialled_at(log: Path) -> float:
    """When the worker said that it has taken over what runs and dials its master."""
    found = re.search(r"^(\S+ \S+),(\d+) INFO worker w1 in ", log.read_text(), re.MULTILINE)
    assert found is not None, log.read_text()
    moment = datetime.datetime.strptime(found[1], "%Y-%m-%d %H:%M:%S").astimezone()
    return moment.timestamp() + int(found[2]) / 1e3


def _wait(is_so: object) -> None:
    assert callable(is_so)
    end = time.monotonic() + DEADLINE_S
    while not is_so():
        if time.monotonic() > end:
            raise RuntimeError("the cluster did not become what it should be")
        time.sleep(0.005)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m bench.endurance")
    parser.add_argument("--instances", type=int, default=1_000)
    parser.add_argument("--launches", type=int, default=6_000)
    arguments = parser.parse_args()
    for figure, value, unit, budget, told in measure(arguments.instances, arguments.launches):
        mark = "" if value <= budget else "  MISSED"
        print(f"{figure:45} {value:9.3f} {unit:3} budget {budget:g}{mark}   {told}", flush=True)


if __name__ == "__main__":
    main()
