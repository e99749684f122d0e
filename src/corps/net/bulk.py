"""The bulk connection (wire/bulk.py): blobs in and out of a store, each on blocking sockets.

It has a connection and threads of its own, so that a large copy never stands before a heartbeat.
Whoever runs these never forks: a child would hold a blob open for writing (ETXTBSY). The asking
side is in `bulk_client`.
"""

from __future__ import annotations

import contextlib
import os
import select
import socket
import threading
from collections.abc import Iterator
from typing import assert_never

from corps.clock import Clock
from corps.errors import CorpsError, Denied, Invalid, ProtocolError, Unavailable
from corps.model.artifact import BLOB_MAX_BYTES
from corps.model.name import Digest
from corps.net.bulk_client import MISSING_MAX, Blobs, BulkClient
from corps.net.channel import STALL_S, Channel
from corps.net.intake import Intake, Upload
from corps.net.outgoing import Outgoing
from corps.wire.bulk import (
    BulkAnswer,
    BulkRequest,
    Claim,
    Claimed,
    Missing,
    PieceList,
    Pieces,
    Room,
    Sending,
    Stored,
    Trouble,
    Want,
)
from corps.wire.codec import BULK_PREFACE, PREFACE_BYTES, encode_frame

__all__ = ["BulkClient", "BulkListener", "serve_bulk"]

THREADS_MAX = 32
PREFACE_S = 5.0
ACCEPT_RETRY_S = 0.1


def serve_bulk(sock: socket.socket, store: Blobs, may_put: bool, stall_s: float = STALL_S) -> None:
    """Answer requests until the peer closes, breaks the contract or stalls; closes `sock`.

    The acceptor has read the preface. Never raises for what a peer does. Blobs may be claimed only
    of a store that is an `Upload`.
    """
    channel: Channel[BulkRequest] = Channel(sock, BulkRequest, stall_s)
    outgoing = Outgoing(channel, store)
    try:
        while (request := channel.receive()) is not None:
            _answer(channel, outgoing, store, may_put, request)
    except ProtocolError as error:
        channel.hang_up(Trouble(code=error.code, message=error.message))
    except OSError:
        pass  # gone or stalled: nobody is left to tell
    finally:
        channel.close()


def _answer(
    channel: Channel[BulkRequest],
    outgoing: Outgoing,
    store: Blobs,
    may_put: bool,
    request: BulkRequest,
) -> None:
    match request:
        case Want():
            outgoing.send(request)
        case Pieces(digest=digest):
            channel.hold(encode_frame(_piece_list(store, digest)))
        case Missing(digests=digests):
            channel.hold(encode_frame(_missing(store, digests)))
        case Claim() | Room():
            channel.hold(encode_frame(_prepare(store, may_put, request)))
        case Sending():
            _take_blob(channel, store, may_put, request)
        case _:
            assert_never(request)


def _missing(store: Blobs, digests: tuple[Digest, ...]) -> Missing | Trouble:
    try:
        if len(digests) > MISSING_MAX:
            raise Invalid(f"{len(digests)} digests in one question: at most {MISSING_MAX}")
        return Missing(digests=store.missing(digests))
    except CorpsError as error:
        return Trouble(code=error.code, message=error.message)


def _piece_list(store: Blobs, digest: Digest) -> PieceList | Trouble:
    try:
        size_bytes, pieces = store.piece_list(digest)
        return PieceList(digest=digest, size_bytes=size_bytes, pieces=pieces)
    except CorpsError as error:
        return Trouble(code=error.code, message=error.message)


def _prepare(store: Blobs, may_put: bool, request: Claim | Room) -> Claimed | Room | Trouble:
    try:
        if not may_put or not isinstance(store, Upload):
            raise Denied("this connection may read blobs, not put them")
        if isinstance(request, Room):
            store.check_room(request.size_bytes)
            return request
        if len(request.digests) > MISSING_MAX:
            raise Invalid(f"{len(request.digests)} digests claimed at once: at most {MISSING_MAX}")
        return store.claim(request.digests)
    except CorpsError as error:
        return Trouble(code=error.code, message=error.message)


