"""Between two that copy: lets some bytes of blobs through, then holds them back until it opens."""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType

from corps.net.address import parse_address
from corps.wire.codec import BULK_PREFACE
from tests.support.cluster import Cluster
from tests.support.waiting import until

READ_BYTES = 16_384


class Dam:
    """Listens in place of a master. Only bulk connections are held back, in one direction."""

    def __init__(
        self, listening: socket.socket, dial: Callable[[], socket.socket], *, holds_up: bool
    ) -> None:
        self._listening, self._dial, self._holds_up = listening, dial, holds_up
        self._limit_bytes: int | None = None
        self.passed_bytes = 0
        self._moved = threading.Condition()
        self._sockets: list[socket.socket] = [listening]
        self._threads: list[threading.Thread] = []
        self._run(self._accept)

    def __enter__(self) -> Dam:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.open()
        for sock in list(self._sockets):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
            sock.close()
        for thread in self._threads:
            thread.join()

    def hold(self, after_bytes: int) -> None:
        """From now on let only so many bytes more through."""
        with self._moved:
            self.passed_bytes = 0
            self._limit_bytes = after_bytes
            self._moved.notify_all()

    def wait_full(self) -> None:
        """Until all went through that may."""
        until(lambda: self._limit_bytes is not None and self.passed_bytes >= self._limit_bytes)

    def open(self) -> None:
        with self._moved:
            self._limit_bytes = None
            self._moved.notify_all()

    def _run(self, work: Callable[[], None]) -> None:
        thread = threading.Thread(target=work, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self._listening.accept()
            except OSError:
                return
            self._sockets.append(near)
            self._run(lambda near=near: self._serve(near))  # type: ignore[misc]  # default binds it

    def _serve(self, near: socket.socket) -> None:
        with suppress(OSError):
            preface = near.recv(len(BULK_PREFACE), socket.MSG_WAITALL)
            far = self._dial()
            self._sockets.append(far)
            far.sendall(preface)
            is_bulk = preface == BULK_PREFACE
            self._run(lambda: self._pump(far, near, is_held=is_bulk and not self._holds_up))
            self._pump(near, far, is_held=is_bulk and self._holds_up)

    def _pump(self, source: socket.socket, target: socket.socket, *, is_held: bool) -> None:
        with suppress(OSError):
            while data := source.recv(READ_BYTES):
                if is_held:
                    self._admit(len(data))
                target.sendall(data)
        for sock in (source, target):
            with suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)

    def _admit(self, count: int) -> None:
        with self._moved:
            self._moved.wait_for(
                lambda: self._limit_bytes is None or self.passed_bytes < self._limit_bytes
            )
            self.passed_bytes += count


@contextmanager
def before_operators(cluster: Cluster, directory: Path) -> Iterator[tuple[Dam, str]]:
    """A dam for uploads, and what an operator gives as `--server` to go through it."""
    directory.mkdir()
    real = cluster.settings.api_socket
    (directory / "api.sock").symlink_to(real)
    listening = socket.socket(socket.AF_UNIX)
    path = directory / "bulk.sock"
    listening.bind(os.fspath(path))
    listening.listen()

    def dial() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(os.fspath(real.with_name("bulk.sock")))
        return sock

    with Dam(listening, dial, holds_up=True) as dam:
        yield dam, f"unix://{directory}/api.sock"


@contextmanager
def before_workers(cluster: Cluster) -> Iterator[tuple[Dam, str]]:
    """A dam for what workers fetch, and the address they should dial as their master's."""
    listening = socket.create_server(("127.0.0.1", 0))
    host, port = listening.getsockname()
    with Dam(
        listening,
        lambda: socket.create_connection(parse_address(cluster.address)),
        holds_up=False,
    ) as dam:
        yield dam, f"{host}:{port}"
