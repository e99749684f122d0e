"""Blobs over real sockets, whole or not at all, whatever breaks on the way."""

from __future__ import annotations

import os
import resource
import socket
import ssl
import subprocess
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from corps.errors import (
    Conflict,
    CorpsError,
    Denied,
    Invalid,
    NotFound,
    ProtocolError,
    TimedOut,
    Unavailable,
)
from corps.model.pieces import piece_span
from corps.net.bulk import BulkClient, serve_bulk
from corps.net.bulk_client import MISSING_MAX, PUT_WINDOW_MAX, SMALL_BYTES, Dial
from corps.net.channel import SENDFILE_BYTES, Channel
from corps.net.listener import THREADS_MAX
from corps.store.blobs import PART_MIN_BYTES, BlobStore
from corps.wire.bulk import BulkAnswer, Encoding, Missing, Partial, Sending, Stored, Trouble, Want
from corps.wire.codec import BULK_PREFACE, CONTROL_PREFACE, HEADER, encode_frame
from tests.support.artifacts import digest_of
from tests.support.bulk import Wire, serving, temporary
from tests.support.waiting import until

LARGE = os.urandom(PART_MIN_BYTES + 12_345)
SIZES = [0, 1, SMALL_BYTES, SMALL_BYTES + 1, len(LARGE)]


@pytest.fixture
def there(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "there", durable=False)


@pytest.fixture
def here(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "here", durable=False)


@pytest.fixture
def dial(tmp_path: Path, there: BlobStore) -> Iterator[Dial]:
    with serving(tmp_path, there) as dial:
        yield dial


def a_file(directory: Path, data: bytes, name: str = "file") -> Path:
    path = directory / name
    path.write_bytes(data)
    return path


# ---- what works


@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_blobs_go_there_and_come_back(
    tmp_path: Path, here: BlobStore, there: BlobStore, family: str
) -> None:
    sources = {}
    for size in SIZES:
        data = LARGE[:size]
        sources[digest_of(data)] = a_file(tmp_path, data, f"of-{size}")
    sent: list[int] = []
    received: list[int] = []
    with serving(tmp_path, there, family) as dial, BulkClient(dial) as client:
        assert set(client.missing(sources)) == set(sources)
        client.put_all(sources, sent.append)
        manifest = client.put_bytes(b"manifest")
        assert client.missing([*sources, manifest]) == ()
        client.fetch_all([*sources, manifest], here, lambda _, count: received.append(count))
    assert sum(sent) == sum(SIZES)
    assert sum(received) == sum(SIZES) + len(b"manifest")
    for digest, path in sources.items():
        assert here.read_bytes(digest, len(LARGE)) == path.read_bytes()
    assert temporary(here) == temporary(there) == []


def test_the_question_what_is_missing_may_be_of_any_length(dial: Dial, there: BlobStore) -> None:
    digests = [f"{number:064x}" for number in range(2 * MISSING_MAX + 5)]
    known = there.put_bytes(b"known")
    with BulkClient(dial) as client:
        assert client.missing([*digests, known, *digests]) == tuple(digests)
        assert client.missing([]) == ()


def test_many_small_files_go_in_a_stream(
    tmp_path: Path, dial: Dial, here: BlobStore, there: BlobStore
) -> None:
    sources = {}
    for number in range(500):
        data = b"%d" % number * (number % 97)
        sources[digest_of(data)] = a_file(tmp_path, data, str(number))
    with BulkClient(dial) as client:
        client.put_all(sources)
        client.fetch_all(sources, here)
    assert here.digests() == there.digests() == tuple(sorted(sources))


@pytest.mark.parametrize("durable", [True, False])
def test_small_files_become_durable_together_and_are_answered_in_order(
    tmp_path: Path, durable: bool
) -> None:
    """With one that is there, one that is damaged and a large one among them."""
    store = BlobStore(tmp_path / "store", durable=durable)
    there = store.put_bytes(b"there")
    said = []
    expected: list[str | None] = []
    for number in range(PUT_WINDOW_MAX):
        data = b"%d" % number
        said.append(encode_frame(Sending(digest=digest_of(data), size_bytes=len(data))) + data)
        expected.append(None)
    for digest, data, code in (
        (there, b"there", None),
        (DIGEST, b"damaged", Invalid.code),
        (digest_of(LARGE), LARGE, None),
    ):
        said.insert(100, encode_frame(Sending(digest=digest, size_bytes=len(data))) + data)
        expected.insert(100, code)
    with serving(tmp_path, store) as dial, dial() as sock:
        sock.sendall(BULK_PREFACE + b"".join(said))
        channel: Channel[BulkAnswer] = Channel(sock, BulkAnswer)
        answers = [channel.receive() for _ in said]
    assert [getattr(answer, "code", None) for answer in answers] == expected
    assert len(store.digests()) == PUT_WINDOW_MAX + 2
    assert temporary(store) == []


