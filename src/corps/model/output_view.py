"""What an operator sees of captured output."""

from __future__ import annotations

from corps.model.view import View


class LogChunkView(View, frozen=True, kw_only=True):
    """Bytes of a log are sent raw over HTTP; this is what the headers say."""

    offset: int
    next_offset: int
    size_bytes: int
    is_final: bool
    first: int = 0
    why: str | None = None


class PieceView(View, frozen=True, kw_only=True):
    """Whole lines of one stream, in base64 as JSON has no bytes. They were there at `at`."""

    stream: str
    at: str
    offset: int
    data: bytes


class StreamView(View, frozen=True):
    """Where the next piece begins, and where the stream ends now."""

    next_offset: int
    size_bytes: int


class GoneView(View, frozen=True):
    """Bytes that were asked for and are not kept any more, and what took them."""

    stream: str
    size_bytes: int
    why: str


class OutputView(View, frozen=True, kw_only=True):
    """The output of an attempt in the order of time; `is_final`: nothing more comes."""

    attempt: int
    pieces: tuple[PieceView, ...]
    stdout: StreamView
    stderr: StreamView
    gone: tuple[GoneView, ...]
    is_final: bool
