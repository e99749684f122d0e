"""Output on its way to a reader: pieces in the order of time, and how they look."""

from __future__ import annotations

import sys
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import msgspec

from corps.cli import render
from corps.cli.escape import PrefixedLines, TerminalText
from corps.cli.moment import unix
from corps.client import Client, OutputSlice
from corps.model.output_view import GoneView, OutputView

STREAMS = ("stdout", "stderr")
TAIL_BYTES = 64 << 10
TAIL_MAX_BYTES = 16 << 20
DIM = (b"\x1b[2m", b"\x1b[0m")


class Source(NamedTuple):
    """What an operator wants to read. `stream` None: both; `since`: unix seconds."""

    instance: str
    attempt: int
    stream: str | None = None
    since: float | None = None

    def slice(self, *, partial: bool) -> OutputSlice:
        return OutputSlice(
            instance=self.instance,
            attempt=self.attempt,
            stream=self.stream,
            since=self.since,
            partial=partial,
        )


class Lines(NamedTuple):
    """Bytes of one stream; `at` is when they were there, in unix seconds and in words."""

    at: float
    stamp: str
    instance: str
    stream: str
    data: bytes


def after(slice: OutputSlice, view: OutputView) -> OutputSlice:
    """The question that goes on where an answer ended."""
    return msgspec.structs.replace(
        slice,
        stdout=view.stdout.next_offset,
        stderr=view.stderr.next_offset,
        since=None,
        back_bytes=None,
    )


def lines_of(instance: str, view: OutputView) -> list[Lines]:
    return [
        Lines(unix(piece.at), piece.at, instance, piece.stream, piece.data) for piece in view.pieces
    ]


def tell_gone(instance: str, gone: Sequence[GoneView]) -> None:
    for lost in gone:
        render.note(
            f"corps: {instance} {lost.stream}: {lost.size_bytes} bytes are gone: {lost.why}"
        )


def read_all(client: Client, source: Source) -> Iterator[Lines]:
    """All there was when this began."""
    slice = source.slice(partial=True)
    end: tuple[int, int] | None = None
    while True:
        view = client.output(slice)
        tell_gone(source.instance, view.gone)
        end = end or _sizes(view)
        yield from lines_of(source.instance, view)
        if _has_come(source, view, end) or not view.pieces:
            return
        slice = after(slice, view)


def tail(client: Client, source: Source, count: int) -> tuple[list[Lines], OutputSlice]:
    """The last `count` lines, or those in the last TAIL_MAX_BYTES, and how to go on after them."""
    window = TAIL_BYTES if count else 0
    while True:
        slice = msgspec.structs.replace(source.slice(partial=count > 0), back_bytes=window)
        found: list[Lines] = []
        end: tuple[int, int] | None = None
        is_whole = False
        while True:
            view = client.output(slice)
            end = end or _sizes(view)
            is_whole = is_whole or sum(end) <= window
            found += lines_of(source.instance, view)
            slice = after(slice, view)
            if _has_come(source, view, end) or not view.pieces:
                break
        if is_whole or window >= TAIL_MAX_BYTES or _count(found) > count or not count:
            return last_lines(found, count), slice
        window *= 4


def last_lines(found: Sequence[Lines], count: int) -> list[Lines]:
    """The last `count` lines of pieces in order. An end without newline is a line too."""
    kept: list[Lines] = []
    for lines in reversed(found):
        if count <= 0:
            break
        rows = _rows(lines.data)
        kept.append(lines._replace(data=b"".join(rows[-count:])))
        count -= len(rows)
    return kept[::-1]


class Display:
    """Output of several instances on one stdout. When they are several, each line says of which.

    On a terminal control characters are spelled out, and stderr is dim.
    """

    def __init__(self, instances: Sequence[str], *, with_times: bool) -> None:
        self._instances = list(dict.fromkeys(instances))
        self._width = max(map(len, self._instances), default=0)
        self._with_times = with_times
        self._is_terminal = sys.stdout.isatty()
        self._texts: dict[tuple[str, str], TerminalText] = {}
        self._rows: dict[tuple[str, str], PrefixedLines] = {}
        self._open: tuple[str, str] | None = None  # whose line the terminal stands in

    def may_tear(self, source: Source) -> bool:
        """Whether a line that has no end yet may be shown: nothing else comes in between, or a
        new line is begun then, which only a terminal gets."""
        return source.stream is not None or (self._is_terminal and len(self._instances) == 1)

    def feed(self, lines: Lines) -> None:
        key = lines.instance, lines.stream
        data = lines.data
        if self._is_terminal:
            data = self._texts.setdefault(key, TerminalText()).feed(data)
        self._write(key, data, lines.stamp)

    def end(self) -> None:
        """What was held back: half a character, a line without its end."""
        for key, text in self._texts.items():
            self._write(key, text.end(), "")
        for rows in self._rows.values():
            render.write(rows.end())

    def _write(self, key: tuple[str, str], data: bytes, stamp: str) -> None:
        if not data:
            return
        if self._with_times or len(self._instances) > 1:
            data = self._prefixed(key).feed(data, f"{stamp} ".encode() if self._with_times else b"")
        elif self._is_terminal:
            is_torn = self._open is not None and self._open != key
            self._open = None if data.endswith(b"\n") else key
            begin, end = self._style(key)
            data = b"\n" * is_torn + begin + data + end
        render.write(data)

    def _prefixed(self, key: tuple[str, str]) -> PrefixedLines:
        if key not in self._rows:
            prefix, instance = b"", key[0]
            if len(self._instances) > 1:
                text = f"{instance.ljust(self._width)} | "
                prefix = render.in_colour(text, self._instances.index(instance)).encode()
            self._rows[key] = PrefixedLines(prefix, self._style(key))
        return self._rows[key]

    def _style(self, key: tuple[str, str]) -> tuple[bytes, bytes]:
        is_dim = key[1] == "stderr" and render.takes_colours()
        return DIM if is_dim else (b"", b"")


def _rows(data: bytes) -> list[bytes]:
    """Lines end at a newline only: splitlines knows others too."""
    *whole, rest = data.split(b"\n")
    return [row + b"\n" for row in whole] + ([rest] if rest else [])


def _count(found: Sequence[Lines]) -> int:
    return sum(lines.data.count(b"\n") + (not lines.data.endswith(b"\n")) for lines in found)


def _sizes(view: OutputView) -> tuple[int, int]:
    return view.stdout.size_bytes, view.stderr.size_bytes


def _has_come(source: Source, view: OutputView, end: tuple[int, int]) -> bool:
    """As far as the streams reached when this began."""
    ends = (view.stdout.next_offset, view.stderr.next_offset)
    return all(
        next_offset >= size
        for name, next_offset, size in zip(STREAMS, ends, end, strict=True)
        if source.stream in (None, name)
    )
