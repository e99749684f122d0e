"""A blob in pieces: from any side, in any order, and never more of it than is true."""

from __future__ import annotations

import os
import threading
from pathlib import Path

import pytest
from blake3 import blake3

from corps.errors import Invalid, NotFound, Unavailable
from corps.model.pieces import PIECE_BYTES, empty_bitmap, full_bitmap, has_piece, piece_count
from corps.store.blobs import BLOB_MODE, BlobStore
from tests.support.artifacts import digest_of

DATA = os.urandom(4 * PIECE_BYTES + 321)
DIGEST = digest_of(DATA)
COUNT = 5
LIST = b"".join(blake3(DATA[i * PIECE_BYTES :][:PIECE_BYTES]).digest() for i in range(COUNT))


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "state", durable=False)


def piece(index: int) -> bytes:
    return DATA[index * PIECE_BYTES :][:PIECE_BYTES]


def temporary(store: BlobStore) -> list[str]:
    return sorted(path.name for path in (store.root / "tmp").iterdir())


@pytest.mark.parametrize("count", [0, 1, 7, 8, 9, 16, 17])
def test_a_bitmap_has_a_bit_for_each_piece_and_no_more(count: int) -> None:
    size_bytes = count * PIECE_BYTES
    full = full_bitmap(size_bytes)
    assert [has_piece(full, i) for i in range(count + 9)] == [True] * count + [False] * 9
    assert len(full) == len(empty_bitmap(size_bytes))
    assert not any(empty_bitmap(size_bytes))


@pytest.mark.parametrize("durable", [True, False])
@pytest.mark.parametrize("order", [(0, 1, 2, 3, 4), (4, 2, 0, 3, 1), (1, 1, 0, 4, 4, 3, 2)])
def test_pieces_in_any_order_make_the_blob(
    tmp_path: Path, order: tuple[int, ...], durable: bool
) -> None:
    store = BlobStore(tmp_path, durable=durable)
    with store.pieces(DIGEST, len(DATA), LIST) as writer:
        for index in order:
            writer.put(index, piece(index))
        assert writer.missing() == ()
        assert writer.received_bytes == len(DATA)
        writer.commit()
    assert store.read_bytes(DIGEST, len(DATA)) == DATA
    assert store.path(DIGEST).stat().st_mode & 0o777 == BLOB_MODE
    assert temporary(store) == []


