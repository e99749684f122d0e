"""Both streams in the order of time: every byte once, no line torn, wherever an answer ends."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from corps.wire.worker import OutputRead, ReadOutput
from corps.worker.attempt_log import LINE_MAX_BYTES, AttemptLog
from corps.worker.output import PIECES_MAX, merge

NOW = 4_000_000_000.0
STREAMS = ("stdout", "stderr")


class Log:
    """Files that grow; each `say` is seen by a look of its own, a second after the last."""

    def __init__(self, directory: str, limit_bytes: int = 1 << 30) -> None:
        self.stem = f"{directory}/1"
        self.now = NOW
        for name in STREAMS:
            Path(f"{self.stem}.{name}").touch()
        self.log = AttemptLog(self.stem, "web.1", limit_bytes)
        self.log.go_live(limit_bytes)
        self.log.look(self.now)

    def say(self, stdout: bytes = b"", stderr: bytes = b"") -> Log:
        for name, data in zip(STREAMS, (stdout, stderr), strict=True):
            with Path(f"{self.stem}.{name}").open("ab") as file:
                file.write(data)
        self.now += 1
        self.log.look(self.now)
        return self

    def ask(self, *, is_over: bool = False, **fields: Any) -> OutputRead:
        return merge(self.log, ReadOutput(ask=1, key="web.1#1", **fields), is_over=is_over)

    def ask_all(self, **fields: Any) -> list[OutputRead]:
        """One answer after the other until nothing more comes."""
        answers = []
        question = ReadOutput(ask=1, key="web.1#1", **fields)
        while True:
            answer = merge(self.log, question, is_over=True)
            answers.append(answer)
            if answer.is_final:
                return answers
            assert answer.pieces
            question = msgspec.structs.replace(
                question,
                stdout=answer.stdout.next_offset,
                stderr=answer.stderr.next_offset,
                since=None,
                back_bytes=None,
            )


@pytest.fixture
def log(tmp_path: Path) -> Log:
    return Log(str(tmp_path))


def _text(*answers: OutputRead) -> list[str]:
    return [
        f"{piece.stream[3:]} {piece.data.decode()}" for answer in answers for piece in answer.pieces
    ]


def test_streams_are_merged_in_the_order_of_their_marks(log: Log) -> None:
    log.say(b"1\n2\n").say(b"", b"3\n").say(b"4\n")
    answer = log.ask()
    assert _text(answer) == ["out 1\n2\n", "err 3\n", "out 4\n"]
    times = [piece.at for piece in answer.pieces]
    assert times == sorted(times)
    assert (answer.stdout.next_offset, answer.stderr.next_offset) == (6, 2)
    assert _text(log.ask(stream="stderr")) == ["err 3\n"]


def test_a_line_without_end_waits_for_it_and_is_not_torn(log: Log) -> None:
    log.say(b"half").say(b"", b"other\n")
    answer = log.ask()
    assert _text(answer) == ["err other\n"]
    assert answer.stdout.next_offset == 0
    log.say(b" a line\nnext")
    assert _text(log.ask(stderr=6)) == ["out half a line\n"]
    assert _text(log.ask(stderr=6, partial=True)) == ["out half a line\n", "out next"]
    final = log.ask(stderr=6, is_over=True)
    assert _text(final) == ["out half a line\n", "out next"]
    assert final.is_final


def test_a_line_longer_than_any_is_broken(log: Log) -> None:
    log.say(b"x" * (LINE_MAX_BYTES + 5)).say(b"y")
    (piece,) = log.ask().pieces
    assert len(piece.data) >= LINE_MAX_BYTES


def test_a_gigabyte_without_a_newline_comes_in_bounded_pieces(log: Log) -> None:
    with Path(f"{log.stem}.stdout").open("ab") as file:
        file.truncate(1 << 30)
    log.say()
    offset = 0
    for _ in range(3):
        answer = log.ask(stdout=offset)
        assert 0 < sum(len(piece.data) for piece in answer.pieces) <= 256 << 10
        offset = answer.stdout.next_offset
    assert sum(len(piece.data) for piece in log.ask(back_bytes=100, partial=True).pieces) == 100


def test_since_begins_with_the_line_at_the_mark_before(log: Log) -> None:
    log.say(b"old\nha").say(b"lf\nnew\n", b"err\n")
    assert _text(log.ask(since=log.now - 1.5)) == ["out half\nnew\n", "err err\n"]
    assert _text(log.ask(since=log.now + 5)) == []
    assert _text(log.ask(since=1.0)) == _text(log.ask())


def test_so_many_bytes_back_begins_at_a_line(log: Log) -> None:
    log.say(b"aaa\nbbb\n").say(b"", b"ccc\n").say(b"ddd\n")
    assert _text(log.ask(back_bytes=8)) == ["err ccc\n", "out ddd\n"]
    assert _text(log.ask(back_bytes=10)) == ["err ccc\n", "out ddd\n"]
    assert _text(log.ask(back_bytes=12)) == ["out bbb\n", "err ccc\n", "out ddd\n"]
    assert _text(log.ask(back_bytes=5, stream="stdout")) == ["out ddd\n"]
    assert _text(log.ask(back_bytes=0)) == []


def test_offsets_beyond_the_end_give_nothing(log: Log) -> None:
    log.say(b"a\n")
    for offset in (2, 3, (1 << 62) - 1):
        answer = log.ask(stdout=offset, stderr=offset)
        assert answer.pieces == () and answer.gone == ()


def test_what_is_gone_is_told_once_and_reading_goes_on(tmp_path: Path) -> None:
    log = Log(str(tmp_path), limit_bytes=64 << 10)
    log.say(b"%099d\n" % 7 * 2_000, b"err\n")
    log.log.enforce()
    answers = log.ask_all()
    (gone,) = (gone for answer in answers for gone in answer.gone)
    assert gone.stream == "stdout" and gone.size_bytes % 100 == 0
    assert gone.why == "beyond the limit of this log"
    rest = b"".join(p.data for a in answers for p in a.pieces if p.stream == "stdout")
    assert len(rest) + gone.size_bytes == 200_000
    assert set(rest.splitlines()) == {b"%099d" % 7}
    assert log.ask(back_bytes=1_000).gone == ()


def test_many_short_pieces_are_bounded_in_number(log: Log) -> None:
    for _ in range(PIECES_MAX):
        log.say(b"a\n", b"b\n")
    answers = log.ask_all()
    assert max(len(answer.pieces) for answer in answers) <= PIECES_MAX
    assert sum(len(answer.pieces) for answer in answers) == 2 * PIECES_MAX


WORDS = st.binary(max_size=12).map(lambda data: data.replace(b"\0", b"\n"))


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS), max_size=30), st.integers(1, 40))
def test_every_byte_comes_once_and_in_order(said: list[tuple[bytes, bytes]], size: int) -> None:
    with tempfile.TemporaryDirectory() as directory:
        log = Log(directory)
        for stdout, stderr in said:
            log.say(stdout, stderr)
        answers = log.ask_all(limit_bytes=size)
        pieces = [piece for answer in answers for piece in answer.pieces]
        for index, name in enumerate(STREAMS):
            whole = b"".join(words[index] for words in said)
            mine = [piece for piece in pieces if piece.stream == name]
            assert b"".join(piece.data for piece in mine) == whole
            assert [piece.offset for piece in mine] == [
                0,
                *itertools.accumulate(len(piece.data) for piece in mine),
            ][: len(mine)]


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(WORDS, WORDS), max_size=30))
def test_no_line_is_torn(said: list[tuple[bytes, bytes]]) -> None:
    with tempfile.TemporaryDirectory() as directory:
        log = Log(directory)
        for stdout, stderr in said:
            log.say(stdout, stderr)
        pieces = [piece for answer in log.ask_all() for piece in answer.pieces]
        for index, name in enumerate(STREAMS):
            mine = [piece.data for piece in pieces if piece.stream == name]
            assert all(data.endswith(b"\n") for data in mine[:-1])
            whole = b"".join(words[index] for words in said)
            assert not mine or mine[-1].endswith(b"\n") == whole.endswith(b"\n")
        times = [piece.at for piece in pieces]
        assert times == sorted(times)
