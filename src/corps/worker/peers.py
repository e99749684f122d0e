"""Peers: what this worker gives other workers, and where they find it.

It listens on the address from which it reaches its master, from its first swarm on, speaks TLS
only with workers of its cluster, and answers who says the key of an artifact, which the master
gives to those that should have it.
"""

from __future__ import annotations

import contextlib
import functools
import hmac
import secrets
import socket
import threading
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

from corps.core import methods
from corps.core.methods import Need
from corps.core.supply import Member
from corps.errors import Denied, NotFound, Unavailable
from corps.model.name import Digest
from corps.net.listener import Listener
from corps.net.swarm import Share, serve_swarm, share_of
from corps.store.blobs import BlobStore
from corps.trust.contexts import Purpose
from corps.wire.codec import SWARM_PREFACE
from corps.wire.swarm import Look, Seek, SwarmRequest, Take

if TYPE_CHECKING:  # and else only where a worker has a certificate: what reads one takes 8 MB
    from corps.trust.credentials import Credentials


SECRET_BYTES = 32
SHARES_MAX = 8

Met = Callable[[Member], None]


class Peers:
    """One for each worker that others can reach."""

    def __init__(self, blobs: BlobStore, credentials: Credentials) -> None:
        self._secret = secrets.token_bytes(SECRET_BYTES)
        self._credentials = credentials
        self.over = threading.Event()
        self._blobs = blobs
        self._lock = threading.Lock()
        self._listener: Listener | None = None
        self._address: tuple[str, int] = ("", 0)
        self._arriving: dict[Digest, tuple[Share, Met]] = {}
        self._resting: dict[Digest, Share] = {}

    def key(self, artifact: Digest) -> str:
        """Whoever says this may have what is here of that artifact, and nothing else."""
        return hmac.digest(self._secret, f"corps-swarm-1 {artifact}".encode(), "sha256").hex()

    def reach(self, address: tuple[str, int], timeout_s: float) -> socket.socket:
        """A connection to a peer, of which it is known that it is one. Raise OSError."""
        from corps.trust.links import reach  # noqa: PLC0415  # as above

        sock = socket.create_connection(address, timeout=timeout_s)
        return reach(sock, self._credentials, Purpose.SWARM)

    def listen(self, host: str, family: int) -> int:
        """The port on which peers are served at `host`."""
        from corps.trust.links import welcome  # noqa: PLC0415  # as above

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
            secure = functools.partial(welcome, credentials=self._credentials)
            self._listener = Listener(listening, {SWARM_PREFACE: serve}, secure)
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

    def admit(self, request: SwarmRequest) -> None:
        if methods.SWARM_OF_WORKER[type(request)] is not Need.KEY:
            raise Denied(f"a worker was asked for {request.artifact[:64]!r} as a master: ask that")
        assert isinstance(request, Look | Take), "what needs a key has one"
        if not hmac.compare_digest(request.key.encode(), self.key(request.artifact).encode()):
            raise Denied("peers of this worker say the key of the artifact")

    def seek(self, question: Seek, host: str) -> tuple[Member, ...]:
        raise AssertionError("not admitted")

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
