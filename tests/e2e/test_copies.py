"""Copies as operators meet them: asked before, watched, broken off, made twice at once."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from corps.errors import Malformed
from corps.model.command import Copy, Uploaded
from tests.support.cluster import Cluster
from tests.support.dam import Dam, before_operators, before_workers
from tests.support.waiting import until
from tests.unit.cli.terminal import Terminal

MIB = 1 << 20
SIZE_BYTES = 8 * MIB
HELD_BYTES = MIB  # after so many


@pytest.fixture(scope="module")
def dammed(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Cluster, Dam]]:
    """A worker that is sent no more bytes of blobs than a test lets through."""
    directory = tmp_path_factory.mktemp("dammed")
    made = Cluster(directory)
    try:
        made.start_master()
        with before_workers(made) as (dam, address):
            made.start_worker("w1", master=address)
            made.wait_state(w1="ready")
            yield made, dam
            made.end()
    finally:
        made.end()
        shutil.rmtree(directory / "state", ignore_errors=True)


def _json(cluster: Cluster, *words: str) -> Any:
    return json.loads(cluster.corps(words[0], "-o", "json", *words[1:]).stdout)


def a_tree(directory: Path, **files: bytes) -> Path:
    """A directory with these files, and a program that nobody has seen before."""
    directory.mkdir()
    for name, data in files.items():
        (directory / name).write_bytes(data)
    program = directory / "run"
    program.write_bytes(b"#!/bin/sh\n# " + os.urandom(8).hex().encode() + b"\nsleep 100\n")
    program.chmod(0o755)
    return directory


def a_program(directory: Path, name: str) -> Path:
    """SIZE_BYTES that nobody has seen before, and nothing can make less of."""
    path = directory / name
    path.write_bytes(b"#!/bin/sh\nexit 0\n" + os.urandom(SIZE_BYTES - 17))
    path.chmod(0o755)
    return path


def over(copy: subprocess.Popen[str]) -> tuple[int, str, str]:
    """Its exit status and what it said."""
    out, error = copy.communicate(timeout=60)
    return copy.returncode, out, error


def holders(cluster: Cluster, name: str) -> list[str]:
    return [
        worker for row in cluster.client.artifacts() if row.name == name for worker in row.workers
    ]


def blobs(cluster: Cluster) -> set[str]:
    """What the master has, or has a part of."""
    return {path.name for path in (cluster.settings.master_dir / "blobs").glob("*/*")} | {
        path.name for path in (cluster.settings.master_dir / "tmp").iterdir()
    }


# ---- asked before


def test_a_dry_run_says_what_each_worker_lacks_and_sends_nothing(
    shared: Cluster, tmp_path: Path
) -> None:
    common, late = os.urandom(300_000), os.urandom(70_000)
    first = a_tree(tmp_path / "first", common=common, again=common)
    shared.copy(first, "--entry", "run", "--to", "w1")
    second = a_tree(tmp_path / "second", common=common, late=late)
    copy = ("copy", str(second), "--entry", "run")
    before = blobs(shared), shared.client.artifacts(), shared.client.events()
    rows = _json(shared, *copy, "--dry-run")
    assert (blobs(shared), shared.client.artifacts(), shared.client.events()) == before
    new = len(late) + (second / "run").stat().st_size
    total = new + len(common)
    assert [(row["worker"], row["bytes_missing"], row["files_missing"]) for row in rows] == [
        (None, new, 2),
        ("w1", new, 2),
        ("w2", total, 3),
    ]
    assert {(row["bytes_total"], row["files_total"]) for row in rows} == {(total, 3)}
    lacking = ["late", "run"]
    assert [row["paths"] for row in rows] == [lacking, lacking, ["common", *lacking]]
    table = shared.corps(*copy, "--dry-run", "-o", "wide").stdout
    assert "(master)" in table and "would upload" in table and "common late run" in table

    copied = {row["worker"]: row for row in _json(shared, *copy)}
    for row in rows[1:]:
        done = copied[row["worker"]]
        assert row["digest"] == done["digest"]
        assert done["files_sent"] == row["files_missing"]
    for row in _json(shared, *copy, "--dry-run"):
        assert (row["bytes_missing"], row["files_missing"], row["paths"]) == (0, 0, [])
    assert shared.corps(*copy, "--dry-run").stdout.count("has all") == 3


def test_a_dry_run_is_refused_as_the_copy_would_be(shared: Cluster, tmp_path: Path) -> None:
    program = a_tree(tmp_path / "refused")
    copy = ("copy", str(program), "--entry", "run", "--dry-run")
    done = shared.corps(*copy, "--to", "zone=nowhere", check=False)
    assert (done.returncode, done.stdout) == (7, "")
    assert "no worker is meant by 'zone=nowhere'" in done.stderr
    done = shared.corps(*copy, "--name", "Bad Name", check=False)
    assert done.returncode == 3
    assert done.stderr.count("\n") == 1


def test_a_dry_run_names_who_could_not_run_it(shared: Cluster, tmp_path: Path) -> None:
    program = tmp_path / "odd"
    program.write_text("#!/no/such/interpreter\n")
    program.chmod(0o755)
    done = shared.corps("copy", str(program), "--dry-run", "-o", "json", check=False)
    assert done.returncode == 1
    master, *rows = json.loads(done.stdout)
    assert master["problem"] is None
    assert all("/no/such/interpreter" in row["problem"] for row in rows)
    assert "2 of 2 workers would not get odd" in done.stderr
    assert "odd would not get to w2: " in done.stderr
    (_, *rows) = _json(shared, "copy", str(program), "--dry-run", "--force")
    assert [row["problem"] for row in rows] == [None, None]


# ---- broken off


def test_ctrl_c_in_an_upload_leaves_nothing_half(shared: Cluster, tmp_path: Path) -> None:
    program = a_program(tmp_path, "brokenoff")
    before = blobs(shared)
    with before_operators(shared, tmp_path / "dam") as (dam, server):
        dam.hold(HELD_BYTES)
        copy = shared.begin("--server", server, "copy", str(program))
        dam.wait_full()
        copy.send_signal(signal.SIGINT)
        status, out, error = over(copy)
        assert (status, out) == (130, "")
        assert "corps: brokenoff is not copied; what the master has of it " in error
        assert error.endswith("corps: interrupted\n")
    until(lambda: {name for name in blobs(shared) - before if not name.endswith(".part")} == set())
    assert [row for row in shared.client.artifacts() if row.name == "brokenoff"] == []
    assert shared.client.copies() == []
    rows = _json(shared, "copy", str(program))
    assert [row["result"] for row in rows] == ["installed"] * 2
    assert not any(name.startswith(rows[0]["digest"]) for name in _arriving(shared))
    assert _arriving(shared) == []


def _arriving(cluster: Cluster) -> list[str]:
    return [path.name for path in (cluster.settings.master_dir / "tmp").iterdir()]


def test_ctrl_c_in_a_distribution_says_what_goes_on_and_how_to_see_it(
    dammed: tuple[Cluster, Dam], tmp_path: Path
) -> None:
    cluster, dam = dammed
    dam.hold(HELD_BYTES)
    copy = cluster.begin("copy", str(a_program(tmp_path, "goeson")))
    dam.wait_full()
    (row,) = until(lambda: [row for row in _json(cluster, "progress") if row["bytes_done"]])
    assert (row["artifact"], row["worker"], row["result"]) == ("goeson", "w1", "waiting")
    assert 0 < row["bytes_done"] < row["bytes_total"] == SIZE_BYTES
    copy.send_signal(signal.SIGINT)
    status, out, error = over(copy)
    assert (status, out) == (130, "")
    assert "corps: the copy of goeson goes on to w1: 'corps progress' shows it" in error
    assert holders(cluster, "goeson") == []
    follow = cluster.begin("progress", "-f")
    assert follow.stderr is not None
    assert f"goeson@{row['digest'][:12]} to w1: " in follow.stderr.readline()
    dam.open()
    assert over(follow)[0] == 0
    until(lambda: holders(cluster, "goeson") == ["w1"])
    assert _json(cluster, "progress") == []


# ---- watched


def test_lines_say_how_far_it_is_where_no_terminal_is(
    dammed: tuple[Cluster, Dam], tmp_path: Path
) -> None:
    cluster, dam = dammed
    dam.hold(HELD_BYTES)
    copy = cluster.begin("copy", str(a_program(tmp_path, "lines")), "--progress", "-o", "json")
    assert copy.stderr is not None
    seen = [copy.stderr.readline()]
    while not (seen[-1].startswith("w1: ") and "%" in seen[-1] and "(0 %)" not in seen[-1]):
        seen.append(copy.stderr.readline())
    assert " of 8.0 MiB (" in seen[-1]
    dam.open()
    status, out, error = over(copy)
    assert status == 0
    assert error.splitlines()[-1].startswith("w1: installed, 8.0 MiB in ")
    assert error.splitlines()[-1].endswith("/s")
    assert [row["result"] for row in json.loads(out)] == ["installed"]
    again = cluster.corps("copy", str(tmp_path / "lines"), "-o", "json")
    assert again.stderr == ""


def test_bars_on_a_terminal_tell_the_rate_and_the_time_left(
    dammed: tuple[Cluster, Dam], tmp_path: Path
) -> None:
    cluster, dam = dammed
    dam.hold(HELD_BYTES)
    command = cluster.command("copy", str(a_program(tmp_path, "bars")))
    with Terminal(command, os.environ) as terminal:
        terminal.expect("w1 ")
        terminal.expect(" of 8.0 MiB (")
        dam.wait_full()
        dam.hold(HELD_BYTES)
        terminal.expect("/s, ")
        terminal.expect(" left")
        dam.open()
        assert terminal.wait() == 0
    assert b"installed" in terminal.seen


# ---- twice at once


def test_two_copies_of_the_same_thing_share_what_travels_to_a_worker(
    dammed: tuple[Cluster, Dam], tmp_path: Path
) -> None:
    cluster, dam = dammed
    program = a_program(tmp_path, "twice")
    dam.hold(HELD_BYTES)
    first = cluster.begin("copy", str(program), "-o", "json")
    dam.wait_full()
    second = cluster.begin("copy", str(program), "-o", "json")
    rows = until(lambda: [*_two(_json(cluster, "progress"))])
    assert len({row["command"] for row in rows}) == 2
    dam.open()
    results = [over(copy) for copy in (first, second)]
    assert [status for status, _, _ in results] == [0, 0], results
    assert [json.loads(out)[0]["result"] for _, out, _ in results] == ["installed"] * 2
    assert SIZE_BYTES <= dam.passed_bytes < SIZE_BYTES + MIB


def _two(rows: list[Any]) -> list[Any]:
    return rows if len(rows) == 2 else []


def test_a_second_copy_takes_over_from_one_that_says_nothing(
    shared: Cluster, tmp_path: Path
) -> None:
    program = a_program(tmp_path, "stalled")
    with before_operators(shared, tmp_path / "dam") as (dam, server):
        dam.hold(HELD_BYTES)
        stalled = shared.begin("--server", server, "copy", str(program))
        dam.wait_full()
        shared.copy(program)
        assert holders(shared, "stalled") == ["w1", "w2"]
        dam.open()
        assert over(stalled)[0] == 0


# ---- told afterwards


def test_audit_tells_what_was_on_the_wire_and_how_fast(shared: Cluster, tmp_path: Path) -> None:
    program = a_program(tmp_path, "audited")
    shared.copy(program, "--to", "w1")
    shared.copy(program)
    rows = _json(shared, "audit", "audited")
    assert [(row["kind"], row["worker"], row["outcome"]) for row in rows] == [
        ("upload", None, "uploaded"),
        ("copy", "w1", "installed"),
        ("copy", "w1", "unchanged"),
        ("copy", "w2", "installed"),
    ]
    upload, first, again, second = rows
    for row in (upload, first, second):
        assert row["bytes_total"] == SIZE_BYTES
        assert row["rate_bytes_s"] == pytest.approx(row["bytes_sent"] / row["seconds"])
        assert 0 <= row["bytes_from_peers"] <= row["bytes_sent"]
    assert upload["phases_s"] == {"upload": upload["seconds"]}
    assert (again["bytes_sent"], again["rate_bytes_s"]) == (0, None)
    wide = shared.corps("audit", "audited", "-o", "wide").stdout.splitlines()
    assert "FROM PEERS" in wide[0] and "RATE" in wide[0]
    assert "iB/s" in wide[1] and "upload=" in wide[1]
    title, *lines = shared.corps("audit", "audited", "-o", "csv").stdout.splitlines()
    assert "bytes_sent,bytes_total,bytes_from_peers,rate_bytes_s" in title
    assert len(lines) == len(rows)


def test_an_upload_that_cannot_be_is_malformed(shared: Cluster) -> None:
    row = shared.client.artifacts()[0]
    wild = Uploaded(bytes_sent=-1, bytes_total=1, seconds=1e300)
    with pytest.raises(Malformed, match="bytes_sent"):
        shared.client.copy(Copy(name=row.name, digest=row.digest, uploaded=wild))
