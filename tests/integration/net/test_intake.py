"""Several that upload at once: each byte comes once, and nobody loses what another counts on."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from corps.errors import Denied, Invalid, Unavailable
from corps.net.bulk import BulkListener
from corps.net.bulk_client import MISSING_MAX, BulkClient, Dial
from corps.net.channel import Channel
from corps.net.intake import HELD_MAX, RESERVE_BYTES, Intake
from corps.store.blobs import BlobStore
from corps.wire.bulk import BulkAnswer, Claimed, Sending, Stored
from corps.wire.codec import BULK_PREFACE, encode_frame
from tests.support.artifacts import digest_of
from tests.support.bulk import listen_on, serving, temporary
from tests.support.waiting import until

ONE, TWO = os.urandom(300_000), os.urandom(200_000)
LONG_S = 600.0


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "store")


def _no_room() -> None:
    """Nothing can be removed."""


@pytest.fixture
def serve(tmp_path: Path, store: BlobStore) -> Iterator[Callable[[Intake], Dial]]:
    with ExitStack() as stack:

        def start(intake: Intake) -> Dial:
            listening, dial = listen_on(tmp_path, "unix")
            listener = BulkListener(listening, store, may_put=True, intake=intake)
            stack.callback(listener.close)
            return dial

        yield start


class Half:
    """One that sends half a blob, and then the rest or nothing."""

    def __init__(self, dial: Dial, store: BlobStore, data: bytes) -> None:
        self._sock: socket.socket = dial()
        self._channel: Channel[BulkAnswer] = Channel(self._sock, BulkAnswer)
        self._data = data
        sending = Sending(digest=digest_of(data), size_bytes=len(data))
        half = len(data) // 2
        self._sock.sendall(BULK_PREFACE + encode_frame(sending) + data[:half])
        until(lambda: temporary(store))  # it has its claim then

    def finish(self) -> BulkAnswer | None:
        self._sock.sendall(self._data[len(self._data) // 2 :])
        return self._channel.receive()

    def close(self) -> None:
        self._channel.close()


def test_what_one_sends_another_waits_for(
    store: BlobStore, serve: Callable[[Intake], Dial]
) -> None:
    dial = serve(Intake(store, _no_room, LONG_S))
    first = Half(dial, store, ONE)
    one, two = digest_of(ONE), digest_of(TWO)
    with BulkClient(dial) as second:
        claimed = until(lambda: _when(second.claim((one, two)), one, len(ONE) // 2))
        assert claimed is not None and claimed.digests == (two,)
        assert second.missing((one, two)) == (one, two)
        assert first.finish() == Stored(digest=one)
        assert second.claim((one, two)) == Claimed(digests=(two,), arriving={})
    first.close()
    assert temporary(store) == []


def _when(claimed: Claimed, digest: str, count: int) -> Claimed | None:
    return claimed if claimed.arriving.get(digest) == count else None


def test_who_goes_away_leaves_its_claims_to_others(
    store: BlobStore, serve: Callable[[Intake], Dial]
) -> None:
    dial = serve(Intake(store, _no_room, LONG_S))
    one = digest_of(ONE)
    first = Half(dial, store, ONE)
    with BulkClient(dial) as second:
        assert list(second.claim((one,)).arriving) == [one]
        first.close()
        until(lambda: second.claim((one,)) == Claimed(digests=(one,), arriving={}))
        with BulkClient(dial) as third:
            assert third.claim((one,)) == Claimed(digests=(), arriving={one: 0})


def test_who_says_nothing_loses_its_claims_and_both_succeed(
    store: BlobStore, serve: Callable[[Intake], Dial], tmp_path: Path
) -> None:
    dial = serve(Intake(store, _no_room, claim_s=0.0))
    one = digest_of(ONE)
    first = Half(dial, store, ONE)
    source = tmp_path / "source"
    source.write_bytes(ONE)
    with BulkClient(dial) as second:
        until(lambda: second.claim((one,)).digests == (one,))
        second.put(one, source)
        assert store.read_bytes(one, len(ONE)) == ONE
    assert first.finish() == Stored(digest=one)
    first.close()
    assert (store.digests(), temporary(store)) == ((one,), [])


def test_what_was_asked_for_stays_as_long_as_the_connection(
    store: BlobStore, serve: Callable[[Intake], Dial]
) -> None:
    intake = Intake(store, _no_room)
    dial = serve(intake)
    there, new = store.put_bytes(TWO), digest_of(ONE)
    with BulkClient(dial) as client:
        assert client.missing((there, new)) == (new,)
        assert client.put_bytes(b"manifest") == digest_of(b"manifest")
        with intake.removing() as held:
            assert held == {there, new, digest_of(b"manifest")}
    until(lambda: not _held(intake))


def _held(intake: Intake) -> frozenset[str]:
    with intake.removing() as held:
        return held


def test_room_is_asked_for_before_anything_is_sent(
    store: BlobStore, serve: Callable[[Intake], Dial]
) -> None:
    tried: list[bool] = []
    dial = serve(Intake(store, lambda: tried.append(True)))
    with BulkClient(dial) as client:
        client.check_room(0)
        assert tried == []
        with pytest.raises(
            Unavailable, match=r"no room at the master: .* delete artifacts or free"
        ):
            client.check_room(1 << 60)
        assert tried == [True]
        assert client.break_count == 0
    assert store.free_bytes() > RESERVE_BYTES


def test_a_question_that_is_too_long_is_refused(
    store: BlobStore, serve: Callable[[Intake], Dial]
) -> None:
    dial = serve(Intake(store, _no_room))
    many = [f"{number:064x}" for number in range(HELD_MAX + 1)]
    with BulkClient(dial) as client:
        with pytest.raises(Invalid, match="10001 digests claimed at once: at most 10000"):
            client.claim(many[: MISSING_MAX + 1])
        with pytest.raises(Invalid, match=f"an upload of more than {HELD_MAX} files"):
            client.missing(many)


def test_who_may_only_read_can_claim_nothing(tmp_path: Path, store: BlobStore) -> None:
    with serving(tmp_path, store, may_put=False) as dial, BulkClient(dial) as client:
        with pytest.raises(Denied, match="may read blobs, not put them"):
            client.claim((digest_of(ONE),))
        with pytest.raises(Denied, match="may read blobs, not put them"):
            client.check_room(1)