def test_a_sparse_file_arrives_with_its_holes_as_zeros(
    tmp_path: Path, dial: Dial, here: BlobStore
) -> None:
    path = tmp_path / "sparse"
    with path.open("wb") as file:
        file.seek(3 << 20)
        file.write(b"end")
    digest = digest_of(path.read_bytes())
    with BulkClient(dial) as client:
        client.put(digest, path)
        client.fetch(digest, here)
    assert here.read_bytes(digest, 4 << 20) == path.read_bytes()


def test_many_may_put_the_same_blob_at_once(tmp_path: Path, dial: Dial, there: BlobStore) -> None:
    path, digest = a_file(tmp_path, LARGE), digest_of(LARGE)
    failures: list[CorpsError] = []

    def put() -> None:
        try:
            with BulkClient(dial) as client:
                client.put(digest, path)
        except CorpsError as error:
            failures.append(error)

    threads = [threading.Thread(target=put) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert failures == []
    assert there.read_bytes(digest, len(LARGE)) == LARGE
    assert temporary(there) == []


def test_a_client_dials_only_when_it_is_asked_and_again_after_a_close(
    dial: Dial, there: BlobStore
) -> None:
    wire = Wire(dial)
    digest = there.put_bytes(b"x")
    with BulkClient(wire.dial) as client:
        assert wire.dial_count == 0
        for count in (1, 2):
            assert client.missing([digest]) == client.missing([digest]) == ()
            assert wire.dial_count == count
            client.close()
    wire.join()


def test_a_connection_that_was_idle_for_too_long_is_dialled_again(there: BlobStore) -> None:
    def dial() -> socket.socket:
        near, far = socket.socketpair()
        threads.append(threading.Thread(target=serve, args=(far,)))
        threads[-1].start()
        return near

    def serve(sock: socket.socket) -> None:
        assert sock.recv(len(BULK_PREFACE)) == BULK_PREFACE
        serve_bulk(sock, there, may_put=True, stall_s=0.05)

    threads: list[threading.Thread] = []
    with BulkClient(dial) as client:
        for count in (1, 2):
            assert client.missing([DIGEST]) == (DIGEST,)
            assert len(threads) == count
            threads[-1].join()


def test_a_blob_may_be_fetched_piece_by_piece(
    dial: Dial, here: BlobStore, there: BlobStore
) -> None:
    digest = there.put_bytes(LARGE)
    with BulkClient(dial) as client:
        list = client.piece_list(digest)
        assert list.size_bytes == len(LARGE)
        with here.pieces(digest, list.size_bytes, list.pieces) as writer:
            for index in reversed(writer.missing()):
                writer.put(index, _piece(dial, digest, index, list.size_bytes))
            writer.commit()
        with pytest.raises(NotFound):
            client.piece_list(digest_of(b"nothing"))
    assert here.read_bytes(digest, len(LARGE)) == LARGE


def _piece(dial: Dial, digest: str, index: int, size_bytes: int) -> bytes:
    offset, length = piece_span(index, size_bytes)
    with dial() as sock:
        sock.sendall(BULK_PREFACE)
        channel: Channel[BulkAnswer] = Channel(sock, BulkAnswer)
        channel.send(Want(digest=digest, offset=offset, length=length))
        expected = Sending(digest=digest, size_bytes=size_bytes, offset=offset, length=length)
        assert channel.receive() == expected
        return b"".join(bytes(part) for part in channel.receive_raw(length))


# ---- what is refused


def test_a_blob_that_is_not_there_is_not_found(dial: Dial, here: BlobStore) -> None:
    with BulkClient(dial) as client:
        with pytest.raises(NotFound, match="no blob"):
            client.fetch(digest_of(b"nothing"), here)
        assert client.missing([]) == (), "the next call dials again"
    assert here.digests() == ()


def test_who_may_only_read_cannot_put(tmp_path: Path, there: BlobStore) -> None:
    path = a_file(tmp_path, LARGE)
    with serving(tmp_path, there, may_put=False) as dial, BulkClient(dial) as client:
        with pytest.raises(Denied):
            client.put(digest_of(LARGE), path)
        with pytest.raises(Denied):
            client.put_bytes(b"manifest")
    assert there.digests() == ()
    assert temporary(there) == []


def test_a_blob_over_the_limit_of_the_asker_is_not_fetched(
    dial: Dial, here: BlobStore, there: BlobStore
) -> None:
    digest = there.put_bytes(LARGE)
    with BulkClient(dial) as client, pytest.raises(Invalid, match="at most 1000"):
        client.fetch(digest, here, limit_bytes=1000)
    assert temporary(here) == []


def test_a_disk_that_fails_at_the_other_side_is_told(
    tmp_path: Path, dial: Dial, there: BlobStore
) -> None:
    path, digest = a_file(tmp_path, LARGE), digest_of(LARGE)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    with BulkClient(dial) as client:
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, before[1]))
        try:
            with pytest.raises(Unavailable, match=r"cannot store blob .* file too large"):
                client.put(digest, path)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert temporary(there) == []
        client.put(digest, path)
    assert there.has(digest)


