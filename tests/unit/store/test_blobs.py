"""A blob is whole and what its name says, or it is not there."""

from __future__ import annotations

import os
import resource
import stat
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from corps.errors import Invalid, NotFound, Unavailable
from corps.model.artifact import BLOB_MAX_BYTES
from corps.store.blobs import BLOB_MODE, PART_KEEP_S, PART_MIN_BYTES, BlobStore
from tests.support.artifacts import digest_of

LARGE = os.urandom(PART_MIN_BYTES) + b"the end"
HALF = len(LARGE) // 2


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "state", durable=False)


def temporary(store: BlobStore) -> list[str]:
    return sorted(path.name for path in (store.root / "tmp").iterdir())


def break_off(store: BlobStore, data: bytes, at: int) -> None:
    with store.writer(digest_of(data), len(data), resumable=True) as writer:
        writer.write(data[:at])


@pytest.mark.parametrize("data", [b"", b"x", LARGE], ids=["empty", "small", "large"])
@pytest.mark.parametrize("durable", [True, False])
def test_a_blob_is_read_back(tmp_path: Path, data: bytes, durable: bool) -> None:
    store = BlobStore(tmp_path, durable=durable)
    digest = store.put_bytes(data)
    assert digest == digest_of(data)
    assert store.has(digest)
    assert store.path(digest) == tmp_path / "blobs" / digest[:2] / digest
    assert store.size_bytes(digest) == len(data)
    assert store.read_bytes(digest, len(data)) == data
    assert store.digests() == (digest,)
    assert temporary(store) == []


def test_a_blob_is_read_only_and_the_directories_are_ours_alone(store: BlobStore) -> None:
    before = os.umask(0o077)
    try:
        digest = store.put_bytes(b"x")
    finally:
        os.umask(before)
    assert stat.S_IMODE(store.path(digest).stat().st_mode) == 0o444
    assert stat.S_IMODE((store.root / "blobs").stat().st_mode) == 0o700


def test_a_blob_that_is_there_already_is_kept_as_it_is(store: BlobStore) -> None:
    digest = store.put_bytes(b"x")
    inode = store.path(digest).stat().st_ino
    assert store.put_bytes(b"x") == digest
    with store.writer(digest, 1) as writer:
        writer.write(b"x")
        writer.commit()
    assert store.path(digest).stat().st_ino == inode, "trees have hard links to it"
    assert temporary(store) == []


def test_what_is_missing_is_told_once_and_in_order(store: BlobStore) -> None:
    here = store.put_bytes(b"here")
    gone, lost = digest_of(b"gone"), digest_of(b"lost")
    assert store.missing([lost, here, gone, lost]) == (lost, gone)


def test_a_removed_blob_is_gone_and_removing_it_again_is_fine(store: BlobStore) -> None:
    digest = store.put_bytes(b"x")
    store.remove(digest)
    store.remove(digest)
    assert not store.has(digest)
    with pytest.raises(NotFound, match="no blob"):
        store.open_blob(digest)


@pytest.mark.parametrize("name", ["", "..", "../" * 21 + "x", "/etc/passwd", "AB" * 32, "a" * 63])
def test_only_a_digest_becomes_a_path(store: BlobStore, name: str) -> None:
    uses: list[Callable[[str], object]] = [
        store.path,
        store.has,
        store.open_blob,
        store.remove,
        store.resume,
        store.partial_bytes,
        lambda digest: store.writer(digest, 1),
        lambda digest: store.missing([digest]),
    ]
    for use in uses:
        with pytest.raises(Invalid, match="bad digest"):
            use(name)


def test_a_link_in_place_of_a_blob_is_not_followed(store: BlobStore) -> None:
    digest = store.put_bytes(b"x")
    store.remove(digest)
    store.path(digest).symlink_to("/etc/passwd")
    with pytest.raises(Unavailable):
        store.open_blob(digest)


