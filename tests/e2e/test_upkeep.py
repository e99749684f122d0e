"""`artifacts verify|gc|usage` and `tag`, as an operator uses them."""

from __future__ import annotations

import json
import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from corps.client import Client
from corps.errors import Conflict
from corps.model.command import Copy
from corps.model.finding import Drift
from corps.net.bulk_client import BulkClient
from corps.net.unix_http import connect_unix
from tests.support.cluster import Cluster
from tests.support.waiting import until

SCRIPT = '#!/bin/sh\necho {version}\n[ -z "$1" ] || exec sleep 1000\n'


def copied(cluster: Cluster, tmp_path: Path, version: int, *flags: str) -> str:
    """A version of `web`, copied; its digest."""
    path = tmp_path / "web"
    path.write_text(SCRIPT.format(version=version))
    path.chmod(0o755)
    (row, *_) = shown(cluster, "copy", str(path), *flags)
    digest: str = row["digest"]
    return digest


def shown(cluster: Cluster, *words: str, check: bool = True) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads(cluster.corps(*words, "-o", "json", check=check).stdout)
    return rows


def place(cluster: Cluster, worker: str, digest: str, path: str = "web") -> Path:
    return cluster.settings.worker_dir(worker) / "trees" / digest / path


def results(rows: list[dict[str, Any]]) -> dict[str | None, str]:
    return {row["worker"]: row["result"] for row in rows}


def test_verify_names_what_drifted_and_where_and_repair_mends_it(
    shared: Cluster, tmp_path: Path
) -> None:
    digest = copied(shared, tmp_path, 1, "--name", "mended")
    whole = {None: "whole", "w1": "whole", "w2": "whole"}
    assert results(shown(shared, "artifacts", "verify", "mended")) == whole
    edited = place(shared, "w2", digest)
    edited.unlink()
    edited.write_text("#!/bin/sh\necho my own\n")
    (edited.parent / "notes.txt").write_text("remember")
    done = shared.corps("artifacts", "verify", "mended", check=False)
    assert done.returncode == 1
    assert "mended on w2: 'web': edited by hand" in done.stderr
    assert "mended on w2: 'notes.txt': nobody copied it" in done.stderr
    rows = shown(shared, "artifacts", "verify", "mended", check=False)
    assert results(rows) == whole | {"w2": "drift"}
    assert edited.read_text() == "#!/bin/sh\necho my own\n"  # looking changes nothing
    assert results(shown(shared, "artifacts", "verify", "mended", "--repair")) == whole
    assert edited.read_text() == SCRIPT.format(version=1)
    assert stat.S_IMODE(edited.stat().st_mode) == 0o555
    assert (edited.parent / "notes.txt").read_text() == "remember"
    evidence = shared.settings.worker_dir("w2") / "quarantine"
    assert [path.read_text() for path in evidence.iterdir()] == ["#!/bin/sh\necho my own\n"]


def test_what_runs_a_deleted_binary_is_named(shared: Cluster, tmp_path: Path) -> None:
    shared.corps("copy", "/usr/bin/sleep", "--name", "sleeper")
    instance = shared.launch_one("sleeper", "1000", on="w1")
    digest = instance.digest
    rows = shown(shared, "artifacts", "verify", "sleeper")
    binary = place(shared, "w1", digest, "sleep")
    good = binary.read_bytes()
    binary.unlink()
    binary.write_bytes(good)
    binary.chmod(0o555)
    rows = shown(shared, "artifacts", "verify", "sleeper", check=False)
    (found,) = [row for row in rows if row["worker"] == "w1"]
    (finding,) = found["findings"]
    assert finding["drift"] == Drift.DELETED and finding["path"] == "sleep"
    assert finding["text"].startswith(f"{instance.id} (pid {instance.pid}) is running a deleted")
    shared.client.kill([instance.id])
    assert results(shown(shared, "artifacts", "verify", "sleeper"))["w1"] == "whole"


