"""HTTP that no client of ours sends: each refused as it should be, and nobody else hears of it."""

from __future__ import annotations

import contextlib
import http.client
import io
import json
import select
import socket
from collections.abc import Iterator
from typing import NamedTuple

import pytest

from corps.model.token import format_token
from corps.model.trust import Role
from corps.net.unix_http import connect_unix
from tests.support.cluster import Cluster
from tests.support.people import HTTPS, Remote, add_person
from tests.support.waiting import until

PORTS = ("unix", "https")
LINE = "GET /v1/status HTTP/1.1"
POST = "POST /v1/commands HTTP/1.1"
ORDER = json.dumps({"id": "smuggled-order", "command": {"type": "kill", "targets": ["x"]}})


class Case(NamedTuple):
    cluster: Cluster
    remote: Remote
    bearer: str

    def connect(self, port: str) -> socket.socket:
        if port == "unix":
            sock = connect_unix(self.cluster.settings.api_socket)
            sock.settimeout(30)
            return sock
        return self.remote.connect()

    def head(self, line: str, *headers: str, host: str | None = "localhost") -> bytes:
        """A request by somebody who may do anything."""
        names = [] if host is None else [f"Host: {host}"]
        lines = [line, *names, f"Authorization: Bearer {self.bearer}", *headers, "", ""]
        return "\r\n".join(lines).encode("latin-1")


@pytest.fixture(scope="module")
def case(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Case]:
    made = Cluster(tmp_path_factory.mktemp("http"))
    try:
        made.start_master(*HTTPS)
        bearer = format_token(add_person(made, "anna", Role.ADMIN))
        yield Case(made, Remote(made), bearer)
    finally:
        made.end()


class Answered(NamedTuple):
    status: int
    code: str
    is_closed: bool  # the master hung up after it


def ask(case: Case, port: str, data: bytes) -> Answered:
    """The one answer to these bytes; that it is the only one is checked too."""
    with case.connect(port) as sock:
        with contextlib.suppress(OSError):  # it may hang up before it has read all
            sock.sendall(data)
        answer = http.client.HTTPResponse(sock)
        answer.begin()
        failure = json.loads(answer.read())
        is_closed = answer.headers.get("Connection") == "close"
        if is_closed:
            with contextlib.suppress(OSError):  # else it listens to us for a moment yet
                socket.socket.shutdown(sock, socket.SHUT_WR)
            assert _rest(sock) == b"", "a second answer"
        return Answered(answer.status, failure.get("code", "ok"), is_closed)


def _rest(sock: socket.socket) -> bytes:
    rest = io.BytesIO()
    with contextlib.suppress(OSError):
        while piece := sock.recv(65536):
            rest.write(piece)
    return rest.getvalue()


@pytest.mark.parametrize("port", PORTS)
def test_a_plain_request_is_answered(case: Case, port: str) -> None:
    assert ask(case, port, case.head(LINE)) == (200, "ok", False)
    assert ask(case, port, case.head(LINE, "Connection: close")) == (200, "ok", True)


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize(
    "host",
    [
        None,
        "",
        "evil.example",
        "evil.example:80",
        "localhost.evil.example",
        "localhost@evil.example",
        "127.0.0.1.evil.example",
        "[::1",
        "2130706433",
        "LOCALHOST\x00",
    ],
)
def test_another_host_is_misdirected(case: Case, port: str, host: str | None) -> None:
    """A page that rebinds a name of its own to us says that name."""
    status = ask(case, port, case.head(LINE, host=host)).status
    assert status == (400 if host and "\0" in host else 421)


@pytest.mark.parametrize("host", ["localhost", "LocalHost:7443", "127.0.0.1", "[::1]:1", "[::1]"])
def test_our_own_names_are_right_with_any_port(case: Case, host: str) -> None:
    assert ask(case, "https", case.head(LINE, host=host)).status == 200