def test_a_damaged_blob_is_not_read(store: BlobStore) -> None:
    digest = store.put_bytes(b"x")
    store.path(digest).chmod(0o644)
    store.path(digest).write_bytes(b"y")
    with pytest.raises(Invalid, match="damaged"):
        store.read_bytes(digest, 10)
    with pytest.raises(Invalid, match="larger"):
        store.read_bytes(store.put_bytes(b"12345"), 4)


@pytest.mark.parametrize("large", [True, False])
@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        (lambda data: data[:-1] + b"?", "other bytes"),
        (lambda data: data[:-1], "ended after"),
        (lambda data: data + b"?", "more than the announced"),
    ],
    ids=["wrong digest", "too short", "too long"],
)
def test_a_blob_that_is_not_what_was_announced_leaves_nothing(
    store: BlobStore, large: bool, change: Callable[[bytes], bytes], complaint: str
) -> None:
    data = LARGE if large else b"small"
    with (
        pytest.raises(Invalid, match=complaint),
        store.writer(digest_of(data), len(data), resumable=True) as writer,
    ):
        writer.write(change(data))
        writer.commit()
    assert store.digests() == ()
    assert temporary(store) == []


@pytest.mark.parametrize("size_bytes", [-1, BLOB_MAX_BYTES + 1])
def test_a_size_no_blob_has_is_refused(store: BlobStore, size_bytes: int) -> None:
    with pytest.raises(Invalid, match="at most"):
        store.writer(digest_of(b""), size_bytes)


def test_a_small_or_unresumable_blob_that_breaks_off_leaves_nothing(store: BlobStore) -> None:
    break_off(store, b"small", 2)
    with store.writer(digest_of(LARGE), len(LARGE)) as writer:
        writer.write(LARGE[:HALF])
    assert temporary(store) == []
    assert store.resume(digest_of(LARGE)) is None


@pytest.mark.parametrize("at", [1, HALF, len(LARGE)])
@pytest.mark.parametrize("restart", [True, False])
def test_a_large_blob_is_continued_where_it_broke_off(
    store: BlobStore, at: int, restart: bool
) -> None:
    digest = digest_of(LARGE)
    break_off(store, LARGE, at)
    if restart:
        store = BlobStore(store.root)
    assert not store.has(digest)
    assert store.partial_bytes(digest) == at
    writer = store.resume(digest)
    assert writer is not None
    with writer:
        assert writer.received_bytes == at
        writer.expect(len(LARGE))
        writer.write(LARGE[at:])
        writer.commit()
    assert store.read_bytes(digest, len(LARGE)) == LARGE
    assert temporary(store) == []
    assert store.partial_bytes(digest) == 0


def test_a_damaged_part_is_found_out_and_dropped(store: BlobStore) -> None:
    break_off(store, LARGE, HALF)
    (part,) = (store.root / "tmp").iterdir()
    part.write_bytes(b"?" * HALF)
    writer = store.resume(digest_of(LARGE))
    assert writer is not None
    with pytest.raises(Invalid, match="other bytes"), writer:
        writer.expect(len(LARGE))
        writer.write(LARGE[HALF:])
        writer.commit()
    assert temporary(store) == []


def test_a_blob_that_comes_from_its_start_again_replaces_the_part(store: BlobStore) -> None:
    break_off(store, LARGE, HALF)
    with store.writer(digest_of(LARGE), len(LARGE), resumable=True) as writer:
        writer.write(LARGE)
        writer.commit()
    assert store.has(digest_of(LARGE))
    assert temporary(store) == []


@pytest.mark.parametrize("resumable", [True, False])
def test_two_writers_of_one_blob_both_succeed(store: BlobStore, resumable: bool) -> None:
    digest = digest_of(LARGE)
    one = store.writer(digest, len(LARGE), resumable=resumable)
    other = store.writer(digest, len(LARGE), resumable=resumable)
    for start in range(0, len(LARGE), HALF):
        for writer in (one, other):
            writer.write(LARGE[start : start + HALF])
    assert resumable is (store.resume(digest) is None and f"{digest}.part" in temporary(store))
    one.commit()
    other.commit()
    assert store.read_bytes(digest, len(LARGE)) == LARGE
    assert temporary(store) == []


