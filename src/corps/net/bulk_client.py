"""The asking side of the bulk connection: what a worker fetches, what an operator's copy puts."""

from __future__ import annotations

import contextlib
import os
import socket
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Protocol, TypeAlias

from blake3 import blake3

from corps.errors import (
    Invalid,
    ProtocolError,
    TimedOut,
    Unavailable,
    error_of,
)
from corps.model.artifact import BLOB_MAX_BYTES
from corps.model.name import Digest, check_digest
from corps.model.pieces import check_pieces
from corps.net.channel import STALL_S, Channel
from corps.net.incoming import PLAIN, Asking, OnArrived, ignore_arrived, receive_range
from corps.net.source import changed, digest_of, opened_source
from corps.wire.bulk import (
    BulkAnswer,
    Claim,
    Claimed,
    Missing,
    Partial,
    PieceList,
    Pieces,
    Room,
    Sending,
    Stored,
    Trouble,
    Want,
)
from corps.wire.codec import BULK_PREFACE, encode_frame

MISSING_MAX = 10_000
WINDOW_MAX = 64
PUT_WINDOW_MAX = 1_000
RESUME_MIN_BYTES = 1 << 20
SMALL_BYTES = 64 << 10

OnBytes: TypeAlias = Callable[[int], None]
Dial: TypeAlias = Callable[[], socket.socket]


class Writer(Protocol):
    """What `store.blobs.BlobWriter` does; `net` and `store` do not know each other."""

    @property
    def received_bytes(self) -> int: ...
    def expect(self, size_bytes: int) -> object: ...
    def write(self, data: bytes | memoryview) -> None: ...
    def seal(self) -> None: ...
    def commit(self) -> None: ...
    def discard(self) -> None: ...
    def close(self) -> None: ...


class Blobs(Protocol):
    """What `store.blobs.BlobStore` does."""

    def has(self, digest: Digest) -> bool: ...
    def missing(self, digests: Iterable[Digest]) -> tuple[Digest, ...]: ...
    def open_blob(self, digest: Digest) -> int: ...
    def piece_list(self, digest: Digest) -> tuple[int, bytes]: ...
    def writer(self, digest: Digest, size_bytes: int, *, resumable: bool = False) -> Writer: ...
    def resume(self, digest: Digest) -> Writer | None: ...
    def sync(self) -> None: ...


def ignore_bytes(_count: int) -> None:
    """For who does not watch the progress."""


