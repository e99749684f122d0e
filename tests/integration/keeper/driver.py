"""A keeper as its worker sees it: the process, and a connection that speaks the contract."""

from __future__ import annotations

import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import time
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import TypeVar

import msgspec

from corps.keeper import main as keeper_main
from corps.keeper.main import command
from corps.wire import keeper as wire
from corps.wire.worker import Totals
from tests.support.waiting import until

DEADLINE_S = 20.0
SOURCE = str(Path(keeper_main.__file__).parents[2])
LENGTH = struct.Struct(">I")
ENCODER = msgspec.json.Encoder()
DECODER: msgspec.json.Decoder[wire.FromKeeper] = msgspec.json.Decoder(wire.FromKeeper)

M = TypeVar("M", bound=wire.KeeperMessage)


def frame(body: bytes) -> bytes:
    return LENGTH.pack(len(body)) + body


class Link:
    """One connection. What was said and not asked for waits in `said`; pidfds are ours to close."""

    def __init__(self, directory: Path) -> None:
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.socket.settimeout(DEADLINE_S)
        at = os.open(directory, os.O_PATH)
        try:
            self.socket.connect(f"/proc/self/fd/{at}/keeper.sock")
        except OSError:
            self.socket.close()
            raise
        finally:
            os.close(at)
        self.said: list[wire.FromKeeper] = []
        self.raw: list[bytes] = []
        self.pidfds: dict[str, int] = {}
        self._arrived: deque[int] = deque()
        self._inbox = bytearray()

    def send(self, *messages: wire.ToKeeper) -> None:
        self.send_raw(b"".join(frame(ENCODER.encode(message)) for message in messages))

    def send_raw(self, data: bytes) -> None:
        self.socket.sendall(data)

    def read(self) -> bool:
        """Take in what comes next; False when the keeper has closed the connection."""
        try:
            data, fds, _, _ = socket.recv_fds(self.socket, 1 << 18, 253, socket.MSG_CMSG_CLOEXEC)
        except ConnectionResetError:
            return False
        self._arrived.extend(fds)
        self._inbox += data
        while len(self._inbox) >= LENGTH.size:
            end = LENGTH.size + LENGTH.unpack_from(self._inbox)[0]
            if len(self._inbox) < end:
                break
            body = bytes(self._inbox[LENGTH.size : end])
            del self._inbox[:end]
            self.raw.append(body)
            self._hear(DECODER.decode(body))
        return bool(data)

    def wait(self, kind: type[M], key: str | None = None) -> M:
        """The first message of this kind (and of this attempt) that was not waited for yet."""
        end = time.monotonic() + DEADLINE_S
        while True:
            for at, message in enumerate(self.said):
                if isinstance(message, kind) and key in (None, key_of(message)):
                    del self.said[at]
                    return message
            assert time.monotonic() < end, f"no {kind.__name__} of {key}; said: {self.said}"
            assert self.read(), f"the keeper hung up; said: {self.said}"

    def spawn(self, *messages: wire.Spawn) -> wire.Spawned:
        """Send and wait until the last one runs its program."""
        self.send(*messages)
        return self.wait(wire.Spawned, messages[-1].key)

    def ended(self, key: str) -> wire.KeptAttempt:
        return self.wait(wire.Ended, key).attempt

    def run(self, message: wire.Spawn) -> wire.KeptAttempt:
        """Send, and wait for its end."""
        self.send(message)
        return self.ended(message.key)

    def signal(self, key: str, number: int) -> int:
        """The errno of the answer."""
        self.send(wire.SendSignal(key=key, signal=number))
        return self.wait(wire.Signaled, key).errno

    def listing(self) -> dict[str, wire.KeptAttempt]:
        return {kept.key: kept for part in self.listing_parts() for kept in part.attempts}

    def listing_parts(self) -> list[wire.Listing]:
        self.send(wire.ListAll())
        parts = [self.wait(wire.Listing)]
        while not parts[-1].is_last:
            parts.append(self.wait(wire.Listing))
        return parts

    def totals(self) -> Totals:
        return self.listing_parts()[-1].totals

    def closed(self) -> bool:
        """Read until the keeper has closed the connection."""
        while self.read():
            pass
        return True

    def close(self) -> None:
        self.socket.close()
        for fd in (*self.pidfds.values(), *self._arrived):
            os.close(fd)
        self.pidfds.clear()
        self._arrived.clear()

    def _hear(self, message: wire.FromKeeper) -> None:
        self.said.append(message)
        keys: list[str] = []
        if isinstance(message, wire.Spawned):
            keys = [message.key]
        elif isinstance(message, wire.Listing):
            keys = [kept.key for kept in message.attempts if kept.has_pidfd]
        for key in keys:
            if key in self.pidfds:
                os.close(self.pidfds.pop(key))
            self.pidfds[key] = self._arrived.popleft()


class Keeper:
    """A keeper on a directory, and the newest connection to it."""

    def __init__(
        self, directory: Path, *options: str, limits: str = "", prefix: Sequence[str] = ()
    ) -> None:
        self.directory = directory
        self.errors = directory / "keeper.err"
        argv = [*command(sys.executable, str(directory)), *options]
        if prefix:  # somebody who may not come where we are
            argv = [*prefix, *(word.replace(SOURCE, _copy(directory)) for word in argv)]
        if limits:
            argv = ["/bin/sh", "-c", f'{limits}; exec "$@"', "sh", *argv]
        with self.errors.open("ab") as errors:
            self.process = subprocess.Popen(argv, stderr=errors, stdin=subprocess.DEVNULL)
        self._link: Link | None = None
        self.connect()

    @property
    def link(self) -> Link:
        assert self._link is not None
        return self._link

    @property
    def pid(self) -> int:
        return self.process.pid

    def connect(self) -> Link:
        """As the worker does when it comes back."""
        if self._link is not None:
            self._link.close()
        self._link = until(self._try_to_connect, DEADLINE_S)
        return self.link

    def _try_to_connect(self) -> Link | None:
        assert self.process.poll() is None, self.errors.read_text()
        try:
            return Link(self.directory)
        except (FileNotFoundError, ConnectionRefusedError):
            return None

    def kill(self) -> None:
        """kill -9, and be done with it."""
        self.link.close()
        self.process.kill()
        self.process.wait()

    def end(self) -> None:
        """Kill what lives, then Quit: the last thing in every test."""
        link = self.connect()
        for key, kept in link.listing().items():
            if kept.is_live:
                link.signal(key, signal.SIGKILL)
                link.ended(key)
        link.send(wire.Quit())
        link.closed()
        link.close()
        assert self.process.wait(DEADLINE_S) == 0


def _copy(directory: Path) -> str:
    """The keeper's own room, beside its directory."""
    source = directory.parent / "src"
    if not source.exists():
        shutil.copytree(Path(SOURCE) / "corps/keeper", source / "corps/keeper")
        (source / "corps/__init__.py").touch()
    return str(source)


def key_of(message: wire.FromKeeper) -> str | None:
    match message:
        case wire.Ended() | wire.Stuck():
            return message.attempt.key
        case wire.Spawned() | wire.Signaled() | wire.Refused():
            return message.key
        case _:
            return None


def status_of(code: int = 0, signal_number: int = 0) -> int:
    """The wait status of an exit, or of a death by a signal without a core."""
    return signal_number if signal_number else code << 8


def pid_of(pidfd: int) -> int:
    """The process of a pidfd; -1 once it is reaped."""
    lines = Path(f"/proc/self/fdinfo/{pidfd}").read_text().splitlines()
    return int(dict(line.split(":") for line in lines)["Pid"])
