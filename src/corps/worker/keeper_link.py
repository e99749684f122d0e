"""The link to the keeper: find it or start it, talk to it, start it again when it dies."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
import struct
import subprocess
import sys
from collections import deque
from collections.abc import Callable
from pathlib import Path

import msgspec

from corps.daemon import private
from corps.errors import ProtocolError, Unavailable
from corps.keeper.main import command
from corps.wire.keeper import FRAME_MAX_BYTES, FromKeeper, ListAll, Listing, Spawned, ToKeeper

READ_BYTES = 256 << 10
FDS_MAX = 253  # SCM_MAX_FD, unix(7)
START_DEADLINE_S = 10.0
RETRY_S = 0.02
STARTS_MAX = 5
LOG_LINES = 20
ROOM_FDS = 32
QUEUE_MAX_BYTES = 64 << 20

_LENGTH = struct.Struct(">I")
_ENCODER = msgspec.json.Encoder()
_DECODER: msgspec.json.Decoder[FromKeeper] = msgspec.json.Decoder(FromKeeper)
_log = logging.getLogger("corps.worker")

KEEPER_OPTIONS = "CORPS_KEEPER_OPTIONS"
OnMessages = Callable[[tuple[FromKeeper, ...], dict[str, int]], None]


def keeper_options() -> list[str]:
    """What the environment adds to a keeper's command line: for tests, to behave as elsewhere."""
    return os.environ.get(KEEPER_OPTIONS, "").split()


