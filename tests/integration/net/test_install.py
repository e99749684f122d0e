"""An artifact on a worker: what travels, what does not, and what happens when it cannot."""

from __future__ import annotations

import os
import subprocess
import threading
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import msgspec
import pytest

from corps.errors import Invalid, NotFound, Unavailable
from corps.model.artifact import BLOB_MAX_BYTES, Manifest, Transfer, encode_manifest
from corps.model.name import Digest
from corps.net.bulk_client import Dial
from corps.store.blobs import BLOB_MODE, PART_MIN_BYTES, BlobStore
from corps.store.trees import Trees
from corps.wire.worker import Progress
from corps.worker.install import BREAKS_MAX, TRANSFER, InstallReport, install
from tests.support.artifacts import a_manifest, digest_of, leftovers, put_artifact
from tests.support.bulk import Wire, serving
from tests.support.crashes import crash_everywhere

LARGE = os.urandom(2 * PART_MIN_BYTES)
FILES = {
    "prog": b"#!/bin/sh\necho hello\n",
    "lib/big.so": LARGE,
    "copy-of-big": LARGE,
    "empty": b"",
}


@pytest.fixture
def master(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "master", durable=False)


@pytest.fixture
def dial(tmp_path: Path, master: BlobStore) -> Iterator[Dial]:
    with serving(tmp_path, master, may_put=False) as dial:
        yield dial


class Worker:
    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = BlobStore(root, durable=False)
        self.trees = Trees(root, self.blobs)
        self.progress: list[Progress] = []

    def install(self, digest: Digest, dial: Dial, transfer: Transfer = TRANSFER) -> InstallReport:
        to = self.blobs, self.trees
        return install(digest, dial, *to, self._on_progress, transfer=transfer)

    def _on_progress(self, progress: Progress) -> None:
        self.progress.append(progress)


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path / "worker")


def put(store: BlobStore, files: Mapping[str, bytes], manifest: Manifest | None = None) -> Digest:
    return put_artifact(store, files, manifest or a_manifest(files))


def total(files: Mapping[str, bytes]) -> int:
    return sum(map(len, files.values()))


def test_an_artifact_is_fetched_each_distinct_file_once(
    master: BlobStore, worker: Worker, dial: Dial
) -> None:
    digest = put(master, FILES)
    report = worker.install(digest, dial)
    assert report == InstallReport(
        bytes_sent=total(FILES) - len(LARGE), bytes_total=total(FILES), files_sent=3, files_total=4
    )
    last = worker.progress[-1]
    assert (last.bytes_sent, last.bytes_total) == (report.bytes_sent, report.bytes_total)
    assert last.bytes_done == report.bytes_total
    entry = worker.trees.launch_paths(digest).entry_path
    assert subprocess.run([entry], capture_output=True, check=True).stdout == b"hello\n"
    assert leftovers(worker.root) == []


def test_installing_again_sends_nothing_and_needs_no_connection(
    master: BlobStore, worker: Worker, dial: Dial
) -> None:
    digest = put(master, FILES)
    worker.install(digest, dial)

    def no_dial() -> None:
        raise AssertionError("nothing has to travel")

    report = worker.install(digest, no_dial)  # type: ignore[arg-type]  # it never returns
    assert (report.bytes_sent, report.files_sent) == (0, 0)
    assert (report.bytes_total, report.files_total) == (total(FILES), len(FILES))


def test_only_what_differs_travels(master: BlobStore, worker: Worker, dial: Dial) -> None:
    worker.install(put(master, FILES), dial)
    changed = {**FILES, "prog": b"#!/bin/sh\necho other\n"}
    report = worker.install(put(master, changed), dial)
    assert (report.bytes_sent, report.files_sent) == (len(changed["prog"]), 1)


def test_an_install_survives_breaks_as_long_as_something_arrives(
    master: BlobStore, worker: Worker, dial: Dial
) -> None:
    digest = put(master, FILES)
    wire = Wire(dial)
    wire.down_bytes = len(LARGE) // 2
    report = worker.install(digest, wire.dial)
    wire.join()
    assert wire.dial_count > 2
    assert report.bytes_sent == total(FILES) - len(LARGE), "nothing travelled twice"
    assert worker.trees.is_installed(digest)


def test_an_install_gives_up_when_nothing_arrives_and_goes_on_later(
    master: BlobStore, worker: Worker, dial: Dial
) -> None:
    digest = put(master, FILES)
    worker.blobs.put_bytes(encode_manifest(a_manifest(FILES)))
    wire = Wire(dial)
    wire.down_bytes = 20
    with pytest.raises(Unavailable, match="repeat, it goes on"):
        worker.install(digest, wire.dial)
    assert wire.dial_count < BREAKS_MAX
    wire.down_bytes = None
    worker.install(digest, wire.dial)
    wire.join()
    assert worker.trees.is_installed(digest)


@pytest.mark.parametrize("restart", [True, False])
def test_a_later_install_goes_on_where_one_broke_off(
    tmp_path: Path, master: BlobStore, worker: Worker, dial: Dial, restart: bool
) -> None:
    files = {"prog": LARGE}
    digest = put(master, files)
    worker.blobs.put_bytes(encode_manifest(a_manifest(files)))
    wire = Wire(dial)
    wire.down_bytes = len(LARGE) // (2 * BREAKS_MAX)
    with pytest.raises(Unavailable):
        worker.install(digest, wire.dial)
    wire.join()
    had = worker.blobs.partial_bytes(digest_of(LARGE))
    assert 0 < had < len(LARGE)
    again = Worker(worker.root) if restart else worker
    assert again.install(digest, dial).bytes_sent == len(LARGE) - had


