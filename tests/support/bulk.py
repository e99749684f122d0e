"""A bulk server in this process, and connections that break where a test wants them to."""

from __future__ import annotations

import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from corps.net.bulk import BulkListener
from corps.net.bulk_client import Dial
from corps.store.blobs import BlobStore


def listen_on(directory: Path, family: str) -> tuple[socket.socket, Dial]:
    """A listening socket, and what dials it."""
    if family == "unix":
        path = str(directory / "bulk.sock")
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        listening.listen()

        def dial_unix() -> socket.socket:
            sock = socket.socket(socket.AF_UNIX)
            sock.connect(path)
            return sock

        return listening, dial_unix
    listening = socket.create_server(("127.0.0.1", 0))
    address = listening.getsockname()
    return listening, lambda: socket.create_connection(address)


@contextmanager
def serving(
    directory: Path, store: BlobStore, family: str = "tcp", may_put: bool = True
) -> Iterator[Dial]:
    listening, dial = listen_on(directory, family)
    listener = BulkListener(listening, store, may_put)
    try:
        yield dial
    finally:
        listener.close()


class Wire:
    """Dials through a wire that breaks after some bytes in one direction; whole when None."""

    def __init__(self, dial: Dial) -> None:
        self._dial = dial
        self._threads: list[threading.Thread] = []
        self._sockets: list[socket.socket] = []
        self.down_bytes: int | None = None
        self.up_bytes: int | None = None
        self.carried_down = 0
        self.dial_count = 0

    def dial(self) -> socket.socket:
        self.dial_count += 1
        far = self._dial()
        near, ours = socket.socketpair()
        self._sockets += [far, ours]
        for source, target, limit, count in (
            (far, ours, self.down_bytes, self._count_down),
            (ours, far, self.up_bytes, lambda _: None),
        ):
            thread = threading.Thread(target=_pump, args=(source, target, limit, count))
            thread.start()
            self._threads.append(thread)
        return near

    def join(self) -> None:
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()

    def _count_down(self, count: int) -> None:
        self.carried_down += count


def _pump(
    source: socket.socket, target: socket.socket, limit: int | None, on_bytes: Callable[[int], None]
) -> None:
    left = limit
    with suppress(OSError):
        while left is None or left > 0:
            data = source.recv(65_536 if left is None else min(left, 65_536))
            if not data:
                break
            if left is not None:
                left -= len(data)
            on_bytes(len(data))
            target.sendall(data)
    for sock in (source, target):
        with suppress(OSError):
            sock.shutdown(socket.SHUT_RDWR)


def temporary(store: BlobStore) -> list[str]:
    """Names of what has not arrived whole."""
    return sorted(path.name for path in (store.root / "tmp").iterdir())
