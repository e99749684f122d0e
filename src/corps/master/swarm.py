"""The master's side of a swarm: it has every unit, and knows who fetches which artifact."""

from __future__ import annotations

import random
import threading

from corps.clock import Clock
from corps.core import methods
from corps.core.methods import Need
from corps.core.supply import Member, Tracker
from corps.errors import Denied, Invalid, NotFound
from corps.model.name import Digest, check_digest
from corps.net.address import format_address
from corps.net.swarm import Share, share_of
from corps.store.blobs import BlobStore
from corps.wire.swarm import Seek, SwarmRequest

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

    def admit(self, request: SwarmRequest) -> None:
        """Whoever it is has been asked by then, or is of this machine (master/library.py)."""
        if methods.SWARM_OF_MASTER[type(request)] is not Need.ASSIGNED:
            raise Denied("workers look at each other, not at the master")

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
