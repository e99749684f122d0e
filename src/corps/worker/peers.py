"""Peers: what this worker gives other workers, and where they find it.

It listens on the address from which it reaches its master, from its first swarm on, and answers
only who says its key, which the master gives to those that fetch the same artifact.
"""

from __future__ import annotations

import contextlib
import functools
import secrets
import socket
import threading
from collections.abc import Callable, Iterator

from corps.core.supply import Member
from corps.errors import Denied, NotFound, Unavailable
from corps.model.name import Digest
from corps.net.listener import Listener
from corps.net.swarm import Share, serve_swarm, share_of
from corps.store.blobs import BlobStore
from corps.wire.codec import SWARM_PREFACE
from corps.wire.swarm import Seek

KEY_BYTES = 16
SHARES_MAX = 8

Met = Callable[[Member], None]


class Peers:
    """One for each worker that others can reach."""

    def __init__(self, blobs: BlobStore) -> None:
        self.key = secrets.token_hex(KEY_BYTES)
        self.over = threading.Event()
        self._blobs = blobs
        self._lock = threading.Lock()
        self._listener: Listener | None = None
        self._address: tuple[str, int] = ("", 0)
        self._arriving: dict[Digest, tuple[Share, Met]] = {}
        self._resting: dict[Digest, Share] = {}

    def listen(self, host: str, family: int) -> int:
        """The port on which peers are served at `host`."""
        with self._lock:
            if self.over.is_set():
                raise Unavailable("this worker ends")
            if self._listener is not None and self._address[0] == host:
                return self._address[1]
            old, self._listener = self._listener, None
            try:
                listening = socket.create_server((host, 0), family=family)
            except OSError as error:
                reason = (error.strerror or str(error)).lower()
                raise Unavailable(f"cannot listen for peers on {host}: {reason}") from error
            self._address = (host, listening.getsockname()[1])
            serve = functools.partial(serve_swarm, shelf=self)
            self._listener = Listener(listening, {SWARM_PREFACE: serve})
        if old is not None:
            old.close()
        return self._address[1]

    @contextlib.contextmanager
    def sharing(self, artifact: Digest, share: Share, met: Met) -> Iterator[None]:
        """While it arrives here, others take what is here already; `met` hears who they are."""
        with self._lock:
            self._arriving[artifact] = (share, met)
        try:
            yield
        finally:
            with self._lock:
                self._arriving.pop(artifact, None)

    def close(self) -> None:
        """The daemon ends: nothing arrives any more, nobody is served."""
        self.over.set()
        with self._lock:
            listener, self._listener = self._listener, None
        if listener is not None:
            listener.close()

    # ---- what a swarm connection is served from

    def seek(self, question: Seek, host: str) -> tuple[Member, ...]:
        raise Denied(
            f"{host} asked a worker who has artifact {question.artifact!r}: ask the master"
        )

    def admit(self, key: str) -> None:
        if not secrets.compare_digest(key.encode(), self.key.encode()):
            raise Denied("peers of this worker say its key")

    def met(self, artifact: Digest, member: Member) -> None:
        with self._lock:
            arriving = self._arriving.get(artifact)
        if arriving is not None:
            arriving[1](member)

    def share(self, artifact: Digest) -> Share:
        """What arrives, or what is here: looked up again when that is no longer whole."""
        with self._lock:
            arriving = self._arriving.get(artifact)
            if arriving is not None:
                return arriving[0]
            known = self._resting.pop(artifact, None)
        if known is None or not self._blobs.has(artifact):
            known = share_of(artifact, self._blobs)
        if not known.is_whole:
            raise NotFound(f"no artifact {artifact!r} on this worker", digest=artifact)
        with self._lock:
            self._resting[artifact] = known
            while len(self._resting) > SHARES_MAX:
                del self._resting[next(iter(self._resting))]
        return known
