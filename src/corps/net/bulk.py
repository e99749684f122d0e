"""The bulk connection (wire/bulk.py): blobs in and out of a store, each on blocking sockets.

It has a connection and threads of its own, so that a large copy never stands before a heartbeat.
Whoever runs these never forks: a child would hold a blob open for writing (ETXTBSY). The asking
side is in `bulk_client`.
"""

from __future__ import annotations

import socket
from collections.abc import Iterator
from typing import assert_never

from corps.errors import CorpsError, Denied, Invalid, ProtocolError
from corps.model.artifact import BLOB_MAX_BYTES
from corps.model.name import Digest
from corps.net.bulk_client import MISSING_MAX, Blobs, BulkClient
from corps.net.channel import STALL_S, Channel
from corps.net.intake import Intake, Upload
from corps.net.listener import Listener
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
from corps.wire.codec import BULK_PREFACE, encode_frame

__all__ = ["BulkClient", "BulkListener", "serve_bulk"]


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
    """Accepts bulk connections on a listening socket."""

    def __init__(
        self, listening: socket.socket, store: Blobs, may_put: bool, intake: Intake | None = None
    ) -> None:
        self._store = store
        self._may_put = may_put
        self._intake = intake
        self._listener = Listener(listening, {BULK_PREFACE: self._serve})

    def close(self) -> None:
        """Cut all connections, wait for their threads, close the listening socket."""
        self._listener.close()

    def _serve(self, sock: socket.socket) -> None:
        if self._intake is None:
            serve_bulk(sock, self._store, self._may_put)
            return
        upload = self._intake.begin()
        try:
            serve_bulk(sock, upload, self._may_put)
        finally:
            upload.close()