# ---- a source that does not hold still


@pytest.mark.parametrize("data", [b"small", LARGE], ids=["small", "large"])
def test_a_source_that_changed_is_a_conflict(
    tmp_path: Path, dial: Dial, there: BlobStore, data: bytes
) -> None:
    path = a_file(tmp_path, data)
    path.write_bytes(data[:-1] + b"?")
    with BulkClient(dial) as client, pytest.raises(Conflict, match="changed while it was copied"):
        client.put(digest_of(data), path)
    assert there.digests() == ()
    assert temporary(there) == []


def test_a_source_that_gets_shorter_while_it_travels_is_a_conflict(
    tmp_path: Path, dial: Dial, there: BlobStore
) -> None:
    data = os.urandom(2 * SENDFILE_BYTES)
    path = a_file(tmp_path, data)
    with BulkClient(dial) as client:
        with pytest.raises(Conflict, match="changed while it was copied"):
            client.put(digest_of(data), path, lambda _: os.truncate(path, 1))
        assert client.missing([digest_of(data)]) == (digest_of(data),)
    until(lambda: temporary(there) in ([], [f"{digest_of(data)}.part"]))
    assert there.digests() == ()


def test_a_source_that_vanished_is_not_found(tmp_path: Path, dial: Dial) -> None:
    with BulkClient(dial) as client, pytest.raises(NotFound, match="is gone"):
        client.put(digest_of(b"x"), tmp_path / "gone")


def test_a_source_that_became_a_pipe_is_refused_without_waiting(tmp_path: Path, dial: Dial) -> None:
    os.mkfifo(tmp_path / "pipe")
    with BulkClient(dial) as client, pytest.raises(Invalid, match="no regular file"):
        client.put(digest_of(b"x"), tmp_path / "pipe")


# ---- connections that break


@pytest.mark.parametrize("part", [0, 1, 3, 50, 200, 10_000, 500_000, len(LARGE), -1])
def test_a_fetch_that_breaks_anywhere_goes_on_there(
    dial: Dial, here: BlobStore, there: BlobStore, part: int
) -> None:
    digest, small = there.put_bytes(LARGE), there.put_bytes(b"small")
    frames = len(encode_frame(Sending(digest=digest, size_bytes=len(LARGE))))
    wire = Wire(dial)
    wire.down_bytes = part if part >= 0 else frames + len(LARGE)
    with BulkClient(wire.dial) as client:
        with pytest.raises(Unavailable, match="repeat, it goes on where it broke off"):
            client.fetch_all([digest, small], here)
        assert client.break_count == 1
        had = here.partial_bytes(digest) if not here.has(digest) else len(LARGE)
        assert had == min(max(0, wire.carried_down - frames), len(LARGE))
        wire.down_bytes, wire.carried_down = None, 0
        received: list[int] = []
        missing = here.missing([digest, small])
        client.fetch_all(missing, here, lambda _, count: received.append(count))
    wire.join()
    assert sum(received) == len(LARGE) - had + len(b"small")
    assert here.read_bytes(digest, len(LARGE)) == LARGE
    assert temporary(here) == []


