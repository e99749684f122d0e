"""A copy to workers on machines of their own: they fetch from each other, and need not."""

from __future__ import annotations

import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import msgspec
import pytest

from corps.client import Client
from corps.model.command import Copied, Copy
from corps.model.view import CopyView
from corps.pack.build import pack
from tests.support.artifacts import upload
from tests.support.cluster import Cluster
from tests.support.netns import Network, network
from tests.support.waiting import until

pytestmark = pytest.mark.root
MACHINES = ("w1", "w2", "w3", "w4")
SIZE_BYTES = 12 << 20
LINK = "200mbit"
SLOW_LINK = "20mbit"  # long enough for something to happen in between


@pytest.fixture
def lan() -> Iterator[Network]:
    with network(5) as made:
        yield made


@pytest.fixture
def spread(lan: Network, tmp_path: Path) -> Iterator[Cluster]:
    """The master as well has a machine and a link of its own."""
    made = Cluster(tmp_path)
    try:
        prefix = lan.add_machine("m")
        made.enroll(*MACHINES)
        made.start_master(listen=f"{lan.address('m')}:0", prefix=prefix)
        for name in MACHINES:
            made.start_worker(name, prefix=lan.add_machine(name))
        made.wait_state(**dict.fromkeys(MACHINES, "ready"))
        for name in ("m", *MACHINES):
            lan.limit(name, LINK)
        yield made
    finally:
        made.end()


def a_program(directory: Path) -> Path:
    """A script that tells how large its data is, which does not compress."""
    directory.mkdir()
    (directory / "data").write_bytes(os.urandom(SIZE_BYTES))
    entry = directory / "run"
    entry.write_text('#!/bin/sh\nwc -c < "$(dirname "$0")/data"\n')
    entry.chmod(0o755)
    return directory


def copied(made: Cluster, path: Path, *flags: str) -> list[CopyView]:
    done = made.corps("copy", str(path), "--entry", "run", "-o", "json", *flags)
    return msgspec.json.decode(done.stdout, type=list[CopyView])


def from_master(rows: list[CopyView]) -> int:
    return sum(row.bytes_sent - row.bytes_from_peers for row in rows)


def test_workers_fetch_from_each_other_and_the_master_sends_little_twice(
    spread: Cluster, tmp_path: Path
) -> None:
    rows = copied(spread, a_program(tmp_path / "app"))
    assert [row.result for row in rows] == ["installed"] * len(MACHINES)
    assert from_master(rows) < 3 * SIZE_BYTES
    assert sum(row.bytes_sent for row in rows) < (len(MACHINES) + 1) * SIZE_BYTES
    for instance in spread.launch("app", on="all"):
        spread.wait_dead(instance.id)
        assert int(spread.log_of(instance.id)) == SIZE_BYTES


def test_without_the_swarm_workers_leave_each_other_alone(spread: Cluster, tmp_path: Path) -> None:
    rows = copied(spread, a_program(tmp_path / "app"), "--no-swarm")
    assert [row.result for row in rows] == ["installed"] * len(MACHINES)
    assert from_master(rows) >= len(MACHINES) * SIZE_BYTES
    assert sum(row.bytes_from_peers for row in rows) == 0


def test_peers_that_die_and_links_that_are_cut_keep_nobody_else_from_it(
    spread: Cluster, lan: Network, tmp_path: Path
) -> None:
    for name in ("m", *MACHINES):
        lan.limit(name, SLOW_LINK)
    packed = pack(a_program(tmp_path / "app"), entry="run", libraries=(), with_libraries=False)
    digest = upload(spread.client, packed)
    with Client(spread.settings) as other, ThreadPoolExecutor(1) as pool:
        pool.submit(other.submit, Copy(name="app", digest=digest, to="all"), Copied)
        id = until(lambda: other.under_way or "")
        until(lambda: any(row.bytes_from_peers for row in spread.client.progress(id)))
        spread.kill("w2")
        lan.cut("w3")
        until(lambda: {"w1", "w4"} <= holders(spread, digest), 60)
        lan.mend("w3")
        spread.start_worker("w2", prefix=lan.command("w2"))
        until(lambda: holders(spread, digest) == set(MACHINES), 60)
    for instance in spread.launch("app", on="all"):
        spread.wait_dead(instance.id)
        assert int(spread.log_of(instance.id)) == SIZE_BYTES


def holders(made: Cluster, digest: str) -> set[str]:
    found = [artifact.workers for artifact in made.client.artifacts() if artifact.digest == digest]
    return set(found[0]) if found else set()