def test_threads_may_put_at_once(store: BlobStore) -> None:
    with store.pieces(DIGEST, len(DATA), LIST) as writer:

        def put(start: int) -> None:
            for index in range(COUNT):
                writer.put((start + index) % COUNT, piece((start + index) % COUNT))

        threads = [threading.Thread(target=put, args=(start,)) for start in range(COUNT)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert writer.received_bytes == len(DATA)
        writer.commit()
    assert store.read_bytes(DIGEST, len(DATA)) == DATA


@pytest.mark.parametrize("data", [b"", piece(2), piece(1)[:-1], piece(1) + b"x"])
def test_a_wrong_piece_is_refused_and_the_others_stay(store: BlobStore, data: bytes) -> None:
    with store.pieces(DIGEST, len(DATA), LIST) as writer:
        writer.put(0, piece(0))
        with pytest.raises(Invalid, match=r"piece 1 of blob .* arrived with other bytes"):
            writer.put(1, data)
        with pytest.raises(Invalid, match="no piece 5"):
            writer.put(5, data)
        assert writer.missing() == (1, 2, 3, 4)
        with pytest.raises(Invalid, match="lacks 4 pieces, the first is 1"):
            writer.commit()


def test_the_next_writer_goes_on_with_what_is_there(store: BlobStore) -> None:
    with store.pieces(DIGEST, len(DATA), LIST) as writer:
        writer.put(3, piece(3))
        writer.put(1, piece(1))
    assert temporary(store) == [f"{DIGEST}.pieces"]
    assert store.partial_bytes(DIGEST) == 2 * PIECE_BYTES
    again = BlobStore(store.root, durable=False)
    with again.pieces(DIGEST, len(DATA), LIST) as writer:
        assert writer.missing() == (0, 2, 4)
        assert writer.received_bytes == 2 * PIECE_BYTES
        for index in writer.missing():
            writer.put(index, piece(index))
        writer.commit()
    assert again.read_bytes(DIGEST, len(DATA)) == DATA
    assert temporary(again) == []


def test_a_part_that_was_damaged_meanwhile_claims_only_what_is_right(store: BlobStore) -> None:
    with store.pieces(DIGEST, len(DATA), LIST) as writer:
        for index in range(COUNT):
            writer.put(index, piece(index))
    part = store.root / "tmp" / f"{DIGEST}.pieces"
    with part.open("r+b") as file:
        file.seek(2 * PIECE_BYTES + 5)
        file.write(bytes([DATA[2 * PIECE_BYTES + 5] ^ 1]))
        file.truncate(len(DATA) - 1)
    with store.pieces(DIGEST, len(DATA), LIST) as writer:
        assert writer.missing() == (2, 4)


def test_what_arrived_in_one_stream_goes_on_in_pieces(store: BlobStore) -> None:
    with store.writer(DIGEST, len(DATA), resumable=True) as stream:
        stream.write(DATA[: 2 * PIECE_BYTES + 5])
    with store.pieces(DIGEST, len(DATA), LIST) as writer:
        assert writer.missing() == (2, 3, 4)
        assert temporary(store) == [f"{DIGEST}.pieces"]
    assert store.resume(DIGEST) is None


def test_two_writers_of_one_blob_do_not_touch_each_other(store: BlobStore) -> None:
    first = store.pieces(DIGEST, len(DATA), LIST)
    second = store.pieces(DIGEST, len(DATA), LIST)
    first.put(0, piece(0))
    assert second.missing() == (0, 1, 2, 3, 4)
    for writer in (second, first):
        for index in writer.missing():
            writer.put(index, piece(index))
        writer.commit()
    assert store.read_bytes(DIGEST, len(DATA)) == DATA
    assert temporary(store) == []


def test_a_piece_list_that_lies_is_found_out_at_the_end(store: BlobStore) -> None:
    digest = digest_of(b"another blob")
    with store.pieces(digest, len(DATA), LIST) as writer:
        for index in range(COUNT):
            writer.put(index, piece(index))
        with pytest.raises(Invalid, match="as its piece list has them"):
            writer.commit()
    assert not store.has(digest)
    assert temporary(store) == []


@pytest.mark.parametrize("pieces", [b"", LIST[:-1], LIST + bytes(32)])
def test_a_piece_list_of_the_wrong_length_is_refused(store: BlobStore, pieces: bytes) -> None:
    with pytest.raises(Invalid, match="piece list"):
        store.pieces(DIGEST, len(DATA), pieces)
    assert temporary(store) == []


def test_a_writer_that_got_nothing_leaves_nothing(store: BlobStore) -> None:
    store.pieces(DIGEST, len(DATA), LIST).close()
    with store.pieces(DIGEST, len(DATA), LIST) as writer:
        writer.put(1, piece(1))
        writer.discard()
        with pytest.raises(NotFound, match="does not arrive any more"):
            writer.put(2, piece(2))
    assert temporary(store) == []


# ---- giving them on


def test_pieces_of_a_blob_that_still_arrives_are_read(store: BlobStore) -> None:
    with pytest.raises(NotFound):
        store.open_pieces(DIGEST)
    with store.pieces(DIGEST, len(DATA), LIST) as writer:
        writer.put(4, piece(4))
        with store.open_pieces(DIGEST) as reader:
            assert reader.size_bytes == len(DATA)
            assert reader.have == writer.have
            assert reader.read(4) == piece(4)
            with pytest.raises(NotFound, match="no piece 0"):
                reader.read(0)
            for index in range(4):
                writer.put(index, piece(index))
            writer.commit()
            assert reader.read(0) == piece(0), "also after it became whole"
    with store.open_pieces(DIGEST) as reader:
        assert [reader.read(index) for index in range(COUNT)] == [piece(i) for i in range(COUNT)]
        with pytest.raises(Invalid, match="no piece 5"):
            reader.read(COUNT)


def test_a_blob_cut_short_on_disk_is_not_given_on(store: BlobStore) -> None:
    store.put_bytes(DATA)
    with store.open_pieces(DIGEST) as reader:
        os.truncate(store.path(DIGEST), 10)
        with pytest.raises(Unavailable, match="cut short"):
            reader.read(0)


# ---- piece lists


def test_a_piece_list_is_made_once_and_again_when_it_is_damaged(store: BlobStore) -> None:
    store.put_bytes(DATA)
    kept = store.root / "pieces" / DIGEST
    assert store.piece_list(DIGEST) == (len(DATA), LIST)
    written = kept.stat().st_mtime_ns
    assert store.piece_list(DIGEST) == (len(DATA), LIST)
    assert kept.stat().st_mtime_ns == written
    for damaged in (kept.read_bytes()[:-1], b"", bytes(len(LIST) + 32)):
        kept.write_bytes(damaged)
        assert store.piece_list(DIGEST) == (len(DATA), LIST)


def test_a_piece_list_goes_with_its_blob(store: BlobStore) -> None:
    store.put_bytes(DATA)
    store.piece_list(DIGEST)
    store.remove(DIGEST)
    assert list((store.root / "pieces").iterdir()) == []
    with pytest.raises(NotFound):
        store.piece_list(DIGEST)


def test_an_empty_blob_has_an_empty_list(store: BlobStore) -> None:
    assert store.piece_list(store.put_bytes(b"")) == (0, b"")
    assert piece_count(0) == 0