def test_a_manifest_the_master_lacks_is_not_found(worker: Worker, dial: Dial) -> None:
    with pytest.raises(NotFound):
        worker.install(digest_of(b"nothing"), dial)
    assert worker.blobs.digests() == ()


def test_a_blob_the_master_lacks_is_not_found(
    master: BlobStore, worker: Worker, dial: Dial
) -> None:
    digest = put(master, FILES)
    master.remove(digest_of(LARGE))
    with pytest.raises(NotFound):
        worker.install(digest, dial)
    assert worker.trees.installed() == ()


def test_a_hostile_manifest_is_refused_here_too(
    master: BlobStore, worker: Worker, dial: Dial
) -> None:
    files = {"prog": b"x", "../../evil": b"x"}
    with pytest.raises(Invalid, match="bad path"):
        worker.install(put(master, files), dial)
    assert worker.blobs.digests() == (), "nothing of it is kept"


def test_a_manifest_that_is_none_is_refused(master: BlobStore, worker: Worker, dial: Dial) -> None:
    with pytest.raises(Invalid, match="not a manifest"):
        worker.install(master.put_bytes(b"hello"), dial)
    assert worker.blobs.digests() == ()


def test_a_damaged_manifest_is_fetched_again_the_next_time(
    master: BlobStore, worker: Worker, dial: Dial
) -> None:
    digest = put(master, FILES)
    worker.blobs.put_bytes(encode_manifest(a_manifest(FILES)))
    worker.blobs.path(digest).chmod(0o644)
    worker.blobs.path(digest).write_bytes(b"damage")
    with pytest.raises(Invalid, match="damaged"):
        worker.install(digest, dial)
    worker.install(digest, dial)
    assert worker.blobs.path(digest).stat().st_mode & 0o777 == BLOB_MODE


def test_an_artifact_larger_than_the_disk_is_refused_before_it_travels(
    master: BlobStore, worker: Worker, dial: Dial
) -> None:
    count = 2 + worker.blobs.free_bytes() // BLOB_MAX_BYTES
    (entry,) = a_manifest({"prog": b"x"}).files
    huge = tuple(
        msgspec.structs.replace(
            entry, path=f"f{number}", digest=f"{number:064x}", size_bytes=BLOB_MAX_BYTES
        )
        for number in range(count)
    )
    orphan = worker.blobs.put_bytes(b"nobody needs this")
    digest = master.put_bytes(encode_manifest(Manifest(entry="f0", files=huge)))
    with pytest.raises(Unavailable, match=r"needs \d+ bytes, but \d+ are free in"):
        worker.install(digest, dial)
    assert not worker.blobs.has(orphan), "what nobody needs made room first"
    assert worker.progress == []


def test_the_same_artifact_installed_twice_at_once_is_whole(
    master: BlobStore, worker: Worker, dial: Dial
) -> None:
    digest = put(master, FILES)
    reports: list[InstallReport] = []
    threads = [
        threading.Thread(target=lambda: reports.append(worker.install(digest, dial)))
        for _ in range(4)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(reports) == len(threads)
    assert worker.trees.installed() == (digest,)
    assert leftovers(worker.root) == []


def test_installs_and_removals_at_once_leave_whole_trees(
    master: BlobStore, worker: Worker, dial: Dial
) -> None:
    """They share blobs: what one removes the other must not count on."""
    shared = {"lib/shared.so": b"shared" * 100}
    digests = [put(master, {"prog": b"%d" % number, **shared}) for number in range(4)]

    def come_and_go(digest: Digest) -> None:
        for _ in range(10):
            worker.install(digest, dial)
            worker.trees.remove(digest)
        worker.install(digest, dial)

    threads = [threading.Thread(target=come_and_go, args=(digest,)) for digest in digests]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert worker.trees.installed() == tuple(sorted(digests))
    for number, digest in enumerate(digests):
        tree = worker.root / "trees" / digest
        assert (tree / "prog").read_bytes() == b"%d" % number
        assert (tree / "lib" / "shared.so").read_bytes() == shared["lib/shared.so"]


def test_a_worker_that_dies_anywhere_in_an_install_goes_on_after_its_restart(
    tmp_path: Path, master: BlobStore, dial: Dial
) -> None:
    root = tmp_path / "worker"
    digest = put(master, FILES)

    def prepare() -> Callable[[], object]:
        return lambda: Worker(root).install(digest, dial)

    def check() -> None:
        worker = Worker(root)
        assert worker.trees.installed() in ((), (digest,))
        assert set(leftovers(root)) <= {f"{digest_of(LARGE)}.part"}
        worker.install(digest, dial)
        for path, data in FILES.items():
            assert (root / "trees" / digest / path).read_bytes() == data
        assert leftovers(root) == []
        worker.trees.remove(digest)
        assert worker.blobs.digests() == ()

    assert crash_everywhere(prepare, check) > 30


@pytest.mark.root
def test_a_full_disk_is_told_and_the_rest_removed(
    tmp_path: Path, master: BlobStore, dial: Dial
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=3m", "tmpfs", str(disk)]
    subprocess.run(mount, check=True)
    try:
        worker = Worker(disk / "worker")
        digest = put(master, {"prog": LARGE, "more": os.urandom(PART_MIN_BYTES)})
        with pytest.raises(Unavailable, match="no room for artifact"):
            worker.install(digest, dial)
        with pytest.raises(Unavailable, match="no space left on device; free some space there"):
            for number in range(5):
                worker.blobs.put_bytes(b"%d" % number * (PART_MIN_BYTES - 1))
        assert leftovers(worker.root) == []
    finally:
        subprocess.run(["umount", str(disk)], check=True)
