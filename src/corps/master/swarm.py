"""The master's side of a swarm: it has every unit, and knows who fetches which artifact."""

from __future__ import annotations

import contextlib
import random
import socket
import threading
from collections.abc import Callable

from corps.clock import Clock
from corps.core.supply import Member, Tracker
from corps.errors import Invalid, NotFound, Unavailable
from corps.model.name import Digest, check_digest
from corps.net.address import format_address
from corps.net.swarm import Share, serve_swarm, share_of
from corps.store.blobs import BlobStore
from corps.wire.bulk import Trouble
from corps.wire.codec import encode_frame
from corps.wire.swarm import Seek

THREADS_MAX = 256
SHARES_MAX = 16
PORT_MAX = 65_535


class Shelf:
    """What the swarm connections of a master are served from, by many threads."""

    def __init__(self, blobs: BlobStore) -> None:
        self._blobs, self._clock = blobs, Clock()
        self._lock = threading.Lock()
        self._tracker = Tracker(random.Random())
        self._shares: dict[Digest, Share] = {}

    def seek(self, question: Seek, host: str) -> tuple[Member, ...]:
        """Where it is reached is taken from its connection: it cannot send others elsewhere."""
        check_digest(question.artifact)
        if not 0 <= question.port <= PORT_MAX:
            raise Invalid(f"no port: {question.port}", field="port")
        address = format_address((host, question.port))
        member = Member(address, question.key) if question.port else None
        with self._lock:
            return self._tracker.seek(self._clock(), question.artifact, member)

    def admit(self, key: str) -> None:
        """Whoever reaches this port may read, as on the bulk connection."""

    def met(self, artifact: Digest, member: Member) -> None:
        """Workers look at each other, not at the master."""

    def share(self, artifact: Digest) -> Share:
        with self._lock:
            known = self._shares.pop(artifact, None)
            if known is None or not self._blobs.has(artifact):
                known = share_of(artifact, self._blobs)
                if not known.is_whole:
                    raise NotFound(f"artifact {artifact!r} is not whole at the master")
            self._shares[artifact] = known
            while len(self._shares) > SHARES_MAX:
                del self._shares[next(iter(self._shares))]
        return known


def swarm_server(blobs: BlobStore) -> Callable[[socket.socket], None]:
    """Serve each swarm connection in a thread of its own."""
    shelf = Shelf(blobs)
    slots = threading.BoundedSemaphore(THREADS_MAX)

    def serve(sock: socket.socket) -> None:
        try:
            serve_swarm(sock, shelf)
        finally:
            slots.release()

    def start(sock: socket.socket) -> None:
        sock.setblocking(True)
        if slots.acquire(blocking=False):
            threading.Thread(target=serve, args=(sock,), name="swarm", daemon=True).start()
            return
        error = Unavailable(f"{THREADS_MAX} workers fetch now; repeat in a moment")
        with contextlib.suppress(OSError), sock:
            sock.send(encode_frame(Trouble(code=error.code, message=error.message)))

    return start