@pytest.mark.parametrize("part", [0, 5, 8, 12, 100, 10_000, 500_000, len(LARGE)])
def test_a_put_that_breaks_anywhere_goes_on_there(
    tmp_path: Path, dial: Dial, there: BlobStore, part: int
) -> None:
    path, digest = a_file(tmp_path, LARGE), digest_of(LARGE)
    begun = len(BULK_PREFACE) + len(encode_frame(Partial(digest=digest)))
    begun += len(encode_frame(Sending(digest=digest, size_bytes=len(LARGE))))
    wire = Wire(dial)
    wire.up_bytes = part
    sent: list[int] = []
    with BulkClient(wire.dial) as client:
        with pytest.raises(Unavailable):
            client.put(digest, path)
        wire.join()  # all that was carried is read
        arrived = max(0, part - begun)
        until(lambda: there.partial_bytes(digest) == arrived)
        assert there.digests() == ()
        wire.up_bytes = None
        client.put(digest, path, sent.append)
    wire.join()
    assert sum(sent) == len(LARGE) - arrived
    assert there.read_bytes(digest, len(LARGE)) == LARGE
    assert temporary(there) == []


def test_what_broke_off_is_not_trusted(tmp_path: Path, dial: Dial, there: BlobStore) -> None:
    path, digest = a_file(tmp_path, LARGE), digest_of(LARGE)
    with there.writer(digest, len(LARGE), resumable=True) as writer:
        writer.write(b"something else")
    with BulkClient(dial) as client:
        with pytest.raises(Invalid, match="arrived with other bytes"):
            client.put(digest, path)
        assert temporary(there) == []
        client.put(digest, path)
    assert there.read_bytes(digest, len(LARGE)) == LARGE


@pytest.mark.parametrize("offset", [1, 13, 14, 15, len(LARGE)])
def test_a_put_goes_on_nowhere_but_where_it_broke_off(
    dial: Dial, there: BlobStore, offset: int
) -> None:
    digest = digest_of(LARGE)
    with there.writer(digest, len(LARGE), resumable=True) as writer:
        writer.write(LARGE[:14])
    sending = Sending(digest=digest, size_bytes=len(LARGE), offset=offset)
    with dial() as sock:
        sock.sendall(BULK_PREFACE + encode_frame(sending) + LARGE[offset:])
        channel: Channel[BulkAnswer] = Channel(sock, BulkAnswer)
        answer = channel.receive()
    assert isinstance(answer, Trouble)
    assert answer.code == Conflict.code
    assert there.partial_bytes(digest) == 14


def test_only_one_goes_on_with_what_broke_off(tmp_path: Path, dial: Dial, there: BlobStore) -> None:
    """The other sends all of it; what the first was told stays true all the same."""
    path, digest = a_file(tmp_path, LARGE), digest_of(LARGE)
    with there.writer(digest, len(LARGE), resumable=True) as writer:
        writer.write(LARGE[:14])
    with dial() as sock:
        sock.sendall(BULK_PREFACE + encode_frame(Partial(digest=digest)))
        channel: Channel[BulkAnswer] = Channel(sock, BulkAnswer)
        assert channel.receive() == Partial(digest=digest, offset=14)
        sent: list[int] = []
        with BulkClient(dial) as client:
            client.put(digest, path, sent.append)
        assert sum(sent) == len(LARGE)
        sending = Sending(digest=digest, size_bytes=len(LARGE), offset=14)
        sock.sendall(encode_frame(sending) + LARGE[14:])
        assert channel.receive() == Stored(digest=digest)
    assert there.read_bytes(digest, len(LARGE)) == LARGE
    until(lambda: temporary(there) == [])


def test_nobody_there_is_unavailable(tmp_path: Path, here: BlobStore) -> None:
    def dial() -> socket.socket:
        return socket.create_connection(("127.0.0.1", 1))

    with BulkClient(dial) as client, pytest.raises(Unavailable, match="connection refused"):
        client.missing([digest_of(b"x")])


def test_a_server_that_says_nothing_times_out(here: BlobStore) -> None:
    near, far = socket.socketpair()
    with far, BulkClient(lambda: near, stall_s=0.05) as client:
        with pytest.raises(TimedOut, match="no progress"):
            client.fetch(digest_of(b"x"), here)
        assert client.break_count == 1


