"""A worker that says whatever it likes, and does nothing: the wire, and no corps behind it."""

from __future__ import annotations

import select
import socket
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any

from corps.wire.codec import CONTROL_PREFACE, FrameDecoder, encode_frame
from corps.wire.worker import FromWorker, Heartbeat, Hello, Inventory, ToWorker, Welcome

BEAT_S = 0.3
NAME = "evil"
Answer = Callable[[ToWorker], Sequence[FromWorker]]


def a_hello(name: str = NAME, **facts: Any) -> Hello:
    usual: dict[str, Any] = {
        "protocol": 1,
        "name": name,
        "state_id": f"state-{name}",
        "boot_id": "boot",
        "cluster": None,
        "labels": {},
        "cpu_count": 2,
        "memory_bytes": 1 << 30,
        "version": "0.1.0",
    }
    return Hello(**(usual | facts))


class Impostor:
    """Says hello and an empty inventory, beats, and answers by `answer`; ends with its block."""

    def __init__(
        self, sock: socket.socket, hello: Hello, answer: Answer = lambda message: ()
    ) -> None:
        self.heard: list[ToWorker] = []
        self.is_cut = False
        self._sock, self._answer = sock, answer
        self._lock = threading.Lock()
        self._decoder: FrameDecoder[ToWorker] = FrameDecoder(ToWorker)
        self._over = threading.Event()
        sock.sendall(CONTROL_PREFACE)
        self.say(hello, Inventory(reports=(), artifacts=(), is_last=True))
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def __enter__(self) -> Impostor:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._over.set()
        self._thread.join()
        self._sock.close()

    @property
    def cluster(self) -> str | None:
        """Which one bade it welcome."""
        return next((said.cluster for said in self.heard if isinstance(said, Welcome)), None)

    def say(self, *messages: FromWorker) -> None:
        self.say_raw(b"".join(map(encode_frame, messages)))

    def say_raw(self, data: bytes) -> None:
        try:
            with self._lock:
                self._sock.sendall(data)
        except OSError:
            self.is_cut = True

    def _run(self) -> None:
        beats = 0
        while not self._over.is_set() and not self.is_cut:
            if select.select([self._sock], [], [], BEAT_S)[0]:
                self._hear()
            beats += 1
            self.say(Heartbeat(seq=beats))

    def _hear(self) -> None:
        with self._decoder.get_buffer() as buffer:
            try:
                count = self._sock.recv_into(buffer)
            except OSError:
                count = 0
        if not count:
            self.is_cut = True
            return
        for message in self._decoder.advance(count):
            self.heard.append(message)
            self.say(*self._answer(message))
