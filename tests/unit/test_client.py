"""The transport against a real HTTP server on a real unix socket that answers as it is told."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from corps.client import Client, LogSlice, OutputSlice
from corps.clock import Clock
from corps.config import Settings
from corps.errors import Conflict, CorpsError, Invalid, ProtocolError, TimedOut, Unavailable
from corps.model.command import Accepted, Failure, Instances, Kill, Removed, Submission
from corps.model.output_view import GoneView, LogChunkView, OutputView, PieceView, StreamView
from corps.model.view import CompareView, WorkerView
from corps.net.endpoint import endpoint_of
from corps.net.exchange import Connection, Patience, Request
from corps.net.unix_http import UnixEndpoint
from tests.support.http import Answer, UnixMaster, serving
from tests.support.waiting import until

WORKER = WorkerView(
    name="w1",
    address="127.0.0.1:1",
    state="ready",
    last_seen_s=0.1,
    instances=0,
    labels={},
    cpu_count=2,
    memory_bytes=1,
    version="0",
)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "api.sock"


@pytest.fixture
def master(path: Path) -> Iterator[UnixMaster]:
    with serving(UnixMaster(path)) as master:
        yield master


def _failure(path: Path) -> CorpsError:
    with Client(path) as client, pytest.raises(CorpsError) as caught:
        client.workers()
    return caught.value


def test_without_a_master_it_says_so_at_once(path: Path) -> None:
    clock = Clock()
    begun = clock()
    error = _failure(path)
    assert isinstance(error, Unavailable)
    assert error.message == (
        f"no master at unix://{path}: no such file or directory; "
        "start one with 'corps up' or 'corps master'"
    )
    assert clock() - begun < 1.0


def test_a_stale_socket_is_no_master(path: Path) -> None:
    UnixMaster(path).server_close()
    assert f"no master at unix://{path}: connection refused" in _failure(path).message


def test_a_master_that_accepts_nobody_is_given_up(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as deaf, socket.socket(socket.AF_UNIX) as filler:
        deaf.bind(str(path))
        deaf.listen(0)
        filler.connect(str(path))
        clock = Clock()
        begun = clock()
        assert isinstance(_failure(path), Unavailable)
        assert clock() - begun < 2.5


def test_server_names() -> None:
    settings = Settings(dir="/tmp/d")
    assert endpoint_of(settings) == UnixEndpoint(Path("/tmp/d/master/api.sock"))
    assert endpoint_of("unix:///run/x.sock") == UnixEndpoint(Path("/run/x.sock"))
    named = msgspec.structs.replace(settings, server="unix:///run/x.sock")
    assert endpoint_of(named) == UnixEndpoint(Path("/run/x.sock"))
    for bad in ("", "m:7077", "unix://relative", "unix:///a\0b"):
        with pytest.raises(Invalid, match="bad server"):
            endpoint_of(bad)


def test_a_path_longer_than_sun_path(tmp_path: Path) -> None:
    directory = tmp_path.joinpath(*(["d" * 60] * 4))
    directory.mkdir(parents=True)
    short = tmp_path / "s"
    with UnixMaster(short) as master:
        threading.Thread(target=master.handle_request, daemon=True).start()
        short.rename(directory / "api.sock")
        master.answers.append(Answer([], is_last=True))
        with Client(directory / "api.sock") as client:
            assert client.workers() == []


def test_reads_are_decoded_and_share_a_connection(path: Path, master: UnixMaster) -> None:
    comparison = CompareView(app="web", versions=(), sentences=("x",))
    master.answers += [Answer([WORKER]), Answer([]), Answer([])]
    master.answers += [Answer([]), Answer([]), Answer([]), Answer(comparison)]
    with Client(f"unix://{path}") as client:
        assert client.workers() == [WORKER]
        assert client.instances(["web", "db.1"], with_dead=True) == []
        assert client.audit(since=1.5) == []
        assert client.audit(["web"], with_series=True) == []
        assert client.usage_by_app(["web"]) == []
        assert client.usage_by_instance() == []
        assert client.compare(["web@1a2b", "web@9f3c"]) == comparison
    assert [request.connection for request in master.requests] == [1] * 7
    assert master.requests[1].query == [("target", "web"), ("target", "db.1"), ("dead", "1")]
    assert master.requests[2].query == [("since", "1.5")]
    assert master.requests[3].query == [("target", "web"), ("series", "1")]
    assert master.requests[4].path == "/v1/usage/apps"
    assert master.requests[6].query == [("version", "web@1a2b"), ("version", "web@9f3c")]


def test_what_the_master_refuses_is_raised_as_it_was(path: Path, master: UnixMaster) -> None:
    failure = Failure(code="conflict", message="in use by web.1", details={"artifact": "web"})
    master.answers.append(Answer(failure, status=409))
    error = _failure(path)
    assert type(error) is Conflict
    assert (error.message, error.details) == ("in use by web.1", {"artifact": "web"})


@pytest.mark.parametrize(
    "answer",
    [Answer(b"<html>"), Answer([{"name": 1}]), Answer(b"\xff")],
)
def test_an_answer_of_another_kind_is_a_protocol_error(
    path: Path, master: UnixMaster, answer: Answer
) -> None:
    master.answers.append(answer)
    assert isinstance(_failure(path), ProtocolError)


def test_a_read_survives_a_lost_connection(path: Path, master: UnixMaster) -> None:
    master.answers += [Answer(None), Answer([WORKER])]
    with Client(path) as client:
        assert client.workers() == [WORKER]


def test_a_master_that_breaks_down_while_it_answers_is_asked_again(
    path: Path, master: UnixMaster
) -> None:
    master.answers += [Answer(b"oops", status=500), Answer(Instances(instances=()))]
    with Client(path) as client:
        assert client.kill(["web.1"]) == ()
    assert len(_ids(master)) == 1


def test_an_answer_cut_short_is_asked_for_again(path: Path, master: UnixMaster) -> None:
    master.answers += [Answer([WORKER], is_cut=True), Answer([WORKER])]
    with Client(path) as client:
        assert client.workers() == [WORKER]
    assert len(master.requests) == 2


def test_a_master_that_stays_broken_leaves_the_outcome_unknown(
    path: Path, master: UnixMaster
) -> None:
    master.answers += [Answer(b"oops", status=500) for _ in range(20)]
    with Client(path, patience_s=0.3) as client, pytest.raises(TimedOut) as caught:
        client.kill(["web.1"])
    assert "answered only HTTP 500: the outcome is unknown" in caught.value.message
    assert len(_ids(master)) == 1


def test_a_connection_closed_meanwhile_is_replaced(path: Path, master: UnixMaster) -> None:
    master.answers += [Answer([], is_last=False), Answer([])]
    with Client(path) as client:
        client.workers()
        client._connection.sock.shutdown(2)
        assert client.workers() == []


def test_a_request_that_was_cut_short_is_not_sent_before_the_next(
    path: Path, master: UnixMaster
) -> None:
    connection = Connection(UnixEndpoint(path), 5.0)
    connection.putrequest("GET", "/v1/events")  # and ctrl-C
    connection.close()
    master.answers.append(Answer([]))
    answer = connection.exchange(Request("GET", "/v1/workers"), Patience(0.0, Clock()))
    connection.close()
    assert (answer.status, answer.body) == (200, b"[]")
    assert [request.path for request in master.requests] == ["/v1/workers"]


def test_a_silent_master_times_out(path: Path, master: UnixMaster) -> None:
    with Client(path, answer_s=0.1) as client, pytest.raises(TimedOut, match=r"within 0\.1 s"):
        client.workers()


def _ids(master: UnixMaster) -> set[str]:
    bodies = [request.body for request in master.requests]
    return {msgspec.json.decode(body, type=Submission).id for body in bodies}


def test_a_command_not_done_yet_is_sent_again_with_its_id(path: Path, master: UnixMaster) -> None:
    accepted = Answer(Accepted(id="x" * 32))
    master.answers += [accepted, accepted, Answer(Removed(instances=("web.1",)))]
    with Client(path) as client:
        assert client.remove(["web.1"]) == ("web.1",)
        assert client.under_way is None
    assert len(master.requests) == 3
    assert len(_ids(master)) == 1
    assert master.requests[0].query == [("wait_s", "30.0")]


def test_a_command_survives_lost_connections(path: Path, master: UnixMaster) -> None:
    master.answers += [Answer(None), Answer(None), Answer(Instances(instances=()))]
    with Client(path) as client:
        assert client.kill(["web.1"]) == ()
    assert len(_ids(master)) == 1


def test_two_commands_have_two_ids(path: Path, master: UnixMaster) -> None:
    done = Answer(Instances(instances=()))
    master.answers += [done, done]
    with Client(path) as client:
        client.kill(["web.1"])
        client.kill(["web.1"])
    assert len(_ids(master)) == 2


def test_a_command_whose_master_does_not_come_back_has_an_unknown_outcome(path: Path) -> None:
    with UnixMaster(path) as master:
        master.answers.append(Answer(None))
        threading.Thread(target=master.handle_request).start()
        failures: list[CorpsError] = []

        def submit() -> None:
            with Client(path, patience_s=0.5) as client:
                try:
                    client.kill(["web.1"])
                except CorpsError as error:
                    failures.append(error)

        thread = threading.Thread(target=submit)
        thread.start()
        until(lambda: master.requests)
        master.server_close()
        thread.join()
        (id,) = _ids(master)
    (error,) = failures
    assert isinstance(error, TimedOut)
    assert error.details == {"command": id}
    assert "the outcome is unknown" in error.message
    assert id in error.message


def test_a_refused_command_is_no_longer_under_way(path: Path, master: UnixMaster) -> None:
    master.answers.append(Answer(Failure(code="not_found", message="no"), status=404))
    with Client(path) as client:
        with pytest.raises(CorpsError):
            client.kill(["web.1"])
        assert client.under_way is None


def test_an_answer_to_another_command_is_a_protocol_error(path: Path, master: UnixMaster) -> None:
    master.answers.append(Answer(Removed(instances=())))
    with Client(path) as client, pytest.raises(ProtocolError):
        client.kill(["web.1"])


def test_a_given_id_is_used(path: Path, master: UnixMaster) -> None:
    master.answers.append(Answer(Instances(instances=())))
    with Client(path) as client:
        client.submit(Kill(targets=("web.1",)), Instances, id="my-own-id")
    assert _ids(master) == {"my-own-id"}


def test_what_is_not_utf8_is_refused_before_it_is_sent(path: Path) -> None:
    with Client(path) as client, pytest.raises(Invalid, match="not UTF-8"):
        client.kill(["\udcff"])


def test_log_bytes_come_raw_with_their_place(path: Path, master: UnixMaster) -> None:
    headers = {
        "X-Corps-Offset": "10",
        "X-Corps-Next-Offset": "13",
        "X-Corps-Size": "20",
        "X-Corps-Final": "0",
    }
    master.answers += [Answer(b"\xff\x00a", headers=headers), Answer(b"x")]
    with Client(path) as client:
        chunk, data = client.log(LogSlice(instance="web.1", offset=-10, attempt=2), wait_s=3)
        assert data == b"\xff\x00a"
        assert chunk == LogChunkView(offset=10, next_offset=13, size_bytes=20, is_final=False)
        with pytest.raises(ProtocolError, match="bad log header"):
            client.log(LogSlice(instance="web.1"))
    assert master.requests[0].path == "/v1/instances/web.1/log"
    assert sorted(master.requests[0].query) == [
        ("attempt", "2"),
        ("offset", "-10"),
        ("stream", "stdout"),
        ("wait_s", "3"),
    ]


def test_output_comes_in_pieces_whose_bytes_are_bytes(path: Path, master: UnixMaster) -> None:
    piece = PieceView(stream="stderr", at="2026-11-24T19:00:00.5Z", offset=7, data=b"\xff\x00\n")
    view = OutputView(
        attempt=2,
        pieces=(piece,),
        stdout=StreamView(0, 0),
        stderr=StreamView(10, 12),
        gone=(GoneView("stderr", 7, "truncated by the app"),),
        is_final=False,
    )
    master.answers.append(Answer(view))
    slice = OutputSlice(instance="web.1", stream="stderr", stderr=3, partial=True, since=1.5)
    with Client(path) as client:
        assert client.output(slice, wait_s=3) == view
    assert master.requests[0].path == "/v1/instances/web.1/output"
    assert sorted(master.requests[0].query) == [
        ("partial", "1"),
        ("since", "1.5"),
        ("stderr", "3"),
        ("stdout", "0"),
        ("stream", "stderr"),
        ("wait_s", "3"),
    ]


def test_the_path_of_a_request_is_quoted(path: Path, master: UnixMaster) -> None:
    master.answers.append(Answer([]))
    with Client(path) as client:
        client.progress("../x?y")
    assert master.requests[0].path == "/v1/progress/..%2Fx%3Fy"