@pytest.mark.parametrize("port", PORTS)
def test_two_hosts_are_none(case: Case, port: str) -> None:
    assert ask(case, port, case.head(LINE, "Host: localhost")).status == 421
    evil = case.head("GET http://evil.example/v1/status HTTP/1.1")
    assert ask(case, port, evil) == (400, "malformed", True)


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize(
    "header",
    [
        "Origin: https://evil.example",
        "Origin: null",
        "Origin: http://localhost",
        "Origin: https://localhost.evil.example",
        "Sec-Fetch-Site: cross-site",
        "Sec-Fetch-Site: same-site",
    ],
)
def test_a_page_of_another_site_gets_nothing(case: Case, port: str, header: str) -> None:
    assert ask(case, port, case.head(LINE, header)) == (403, "denied", False)
    assert ask(case, port, case.head(POST, header, "Content-Length: 0")).status == 403


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize(
    "method",
    ["HEAD", "OPTIONS", "PUT", "DELETE", "PATCH", "TRACE", "PROPFIND", "CONNECT", "M-SEARCH"],
)
def test_there_is_get_and_post(case: Case, port: str, method: str) -> None:
    with case.connect(port) as sock:
        sock.sendall(case.head(f"{method} /v1/status HTTP/1.1", "Connection: close"))
        assert _rest(sock).split()[1] == b"405"


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize(
    "kind", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data", ""]
)
def test_a_command_is_json(case: Case, port: str, kind: str) -> None:
    headers = [f"Content-Length: {len(ORDER)}", *([f"Content-Type: {kind}"] if kind else [])]
    request = case.head(POST, *headers) + ORDER.encode()
    assert ask(case, port, request) == (415, "malformed", False)


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize(
    ("headers", "body"),
    [
        (("Content-Length: 5", "Transfer-Encoding: chunked"), "0\r\n\r\n"),
        (("Transfer-Encoding: chunked", "Content-Length: 5"), "0\r\n\r\n"),
        (("Content-Length: 5", "Content-Length: 6"), "0\r\n\r\n"),
        (("Content-Length: 5, 6",), "0\r\n\r\n"),
        (("Content-Length: -1",), ""),
        (("Content-Length: +1",), "x"),
        (("Content-Length: 0x1",), "x"),
        (("Content-Length: 99999999999999999999",), "x"),
        (("Transfer-Encoding: xchunked",), "0\r\n\r\n"),
        (("Transfer-Encoding : chunked",), "0\r\n\r\n"),
        (("Transfer-Encoding: chunked, identity",), "0\r\n\r\n"),
        (("Transfer-Encoding: chunked",), "ffffffffffffffffff\r\n"),
        (("Transfer-Encoding: chunked",), "-1\r\n\r\n"),
        (("Transfer-Encoding: chunked",), "5\r\nabcdefgh\r\n0\r\n\r\n"),
        (("Transfer-Encoding: chunked",), "0x5\r\nabcde\r\n0\r\n\r\n"),
        (("X: a\r\n folded",), ""),
        (("X: a\0b",), ""),
        (("X\tY: a",), ""),
        (("Upgrade: websocket", "Connection: Upgrade"), ""),
        (("Upgrade: h2c", "Connection: Upgrade, HTTP2-Settings"), ""),
    ],
)
def test_no_request_hides_in_another(
    case: Case, port: str, headers: tuple[str, ...], body: str
) -> None:
    """Whoever stands before us may read these otherwise: one answer, and the end."""
    hidden = case.head(LINE).decode()
    data = case.head(POST, "Content-Type: application/json", *headers) + body.encode()
    assert ask(case, port, data + hidden.encode()) == (400, "malformed", True)


@pytest.mark.parametrize("port", PORTS)
@pytest.mark.parametrize(
    "data",
    [
        b"GET /v1/status HTTP/1.1\nHost: localhost\n\n",
        b"GET /v1/status HTTP/2.0\r\nHost: localhost\r\n\r\n",
        b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n",
        b"GET /v1/status HTTP/1.1 \r\nHost: localhost\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.6\r\n",
        b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03",
        b"\x00" * 64,
    ],
)
def test_what_is_no_http_is_answered_once(case: Case, port: str, data: bytes) -> None:
    assert ask(case, port, data) == (400, "malformed", True)


