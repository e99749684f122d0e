"""A listening socket with blocking connections, each served by a thread of its own."""

from __future__ import annotations

import contextlib
import logging
import os
import select
import socket
import threading
from collections.abc import Callable, Mapping
from typing import TypeAlias

from corps.clock import Clock
from corps.errors import CorpsError, Unavailable
from corps.wire.bulk import Trouble
from corps.wire.codec import PREFACE_BYTES, encode_frame

THREADS_MAX = 32
PREFACE_S = 5.0
ACCEPT_RETRY_S = 0.1


Serve: TypeAlias = Callable[[socket.socket], None]
Secure: TypeAlias = Callable[[socket.socket], socket.socket]

_log = logging.getLogger("corps.net")


class Listener:
    """Accepts on `listening`; the preface that a connection opens with says who serves it.

    `secure` makes another socket of one that was accepted, or raises OSError or CorpsError. Who is
    not done with that is a stranger: where there is no thread left the one that came first goes.
    """

    def __init__(
        self,
        listening: socket.socket,
        serves: Mapping[bytes, Serve],
        secure: Secure | None = None,
    ) -> None:
        self._listening, self._serves, self._secure = listening, serves, secure
        self._lock = threading.Lock()
        self._serving: dict[threading.Thread, socket.socket] = {}
        self._strangers: dict[threading.Thread, socket.socket] = {}  # the oldest first
        self._wake_r, self._wake_w = os.pipe()
        self._acceptor = threading.Thread(target=self._accept, name="accept", daemon=True)
        self._acceptor.start()

    def close(self) -> None:
        """Cut all connections, wait for their threads, close the listening socket."""
        if not self._acceptor.is_alive():
            return
        os.write(self._wake_w, b"x")
        self._acceptor.join()
        with self._lock:
            serving = dict(self._serving)
            for sock in (*serving.values(), *self._strangers.values()):
                cut(sock)
        for thread in serving:
            thread.join()
        self._listening.close()
        os.close(self._wake_r)
        os.close(self._wake_w)

    def _accept(self) -> None:
        self._listening.setblocking(False)
        poll = select.poll()
        poll.register(self._listening, select.POLLIN)
        poll.register(self._wake_r, select.POLLIN)
        while True:
            if any(fd == self._wake_r for fd, _ in poll.poll()):
                return
            try:
                sock, _ = self._listening.accept()
            except (BlockingIOError, ConnectionError):
                continue
            except OSError:  # no file descriptor left: some connection will end
                select.select([self._wake_r], [], [], ACCEPT_RETRY_S)
                continue
            self._start(sock)

    def _start(self, sock: socket.socket) -> None:
        thread = threading.Thread(target=self._serve, args=(sock,), name="serve", daemon=True)
        with self._lock:
            if len(self._serving) < THREADS_MAX or self._makes_place():
                self._serving[thread] = sock
                with contextlib.suppress(RuntimeError):  # no thread to be had
                    thread.start()
                    return
                del self._serving[thread]
        _refuse(sock, Unavailable(f"{THREADS_MAX} copies are under way; repeat in a moment"))

    def _serve(self, sock: socket.socket) -> None:
        try:
            if self._secure is not None:
                sock = self._secured(sock, self._secure)
            serve = self._serves.get(_receive_preface(sock))
            if serve is not None:
                serve(sock)
        except (OSError, CorpsError) as error:
            _log.info("turned away at the door: %s", error)
        finally:
            with self._lock:
                del self._serving[threading.current_thread()]
            sock.close()

    def _makes_place(self) -> bool:
        """A handshake may drip for ever. The thread that was cut ends as soon as it sees that."""
        oldest = next(iter(self._strangers), None)
        if oldest is not None:
            cut(self._strangers.pop(oldest))
        return oldest is not None

    def _secured(self, sock: socket.socket, secure: Secure) -> socket.socket:
        thread = threading.current_thread()
        sock.settimeout(PREFACE_S)
        with sock.dup() as handle:  # TLS takes the socket away from whoever has it
            with self._lock:
                self._strangers[thread] = handle
            try:
                sock = secure(sock)
            finally:
                with self._lock:
                    self._strangers.pop(thread, None)
                    self._serving[thread] = sock
        return sock


def cut(sock: socket.socket) -> None:
    """End it, while another thread waits for it. Of TLS too: there the kernel's own shutdown, as
    that of SSLSocket takes from that thread what it works with."""
    with contextlib.suppress(OSError):
        socket.socket.shutdown(sock, socket.SHUT_RDWR)


def _receive_preface(sock: socket.socket) -> bytes:
    """What it opens with, as far as it says that in time."""
    clock = Clock()
    deadline = clock() + PREFACE_S
    preface = b""
    try:
        while len(preface) < PREFACE_BYTES:
            sock.settimeout(max(0.001, deadline - clock()))
            data = sock.recv(PREFACE_BYTES - len(preface))
            if not data:
                break
            preface += data
    except OSError:
        pass
    return preface


def _refuse(sock: socket.socket, error: CorpsError) -> None:
    with contextlib.suppress(OSError), sock:
        sock.setblocking(False)
        sock.send(encode_frame(Trouble(code=error.code, message=error.message)))
        sock.shutdown(socket.SHUT_WR)
