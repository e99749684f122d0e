"""A real HTTP server that answers as it is told, on a unix socket or over TLS."""

from __future__ import annotations

import socket
import socketserver
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import parse_qsl, urlsplit

import msgspec

from corps.trust.authority import Authority
from corps.trust.contexts import server_context

HELLO = "/v1/hello"


class Answer(msgspec.Struct):
    """What the server does with one request. `body` None: it hangs up."""

    body: object = None
    status: int = 200
    headers: dict[str, str] = {}
    is_last: bool = False
    is_cut: bool = False


class Request(msgspec.Struct):
    connection: int
    method: str
    path: str
    query: list[tuple[str, str]]
    body: bytes
    token: str | None = None


class Scripted:
    """Answers requests in the order given; the first word, `hello`, always."""

    hello: object = None

    def begin(self) -> None:
        self.answers: list[Answer] = []
        self.requests: list[Request] = []
        self.connections = 0
        self.silence = threading.Event()

    def answer(self, path: str) -> Answer | None:
        if path == HELLO and self.hello is not None:
            return Answer(self.hello)
        return self.answers.pop(0) if self.answers else None


class UnixMaster(Scripted, socketserver.ThreadingUnixStreamServer):
    daemon_threads = True

    def __init__(self, path: Path) -> None:
        self.begin()
        super().__init__(str(path), _Handler)


class TlsMaster(Scripted, socketserver.ThreadingTCPServer):
    """By the certificate in `directory`, `master.pem` unless another is said; says hello with the
    CAs of `authority`. `names`: which server name each connection asked for."""

    daemon_threads = True
    allow_reuse_address = True

    def __init__(self, authority: Authority, stem: str = "master") -> None:
        self.begin()
        directory = authority.directory
        self.context = server_context(
            directory / f"{stem}.pem", directory / f"{stem}.key", "", wants_client=False
        )
        self.context.sni_callback = self._note_name
        self.names: list[str | None] = []
        self.failures: list[str] = []
        authorities = authority.bundle_pem.decode()
        self.hello = {"cluster": authority.cluster, "authorities": authorities}
        super().__init__(("127.0.0.1", 0), _Handler)

    @property
    def url(self) -> str:
        return f"https://127.0.0.1:{self.server_address[1]}"

    def finish_request(self, request: Any, client_address: Any) -> None:
        assert isinstance(request, socket.socket)
        try:
            sock = self.context.wrap_socket(request, server_side=True)
        except OSError as error:
            self.failures.append(str(error))
            return
        with sock:
            super().finish_request(sock, client_address)

    def _note_name(self, _sock: ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
        self.names.append(name)


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: UnixMaster | TlsMaster

    def setup(self) -> None:
        self.server.connections += 1
        self.number = self.server.connections
        super().setup()

    def log_message(self, format: str, *args: Any) -> None:
        pass

    def do_GET(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        url = urlsplit(self.path)
        request = Request(
            self.number,
            self.command,
            url.path,
            parse_qsl(url.query),
            self.rfile.read(length),
            self.headers.get("Authorization"),
        )
        self.server.requests.append(request)
        answer = self.server.answer(url.path)
        if answer is None:
            self.server.silence.wait(10)
            return
        if answer.body is None:
            self.close_connection = True
            return
        body = answer.body if isinstance(answer.body, bytes) else msgspec.json.encode(answer.body)
        self.send_response(answer.status)
        for name, value in {**answer.headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body[: len(body) // 2] if answer.is_cut else body)
        self.close_connection = answer.is_last or answer.is_cut

    do_POST = do_GET


M = TypeVar("M", UnixMaster, TlsMaster)


@contextmanager
def serving(master: M) -> Iterator[M]:
    with master:
        thread = threading.Thread(target=master.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield master
        finally:
            master.silence.set()
            master.shutdown()
            thread.join()
