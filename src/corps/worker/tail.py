"""The last lines of an app's output, as evidence: bounded, cheap, nothing read of empty logs."""

from __future__ import annotations

import os
import stat

from corps.model.instance import LogLine
from corps.model.name import AttemptKey
from corps.worker.attempt_log import STREAMS
from corps.worker.layout import Layout

LINES_MAX = 20  # of both streams
CHARS_MAX = 2_000
LINE_CHARS_MAX = 500
READ_BYTES = 4_096  # of each stream


def last_lines(layout: Layout, key: AttemptKey) -> tuple[LogLine, ...]:
    """Of each stream half of what may be kept, and what the other leaves over."""
    out, err = (_tail(layout.log(key, stream)) for stream in STREAMS)
    few = _fitting(err, LINES_MAX // 2, CHARS_MAX // 2) if out else err
    out = _fitting(out, LINES_MAX - len(few), CHARS_MAX - _chars(few))
    err = _fitting(err, LINES_MAX - len(out), CHARS_MAX - _chars(out))
    return tuple(
        LogLine(stream=stream, text=line)
        for stream, lines in zip(STREAMS, (out, err), strict=True)
        for line in lines
    )


def _tail(path: str) -> list[str]:
    """The last whole lines, the last one also without its end; empty when nothing can be read."""
    try:
        if os.stat(path, follow_symlinks=False).st_size == 0:
            return []
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return []
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            return []
        begin = max(0, status.st_size - READ_BYTES)
        data = os.pread(fd, READ_BYTES, begin)
    except OSError:
        return []
    finally:
        os.close(fd)
    text = data.lstrip(b"\0")  # zeros: a hole that was made at the head
    return _lines(text, is_whole=begin == 0 or len(text) < len(data))


def _lines(data: bytes, *, is_whole: bool) -> list[str]:
    lines = data.removesuffix(b"\n").split(b"\n")
    if not is_whole and len(lines) > 1:
        del lines[0]  # its beginning was not read
    elif not is_whole:
        lines[0] = b"[...] " + lines[0][-LINE_CHARS_MAX // 2 :]
    return [_cut(line.decode("utf-8", "backslashreplace")) for line in lines] if data else []


def _cut(line: str) -> str:
    if len(line) <= LINE_CHARS_MAX:
        return line
    cut = len(line) - LINE_CHARS_MAX + 40
    return f"{line[: LINE_CHARS_MAX - 40]} [cut: {cut} characters]"


def _fitting(lines: list[str], lines_max: int, chars_max: int) -> list[str]:
    """The last ones that fit."""
    kept: list[str] = []
    for line in reversed(lines):
        chars_max -= len(line)
        if len(kept) == lines_max or chars_max < 0:
            break
        kept.append(line)
    return kept[::-1]


def _chars(lines: list[str]) -> int:
    return sum(map(len, lines))
