"""What travels of an app's output, and of what happened on a worker's disk."""

from __future__ import annotations

import msgspec


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