class BulkClient:
    """One bulk connection, dialled when it is needed; for one thread.

    A failed call drops it, the next call dials again. All calls may be repeated: what has arrived
    is not sent again. `break_count`: how often the connection failed, not the disk or the peer.
    `opening`: what the other side hears first.
    """

    def __init__(
        self,
        dial: Dial,
        stall_s: float = STALL_S,
        *,
        opening: bytes = BULK_PREFACE,
        artifact: Digest | None = None,
    ) -> None:
        """`artifact`: what is fetched is of that one."""
        self._dial, self._opening, self._artifact = dial, opening, artifact
        self._stall_s = stall_s
        self._channel: Channel[BulkAnswer] | None = None
        self.break_count = 0

    def __enter__(self) -> BulkClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        channel, self._channel = self._channel, None
        if channel is not None:
            channel.close()

    def missing(self, digests: Iterable[Digest]) -> tuple[Digest, ...]:
        """Those the other side lacks."""
        wanted = tuple(dict.fromkeys(digests))
        found: list[Digest] = []
        with self._talking("ask which blobs are missing") as channel:
            for start in range(0, len(wanted), MISSING_MAX):
                channel.send(Missing(digests=wanted[start : start + MISSING_MAX]))
                answer = _receive(channel)
                if not isinstance(answer, Missing):
                    raise ProtocolError(f"asked what is missing, got {type(answer).__name__}")
                found.extend(answer.digests)
        return tuple(found)

    def piece_list(self, digest: Digest) -> PieceList:
        """What its pieces must be, checked for its length."""
        with self._talking("ask for a piece list") as channel:
            channel.send(Pieces(digest=check_digest(digest), artifact=self._artifact))
            answer = _receive(channel)
            if not isinstance(answer, PieceList) or answer.digest != digest:
                raise ProtocolError(f"asked for a piece list, got {type(answer).__name__}")
            check_pieces(answer.pieces, answer.size_bytes)
        return answer

    def claim(self, digests: Sequence[Digest]) -> Claimed:
        """Which of these we should put, as nobody else does. At most MISSING_MAX."""
        with self._talking("ask which files to send") as channel:
            channel.send(Claim(digests=tuple(digests)))
            answer = _receive(channel)
            if not isinstance(answer, Claimed):
                raise ProtocolError(f"claimed files, got {type(answer).__name__}")
        return answer

    def check_room(self, size_bytes: int) -> None:
        """Raise Unavailable when the other side has no room for so much."""
        with self._talking("ask for room") as channel:
            channel.send(Room(size_bytes=size_bytes))
            answer = _receive(channel)
            if not isinstance(answer, Room):
                raise ProtocolError(f"asked for room, got {type(answer).__name__}")

    def fetch(
        self,
        digest: Digest,
        store: Blobs,
        on_arrived: OnArrived = ignore_arrived,
        limit_bytes: int = BLOB_MAX_BYTES,
    ) -> None:
        """Bring one blob into `store`, from where it broke off the last time."""
        self.fetch_all((digest,), store, on_arrived, limit_bytes)

    def fetch_all(
        self,
        digests: Iterable[Digest],
        store: Blobs,
        on_arrived: OnArrived = ignore_arrived,
        limit_bytes: int = BLOB_MAX_BYTES,
        asking: Asking = PLAIN,
    ) -> None:
        """Bring these blobs into `store`, asking ahead so that small ones come in a stream.

        `on_arrived` hears how many bytes came on the wire, and how many of blobs that made.
        """
        asking = asking._replace(artifact=self._artifact)
        todo = deque(dict.fromkeys(digests))
        pending: deque[tuple[Want, Writer | None]] = deque()
        try:
            with self._talking("fetch blobs") as channel:
                while todo or pending:
                    if len(pending) <= WINDOW_MAX // 2:
                        _ask(channel, store, asking, todo, pending)
                    want, writer = pending[0]
                    sending = _receive_sending(channel, want.digest, writer, limit_bytes)
                    if writer is None:
                        writer = store.writer(want.digest, sending.size_bytes, resumable=True)
                        pending[0] = (want, writer)
                    writer.expect(sending.size_bytes)
                    receive_range(channel, sending, want, store.open_blob, writer.write, on_arrived)
                    if writer.received_bytes == sending.size_bytes:
                        writer.commit()
                        pending.popleft()
        finally:
            for _, writer in pending:
                if writer is not None:
                    writer.close()

    def put(self, digest: Digest, path: Path, on_bytes: OnBytes = ignore_bytes) -> None:
        """Send one file. Raise Conflict when its bytes are no longer those of `digest`."""
        self.put_all({digest: path}, on_bytes)

    def put_all(self, sources: Mapping[Digest, Path], on_bytes: OnBytes = ignore_bytes) -> None:
        """Send these files, not waiting for the answer to one before the next."""
        pending: deque[tuple[Digest, Path]] = deque()
        with self._talking("send files") as channel:
            for digest, path in sources.items():
                _send_source(channel, digest, path, pending, on_bytes)
                while pending and (len(pending) >= PUT_WINDOW_MAX or channel.can_receive()):
                    _receive_stored(channel, pending)
            channel.flush()
            while pending:
                _receive_stored(channel, pending)

    def put_bytes(self, data: bytes) -> Digest:
        """Send a blob from memory: a manifest."""
        digest = blake3(data).hexdigest()
        with self._talking("send a manifest") as channel:
            channel.hold(encode_frame(Sending(digest=digest, size_bytes=len(data))))
            channel.hold(data)
            channel.flush()
            answer = _receive(channel)
            if answer != Stored(digest=digest):
                raise ProtocolError(f"sent a blob, got {type(answer).__name__}")
        return digest

    @contextlib.contextmanager
    def _talking(self, doing: str) -> Iterator[Channel[BulkAnswer]]:
        """The connection. Whatever goes wrong while it is used, it is not used again."""
        is_done = False
        try:
            if self._channel is not None and self._channel.can_receive():
                self.close()  # nothing was asked, so it is a goodbye: it was idle for too long
            if self._channel is None:
                self._channel = Channel(self._dial(), BulkAnswer, self._stall_s)
                self._channel.hold(self._opening)
            yield self._channel
            is_done = True
        except TimeoutError:
            self.break_count += 1
            raise TimedOut(
                f"cannot {doing}: no progress for {self._stall_s:g} s; repeat, it goes on there"
            ) from None
        except OSError as error:
            self.break_count += 1
            self._raise_last_words()
            raise Unavailable(
                f"cannot {doing}: {(error.strerror or str(error)).lower()}; "
                "repeat, it goes on where it broke off"
            ) from error
        finally:
            if not is_done:
                self.close()

    def _raise_last_words(self) -> None:
        """A peer that hangs up on us may have said why."""
        if self._channel is not None:
            with contextlib.suppress(OSError, ProtocolError):
                while _receive(self._channel):
                    pass


