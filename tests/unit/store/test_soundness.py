"""What drifted from its manifest is found, kept as evidence, and righted from what is here."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from corps.errors import NotFound
from corps.model.finding import Drift
from corps.model.name import Digest
from corps.store import quarantine
from corps.store.blobs import BlobStore
from corps.store.soundness import GLANCE_FILES_MAX, Soundness
from corps.store.trees import Trees
from tests.support.artifacts import a_manifest, digest_of, leftovers, put_artifact

FILES = {"prog": b"#!/bin/sh\n", "lib/a.so": b"a library", "data": b"data"}
LINKS = {"latest": "prog"}
MANIFEST = a_manifest(FILES, links=LINKS)
PROG, LIB, DATA = (digest_of(FILES[name]) for name in ("prog", "lib/a.so", "data"))


class Store:
    """One artifact in a worker's store, whole and trusted."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.blobs = BlobStore(root, durable=False)
        self.trees = Trees(root, self.blobs)
        self.soundness = Soundness(self.trees, self.blobs)
        self.digest = put_artifact(self.blobs, FILES, MANIFEST)
        self.trees.build(self.digest)
        self.soundness.trust(self.digest)

    def place(self, path: str) -> Path:
        return self.root / "trees" / self.digest / path

    def found(self) -> list[tuple[Drift, str]]:
        return [(f.drift, f.path) for f in self.soundness.verify(self.digest)]

    def quarantined(self) -> dict[Digest, bytes]:
        directory = self.root / "quarantine"
        if not directory.exists():
            return {}
        return {path.name: path.read_bytes() for path in directory.iterdir()}

    def is_as_copied(self) -> bool:
        return not self.found() and leftovers(self.root) == []


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def flip(path: Path) -> None:
    """A bit, behind the back of the file system's clock, as a disk does it."""
    status = path.stat()
    data = bytearray(path.read_bytes())
    data[0] ^= 1
    path.chmod(0o644)
    path.write_bytes(bytes(data))
    path.chmod(status.st_mode)
    os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns))


def append(path: Path, data: bytes) -> None:
    with path.open("ab") as file:
        file.write(data)


def fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def replace(path: Path, data: bytes) -> None:
    """As an editor does: another file under the name."""
    new = path.with_name("new")
    new.write_bytes(data)
    new.rename(path)


def test_what_is_as_it_was_copied_is_trusted(store: Store) -> None:
    assert store.is_as_copied()
    assert store.soundness.is_trusted(store.digest)
    assert not Soundness(store.trees, store.blobs).is_trusted(store.digest)  # a daemon that begins


def test_a_flipped_bit_is_damage_and_what_holds_it_must_be_fetched(store: Store) -> None:
    flip(store.place("prog"))
    assert store.soundness.is_trusted(store.digest)  # no glance can see it
    (finding,) = store.soundness.repair(store.digest)
    assert (finding.drift, finding.path, finding.text) == (
        Drift.DAMAGED,
        "prog",
        "damaged on disk",
    )
    assert not store.trees.is_installed(store.digest)
    assert store.blobs.missing((PROG, LIB)) == (PROG,)
    assert store.quarantined() == {PROG: b'"!/bin/sh\n'}
    assert store.place("prog").exists()  # what runs there still finds it
    store.trees.collect()
    assert store.blobs.has(LIB)

    store.blobs.put_bytes(FILES["prog"])
    store.trees.build(store.digest)
    assert store.trees.is_installed(store.digest)
    assert store.is_as_copied()
    assert not store.soundness.is_trusted(store.digest)  # it is read whole before


def test_damage_in_one_tree_takes_the_trust_from_all(store: Store) -> None:
    other = {"prog": b"other", "lib/a.so": FILES["lib/a.so"]}
    digest = put_artifact(store.blobs, other, a_manifest(other))
    store.trees.build(digest)
    store.soundness.trust(digest)
    flip(store.place("lib/a.so"))
    store.soundness.repair(store.digest)
    assert not store.soundness.is_trusted(digest)
    store.blobs.put_bytes(FILES["lib/a.so"])
    assert [f.path for f in store.soundness.repair(digest)] == ["lib/a.so"]
    assert store.soundness.verify(digest) == ()