class KeeperLink:
    """`there`: where a keeper is that somebody else starts; else one on `directory` is started.

    `on_messages(messages, pidfds)` gets what one read completes; the pidfds, by attempt, are
    the receiver's to close. `on_gone` is called once for each connection that ends."""

    def __init__(
        self,
        directory: Path,
        on_messages: OnMessages,
        on_gone: Callable[[], None],
        *,
        there: Path | None = None,
        options: tuple[str, ...] = (),
    ) -> None:
        self._directory, self._options = there or directory, options
        self._is_theirs = there is not None
        self._on_messages, self._on_gone = on_messages, on_gone
        self._loop = asyncio.get_running_loop()
        self._process: subprocess.Popen[bytes] | None = None
        self._socket: socket.socket | None = None
        self._incoming = bytearray()
        self._pidfds: deque[list[int]] = deque()  # those of one message each
        self._is_short = False  # some pidfds did not arrive: no descriptor was left
        self._outgoing = bytearray()

    async def open(self) -> None:
        """Connect, starting a keeper when none answers, and ask for its listing.

        Raise Unavailable when none can be had within START_DEADLINE_S.
        """
        end = self._loop.time() + START_DEADLINE_S
        starts = 0
        while (sock := self._connect()) is None:
            if self._is_theirs:
                self._wait_for_theirs(end)
            elif self._process is None or self._process.poll() is not None:
                if starts == STARTS_MAX or self._loop.time() > end:
                    raise Unavailable(
                        f"no keeper for {self._directory} stays up: {self._last_words()}; "
                        "nothing was changed and nothing ended"
                    )
                self._start()
                starts += 1
            await asyncio.sleep(RETRY_S * 2**starts)
        self._socket = sock
        self._incoming.clear()
        self._outgoing.clear()
        self._is_short = False
        self._loop.add_reader(sock.fileno(), self._read)
        self.send(ListAll())

    def send(self, message: ToKeeper) -> None:
        """Queue; nothing is sent while the link is down: the next Listing tells what was lost."""
        if self._socket is None:
            return
        body = _ENCODER.encode(message)
        if len(self._outgoing) > QUEUE_MAX_BYTES:
            self._drop("it does not read")
            return
        was_empty = not self._outgoing
        self._outgoing += _LENGTH.pack(len(body)) + body
        if was_empty:
            self._loop.call_soon(self._flush)

    def close(self) -> None:
        self._drop(None)

    async def wait_ended(self, deadline_s: float) -> None:
        """After Quit: wait until a keeper that we started is gone."""
        end = self._loop.time() + deadline_s
        while self._process is not None and self._process.poll() is None:
            if self._loop.time() > end:
                return
            await asyncio.sleep(RETRY_S)

    def _connect(self) -> socket.socket | None:
        try:
            directory = os.open(self._directory, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        except FileNotFoundError:
            if not self._is_theirs:
                raise
            return None
        sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            sock.connect(f"/proc/self/fd/{directory}/keeper.sock")
        except (FileNotFoundError, ConnectionRefusedError):
            sock.close()
            return None
        except PermissionError as error:
            sock.close()
            raise Unavailable(
                f"the keeper in {self._directory} serves another user than uid {os.geteuid()}"
            ) from error
        finally:
            os.close(directory)
        sock.setblocking(False)
        return sock

    def _start(self) -> None:
        """In a session of its own, so that neither our end nor a ctrl-C reaches it."""
        with open(self._directory / "keeper.log", "ab", opener=private) as log:
            self._process = subprocess.Popen(
                [
                    *command(sys.executable, str(self._directory)),
                    *keeper_options(),
                    *self._options,
                ],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                env={},
                start_new_session=True,
            )

    def _wait_for_theirs(self, end: float) -> None:
        if self._loop.time() > end:
            raise Unavailable(
                f"no keeper answers in {self._directory}: start it first, as root with 'corps "
                "keeper' or by its unit; nothing was changed and nothing ended"
            )

    def _last_words(self) -> str:
        path = self._directory / "keeper.log"
        lines = path.read_text(errors="replace").split("\n")[-LOG_LINES:]
        return next((line for line in reversed(lines) if line), f"see {path}")

    def _read(self) -> None:
        """All there is: libuv polls no more once a socket has an error, and a keeper that died with
        requests unread leaves one, behind its last words."""
        while self._socket is not None and self._read_once(self._socket):
            pass

    def _read_once(self, sock: socket.socket) -> bool:
        try:
            data, fds, flags, _ = socket.recv_fds(
                sock, READ_BYTES, FDS_MAX, socket.MSG_CMSG_CLOEXEC
            )
        except BlockingIOError:
            return False
        except OSError as error:
            self._drop(str(error))
            return False
        if flags & socket.MSG_CTRUNC:
            self.is_short()
        if fds or flags & socket.MSG_CTRUNC:  # one read never has those of two messages, unix(7)
            self._pidfds.append(fds)
        if not data:
            self._drop("it closed the connection")
            return False
        self._incoming += data
        try:
            messages = self._decode()
        except (msgspec.DecodeError, UnicodeDecodeError, ProtocolError) as error:
            self._drop(f"it broke the contract: {error}")
            return False
        if messages:
            self._on_messages(tuple(messages), self._take_pidfds(messages))
        return True

    def _decode(self) -> list[FromKeeper]:
        messages: list[FromKeeper] = []
        start = 0
        while len(self._incoming) - start >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(self._incoming, start)
            if not 0 < length <= FRAME_MAX_BYTES:
                raise ProtocolError(f"a frame of {length} bytes")
            end = start + _LENGTH.size + length
            if end > len(self._incoming):
                break
            messages.append(_DECODER.decode(bytes(self._incoming[start + _LENGTH.size : end])))
            start = end
        del self._incoming[:start]
        return messages

    def _take_pidfds(self, messages: list[FromKeeper]) -> dict[str, int]:
        taken: dict[str, int] = {}
        for message in messages:
            keys: list[str] = []
            if isinstance(message, Spawned):
                keys = [message.key]
            elif isinstance(message, Listing):
                keys = [kept.key for kept in message.attempts if kept.has_pidfd]
            # Fewer came than were sent when no descriptor was left: the first ones.
            for key, pidfd in zip(keys, self._pidfds.popleft() if keys else (), strict=False):
                if key in taken:
                    os.close(taken[key])
                taken[key] = pidfd
        return taken

    def is_short(self) -> None:
        """A process is not under watch, because no descriptor was left for it."""
        if not self._is_short:
            self._is_short = True
            _log.error("no descriptor is left for some processes under watch: raise ulimit -n")

    def ask_again(self) -> None:
        """If pidfds are missing and there is room again: a new connection has them all."""
        if self._is_short and _has_room():
            self._is_short = False
            self._drop("it is asked again for the pidfds that are missing")

    def _flush(self) -> None:
        if self._socket is None or not self._outgoing:
            return
        try:
            sent = self._socket.send(self._outgoing)
        except BlockingIOError:
            sent = 0
        except OSError as error:
            self._drop(str(error))
            return
        del self._outgoing[:sent]
        if self._outgoing:
            self._loop.add_writer(self._socket.fileno(), self._flush)
        else:
            self._loop.remove_writer(self._socket.fileno())

    def _drop(self, reason: str | None) -> None:
        """Close; `on_gone` follows unless we ended it ourselves."""
        if self._socket is None:
            return
        self._loop.remove_reader(self._socket.fileno())
        self._loop.remove_writer(self._socket.fileno())
        self._socket.close()
        self._socket = None
        while self._pidfds:
            for pidfd in self._pidfds.popleft():
                os.close(pidfd)
        if reason is not None:
            _log.warning("the keeper is gone: %s", reason)
            self._on_gone()


def _has_room() -> bool:
    """Descriptors can be opened again, and some more than one."""
    opened: list[int] = []
    try:
        opened.extend(os.open(os.devnull, os.O_RDONLY | os.O_CLOEXEC) for _ in range(ROOM_FDS))
    except OSError:
        return False
    finally:
        for fd in opened:
            os.close(fd)
    return True
