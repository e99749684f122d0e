"""Disks that are full before, while and after something is copied: told, nothing half, no daemon
lost, and everything goes on once there is room."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from corps.net.bulk_client import BulkClient
from corps.net.unix_http import connect_unix
from tests.support.cluster import Cluster
from tests.support.dam import before_operators, before_workers
from tests.support.disks import ext4, fill, quota
from tests.support.waiting import until

MIB = 1 << 20
DISK_MIB = 64

pytestmark = pytest.mark.root


def a_program(directory: Path, name: str, size_bytes: int) -> Path:
    """Content that nobody has seen before, and nothing can make less of."""
    path = directory / name
    path.write_bytes(b"#!/bin/sh\nexec sleep 100\n" + os.urandom(size_bytes - 25))
    path.chmod(0o755)
    return path


def arriving(directory: Path) -> list[str]:
    return [path.name for path in (directory / "tmp").iterdir()]


def names(directory: Path) -> set[str]:
    return {path.name for path in (directory / "blobs").glob("*/*")}


def copied(cluster: Cluster, *words: str) -> dict[str, Any]:
    """The row of each worker, of a copy that some did not get."""
    done = cluster.corps("copy", "-o", "json", *words, check=False)
    assert done.returncode == 1, done.stderr
    return {row["worker"]: row for row in json.loads(done.stdout)}


# ---- the master's


@pytest.fixture
def full_master(tmp_path: Path) -> Iterator[Cluster]:
    """A master on a disk of its own, DISK_MIB large."""
    made = Cluster(tmp_path)
    with ext4(tmp_path / "image", made.settings.master_dir, DISK_MIB):
        try:
            made.start_master()
            made.start_worker("w1")
            made.wait_state(w1="ready")
            yield made
        finally:
            made.end()
    shutil.rmtree(tmp_path / "state", ignore_errors=True)


def test_an_upload_that_has_no_room_is_refused_before_it_begins(
    full_master: Cluster, tmp_path: Path
) -> None:
    home = full_master.settings.master_dir
    tree = tmp_path / "tree"
    tree.mkdir()
    a_program(tree, "run", 1_000)
    for number in range(8):
        (tree / f"data{number}").write_bytes(os.urandom(8 * MIB))
    with before_operators(full_master, tmp_path / "dam") as (dam, server):
        dam.hold(MIB)
        copy = ("copy", str(tree), "--entry", "run")
        done = full_master.corps("--server", server, *copy, check=False)
        assert (done.returncode, done.stdout) == (7, "")
        assert f"no room at the master: {8 * 8 * MIB + 1_000} bytes should come, " in done.stderr
        assert "delete artifacts or free space there, then copy again" in done.stderr
        assert dam.passed_bytes < MIB  # questions, no content
    assert (arriving(home), names(home)) == ([], set())
    full_master.copy(a_program(tmp_path, "small", 8 * MIB))


def test_what_is_left_of_a_broken_copy_makes_room_for_the_next(
    full_master: Cluster, tmp_path: Path
) -> None:
    home = full_master.settings.master_dir
    kept = a_program(tmp_path, "kept", MIB)
    full_master.copy(kept)
    named = names(home)
    left = a_program(tmp_path, "left", 24 * MIB)
    with BulkClient(lambda: connect_unix(home / "bulk.sock")) as bulk:
        digest = bulk.put_bytes(left.read_bytes())
    until(lambda: names(home) == named | {digest})
    full_master.copy(a_program(tmp_path, "new", 16 * MIB))
    assert digest not in names(home)
    assert named < names(home)
    full_master.copy(kept)


def test_a_disk_that_fills_while_an_upload_comes_in(full_master: Cluster, tmp_path: Path) -> None:
    home = full_master.settings.master_dir
    program = a_program(tmp_path, "midway", 16 * MIB)
    before = names(home)
    with before_operators(full_master, tmp_path / "dam") as (dam, server):
        dam.hold(MIB)
        copy = full_master.begin("--server", server, "copy", str(program))
        dam.wait_full()
        filler = fill(home, 0)
        dam.open()
        out, error = copy.communicate(timeout=60)
        assert (copy.returncode, out) == (7, "")
        assert "no space left on device; free some space there, then repeat" in error
        assert error.count("\n") == 1
    until(lambda: arriving(home) == [])
    assert names(home) == before
    assert full_master.returncode("master") is None
    filler.unlink()
    full_master.copy(program)


def test_a_master_that_can_write_nothing_holds_its_answers(
    full_master: Cluster, tmp_path: Path
) -> None:
    full_master.copy(a_program(tmp_path, "app", 1_000))
    running = full_master.launch_one("app")
    filler = fill(full_master.settings.master_dir, 0)
    launch = full_master.begin("launch", "app", "--count", "50", "-o", "name")
    until(lambda: "changes wait" in full_master.log("master"))
    assert launch.poll() is None
    filler.unlink()
    out, error = launch.communicate(timeout=60)
    assert (launch.returncode, error) == (0, "")
    assert len(out.splitlines()) == 50
    assert full_master.get(running.id).pid == running.pid
    full_master.corps("kill", "app", "-y")


# ---- a worker's


@pytest.fixture
def small_worker(tmp_path: Path) -> Iterator[Cluster]:
    """w1 has a disk of its own, w2 has not."""
    made = Cluster(tmp_path)
    with ext4(tmp_path / "image", made.settings.worker_dir("w1"), DISK_MIB):
        try:
            made.start_master()
            for name in ("w1", "w2"):
                made.start_worker(name, "--disk-reserve", "1M")
            made.wait_state(w1="ready", w2="ready")
            yield made
        finally:
            made.end()
    shutil.rmtree(tmp_path / "state", ignore_errors=True)


def test_a_worker_without_room_is_sent_nothing_and_the_others_get_it(
    small_worker: Cluster, tmp_path: Path
) -> None:
    home = small_worker.settings.worker_dir("w1")
    program = a_program(tmp_path, "large", (DISK_MIB + 1) * MIB)
    before = names(home)
    rows = copied(small_worker, str(program))
    assert " bytes free in " in rows["w1"]["result"]
    assert ": delete artifacts or free space there" in rows["w1"]["result"]
    assert (rows["w1"]["bytes_sent"], rows["w2"]["result"]) == (0, "installed")
    rows = copied(small_worker, str(program), "--force")
    assert "no room for artifact" in rows["w1"]["result"]
    assert "delete artifacts or free space there, then copy again" in rows["w1"]["result"]
    assert (rows["w1"]["bytes_sent"], rows["w2"]["result"]) == (0, "unchanged")
    assert names(home) - before <= {rows["w1"]["digest"]}  # the manifest that told its size
    assert arriving(home) == []
    small_worker.copy(a_program(tmp_path, "fits", 8 * MIB))


def test_a_disk_that_fills_while_an_install_comes_in(tmp_path: Path) -> None:
    made = Cluster(tmp_path)
    home = made.settings.worker_dir("w1")
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, tmp_path / "state", ignore_errors=True)
        stack.enter_context(ext4(tmp_path / "image", home, DISK_MIB))
        stack.callback(made.end)
        made.start_master()
        dam, address = stack.enter_context(before_workers(made))
        made.start_worker("w1", "--disk-reserve", "1M", master=address)
        made.wait_state(w1="ready")
        program = a_program(tmp_path, "midway", 16 * MIB)
        dam.hold(MIB)
        copy = made.begin("copy", str(program), "-o", "json")
        dam.wait_full()
        filler = fill(home, 0)
        dam.open()
        out, error = copy.communicate(timeout=60)
        assert copy.returncode == 1
        assert "no space left on device; free some space there, then repeat" in error
        assert json.loads(out)[0]["result"] in error
        assert made.client.artifacts()[0].workers == ()
        assert made.returncode("w1") is None
        filler.unlink()
        until(lambda: made.corps("copy", str(program), check=False).returncode == 0, 40)
        assert arriving(home) == []
        assert made.launch_one("midway").pid is not None
        made.end()


def test_a_quota_is_told_as_a_full_disk_is(tmp_path: Path) -> None:
    made = Cluster(tmp_path)
    home = made.settings.worker_dir("w1")
    with quota(tmp_path / "image", home, 256, 48):
        try:
            made.start_master()
            made.start_worker("w1", "--disk-reserve", "1M")
            made.wait_state(w1="ready")
            rows = copied(made, str(a_program(tmp_path, "toomuch", 64 * MIB)))
            assert "quota exceeded; free some space there, then repeat" in rows["w1"]["result"]
            assert made.returncode("w1") is None
            until(lambda: arriving(home) == [])
            made.copy(a_program(tmp_path, "fits", 4 * MIB))
            assert made.launch_one("fits").pid is not None
        finally:
            made.end()
    shutil.rmtree(tmp_path / "state", ignore_errors=True)