def test_a_damaged_blob_of_the_master_is_put_away_and_copied_again(
    shared: Cluster, tmp_path: Path
) -> None:
    digest = copied(shared, tmp_path, 3, "--name", "stored")
    blobs = shared.settings.master_dir / "blobs"
    content = SCRIPT.format(version=3).encode()
    (blob,) = [path for path in blobs.rglob("*") if path.is_file() and path.read_bytes() == content]
    blob.chmod(0o644)
    blob.write_bytes(content.replace(b"3", b"4"))
    rows = shown(shared, "artifacts", "verify", "stored", check=False)
    assert results(rows)[None] == "drift" and results(rows)["w1"] == "whole"
    done = shared.corps("artifacts", "verify", "stored", "--repair", check=False)
    assert done.returncode == 1
    assert "cannot be mended at the master: copy it again" in done.stderr
    assert not blob.exists()
    assert copied(shared, tmp_path, 3, "--name", "stored") == digest
    assert results(shown(shared, "artifacts", "verify", "stored"))[None] == "whole"


def test_a_version_without_a_readable_manifest_is_still_listed_and_deleted(
    shared: Cluster, tmp_path: Path
) -> None:
    digest = copied(shared, tmp_path, 5, "--name", "broken")
    (shared.settings.master_dir / "blobs" / digest[:2] / digest).unlink()
    (row,) = [row for row in shown(shared, "artifacts") if row["name"] == "broken"]
    assert row["files"] == [] and row["unique_bytes"] is None
    rows = shown(shared, "artifacts", "verify", "broken", check=False)
    assert rows[0]["findings"][0]["text"] == "its manifest is missing"
    refused = shared.corps("artifacts", "gc", "--dry-run", check=False)
    assert refused.returncode == 7 and f"nobody knows what {digest[:12]} needs" in refused.stderr
    shared.corps("delete", "broken")
    shared.corps("artifacts", "gc", "--dry-run")


def test_garbage_goes_and_nothing_else(alone: Cluster, tmp_path: Path) -> None:
    runs, tagged, old = (
        copied(alone, tmp_path, 1),
        copied(alone, tmp_path, 2, "--tag", "2.0"),
        copied(alone, tmp_path, 3),
    )
    alone.launch_one(f"web@{runs}", "stay")
    newest = copied(alone, tmp_path, 4)
    plan = alone.client.garbage()
    assert {row.digest: row.kept_for for row in plan.versions} == {
        runs: "web.1 is running",
        tagged: "tagged 2.0",
        old: None,
        newest: "the newest web",
    }
    dry = alone.corps("artifacts", "gc", "--dry-run")
    assert "would be deleted" in dry.stdout and "would free" in dry.stderr
    assert len(alone.client.artifacts()) == 4
    done = alone.corps("artifacts", "gc")
    assert done.stdout.count("deleted") == 1
    assert {row.digest for row in alone.client.artifacts()} == {runs, tagged, newest}
    until(lambda: not place(alone, "w1", old).parent.exists())
    left = alone.settings.master_dir / "blobs"
    until(lambda: not any(path.name == old for path in left.rglob("*")))
    assert results(shown(alone, "artifacts", "verify")) == {None: "whole", "w1": "whole"}
    over = alone.corps("artifacts", "gc", "--budget", "1", "--all")
    assert "over the budget" in over.stderr
    assert {row.digest for row in alone.client.artifacts()} == {runs, tagged}


def test_several_go_only_when_that_is_sure(shared: Cluster, tmp_path: Path) -> None:
    for version in (1, 2, 3):
        copied(shared, tmp_path, version, "--name", "many")
    refused = shared.corps("artifacts", "gc", "--budget", "0", check=False)
    assert refused.returncode == 2 and "not without -y" in refused.stderr
    shared.corps("artifacts", "gc", "--budget", "0", "-y")
    assert len([row for row in shared.client.artifacts() if row.name == "many"]) == 1


