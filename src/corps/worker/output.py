"""The output of an attempt in the order of time: both streams cut at the marks, line by line.

Stateless: the offsets in a question say all. What lies between two marks of one stream keeps its
order; of both streams the order within one mark is a convention: stdout first.
"""

from __future__ import annotations

from corps.wire.output import LOG_CHUNK_MAX_BYTES, OutputEnd, OutputGone, OutputPiece
from corps.wire.worker import OutputRead, ReadOutput
from corps.worker.attempt_log import LINE_MAX_BYTES, MICROSECONDS, STREAMS, AttemptLog
from corps.worker.marks import Mark, Marks, Why

PIECES_MAX = 1_000
REASONS = {
    Why.NOTHING: "",
    Why.LIMIT: "beyond the limit of this log",
    Why.RESERVE: "given up for the disk's reserve",
    Why.APP: "truncated by the app",
    Why.CUT: "beyond the limit, on a filesystem that cannot punch holes",
}


class _Cursor:
    """One stream on its way through the marks; `data` begins at `offset`."""

    def __init__(
        self, log: AttemptLog, index: int, offset: int, size_bytes: int, limit_bytes: int
    ) -> None:
        self.index, self.name = index, STREAMS[index]
        piece = log.read(self.name, offset, limit_bytes)
        self.asked, self.offset, self.why = offset, piece.offset, piece.why
        self.size_bytes = size_bytes
        self.data, self._limit_bytes = piece.data, min(limit_bytes, LINE_MAX_BYTES)

    def take(self, end: int, *, with_rest: bool) -> bytes:
        """What lines there are before `end`; a line too long to wait for is broken."""
        room = end - self.offset
        if room <= 0:
            return b""
        size = self.data.rfind(b"\n", 0, room) + 1
        is_too_long = not size and min(room, len(self.data)) >= self._limit_bytes
        if is_too_long or (with_rest and room <= len(self.data)):
            size = room
        taken, self.data = self.data[:size], self.data[size:]
        self.offset += len(taken)
        return taken

    def lacks(self, end: int) -> bool:
        """More of it must be read before it is known what comes before `end`."""
        return self.offset + len(self.data) < min(end, self.size_bytes)


def merge(log: AttemptLog, question: ReadOutput, *, is_over: bool) -> OutputRead:
    """The next pieces. `is_over`: nobody writes any more, so the last line may lack its end."""
    marks = log.marks()
    wanted = [n for n, name in enumerate(STREAMS) if question.stream in (None, name)]
    offsets = _begin(log, marks, question)
    limit_bytes = max(1, min(question.limit_bytes, LOG_CHUNK_MAX_BYTES))
    last = marks[len(marks) - 1] if len(marks) else Mark(0, 0, 0)
    sizes = (last.stdout, last.stderr)  # what came since then comes with the next answer
    cursors = [_Cursor(log, index, offsets[index], sizes[index], limit_bytes) for index in wanted]
    gone = tuple(
        OutputGone(
            stream=cursor.name,
            size_bytes=cursor.offset - cursor.asked,
            why=REASONS[cursor.why],
        )
        for cursor in cursors
        if cursor.offset > cursor.asked and question.back_bytes is None
    )
    pieces = _walk(marks, cursors, with_rest=is_over or question.partial)
    ends = [
        OutputEnd(next_offset=offset, size_bytes=size)
        for offset, size in zip(offsets, sizes, strict=True)
    ]
    for cursor in cursors:
        ends[cursor.index] = OutputEnd(next_offset=cursor.offset, size_bytes=cursor.size_bytes)
    return OutputRead(
        ask=question.ask,
        pieces=tuple(pieces),
        stdout=ends[0],
        stderr=ends[1],
        gone=gone,
        is_final=is_over and all(cursor.offset >= cursor.size_bytes for cursor in cursors),
    )


def _walk(marks: Marks, cursors: list[_Cursor], *, with_rest: bool) -> list[OutputPiece]:
    pieces: list[OutputPiece] = []
    at_end = [1 << 62, 1 << 62]
    for cursor in cursors:
        at_end[cursor.index] = cursor.offset
    for number in range(marks.next_after(*at_end), len(marks)):
        mark = marks[number]
        if not all(_take(cursor, mark, pieces, with_rest=False) for cursor in cursors):
            return pieces
    if with_rest and len(marks):
        for cursor in cursors:
            _take(cursor, marks[len(marks) - 1], pieces, with_rest=True)
    return pieces


def _take(cursor: _Cursor, mark: Mark, pieces: list[OutputPiece], *, with_rest: bool) -> bool:
    """What a stream has before a mark. False: the answer must end here."""
    end, offset = _end_of(mark, cursor.index), cursor.offset
    data = cursor.take(end, with_rest=with_rest)
    if data:
        at = mark.at / MICROSECONDS
        pieces.append(OutputPiece(stream=cursor.name, at=at, offset=offset, data=data))
    return not cursor.lacks(end) and len(pieces) < PIECES_MAX


def _begin(log: AttemptLog, marks: Marks, question: ReadOutput) -> list[int]:
    """Where each stream begins: at what was asked for, or later."""
    offsets = [max(0, question.stdout), max(0, question.stderr)]
    if question.since is not None:
        before = marks.before(int(question.since * MICROSECONDS))
        for index, name in enumerate(STREAMS):
            offsets[index] = max(offsets[index], log.line_start(name, _end_of(before, index)))
    if question.back_bytes is not None and len(marks):
        last = marks[len(marks) - 1]
        back: tuple[int, ...] = marks.back(question.back_bytes)
        if question.stream is not None:
            back = tuple(size - question.back_bytes for size in (last.stdout, last.stderr))
        for index, name in enumerate(STREAMS):
            if back[index] > offsets[index]:
                offsets[index] = log.line_after(name, back[index])
    return offsets


def _end_of(mark: Mark, index: int) -> int:
    return mark.stderr if index else mark.stdout