@pytest.mark.parametrize("port", PORTS)
def test_heads_have_limits(case: Case, port: str) -> None:
    url = case.head(f"GET /{'x' * (1 << 20)} HTTP/1.1")
    assert ask(case, port, url) == (414, "malformed", True)
    one = case.head(LINE, f"X: {'x' * (1 << 20)}")
    assert ask(case, port, one) == (431, "malformed", True)
    many = case.head(LINE, *(["X: y"] * 10_000))
    assert ask(case, port, many) == (431, "malformed", True)
    fits = case.head(LINE, *(["X: y"] * 90), f"Y: {'y' * 20_000}")
    assert ask(case, port, fits).status == 200


def test_a_long_list_of_targets_still_fits(case: Case) -> None:
    targets = "&".join(f"target=nobody.{number}" for number in range(2_000))
    for port in PORTS:
        assert ask(case, port, case.head(f"GET /v1/instances?{targets} HTTP/1.1")).status == 404


@pytest.mark.parametrize("port", PORTS)
def test_a_body_has_a_limit(case: Case, port: str) -> None:
    head = case.head(POST, "Content-Type: application/json", f"Content-Length: {8 << 20}")
    with case.connect(port) as sock:
        with contextlib.suppress(OSError):
            sock.sendall(head + b'"' + b"x" * (8 << 20))
        assert sock.recv(65536).split()[1] == b"413"


def test_nothing_is_kept_and_no_page_may_show_it(case: Case) -> None:
    with case.remote.person(case.bearer) as anna:
        for path in ("/v1/status", "/v1/nothing"):
            headers = anna.headers_of("GET", path)
            assert headers["Cache-Control"] == "no-store"
            assert headers["X-Content-Type-Options"] == "nosniff"
            assert "default-src 'none'" in headers["Content-Security-Policy"]
            assert "Access-Control-Allow-Origin" not in headers
            assert "Server" not in headers


def test_plain_text_to_the_port_gets_an_alert_of_tls(case: Case) -> None:
    with socket.create_connection(case.remote.address, 30) as sock:
        sock.sendall(case.head(LINE))
        answer = _rest(sock)
    assert answer[:1] == b"\x15"
    assert b"HTTP" not in answer


def test_one_source_takes_no_more_than_its_share(case: Case) -> None:
    """Its oldest idle ones make place for its newest."""
    crowd: list[socket.socket] = []
    poll = select.poll()
    try:
        for _ in range(200):
            crowd.append(case.remote.connect(source="127.0.0.2"))
            poll.register(crowd[-1], select.POLLRDHUP)
        until(lambda: len(poll.poll(0)) >= 100)
        assert {fd for fd, _ in poll.poll(0)} == {sock.fileno() for sock in crowd[:100]}
        with case.remote.connect(source="127.0.0.3") as other:
            other.sendall(case.head(LINE, "Connection: close"))
            assert _rest(other).split()[1] == b"200"
    finally:
        for sock in crowd:
            sock.close()


@pytest.mark.parametrize("port", PORTS)
def test_who_hangs_up_in_the_middle_is_no_bug(case: Case, port: str) -> None:
    for sent in (
        case.head(POST, "Content-Type: application/json", "Content-Length: 99") + b"{",
        case.head(LINE)[:-2],
        case.head("GET /v1/events?after=99999999&wait_s=60 HTTP/1.1"),
    ):
        with case.connect(port) as sock:
            sock.sendall(sent)
    assert ask(case, port, case.head(LINE)).status == 200
    log = case.cluster.log("master")
    assert "bug" not in log and "Traceback" not in log
    assert case.bearer.split(".")[2] not in log
