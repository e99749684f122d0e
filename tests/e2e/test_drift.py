"""Artifacts that change on a worker's disk: found before they are executed, mended, and told."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from tests.support import compiled
from tests.support.cluster import Cluster
from tests.support.waiting import until

PROGRAM = r"""
#include <stdio.h>
#include <unistd.h>
int main(int argc, char **argv) {
    puts("as it was copied"); fflush(stdout);
    if (argc > 1) for (;;) pause();
    return 0;
}
"""


def copied(cluster: Cluster, tmp_path: Path, name: str = "prog") -> Path:
    """A program copied to every worker; where it is on the first."""
    cluster.copy(compiled.compile_c(tmp_path, name, PROGRAM))
    (row,) = [row for row in cluster.client.artifacts() if row.name == name]
    return tree_of(cluster, row.digest) / name


def tree_of(cluster: Cluster, digest: str, worker: str = "w1") -> Path:
    return cluster.settings.worker_dir(worker) / "trees" / digest


def flip(path: Path) -> None:
    """One bit in the middle, with the time of the file left as it was, as a disk would do it."""
    status = path.stat()
    with path.open("r+b") as file:
        file.seek(status.st_size // 2)
        byte = file.read(1)
        file.seek(status.st_size // 2)
        file.write(bytes([byte[0] ^ 1]))
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def drift(cluster: Cluster) -> list[str]:
    return [event.message for event in cluster.client.events() if event.kind == "drift"]


def runs(cluster: Cluster, name: str = "prog") -> None:
    dead = cluster.wait_dead(cluster.launch_one(name).id)
    assert dead.death is not None and dead.death.message == "exited 0"
    assert cluster.log_of(dead.id) == "as it was copied\n"


def test_a_flipped_bit_is_found_before_the_first_launch_of_a_daemon(
    alone: Cluster, tmp_path: Path
) -> None:
    place = copied(alone, tmp_path)
    runs(alone)
    alone.kill("w1")
    good = place.read_bytes()
    flip(place)
    alone.start_worker("w1")
    alone.wait_state(w1="ready")
    runs(alone)
    assert place.read_bytes() == good
    (message,) = drift(alone)
    assert message.endswith("'prog' damaged on disk: repaired")
    (evidence,) = (alone.settings.worker_dir("w1") / "quarantine").iterdir()
    assert evidence.read_bytes() != good and len(evidence.read_bytes()) == len(good)


def test_what_is_damaged_cannot_be_launched_while_nobody_has_it_whole(
    alone: Cluster, tmp_path: Path
) -> None:
    place = copied(alone, tmp_path)
    alone.kill("w1")
    flip(place)
    blobs = alone.settings.master_dir / "blobs"
    for blob in blobs.rglob("*"):
        if blob.is_file() and blob.read_bytes()[:4] == b"\x7fELF":
            blob.unlink()
    alone.start_worker("w1")
    alone.wait_state(w1="ready")
    death = alone.wait_dead(alone.launch_one("prog").id).death
    assert death is not None and (death.kind, death.stage) == ("spawn_failed", "fetch")
    assert "no blob" in death.message
    alone.copy(tmp_path / "prog")  # whoever has it makes it whole again
    runs(alone)


@pytest.mark.parametrize("gone", ["file", "tree", "blobs"])
def test_what_was_deleted_under_a_running_app_is_fetched_for_the_next(
    alone: Cluster, tmp_path: Path, gone: str
) -> None:
    place = copied(alone, tmp_path)
    running = alone.launch_one("prog", "stay")
    if gone == "file":
        place.unlink()
    else:
        victim = place.parent if gone == "tree" else alone.settings.worker_dir("w1") / "blobs"
        for path in sorted(victim.rglob("*"), reverse=True):
            path.rmdir() if path.is_dir() else path.unlink()
        victim.rmdir() if gone == "tree" else None
    runs(alone)
    assert place.exists()
    assert alone.get(running.id).state == "running"
    assert alone.client.kill([running.id])[0].state == "dead"


def test_a_binary_is_not_written_while_it_runs_and_a_replaced_one_is_not_run(
    alone: Cluster, tmp_path: Path
) -> None:
    place = copied(alone, tmp_path)
    assert place.stat().st_mode & 0o777 == 0o555
    running = alone.launch_one("prog", "stay")
    with pytest.raises(OSError) as refused:
        place.open("r+b")
    assert refused.value.errno == errno.ETXTBSY
    new = place.with_name("new")
    new.write_bytes(b"#!/bin/sh\necho something else\n")
    new.chmod(0o755)
    new.rename(place)
    runs(alone)
    assert alone.get(running.id).state == "running"
    (message,) = drift(alone)
    assert "'prog' has 30 bytes, should have " in message


def test_a_worker_takes_no_damaged_blob_from_its_master(alone: Cluster, tmp_path: Path) -> None:
    place = copied(alone, tmp_path)
    good = place.read_bytes()
    stored = alone.settings.master_dir / "blobs"
    blob = next(path for path in stored.rglob("*") if path.is_file() and path.read_bytes() == good)
    flip(blob)
    place.unlink()
    (alone.settings.worker_dir("w1") / "blobs" / blob.name[:2] / blob.name).unlink()
    death = alone.wait_dead(alone.launch_one("prog").id).death
    assert death is not None and death.stage == "fetch"
    assert "arrived with other bytes" in death.message
    until(lambda: "install-failed" in [event.kind for event in alone.client.events()])
