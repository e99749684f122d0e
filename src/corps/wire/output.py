"""What travels of an app's output, and of what happened on a worker's disk."""

from __future__ import annotations

import msgspec

from corps.model.name import AttemptKey
from corps.wire.message import Message

LOG_CHUNK_MAX_BYTES = 256 << 10


class OutputPiece(msgspec.Struct, frozen=True, kw_only=True):
    """Whole lines of one stream that were there at `at`, and not at the mark before."""

    stream: str
    at: float
    offset: int
    data: bytes


class OutputGone(msgspec.Struct, frozen=True, kw_only=True):
    """Bytes that were asked for and are not kept any more, and what took them."""

    stream: str
    size_bytes: int
    why: str


class OutputEnd(msgspec.Struct, frozen=True, kw_only=True):
    """How far an answer came in a stream, and how far the stream has come."""

    next_offset: int
    size_bytes: int


class Note(msgspec.Struct, frozen=True, kw_only=True):
    """Something that happened to an instance, or to the worker itself where `subject` is None."""

    kind: str
    subject: str | None
    message: str


class ReadLog(Message, frozen=True, kw_only=True):
    """Ask for log bytes. Negative `offset` counts from the end; waits up to `wait_s` for data."""

    ask: int
    key: AttemptKey
    stream: str
    offset: int
    limit_bytes: int = LOG_CHUNK_MAX_BYTES
    wait_s: float = 0.0


class LogRead(Message, frozen=True, kw_only=True):
    """Answer to ReadLog. `size_bytes` is the log's size now; `is_final`: nobody writes any more.

    `first` is the first byte that can still be read, `why` what took those before it.
    """

    ask: int
    offset: int
    data: bytes
    size_bytes: int
    is_final: bool
    error: str | None = None
    first: int = 0
    why: str | None = None
    code: str = "not_found"


class ReadOutput(Message, frozen=True, kw_only=True):
    """Ask for both streams, or one, in the order of time, from these offsets on.

    `since` starts no earlier than at the last mark before that time, `back_bytes` no earlier than
    so many bytes before the end. A line that is not complete yet waits unless `partial`.
    """

    ask: int
    key: AttemptKey
    stream: str | None = None
    stdout: int = 0
    stderr: int = 0
    since: float | None = None
    back_bytes: int | None = None
    limit_bytes: int = LOG_CHUNK_MAX_BYTES
    wait_s: float = 0.0
    partial: bool = False


class OutputRead(Message, frozen=True, kw_only=True):
    """Answer to ReadOutput. `error` with its `code` when nothing could be read."""

    ask: int
    pieces: tuple[OutputPiece, ...] = ()
    stdout: OutputEnd = OutputEnd(next_offset=0, size_bytes=0)
    stderr: OutputEnd = OutputEnd(next_offset=0, size_bytes=0)
    gone: tuple[OutputGone, ...] = ()
    is_final: bool = False
    error: str | None = None
    code: str = "not_found"
