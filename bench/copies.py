"""What a copy takes, beside cp, sendfile, scp, rsync and sbcast in the same run. Needs root.

`python -m bench.copies` runs it alone, `--small` with sizes that only show that it works. Contents
are random and new each time, under new names: nothing is there already, nothing can be compressed,
nothing is a difference to something else.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median
from typing import NamedTuple

import msgspec
import zstandard

from bench import binary, peers
from bench.cluster import Cluster, cluster
from corps.model.command import Copy
from corps.model.view import CopyView

MIB = 1 << 20
Record = Callable[[str, float, str, float, str], None]


class Sizes(NamedTuple):
    blob_mib: int = 256
    nodes: int = 8
    files: int = 20_000
    binary_mb: int = 100
    rounds: int = 3


FULL = Sizes()
SMALL = Sizes(blob_mib=16, nodes=3, files=500, binary_mb=8, rounds=1)


def run(record: Record, sizes: Sizes = FULL) -> None:
    """All figures of this module."""
    peers.check_there()
    with tempfile.TemporaryDirectory(prefix="corps-copies-") as name, peers.ssh() as ssh:
        room = Path(name)
        with cluster(1) as made:
            to_one(made, room, ssh, sizes, record)
            memory(made, room, sizes, record)
            small_files(made, room, ssh, sizes, record)
            changed_binary(made, room, ssh, sizes, record)
        with cluster(sizes.nodes) as made:
            to_many(made, room, ssh, sizes, record)
            unchanged(made, room, sizes, record)


def to_one(made: Cluster, room: Path, ssh: peers.Ssh, sizes: Sizes, record: Record) -> None:
    """The whole command from its cold start: read, hash, to the master's disk, to the worker's."""
    target = room / "target"

    def one_round(number: int) -> dict[str, float]:
        with large(room, sizes.blob_mib) as source:
            works: dict[str, Callable[[], object]] = {
                "corps": lambda: copy(made, source, f"one-{number}"),
                "cp": lambda: peers.cp_then_hash(source, target),
                "sendfile": lambda: peers.sendfile(source / "data", target),
                "scp": lambda: ssh.scp(source, target),
                "rsync": lambda: ssh.rsync(source, target),
            }
            taken = {what: timed(work, (target,)) for what, work in works.items()}
        made.client.delete(f"one-{number}")
        return taken

    best = medians([one_round(number) for number in range(sizes.rounds)])
    text = ", ".join(f"{what} {seconds:.2f} s" for what, seconds in best.items())
    figure = f"{sizes.blob_mib} MiB to one worker"
    record(f"{figure}, times cp-then-hash", best["corps"] / best["cp"], "x", 2, text)
    other = min(best["scp"], best["rsync"])
    record(f"{figure}, times the faster of scp and rsync", best["corps"] / other, "x", 1, "")


def memory(made: Cluster, room: Path, sizes: Sizes, record: Record) -> None:
    """The most that one of the three processes holds, beyond what it holds for a small copy."""
    with large(room, 1) as source:
        cli = copy(made, source, "memory-small").maxrss_kib
    daemons = {what: made.daemons()[what] for what in ("master", "worker")}
    before = {what: status_kib(pid, "VmRSS") for what, pid in daemons.items()}
    for pid in daemons.values():
        Path(f"/proc/{pid}/clear_refs").write_text("5")  # VmHWM begins anew, proc(5)
    grown = {"command": 0}
    for _ in range(2):  # the second is tried as a difference to the first, and in vain
        with large(room, sizes.blob_mib) as source:
            mine = copy(made, source, "memory").maxrss_kib - cli
            grown["command"] = max(grown["command"], mine)
    for what, pid in daemons.items():
        grown[what] = status_kib(pid, "VmHWM") - before[what]
    made.client.delete("memory")
    text = ", ".join(f"{what} {kib / 1024:.0f}" for what, kib in grown.items())
    figure = f"memory beyond a small copy's for {sizes.blob_mib} MiB, of one process"
    record(figure, max(grown.values()) / 1024, "MiB", 64, text)


def small_files(made: Cluster, room: Path, ssh: peers.Ssh, sizes: Sizes, record: Record) -> None:
    source, target = room / "many", room / "target"
    add_start(source)
    for number in range(sizes.files):
        directory = source / str(number % 100)
        directory.mkdir(exist_ok=True)
        (directory / f"{number}.txt").write_bytes(os.urandom(number % 4096))
    works: dict[str, Callable[[], object]] = {
        "corps": lambda: copy(made, source, "many"),
        "cp -r": lambda: peers.run("cp", "-r", str(source), str(target)),
        "rsync": lambda: ssh.rsync(source, target),
        "scp": lambda: ssh.scp(source, target),
    }
    taken = {what: timed(work, (target,)) for what, work in works.items()}
    made.client.delete("many")
    shutil.rmtree(source)
    text = ", ".join(f"{what} {sizes.files / s:.0f} files/s" for what, s in taken.items())
    figure = f"{sizes.files} files of 2 KiB in the mean to one worker"
    record(figure, taken["corps"], "s", sizes.files / 5_000, text)


def changed_binary(made: Cluster, room: Path, ssh: peers.Ssh, sizes: Sizes, record: Record) -> None:
    """What travels to a worker that has the build before."""
    old, new = binary.build(room / "binary", sizes.binary_mb * 1_000_000)
    program, target = room / "program", room / "target"
    shutil.copy(old, program)
    copy(made, program, "program")
    shutil.copy(new, program)
    (row,) = copy(made, program, "program").rows
    shutil.copy(old, target)
    said = ssh.rsync(new, target, "-zI", "--stats", "--no-whole-file")
    patched = next(line for line in said.splitlines() if line.startswith("Total bytes sent"))
    rsync_bytes = int(patched.split(":")[1].replace(",", ""))
    with new.open("rb") as file:
        whole = sum(map(len, zstandard.ZstdCompressor().read_to_iter(file)))
    share = 100 * row.bytes_sent / whole
    text = f"{row.bytes_sent / 1e6:.2f} MB travelled of {new.stat().st_size / 1e6:.0f} MB, "
    text += f"by zstd {whole / 1e6:.1f} MB; rsync -z {rsync_bytes / 1e6:.2f} MB"
    record("a binary with one function changed, of its zstd size", share, "%", 45, text)
    remove(room / "binary")
    remove(target)


def to_many(made: Cluster, room: Path, ssh: peers.Ssh, sizes: Sizes, record: Record) -> None:
    targets = [room / f"target-{number}" for number in range(sizes.nodes)]

    def one_round(nodes: peers.Slurm, number: int) -> dict[str, float]:
        with large(room, sizes.blob_mib) as source:
            taken = {"corps": timed(lambda: copy(made, source, f"all-{number}"))}
            os.sync()
            taken["sbcast"] = nodes.sbcast_s(source / "data")
            at_once = timed(lambda: ssh.scp_at_once(source, targets), targets)
            in_turn = sum(timed(partial(ssh.scp, source, to), (to,)) for to in targets)
            made.client.delete(f"all-{number}")
            return taken | {"scp, all at once": at_once, "scp, one after the other": in_turn}

    with peers.slurm(sizes.nodes) as nodes:
        best = medians([one_round(nodes, number) for number in range(sizes.rounds)])
    text = ", ".join(f"{what} {seconds:.2f} s" for what, seconds in best.items())
    figure = f"{sizes.blob_mib} MiB to {sizes.nodes} workers of one machine"
    record(f"{figure}, times sbcast", best["corps"] / best["sbcast"], "x", 1, text)
    record(f"{figure}, times scp at once", best["corps"] / best["scp, all at once"], "x", 0.25, "")


def unchanged(made: Cluster, room: Path, sizes: Sizes, record: Record) -> None:
    """Said by a client that has packed it; and the whole command, which reads and hashes again."""
    with large(room, sizes.blob_mib) as source:
        rows = copy(made, source, "again").rows
        command = Copy(name="again", digest=rows[0].digest, to="all")
        times = [timed(lambda: made.client.copy(command)) for _ in range(20)]
        whole: list[Copied] = []
        whole_s = timed(lambda: whole.append(copy(made, source, "again")))
    sent = sum(row.bytes_sent for row in whole[0].rows)
    text = f"{sent} bytes of content; the whole command {whole_s:.2f} s"
    figure = f"{sizes.blob_mib} MiB again, unchanged, to {sizes.nodes} workers (p50)"
    record(figure, median(times) * 1e3, "ms", 30, text)
    record(f"{figure}: content sent", sent, "bytes", 0, "")


class Copied(NamedTuple):
    rows: list[CopyView]
    maxrss_kib: int


def copy(made: Cluster, source: Path, name: str) -> Copied:
    """`corps copy` as an operator does it; what it says, and the most memory it had."""
    words = [sys.executable, "-m", "corps.cli.main", "--dir", str(made.directory), "copy"]
    words += [str(source), "--name", name, "--no-libs", "-o", "json"]
    words += ["--entry", "start"] if source.is_dir() else []
    with tempfile.TemporaryFile() as said:
        process = subprocess.Popen(words, stdout=said, stderr=subprocess.PIPE)
        assert process.stderr is not None
        with process.stderr as stderr:
            errors = stderr.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            raise RuntimeError(f"corps copy {source}: {errors}")
        said.seek(0)
        return Copied(msgspec.json.decode(said.read(), type=list[CopyView]), usage.ru_maxrss)


@contextmanager
def large(room: Path, size_mib: int) -> Iterator[Path]:
    """A directory with something to start and a file of that size, which nobody has seen."""
    source = room / "source"
    add_start(source)
    with (source / "data").open("wb") as file:
        for _ in range(size_mib):
            file.write(os.urandom(MIB))
    try:
        yield source
    finally:
        shutil.rmtree(source)


def add_start(source: Path) -> None:
    source.mkdir()
    shutil.copy("/bin/true", source / "start")


def timed(work: Callable[[], object], made: Sequence[Path] = ()) -> float:
    """Seconds of it alone: what was written before is on disk, what it `made` goes afterwards."""
    os.sync()
    begin = time.perf_counter()
    work()
    taken = time.perf_counter() - begin
    for path in made:
        remove(path)
    return taken


def medians(rounds: Sequence[dict[str, float]]) -> dict[str, float]:
    return {what: median(taken[what] for taken in rounds) for what in rounds[0]}


def remove(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def status_kib(pid: int, what: str) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{what}:"):
            return int(line.split()[1])
    raise RuntimeError(f"no {what} of {pid}")


def _print(figure: str, value: float, unit: str, budget: float, limit: str) -> None:
    mark = "" if value <= budget else "  MISSED"
    print(f"{figure:70} {value:9.3f} {unit:5} budget {budget:g}{mark}   {limit}", flush=True)


def main(words: Sequence[str]) -> None:
    run(_print, SMALL if "--small" in words else FULL)


if __name__ == "__main__":
    main(sys.argv[1:])
