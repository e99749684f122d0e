"""Programs that some workers cannot run: told before a byte travels, and launched on the others."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

from corps.errors import Unavailable
from corps.model.command import Copied, Copy, Launch
from tests.support.cluster import Cluster
from tests.support.disks import tmpfs
from tests.support.versioned import NEWER, OLDER, compile_asking, compile_library

pytestmark = pytest.mark.root

ENTER = 'mount --bind "$1" "$2" && shift 2 && exec "$@"'
WHY = "has libfoo.so.1 up to FOO_1.5, app needs FOO_10.2 (symbol foo)"


class Machines(NamedTuple):
    """w1 has the library that `app` needs, w2 an older one in the same place."""

    cluster: Cluster
    app: Path
    older: Path
    newer: Path

    def start_older(self, name: str) -> None:
        prefix = ["unshare", "-m", "sh", "-c", ENTER, "sh", str(self.older), str(self.newer)]
        self.cluster.start_worker(name, prefix=prefix)
        self.cluster.wait_state(**{name: "ready"})

    def master_has(self) -> set[str]:
        return {path.name for path in self.cluster.settings.master_dir.glob("blobs/*/*")}


@pytest.fixture
def machines(tmp_path: Path) -> Iterator[Machines]:
    newer, older = tmp_path / "newer", tmp_path / "older"
    compile_library(newer, NEWER)
    compile_library(older, OLDER)
    app = compile_asking(tmp_path, "app", newer)
    made = Machines(Cluster(tmp_path), app, older, newer)
    try:
        made.cluster.start_master()
        made.cluster.start_worker("w1")
        made.start_older("w2")
        made.cluster.wait_state(w1="ready")
        yield made
    finally:
        made.cluster.end()


def test_check_tells_each_worker_that_cannot_run_it_and_copies_nothing(machines: Machines) -> None:
    do = machines.cluster
    before = machines.master_has()
    done = do.corps("check", str(machines.app), "--no-libs", check=False)
    assert done.returncode == 1 and "1 of 2 workers cannot run app" in done.stderr
    assert f"w2 {WHY}" in done.stdout and "can run it" in done.stdout
    done = do.corps("check", str(machines.app), "--no-libs", "-o", "json", check=False)
    rows = {row["worker"]: row for row in json.loads(done.stdout)}
    assert done.returncode == 1 and rows["w1"]["fits"] is True and rows["w1"]["problems"] == []
    assert rows["w2"]["fits"] is False and len(rows["w2"]["problems"]) == 1
    do.corps("check", str(machines.app), "--no-libs", "--on", "w1")
    do.corps("check", str(machines.app))  # with its library it runs everywhere
    assert machines.master_has() == before and do.client.artifacts() == []


def test_check_says_of_whom_it_does_not_know(machines: Machines) -> None:
    do = machines.cluster
    do.kill("w2")
    do.wait_state(w2="lost")
    done = do.corps("check", str(machines.app), "-o", "json", check=False)
    rows = {row["worker"]: row for row in json.loads(done.stdout)}
    assert rows["w2"]["fits"] is None and rows["w2"]["problems"] == ["worker 'w2' is lost"]
    assert done.returncode == 1 and rows["w1"]["fits"] is True
    done = do.corps("check", str(machines.app), "--on", "nobody", check=False)
    assert done.returncode == 4 and "nobody" in done.stderr


def test_a_copy_refuses_who_cannot_run_it_before_a_byte_travels(machines: Machines) -> None:
    do = machines.cluster
    before = machines.master_has()
    done = do.corps("copy", str(machines.app), "--no-libs", "--to", "w2", check=False)
    assert done.returncode == 7 and f"nothing was copied: w2 {WHY}" in done.stderr
    assert machines.master_has() == before and do.client.artifacts() == []
    done = do.corps("copy", str(machines.app), "--no-libs", "-o", "json", check=False)
    results = {row["worker"]: row["result"] for row in json.loads(done.stdout)}
    assert done.returncode == 1 and results["w1"] == "installed"
    assert results["w2"].startswith(f"w2 {WHY}")
    (artifact,) = do.client.artifacts()
    assert artifact.workers == ("w1",)
    assert not list(do.settings.worker_dir("w2").glob("blobs/*/*"))
    done = do.corps("copy", str(machines.app), "--no-libs", "--dry-run", "-o", "json", check=False)
    problems = {row["worker"]: row["problem"] for row in json.loads(done.stdout)}
    assert problems["w1"] is None and WHY in problems["w2"]


def test_launches_go_where_it_runs_and_the_others_are_named(machines: Machines) -> None:
    do = machines.cluster
    do.copy(machines.app, "--no-libs", "--to", "w1")
    made = do.launch("app", on="all", count=3)
    assert {instance.worker for instance in made} == {"w1"}
    deaths = [do.wait_dead(instance.id).death for instance in made]
    assert [death and death.code for death in deaths] == [0, 0, 0]
    done = do.corps("launch", "app", "--on", "w2", check=False)
    assert done.returncode == 7 and f"w2 {WHY}" in done.stderr
    machines.start_older("w3")  # it joins later
    done = do.corps("launch", "app", "--on", "w2,w3", check=False)
    assert done.returncode == 7 and f"w2 {WHY}" in done.stderr and f"w3 {WHY}" in done.stderr
    do.kill("w1")
    do.wait_state(w1="lost")
    with pytest.raises(Unavailable, match=r"no worker can run 'app': .*w2 has .*w3 has "):
        do.client.launch(Launch(artifact="app"))
    compile_library(machines.older, NEWER)  # somebody helps
    assert do.launch_one("app").worker in {"w2", "w3"}


def test_a_worker_looks_again_when_it_installs(machines: Machines) -> None:
    do = machines.cluster
    compile_library(machines.older, NEWER)
    do.copy(machines.app, "--no-libs", "--to", "w2")
    (artifact,) = do.client.artifacts()
    exited = do.wait_dead(do.launch_one("app", on="w2").id).death
    assert exited is not None and exited.code == 0
    do.client.delete("app")
    do.copy(machines.app, "--no-libs", "--to", "w1")
    compile_library(machines.older, OLDER)  # after w2 has said that it can run it
    result = do.client.submit(Copy(name="app", digest=artifact.digest, to="w2"), Copied)
    (row,) = result.workers
    assert row.result.startswith(f"w2 {WHY}")
    assert not list(do.settings.worker_dir("w2").glob("trees/*"))


def test_what_does_not_fit_on_the_disk_of_a_worker_is_not_even_uploaded(tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    with (tree / "data").open("wb") as data:
        data.truncate(200 << 20)
    (tree / "run").write_bytes(b"#!/bin/sh\nexit 0\n")
    (tree / "run").chmod(0o755)
    do = Cluster(tmp_path)
    with tmpfs(do.settings.worker_dir("w1"), 128) as small:
        try:
            small.chmod(0o700)
            do.start_master()
            do.start_worker("w1")
            do.wait_state(w1="ready")
            done = do.corps("copy", str(tree), "--entry", "run", check=False)
            assert done.returncode == 7 and f"bytes free in '{small}', tree needs " in done.stderr
            assert not list(do.settings.master_dir.glob("blobs/*/*"))
            assert do.corps("check", str(tree / "run")).returncode == 0
        finally:
            do.end()


def test_a_script_whose_interpreter_only_a_launch_can_name(shared: Cluster, tmp_path: Path) -> None:
    """Refused, as its PATH is not known yet; forced, and launched with the PATH that has it."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "own-shell").symlink_to("/bin/sh")
    script = tmp_path / "owned"
    script.write_text("#!/usr/bin/env own-shell\nexit 4\n")
    script.chmod(0o755)
    done = shared.corps("copy", str(script), check=False)
    assert done.returncode == 7 and "has no own-shell in PATH (/usr/local/sbin:" in done.stderr
    shared.copy(script, "--force", "--to", "w1")
    path = {"PATH": f"{tmp_path}/bin:/usr/bin:/bin"}
    dead = shared.wait_dead(shared.launch_one("owned", env=path, on="w1").id)
    assert dead.death is not None and dead.death.code == 4
    done = shared.corps("launch", "owned", "--on", "w2", check=False)
    assert done.returncode == 7 and "w2 has no own-shell in PATH" in done.stderr
    dead = shared.wait_dead(shared.launch_one("owned", env=path, on="w2").id)
    assert dead.death is not None and dead.death.code == 4


def test_workers_tell_what_machines_they_are(machines: Machines) -> None:
    for row in machines.cluster.client.workers():
        assert row.machine and row.kernel and row.libc and row.libc.startswith(("glibc 2.", "musl"))
    wide = machines.cluster.corps("workers", "-o", "wide").stdout
    assert "LIBC" in wide and "KERNEL" in wide