def test_a_server_that_takes_nothing_times_out(tmp_path: Path) -> None:
    data = os.urandom(4 << 20)
    near, far = socket.socketpair()
    path = a_file(tmp_path, data)
    with far, BulkClient(lambda: near, stall_s=0.05) as client, pytest.raises(TimedOut):
        client.put(digest_of(data), path)


@pytest.mark.parametrize("said", [b"", b"\0", encode_frame(Want(digest="a" * 64))[:-1]])
def test_an_asker_that_stalls_is_let_go(there: BlobStore, said: bytes) -> None:
    near, far = socket.socketpair()
    with near:
        near.sendall(said)
        serve_bulk(far, there, may_put=True, stall_s=0.05)
        assert near.recv(1) == b""


def test_an_asker_that_does_not_read_is_let_go(there: BlobStore) -> None:
    digest = there.put_bytes(os.urandom(4 << 20))
    near, far = socket.socketpair()
    with near:
        near.sendall(encode_frame(Want(digest=digest)))
        serve_bulk(far, there, may_put=True, stall_s=0.05)


# ---- peers that break the contract


def talk(dial: Dial, data: bytes) -> list[BulkAnswer]:
    """Say this, then hear all until the other side closes."""
    answers: list[BulkAnswer] = []
    sock = dial()
    sock.sendall(data)
    channel: Channel[BulkAnswer] = Channel(sock, BulkAnswer)
    while (answer := channel.receive()) is not None:
        answers.append(answer)
    channel.close()
    return answers


DIGEST = "a" * 64
HOSTILE = {
    "empty frame": HEADER.pack(0),
    "huge frame": HEADER.pack(2**32 - 1),
    "noise": HEADER.pack(3) + b"\xc1\xc1\xc1",
    "an answer as a request": encode_frame(Trouble(code="x", message="y")),
    "negative offset": encode_frame(Want(digest=DIGEST, offset=-1)),
    "negative length": encode_frame(Want(digest=DIGEST, offset=0, length=-1)),
    "length beyond the end": encode_frame(Want(digest=DIGEST, offset=0, length=2)),
    "negative size": encode_frame(Sending(digest=DIGEST, size_bytes=-1)),
    "8 EiB": encode_frame(Sending(digest=DIGEST, size_bytes=2**63)),
    "put behind the end": encode_frame(Sending(digest=DIGEST, size_bytes=5, offset=6)),
    "put a part": encode_frame(Sending(digest=DIGEST, size_bytes=5, length=2)),
    "put it encoded": encode_frame(
        Sending(digest=DIGEST, size_bytes=5, encoding=Encoding.ZSTD, wire_bytes=9)
    ),
    "nesting": HEADER.pack(100_000) + b"\x91" * 100_000,
}


@pytest.mark.parametrize("said", HOSTILE.values(), ids=HOSTILE.keys())
@pytest.mark.parametrize("family", ["tcp", "unix"])
def test_a_peer_that_breaks_the_contract_is_told_and_cut(
    tmp_path: Path, there: BlobStore, family: str, said: bytes
) -> None:
    if b"offset" in said:
        said = said.replace(DIGEST.encode(), there.put_bytes(b"x").encode())
    with serving(tmp_path, there, family) as dial:
        (answer,) = talk(dial, BULK_PREFACE + said + b"and more" * 100)
        assert isinstance(answer, Trouble)
        assert answer.code == ProtocolError.code
        with BulkClient(dial) as client:
            assert client.missing([DIGEST]) == (DIGEST,), "others are not affected"


def test_an_offset_beyond_the_end_is_refused(dial: Dial, there: BlobStore) -> None:
    digest = there.put_bytes(b"12345")
    (answer,) = talk(dial, BULK_PREFACE + encode_frame(Want(digest=digest, offset=6)))
    assert isinstance(answer, Trouble)


def test_a_bad_digest_or_too_many_are_trouble_but_the_connection_stays(
    tmp_path: Path, dial: Dial, there: BlobStore
) -> None:
    known = there.put_bytes(b"known")
    passwd = "../" * 7 + "etc/passwd"
    said = [
        encode_frame(Want(digest=passwd)),
        encode_frame(Sending(digest=passwd, size_bytes=3)) + b"abc",
        encode_frame(Missing(digests=(passwd,))),
        encode_frame(Missing(digests=("",) * (MISSING_MAX + 1))),
        encode_frame(Sending(digest=DIGEST, size_bytes=3)) + b"abc",
        encode_frame(Missing(digests=(known,))),
    ]
    sock = dial()
    sock.sendall(BULK_PREFACE + b"".join(said))
    sock.shutdown(socket.SHUT_WR)
    channel: Channel[BulkAnswer] = Channel(sock, BulkAnswer)
    answers = [channel.receive() for _ in said]
    channel.close()
    assert [getattr(answer, "code", None) for answer in answers] == ["invalid"] * 5 + [None]
    assert answers[-1] == Missing(digests=())
    assert there.digests() == (known,)
    assert temporary(there) == []


