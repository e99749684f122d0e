"""Copies as operators meet them: asked before, watched, broken off, made twice at once."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from tests.support.cluster import Cluster


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