def test_an_upload_that_nobody_finished_goes_when_it_is_old(alone: Cluster, tmp_path: Path) -> None:
    copied(alone, tmp_path, 1)
    data = os.urandom(100_000)
    store = alone.settings.master_dir
    with BulkClient(lambda: connect_unix(store / "bulk.sock")) as bulk:
        digest = bulk.put_bytes(data)
    blob = store / "blobs" / digest[:2] / digest
    alone.corps("artifacts", "gc")
    assert blob.exists()  # its copy may be about to come
    os.utime(blob, (0, 0))
    assert alone.client.garbage().orphan_bytes == len(data)
    assert "97.7 KiB in 1 blobs that no version names" in alone.corps("artifacts", "gc").stderr
    assert not blob.exists()
    assert results(shown(alone, "artifacts", "verify")) == {None: "whole", "w1": "whole"}


def test_the_room_that_sharing_saves_is_shown(alone: Cluster, tmp_path: Path) -> None:
    tree = tmp_path / "tree"
    tree.mkdir()
    (tree / "data").write_bytes(os.urandom(1 << 20))
    for version in (1, 2, 3, 4):
        run = tree / "run"
        run.write_text(SCRIPT.format(version=version))
        run.chmod(0o755)
        alone.corps("copy", str(tree), "--entry", "run", "--name", "tree")
    rows = {row["worker"]: row for row in shown(alone, "artifacts", "usage")}
    assert list(rows) == [None, "w1"]
    for row in rows.values():
        assert row["versions"] == 4 and 3.9 < row["ratio"] < 4
        assert row["named_bytes"] > 4 << 20 and 1 << 20 < row["stored_bytes"] < (1 << 20) + 10_000
    wide = alone.corps("artifacts", "-o", "wide").stdout
    assert "TAGS" in wide and "UNIQUE" in wide
    assert all(row["unique_bytes"] < 200 for row in shown(alone, "artifacts"))


def test_a_tag_is_shown_launched_and_kept(shared: Cluster, tmp_path: Path) -> None:
    first = copied(shared, tmp_path, 1, "--name", "named", "--tag", "1.0")
    copied(shared, tmp_path, 2, "--name", "named")
    shared.corps("tag", f"named@{first[:8]}", "stable")
    instance = shared.launch_one("named:stable")
    assert instance.digest == first
    assert shared.wait_dead(instance.id) and shared.log_of(instance.id) == "1\n"
    taken = shared.corps(
        "copy", str(tmp_path / "web"), "--name", "named", "--tag", "1.0", check=False
    )
    assert taken.returncode == 5 and "with other content" in taken.stderr
    assert shared.corps("tag", "named", check=False).returncode == 2
    shared.corps("tag", "named:stable", "--remove")
    (row,) = [
        row
        for row in shown(shared, "artifacts")
        if (row["name"], row["digest"]) == ("named", first)
    ]
    assert row["tags"] == ["1.0"]


def test_a_copy_accepted_while_its_blobs_are_being_removed_has_them_all(
    alone: Cluster, tmp_path: Path
) -> None:
    """Of two names with the same content one is deleted while the other is copied."""
    digest = copied(alone, tmp_path, 7, "--name", "first")
    accepted = 0
    with Client(alone.settings) as other, ThreadPoolExecutor(1) as thread:
        for _ in range(30):
            deleted = thread.submit(other.delete, "first")
            try:
                alone.client.copy(Copy(name="second", digest=digest))
                accepted += 1
            except Conflict as refused:  # it was too late: nothing is recorded
                assert "not at the master: upload" in refused.message
            deleted.result()
            rows = alone.client.drift()
            assert {row.result for row in rows} <= {"whole"}
            if not rows:
                copied(alone, tmp_path, 7, "--name", "second")
            alone.client.copy(Copy(name="first", digest=digest))
            alone.client.delete("second")
    assert accepted
