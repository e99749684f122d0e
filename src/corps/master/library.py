"""What workers read from a master: blobs and units, each connection in a thread of its own.

A worker with a certificate reads what belongs to artifacts that it should have, and nothing else.
What it should have is asked of the core, in the event loop, at most once a second for each
artifact; a connection whose certificate is worth nothing any more is cut by the loop.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
import contextlib
import functools
import socket
import threading
from collections.abc import Callable

from corps.clock import Clock
from corps.core import methods
from corps.core.methods import Need
from corps.errors import CorpsError, Denied, ProtocolError, Unavailable
from corps.master.swarm import Shelf
from corps.model.artifact import Manifest
from corps.model.identity import Identity
from corps.model.name import Digest, check_digest
from corps.net.bulk import serve_bulk
from corps.net.listener import cut
from corps.net.swarm import load_manifest, serve_swarm
from corps.store.blobs import BlobStore
from corps.wire.bulk import BulkRequest, Pieces, Trouble, Want
from corps.wire.codec import BULK_PREFACE, SWARM_PREFACE, encode_frame
from corps.wire.swarm import SwarmRequest

BULK_THREADS_MAX = 32
SWARM_THREADS_MAX = 256
SHARE_MAX = 0.5  # of these, for one worker: whoever takes one over leaves room for the others
ASK_S = 10.0
GRANTED_S = 1.0
WATCH_S = 0.5
FILES_KEPT = 4  # sets of the digests of an artifact's files; one may have 100,000

Judge = Callable[[Identity, Digest | None], str | None]


class Library:
    """`judge` says in the event loop why somebody may not have an artifact, or is nobody at all."""

    def __init__(self, blobs: BlobStore, judge: Judge) -> None:
        self._blobs, self._judge = blobs, judge
        self._loop = asyncio.get_running_loop()
        self._shelf = Shelf(blobs)
        self._lock = threading.Lock()
        self._files: dict[Digest, frozenset[Digest]] = {}
        self._readers: dict[socket.socket, tuple[bytes, Identity]] = {}
        self._serves = {BULK_PREFACE: self._serve_bulk, SWARM_PREFACE: self._serve_swarm}
        self._slots = {
            BULK_PREFACE: threading.BoundedSemaphore(BULK_THREADS_MAX),
            SWARM_PREFACE: threading.BoundedSemaphore(SWARM_THREADS_MAX),
        }

    def serve(self, preface: bytes, sock: socket.socket, identity: Identity | None) -> None:
        """In a thread, until it ends. `identity` None: this machine's own, who may read all."""
        slots = self._slots.get(preface)
        most = SHARE_MAX * (BULK_THREADS_MAX if preface == BULK_PREFACE else SWARM_THREADS_MAX)
        refusal = None if identity is None else self._judge(identity, None)
        if slots is None:
            _hang_up(sock, ProtocolError(f"it said {preface!r}"))
        elif refusal is not None:
            _hang_up(sock, Denied(refusal))
        elif identity is not None and self._count(preface, identity) >= most:
            _hang_up(sock, Unavailable(f"{most:g} connections of this worker fetch; wait for one"))
        elif not slots.acquire(blocking=False):
            _hang_up(sock, Unavailable("as many workers fetch as may; repeat in a moment"))
        else:
            sock.setblocking(True)
            if identity is not None:
                with self._lock:
                    self._readers[sock] = (preface, identity)
            run = functools.partial(self._run, preface, sock, identity)
            threading.Thread(target=run, name="library", daemon=True).start()

    async def watch(self) -> None:
        """Cut those whose certificate is worth nothing any more, for ever."""
        while True:
            await asyncio.sleep(WATCH_S)
            with self._lock:
                readers = list(self._readers.items())
            for sock, (_, identity) in readers:
                if self._judge(identity, None) is not None:
                    cut(sock)

    def check(self, identity: Identity, artifact: Digest) -> None:
        """Raise Denied for a worker that should not have it. For a thread."""
        asked: concurrent.futures.Future[str | None] = concurrent.futures.Future()

        def answer() -> None:
            asked.set_result(self._judge(identity, artifact))

        try:
            self._loop.call_soon_threadsafe(answer)
            refusal = asked.result(ASK_S)
        except (TimeoutError, RuntimeError):  # busy; or the loop is closed, as the daemon ends
            raise Unavailable("the master does not come to it; repeat in a moment") from None
        if refusal is not None:
            raise Denied(refusal)

    def has_file(self, artifact: Digest, digest: Digest) -> bool:
        """The blob belongs to the artifact. For a thread."""
        if digest == artifact:
            return True
        with self._lock:
            files = self._files.get(artifact)
        if files is None:
            manifest: Manifest = load_manifest(check_digest(artifact), self._blobs)
            files = frozenset(entry.digest for entry in manifest.files)
        with self._lock:
            self._files.pop(artifact, None)
            self._files[artifact] = files
            while len(self._files) > FILES_KEPT:
                del self._files[next(iter(self._files))]
        return digest in files

    def _count(self, preface: bytes, identity: Identity) -> int:
        with self._lock:
            kept = list(self._readers.values())
        return sum(one == preface and who.worker == identity.worker for one, who in kept)

    def _run(self, preface: bytes, sock: socket.socket, identity: Identity | None) -> None:
        try:
            reader = None if identity is None else Reader(self, identity)
            self._serves[preface](sock, reader)
        finally:
            with self._lock:
                self._readers.pop(sock, None)
            self._slots[preface].release()

    def _serve_bulk(self, sock: socket.socket, reader: Reader | None) -> None:
        serve_bulk(sock, self._blobs, may_put=False, admit=functools.partial(_admit, reader))

    def _serve_swarm(self, sock: socket.socket, reader: Reader | None) -> None:
        serve_swarm(sock, self._shelf if reader is None else Reading(self._shelf, reader))