def _take_blob(
    channel: Channel[BulkRequest], store: Blobs, may_put: bool, sending: Sending
) -> None:
    """Whatever happens to the blob, its bytes are read to the end: the next request follows."""
    if not 0 <= sending.size_bytes <= BLOB_MAX_BYTES or sending.offset != 0:
        raise ProtocolError(
            f"cannot take {sending.size_bytes} bytes at offset {sending.offset}: "
            f"a blob starts at 0 and has at most {BLOB_MAX_BYTES} bytes"
        )
    pieces = channel.receive_raw(sending.size_bytes)
    try:
        if not may_put:
            raise Denied("this connection may read blobs, not put them")
        if not store.has(sending.digest):
            _store_blob(store, sending, pieces)
        answer: BulkAnswer = Stored(digest=sending.digest)
    except CorpsError as error:
        answer = Trouble(code=error.code, message=error.message)
        channel.send(answer)  # at once, so that the peer can stop
    for _ in pieces:
        pass
    if isinstance(answer, Stored):
        channel.hold(encode_frame(answer))


def _store_blob(store: Blobs, sending: Sending, pieces: Iterator[memoryview]) -> None:
    writer = store.writer(sending.digest, sending.size_bytes)
    try:
        for piece in pieces:
            writer.write(piece)
        writer.commit()
    finally:
        writer.close()


class BulkListener:
    """Accepts bulk connections on a listening socket, each served by a thread of its own."""

    def __init__(
        self, listening: socket.socket, store: Blobs, may_put: bool, intake: Intake | None = None
    ) -> None:
        self._listening = listening
        self._store = store
        self._may_put = may_put
        self._intake = intake
        self._lock = threading.Lock()
        self._serving: dict[threading.Thread, socket.socket] = {}
        self._wake_r, self._wake_w = os.pipe()
        self._acceptor = threading.Thread(target=self._accept, name="bulk-accept", daemon=True)
        self._acceptor.start()

    def close(self) -> None:
        """Cut all connections, wait for their threads, close the listening socket."""
        if not self._acceptor.is_alive():
            return
        os.write(self._wake_w, b"x")
        self._acceptor.join()
        with self._lock:
            serving = dict(self._serving)
            for sock in serving.values():
                with contextlib.suppress(OSError):
                    sock.shutdown(socket.SHUT_RDWR)
        for thread in serving:
            thread.join()
        self._listening.close()
        os.close(self._wake_r)
        os.close(self._wake_w)

    def _accept(self) -> None:
        self._listening.setblocking(False)
        poll = select.poll()
        poll.register(self._listening, select.POLLIN)
        poll.register(self._wake_r, select.POLLIN)
        while True:
            if any(fd == self._wake_r for fd, _ in poll.poll()):
                return
            try:
                sock, _ = self._listening.accept()
            except (BlockingIOError, ConnectionError):
                continue
            except OSError:  # no file descriptor left: some connection will end
                select.select([self._wake_r], [], [], ACCEPT_RETRY_S)
                continue
            self._start(sock)

    def _start(self, sock: socket.socket) -> None:
        thread = threading.Thread(target=self._serve, args=(sock,), name="bulk", daemon=True)
        with self._lock:
            if len(self._serving) < THREADS_MAX:
                self._serving[thread] = sock
                with contextlib.suppress(RuntimeError):  # no thread to be had
                    thread.start()
                    return
                del self._serving[thread]
        _refuse(sock, Unavailable(f"{THREADS_MAX} copies are under way; repeat in a moment"))

    def _serve(self, sock: socket.socket) -> None:
        try:
            if _has_preface(sock):
                self._serve_bulk(sock)
        finally:
            with self._lock:
                del self._serving[threading.current_thread()]
            sock.close()

    def _serve_bulk(self, sock: socket.socket) -> None:
        if self._intake is None:
            serve_bulk(sock, self._store, self._may_put)
            return
        upload = self._intake.begin()
        try:
            serve_bulk(sock, upload, self._may_put)
        finally:
            upload.close()


def _has_preface(sock: socket.socket) -> bool:
    clock = Clock()
    deadline = clock() + PREFACE_S
    preface = b""
    try:
        while len(preface) < PREFACE_BYTES:
            sock.settimeout(max(0.001, deadline - clock()))
            data = sock.recv(PREFACE_BYTES - len(preface))
            if not data:
                return False
            preface += data
    except OSError:
        return False
    return preface == BULK_PREFACE


def _refuse(sock: socket.socket, error: CorpsError) -> None:
    with contextlib.suppress(OSError), sock:
        sock.setblocking(False)
        sock.send(encode_frame(Trouble(code=error.code, message=error.message)))
        sock.shutdown(socket.SHUT_WR)