def test_many_threads_may_put_the_same_blobs(store: BlobStore) -> None:
    blobs = [bytes([number]) * 1000 for number in range(30)]
    threads = [
        threading.Thread(target=lambda: [store.put_bytes(blob) for blob in blobs]) for _ in range(6)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert store.digests() == tuple(sorted(map(digest_of, blobs)))
    assert temporary(store) == []


def test_a_start_removes_what_a_crash_left_but_not_a_fresh_part(store: BlobStore) -> None:
    break_off(store, LARGE, HALF)
    fresh = temporary(store)
    stored = store.put_bytes(b"x")
    for name in ("junk", f"{digest_of(b'y')}.1.0.tmp", f"{stored}.part", "..part"):
        (store.root / "tmp" / name).write_bytes(b"z")
    old = store.root / "tmp" / f"{digest_of(b'old')}.part"
    old.write_bytes(b"z")
    os.utime(old, (0, old.stat().st_mtime - PART_KEEP_S - 1))
    assert temporary(BlobStore(store.root)) == fresh


def test_a_part_whose_writer_died_at_its_very_end_is_not_in_the_way(store: BlobStore) -> None:
    break_off(store, LARGE, len(LARGE))
    (part,) = (store.root / "tmp").iterdir()
    part.chmod(BLOB_MODE)
    again = BlobStore(store.root)
    assert temporary(again) == []
    assert again.put_bytes(LARGE) == digest_of(LARGE)


def test_a_part_that_is_being_finished_is_left_to_its_writer(store: BlobStore) -> None:
    break_off(store, LARGE, HALF)
    (part,) = (store.root / "tmp").iterdir()
    finishing = store.resume(digest_of(LARGE))
    assert finishing is not None
    part.chmod(BLOB_MODE)
    assert store.resume(digest_of(LARGE)) is None
    with store.writer(digest_of(LARGE), len(LARGE), resumable=True) as other:
        other.write(LARGE)
        other.commit()
    finishing.discard()
    assert temporary(store) == []
    assert store.has(digest_of(LARGE))


def test_names_that_are_no_digests_are_not_listed(store: BlobStore) -> None:
    digest = store.put_bytes(b"x")
    (store.path(digest).parent / "README").write_text("hello")
    assert store.digests() == (digest,)


@contextmanager
def file_size_limit(size_bytes: int) -> Iterator[None]:
    """A disk that takes no more: EFBIG, since Python ignores SIGXFSZ."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size_bytes, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_disk_that_fails_is_told_with_what_where_and_how_much(store: BlobStore) -> None:
    with (
        store.writer(digest_of(LARGE), len(LARGE), resumable=True) as writer,
        file_size_limit(HALF),
    ):
        writer.write(LARGE[: HALF - 1])
        with pytest.raises(Unavailable) as caught:
            writer.write(LARGE[HALF - 1 :])
    message = caught.value.message
    assert f"cannot store blob '{digest_of(LARGE)}' ({HALF - 1} of {len(LARGE)} bytes)" in message
    assert f"in '{store.root}': file too large" in message
    assert temporary(store) == [], "a full disk needs the room"


def test_a_directory_that_cannot_be_made_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(Unavailable, match="cannot make a directory"):
        BlobStore(tmp_path / "file" / "state")


def test_what_broke_off_can_be_found_and_removed_but_not_under_its_writer(
    store: BlobStore,
) -> None:
    break_off(store, LARGE, HALF)
    digest = digest_of(LARGE)
    assert {part: status.st_size for part, status in store.parts().items()} == {digest: HALF}
    writer = store.resume(digest)
    assert writer is not None
    assert store.parts() == {}
    store.remove_part(digest)
    writer.close()
    assert store.partial_bytes(digest) == HALF
    store.remove_part(digest)
    store.remove_part(digest)
    assert temporary(store) == []
