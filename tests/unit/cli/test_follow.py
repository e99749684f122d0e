"""logs -f against a master that answers as it is told: attempts, gaps, and ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from corps.cli.follow import follow
from corps.cli.output import Display, Lines, Source, last_lines
from corps.client import Client
from corps.errors import Invalid, Unavailable
from corps.model.command import Failure
from corps.model.output_view import GoneView, OutputView, PieceView, StreamView
from corps.model.view import InstanceView, UsageView
from tests.support.http import Answer, UnixMaster, serving


@pytest.fixture
def master(tmp_path: Path) -> Iterator[UnixMaster]:
    with serving(UnixMaster(tmp_path / "api.sock")) as master:
        yield master


def _view(*texts: str, end: int, final: bool = False, gone: tuple[GoneView, ...] = ()) -> Answer:
    return Answer(
        OutputView(
            attempt=1,
            pieces=tuple(
                PieceView(stream="stdout", at="2026-01-01T00:00:00Z", offset=0, data=text.encode())
                for text in texts
            ),
            stdout=StreamView(end, end),
            stderr=StreamView(0, 0),
            gone=gone,
            is_final=final,
        )
    )


def _row(attempt: int, state: str) -> Answer:
    usage = UsageView(cpu_user_s=None, cpu_system_s=None, max_rss_bytes=None, rss_bytes=None)
    row = InstanceView(
        id="web.1",
        app="web",
        worker="w1",
        pid=None,
        attempt=attempt,
        state=state,
        os_state=None,
        started_at=None,
        ended_at=None,
        death=None,
        usage=usage,
        artifact="web",
        digest="1" * 64,
        args=(),
    )
    return Answer([row])


def _follow(master: UnixMaster, *, goes_on: bool = True, lines: int | None = None) -> None:
    path = Path(str(master.server_address))
    show = Display(["web.1"], with_times=False)
    with Client(path) as client:
        follow(client, [Source("web.1", 1)], lines, show, goes_on=goes_on)


def _offsets(master: UnixMaster) -> list[tuple[str, str]]:
    queries = [dict(request.query) for request in master.requests if "output" in request.path]
    return [(query["attempt"], query["stdout"]) for query in queries]


def test_the_next_attempt_follows_the_last_one(
    master: UnixMaster, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    master.answers += [
        _view("one\n", end=4),
        _view(end=4, final=True),
        _row(1, "running"),  # the master has not heard of its end yet
        _view(end=4, final=True),
        _row(2, "pending"),
        Answer(Failure(code="not_found", message="no log yet"), status=404),
        _row(2, "starting"),
        _view("two\n", end=4, final=True),
        _row(2, "dead"),
    ]
    _follow(master)
    assert capfdbinary.readouterr().out == b"one\ntwo\n"
    assert _offsets(master) == [("1", "0"), ("1", "4"), ("1", "4"), ("2", "0"), ("2", "0")]


def test_an_attempt_that_was_asked_for_is_all(
    master: UnixMaster, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    master.answers.append(_view("one\n", end=4, final=True))
    _follow(master, goes_on=False)
    assert capfdbinary.readouterr().out == b"one\n"


def test_an_absent_worker_is_waited_for_from_where_it_was(
    master: UnixMaster, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    away = Answer(Failure(code="unavailable", message="away"), status=503)
    master.answers += [
        _view("one\n", end=4),
        away,
        Answer(),  # the master goes away, too
        away,
        _view("two\n", end=8, final=True),
        _row(1, "dead"),
    ]
    _follow(master)
    assert capfdbinary.readouterr().out == b"one\ntwo\n"
    assert {offset for _, offset in _offsets(master)[1:]} == {"4"}


def test_a_gap_is_told_on_stderr_and_following_goes_on(
    master: UnixMaster, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    gone = (GoneView("stdout", 900, "beyond the limit of this log"),)
    master.answers += [_view("late\n", end=905, final=True, gone=gone), _row(1, "dead")]
    _follow(master)
    out, err = capfdbinary.readouterr()
    assert out == b"late\n"
    assert err == b"corps: web.1 stdout: 900 bytes are gone: beyond the limit of this log\n"


def test_a_log_that_was_removed_meanwhile_is_a_failure(
    master: UnixMaster, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    removed = Answer(Failure(code="not_found", message="no instance 'web.1'"), status=404)
    master.answers += [removed, removed]
    with pytest.raises(Unavailable, match="1 of 1 logs"):
        _follow(master)
    assert capfdbinary.readouterr().err == b"corps: web.1: no instance 'web.1'\n"


def test_more_logs_than_that_are_not_followed_at_once(tmp_path: Path) -> None:
    sources = [Source(f"web.{number}", 1) for number in range(65)]
    with Client(tmp_path) as client, pytest.raises(Invalid, match="at most 64"):
        follow(client, sources, 10, Display([], with_times=False), goes_on=True)


def test_last_lines_are_counted_over_pieces_and_streams() -> None:
    def lines(stream: str, data: bytes) -> Lines:
        return Lines(0.0, "", "web.1", stream, data)

    found = [lines("stdout", b"1\n2\n"), lines("stderr", b"3\n"), lines("stdout", b"4\r5\n6")]
    kept = [(line.stream, line.data) for line in last_lines(found, 4)]
    assert kept == [("stdout", b"2\n"), ("stderr", b"3\n"), ("stdout", b"4\r5\n6")]
    assert last_lines(found, 0) == []
    assert last_lines(found, 99) == found