def _hang_up(sock: socket.socket, error: CorpsError) -> None:
    with contextlib.suppress(OSError), sock:
        sock.send(encode_frame(Trouble(code=error.code, message=error.message)))


class Reader:
    """One connection of a worker that has a certificate."""

    def __init__(self, library: Library, identity: Identity) -> None:
        self._library, self._identity = library, identity
        self._clock = Clock()
        self._granted: tuple[Digest, float] = ("", 0.0)  # the last artifact, and until when

    def check(self, artifact: Digest) -> None:
        """Raise Denied for an artifact that it should not have."""
        now = self._clock()
        known, until = self._granted
        if known != artifact or until < now:
            self._library.check(self._identity, artifact)
            self._granted = (artifact, now + GRANTED_S)

    def check_blob(self, artifact: Digest | None, digest: Digest) -> None:
        """Raise Denied for a blob of no artifact that it should have."""
        if artifact is None:
            raise Denied(f"blob {digest[:64]!r} is asked for, and not said of which artifact")
        self.check(artifact)
        if not self._library.has_file(artifact, digest):
            raise Denied(f"blob {digest[:64]!r} is no file of artifact {artifact!r}")


class Reading:
    """The master's shelf, for one worker that has a certificate."""

    def __init__(self, shelf: Shelf, reader: Reader) -> None:
        self._shelf, self._reader = shelf, reader
        self.seek, self.met, self.share = shelf.seek, shelf.met, shelf.share

    def admit(self, request: SwarmRequest) -> None:
        self._shelf.admit(request)
        self._reader.check(request.artifact)


def _admit(reader: Reader | None, request: BulkRequest) -> None:
    """Raise Denied for what a worker may not ask."""
    match methods.BULK[type(request)]:
        case Need.ASSIGNED:
            assert isinstance(request, Want | Pieces), "what is assigned is read"
            if reader is not None:
                reader.check_blob(request.artifact, request.digest)
        case need:
            assert need is Need.NOBODY, need
            raise Denied("workers may read the blobs of their artifacts, and nothing else")