def test_bytes_that_are_not_the_blobs_are_found_out(here: BlobStore) -> None:
    near, far = socket.socketpair()
    digest = digest_of(b"12345")
    with far, BulkClient(lambda: near) as client:
        far.sendall(encode_frame(Sending(digest=digest, size_bytes=5)) + b"54321")
        with pytest.raises(Invalid, match="arrived with other bytes"):
            client.fetch(digest, here)
    assert here.digests() == ()
    assert temporary(here) == []


@pytest.mark.parametrize(
    "answer",
    [
        Sending(digest="b" * 64, size_bytes=5),
        Sending(digest=DIGEST, size_bytes=5, offset=1),
        Sending(digest=DIGEST, size_bytes=-5),
        Missing(digests=()),
    ],
    ids=["another blob", "another offset", "negative size", "no blob"],
)
def test_an_answer_to_another_question_is_refused(here: BlobStore, answer: BulkAnswer) -> None:
    near, far = socket.socketpair()
    with far, BulkClient(lambda: near) as client:
        far.sendall(encode_frame(answer) + b"12345")
        with pytest.raises((ProtocolError, Invalid)):
            client.fetch(DIGEST, here)
    assert temporary(here) == []


@pytest.mark.parametrize("preface", [CONTROL_PREFACE, b"GET / HTTP/1.1\r\n", b"SSH-2.0-", b""])
def test_a_stranger_is_cut_without_an_answer(dial: Dial, preface: bytes) -> None:
    with dial() as sock, suppress(OSError):  # a reset, when it had not read all we said
        sock.sendall(preface)
        sock.shutdown(socket.SHUT_WR)
        assert sock.recv(1) == b""


# ---- the listener


def test_more_connections_than_threads_are_told_to_come_back(dial: Dial, there: BlobStore) -> None:
    clients = [BulkClient(dial) for _ in range(THREADS_MAX)]
    for client in clients:
        assert client.missing([DIGEST]) == (DIGEST,)
    with BulkClient(dial) as late:
        with pytest.raises(Unavailable, match="repeat in a moment"):
            late.missing([DIGEST])
        clients.pop().close()

        def is_served() -> bool:
            try:
                return late.missing([DIGEST]) == (DIGEST,)
            except Unavailable:
                return False

        until(is_served)
    for client in clients:
        client.close()


def test_closing_the_listener_cuts_its_connections(tmp_path: Path, there: BlobStore) -> None:
    with serving(tmp_path, there) as dial:
        client = BulkClient(dial)
        assert client.missing([DIGEST]) == (DIGEST,)
        silent = dial()
    with pytest.raises(Unavailable):
        client.missing([DIGEST])
    with silent, suppress(ConnectionResetError):  # it may not have been accepted yet
        assert silent.recv(1) == b""


def test_the_bytes_are_encrypted_when_the_socket_is(
    tmp_path: Path, here: BlobStore, there: BlobStore
) -> None:
    """sendfile would send them in the clear, in the middle of the encrypted stream."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    command = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256"]
    command += ["-nodes", "-subj", "/CN=test", "-keyout", str(key), "-out", str(certificate)]
    subprocess.run(command, check=True, capture_output=True)
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    server.load_cert_chain(certificate, key)
    trusting = ssl.create_default_context(cafile=str(certificate))
    trusting.check_hostname = False
    near, far = socket.socketpair()

    def serve() -> None:
        sock = server.wrap_socket(far, server_side=True)
        assert sock.recv(len(BULK_PREFACE)) == BULK_PREFACE
        serve_bulk(sock, there, may_put=True)

    thread = threading.Thread(target=serve)
    thread.start()
    path, digest = a_file(tmp_path, LARGE), digest_of(LARGE)
    with BulkClient(lambda: trusting.wrap_socket(near)) as client:
        client.put(digest, path)
        client.fetch(digest, here)
    thread.join()
    assert here.read_bytes(digest, len(LARGE)) == LARGE