@pytest.mark.parametrize(
    ("change", "drift", "text"),
    [
        (lambda p: p.unlink(), Drift.MISSING, "missing"),
        (lambda p: replace(p, b"edited"), Drift.EDITED, "has 6 bytes, should have 10"),
        (lambda p: replace(p, b"#!/bin/ZZ\n"), Drift.EDITED, "edited by hand"),
        (lambda p: p.chmod(0o777), Drift.EDITED, "has mode 0777, should have 0555"),
        (lambda p: (p.unlink(), p.mkdir()), Drift.EDITED, "replaced by what is no file"),
        (fifo, Drift.EDITED, "replaced by what is no file"),
        (lambda p: (p.unlink(), p.symlink_to("data")), Drift.EDITED, "replaced by what is no file"),
    ],
)
def test_what_a_hand_did_is_undone_from_the_blob(
    store: Store, change: Callable[[Path], object], drift: Drift, text: str
) -> None:
    change(store.place("prog"))
    assert not store.soundness.is_trusted(store.digest)
    (finding,) = [f for f in store.soundness.verify(store.digest) if f.drift is not Drift.EXTRA]
    assert (finding.drift, finding.path, finding.text) == (drift, "prog", text)
    store.soundness.repair(store.digest)
    assert store.trees.is_installed(store.digest)
    assert store.is_as_copied()


def test_what_was_written_into_a_file_went_into_its_blob(store: Store) -> None:
    append(store.place("prog"), b"more")
    assert not store.soundness.is_trusted(store.digest)
    (finding,) = store.soundness.repair(store.digest)
    assert (finding.drift, finding.text) == (Drift.EDITED, "has 14 bytes, should have 10")
    assert not store.trees.is_installed(store.digest)
    assert store.quarantined() == {PROG: b"#!/bin/sh\nmore"}


def test_an_edited_file_is_kept_for_who_edited_it(store: Store) -> None:
    replace(store.place("data"), b"my own")
    store.soundness.repair(store.digest)
    assert store.quarantined() == {DATA: b"my own"}


def test_a_blob_is_saved_from_the_tree(store: Store) -> None:
    store.blobs.remove(LIB)
    assert store.found() == [(Drift.MISSING, "lib/a.so")]
    store.soundness.repair(store.digest)
    assert store.is_as_copied()
    assert store.blobs.path(LIB).stat().st_ino == store.place("lib/a.so").stat().st_ino


def test_links_and_directories_come_back(store: Store) -> None:
    store.place("latest").unlink()
    store.place("latest").symlink_to("data")
    store.place("lib/a.so").unlink()
    store.place("lib").rmdir()
    assert sorted(store.found()) == [(Drift.EDITED, "latest"), (Drift.MISSING, "lib/a.so")]
    store.soundness.repair(store.digest)
    assert store.is_as_copied()


def test_what_nobody_copied_is_found_and_stays(store: Store) -> None:
    store.place("lib/strange").write_bytes(b"")
    store.place("lib/way").symlink_to("/etc")
    store.place("dir/below").mkdir(parents=True)
    store.place("__pycache__").mkdir()  # of Python
    extra = [(Drift.EXTRA, path) for path in ("dir", "lib/strange", "lib/way")]
    assert sorted(store.found()) == extra
    store.soundness.repair(store.digest)
    assert sorted(store.found()) == extra


@pytest.mark.parametrize("change", [flip, lambda path: path.unlink()], ids=["damaged", "missing"])
def test_without_its_manifest_nothing_is_believed(
    store: Store, change: Callable[[Path], object]
) -> None:
    change(store.blobs.path(store.digest))
    (finding,) = store.soundness.repair(store.digest)
    assert finding.path == ""
    assert not store.trees.is_installed(store.digest)
    assert not store.blobs.has(store.digest)
    with pytest.raises(NotFound):
        store.trees.manifest(store.digest)


def test_a_glance_looks_at_programs_first(tmp_path: Path) -> None:
    store = Store(tmp_path)
    files = {f"a{number}": b"%d" % number for number in range(GLANCE_FILES_MAX)}
    files["prog"] = b"a program"
    digest = put_artifact(store.blobs, files, a_manifest(files))
    store.trees.build(digest)
    store.soundness.trust(digest)
    (tmp_path / "trees" / digest / "prog").unlink()
    assert not store.soundness.is_trusted(digest)


def test_evidence_has_a_limit(tmp_path: Path) -> None:
    kept = quarantine.Quarantine(tmp_path)
    digests = [digest_of(b"%d" % number) for number in range(quarantine.KEPT_MAX + 3)]
    for digest in digests:
        (tmp_path / "bad").write_bytes(b"x")
        kept.take(str(tmp_path / "bad"), digest)
    assert {path.name for path in kept.path.iterdir()} == set(digests[3:])
    with (tmp_path / "large").open("wb") as file:
        file.truncate(quarantine.KEPT_MAX_BYTES - 1)
    kept.take(str(tmp_path / "large"), digests[0])
    assert {path.name for path in kept.path.iterdir()} == {digests[0], digests[-1]}