def _receive(channel: Channel[BulkAnswer]) -> BulkAnswer:
    answer = channel.receive()
    if answer is None:
        raise ConnectionError("closed by the peer")
    if isinstance(answer, Trouble):
        raise error_of(answer.code, answer.message, {})
    return answer


def _ask(
    channel: Channel[BulkAnswer],
    store: Blobs,
    asking: Asking,
    todo: deque[Digest],
    pending: deque[tuple[Want, Writer | None]],
) -> None:
    while todo and len(pending) < WINDOW_MAX:
        digest = check_digest(todo.popleft())
        writer = store.resume(digest)
        want = asking.want(digest, writer.received_bytes if writer is not None else 0)
        pending.append((want, writer))
        channel.hold(encode_frame(want))
    channel.flush()


def _receive_sending(
    channel: Channel[BulkAnswer], digest: Digest, writer: Writer | None, limit_bytes: int
) -> Sending:
    answer = _receive(channel)
    offset = writer.received_bytes if writer is not None else 0
    if not isinstance(answer, Sending) or answer.digest != digest or answer.offset != offset:
        raise ProtocolError(f"asked for blob {digest!r} from byte {offset}, got {answer}")
    if not offset <= answer.size_bytes <= limit_bytes:
        raise Invalid(
            f"blob {digest!r} has {answer.size_bytes} bytes: at most {limit_bytes}", field="bytes"
        )
    return answer


def _send_source(
    channel: Channel[BulkAnswer],
    digest: Digest,
    path: Path,
    pending: deque[tuple[Digest, Path]],
    on_bytes: OnBytes,
) -> None:

    def on_sent(count: int) -> None:
        on_bytes(count)
        if channel.can_receive():  # an answer before the end: to an earlier one, or a refusal
            _receive_stored(channel, pending)

    with opened_source(path) as fd:
        size_bytes = os.fstat(fd).st_size
        offset = 0
        if size_bytes >= RESUME_MIN_BYTES:
            offset = _ask_partial(channel, digest, size_bytes, pending)
        pending.append((digest, path))
        channel.hold(encode_frame(Sending(digest=digest, size_bytes=size_bytes, offset=offset)))
        if size_bytes > SMALL_BYTES:
            sent = offset + channel.send_file(fd, offset, size_bytes - offset, on_sent)
        else:
            data = os.pread(fd, size_bytes, 0)
            channel.hold(data)
            sent = len(data)
            on_bytes(sent)
        if sent < size_bytes:
            raise changed(path)


def _ask_partial(
    channel: Channel[BulkAnswer],
    digest: Digest,
    size_bytes: int,
    pending: deque[tuple[Digest, Path]],
) -> int:
    """From where on to send it."""
    channel.hold(encode_frame(Partial(digest=digest)))
    while pending:  # these are answered before
        _receive_stored(channel, pending)
    answer = _receive(channel)
    if not isinstance(answer, Partial) or answer.digest != digest or answer.offset < 0:
        raise ProtocolError(f"asked how much of blob {digest!r} is there, got {answer}")
    return answer.offset if answer.offset <= size_bytes else 0


def _receive_stored(channel: Channel[BulkAnswer], pending: deque[tuple[Digest, Path]]) -> None:
    digest, path = pending.popleft()
    try:
        answer = _receive(channel)
    except Invalid:
        if digest_of(path) != digest:
            raise changed(path) from None
        raise
    if answer != Stored(digest=digest):
        raise ProtocolError(f"sent blob {digest!r}, got {answer}")
