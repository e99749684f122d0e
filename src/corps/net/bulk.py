"""The bulk connection (wire/bulk.py): blobs in and out of a store, each on blocking sockets.

It has a connection and threads of its own, so that a large copy never stands before a heartbeat.
Whoever runs these never forks: a child would hold a blob open for writing (ETXTBSY). The asking
side is in `bulk_client`.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from typing import TypeAlias, assert_never

from corps.errors import Conflict, CorpsError, Denied, Invalid, ProtocolError
from corps.model.artifact import BLOB_MAX_BYTES
from corps.model.name import Digest
from corps.net.batch import BATCH_WAIT_S, Batch
from corps.net.bulk_client import MISSING_MAX, SMALL_BYTES, Blobs, BulkClient, Writer
from corps.net.channel import STALL_S, Channel
from corps.net.intake import Intake, Upload
from corps.net.listener import Listener
from corps.net.outgoing import Outgoing
from corps.wire.bulk import (
    BulkAnswer,
    BulkRequest,
    Claim,
    Claimed,
    Encoding,
    Missing,
    Partial,
    PieceList,
    Pieces,
    Room,
    Sending,
    Trouble,
    Want,
)
from corps.wire.codec import BULK_PREFACE, encode_frame

Admit: TypeAlias = Callable[[BulkRequest], None]

__all__ = ["BulkClient", "BulkListener", "serve_bulk"]


def admit_all(_request: BulkRequest) -> None:
    """For who may ask whatever it may ask."""


def serve_bulk(
    sock: socket.socket,
    store: Blobs,
    may_put: bool,
    stall_s: float = STALL_S,
    admit: Admit = admit_all,
) -> None:
    """Answer requests until the peer closes, breaks the contract or stalls; closes `sock`.

    The acceptor has read the preface. Never raises for what a peer does. Blobs may be claimed only
    of a store that is an `Upload`. `admit` raises what a request must be refused for.
    """
    channel: Channel[BulkRequest] = Channel(sock, BulkRequest, stall_s)
    answering = _Answering(channel, store, may_put, admit)
    try:
        while (request := answering.next_request()) is not None:
            answering.answer(request)
    except ProtocolError as error:
        channel.hang_up(Trouble(code=error.code, message=error.message))
    except OSError:
        pass  # gone or stalled: nobody is left to tell
    finally:
        answering.close()


class _Answering:
    """One connection. Answers come in the order of the requests."""

    def __init__(
        self, channel: Channel[BulkRequest], store: Blobs, may_put: bool, admit: Admit
    ) -> None:
        self._channel, self._store, self._may_put = channel, store, may_put
        self._admit = admit
        self._outgoing = Outgoing(channel, store)
        self._batch = Batch(store)
        self._resumed: tuple[Digest, Writer] | None = None

    def close(self) -> None:
        """What has arrived whole stays, whoever is gone."""
        self._batch.end()
        self._drop_resumed()
        self._channel.close()

    def next_request(self) -> BulkRequest | None:
        if self._batch and not self._channel.can_receive(BATCH_WAIT_S):
            self._end_batch()
        return self._channel.receive()

    def answer(self, request: BulkRequest) -> None:
        if not isinstance(request, Sending):
            self._end_batch()
            self._drop_resumed()
        try:
            self._admit(request)
        except CorpsError as error:
            self._turn_down(request, error)
            return
        match request:
            case Want():
                self._outgoing.send(request)
            case Pieces(digest=digest):
                self._hold(lambda: _piece_list(self._store, digest))
            case Missing(digests=digests):
                self._hold(lambda: _missing(self._store, digests))
            case Partial(digest=digest):
                self._hold(lambda: self._resume(digest))
            case Claim() | Room():
                self._hold(lambda: _prepare(self._store, self._may_put, request))
            case Sending():
                self._take_blob(request)
            case _:
                assert_never(request)

    def _turn_down(self, request: BulkRequest, error: CorpsError) -> None:
        """Whose bytes follow is told at the end of them, so that the next request is found."""
        if isinstance(request, Sending):
            _check_put(request)
            for _ in self._channel.receive_raw(request.size_bytes - request.offset):
                pass
        self._channel.hold(encode_frame(Trouble(code=error.code, message=error.message)))

    def _hold(self, find: Callable[[], BulkAnswer]) -> None:
        try:
            answer = find()
        except CorpsError as error:
            answer = Trouble(code=error.code, message=error.message)
        self._channel.hold(encode_frame(answer))

    def _resume(self, digest: Digest) -> Partial:
        """Held open until it is put, so that what was said stays true whoever else sends it."""
        writer = self._store.resume(digest) if self._may_put else None
        if writer is None:
            return Partial(digest=digest)
        self._resumed = (digest, writer)
        return Partial(digest=digest, offset=writer.received_bytes)

    def _drop_resumed(self) -> None:
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            resumed[1].close()

    def _writer(self, sending: Sending) -> Writer:
        """That of the question before, if it goes on there; else from the first byte on."""
        resumed, self._resumed = self._resumed, None
        there = 0
        if resumed is not None:
            digest, writer = resumed
            there = writer.received_bytes if digest == sending.digest else 0
            if there and there == sending.offset:
                writer.expect(sending.size_bytes)
                return writer
            writer.close()
        if sending.offset:
            raise Conflict(
                f"blob {sending.digest!r} goes on at byte {there}, not at {sending.offset}: ask, "
                "then repeat"
            )
        return self._store.writer(sending.digest, sending.size_bytes, resumable=True)

    def _end_batch(self) -> None:
        for answer in self._batch.end():
            self._channel.hold(encode_frame(answer))

    def _take_blob(self, sending: Sending) -> None:
        """Whatever happens to the blob, its bytes are read to the end: the next request follows."""
        _check_put(sending)
        pieces = self._channel.receive_raw(sending.size_bytes - sending.offset)
        try:
            if not self._may_put:
                raise Denied("this connection may read blobs, not put them")
            writer = None
            if not self._store.has(sending.digest):
                writer = _take(self._writer(sending), sending, pieces)
            elif self._resumed is not None:
                self._resumed[1].discard()  # somebody else was faster
            self._batch.add(sending.digest, writer)
        except CorpsError as error:
            self._end_batch()
            # at once, so that the peer can stop
            self._channel.send(Trouble(code=error.code, message=error.message))
        self._drop_resumed()
        for _ in pieces:
            pass
        if self._batch.is_full or sending.size_bytes > SMALL_BYTES:
            self._end_batch()


def _check_put(sending: Sending) -> None:
    if (
        not 0 <= sending.offset <= sending.size_bytes <= BLOB_MAX_BYTES
        or sending.encoding is not Encoding.RAW
        or sending.length is not None
    ):
        raise ProtocolError(
            f"cannot take {sending.size_bytes} bytes at offset {sending.offset}: a blob is put "
            f"as it is, to its end, and has at most {BLOB_MAX_BYTES} bytes"
        )


def _take(writer: Writer, sending: Sending, pieces: Iterator[memoryview]) -> Writer | None:
    """A small blob, sealed; a large one is in its place. What breaks off may be continued."""
    is_sealed = False
    try:
        for piece in pieces:
            writer.write(piece)
        if sending.size_bytes > SMALL_BYTES:
            writer.commit()
            return None
        writer.seal()
        is_sealed = True
    finally:
        if not is_sealed:
            writer.close()
    return writer


def _missing(store: Blobs, digests: tuple[Digest, ...]) -> Missing:
    if len(digests) > MISSING_MAX:
        raise Invalid(f"{len(digests)} digests in one question: at most {MISSING_MAX}")
    return Missing(digests=store.missing(digests))


def _prepare(store: Blobs, may_put: bool, request: Claim | Room) -> Claimed | Room:
    if not may_put or not isinstance(store, Upload):
        raise Denied("this connection may read blobs, not put them")
    if isinstance(request, Room):
        store.check_room(request.size_bytes)
        return request
    if len(request.digests) > MISSING_MAX:
        raise Invalid(f"{len(request.digests)} digests claimed at once: at most {MISSING_MAX}")
    return store.claim(request.digests)


def _piece_list(store: Blobs, digest: Digest) -> PieceList:
    size_bytes, pieces = store.piece_list(digest)
    return PieceList(digest=digest, size_bytes=size_bytes, pieces=pieces)


class BulkListener:
    """Accepts bulk connections on a listening socket."""

    def __init__(
        self, listening: socket.socket, store: Blobs, may_put: bool, intake: Intake | None = None
    ) -> None:
        self._store, self._may_put, self._intake = store, may_put, intake
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
