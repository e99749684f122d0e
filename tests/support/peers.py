"""Workers that fetch from each other, and a master, all in this process and on loopback."""

from __future__ import annotations

import functools
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from corps.core.supply import Member
from corps.core.swarm import Units
from corps.errors import CorpsError
from corps.master.swarm import Shelf
from corps.model.artifact import Transfer
from corps.model.name import Digest
from corps.net.address import parse_address
from corps.net.bulk import serve_bulk
from corps.net.bulk_client import Dial
from corps.net.listener import Listener
from corps.net.swarm import Share, load_manifest, serve_swarm, share_of
from corps.net.swarm_client import SwarmClient
from corps.store.blobs import BlobStore
from corps.store.trees import Trees
from corps.wire.codec import BULK_PREFACE, SWARM_PREFACE
from corps.wire.swarm import Seek
from corps.wire.worker import Progress
from corps.worker.install import InstallReport, install
from corps.worker.peers import Peers
from tests.support.tls import TestCa

DIAL_S = 20.0


class Machine:
    """A worker's stores, and what it gives others. All in one directory have one CA."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.credentials = TestCa(root.parent / "ca").credentials(root, root.name)
        self.blobs = BlobStore(root, durable=False)
        self.trees = Trees(root, self.blobs)
        self.peers = Peers(self.blobs, self.credentials)
        self.progress: list[Progress] = []
        self.report: InstallReport | None = None
        self.error: CorpsError | None = None
        self._thread: threading.Thread | None = None

    def install(self, digest: Digest, dial: Dial, transfer: Transfer = Transfer()) -> InstallReport:  # noqa: B008 - frozen
        return install(
            digest,
            dial,
            self.blobs,
            self.trees,
            self.progress.append,
            transfer=transfer,
            peers=self.peers,
        )

    def start(self, digest: Digest, dial: Dial) -> None:
        """Install in a thread."""

        def run() -> None:
            try:
                self.report = self.install(digest, dial)
            except CorpsError as error:
                self.error = error

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def join(self) -> InstallReport:
        assert self._thread is not None
        self._thread.join()
        assert self.report is not None, self.error
        return self.report

    def file(self, digest: Digest, path: str) -> bytes:
        return (self.root / "trees" / digest / path).read_bytes()

    def serve(self, artifact: Digest) -> Member:
        """Be ready for peers that want it; where they find it."""
        port = self.peers.listen("127.0.0.1", socket.AF_INET)
        return Member(f"127.0.0.1:{port}", self.peers.key(artifact))

    def dial(self, member: Member) -> socket.socket:
        """A connection to a peer, as this worker."""
        return self.peers.reach(parse_address(member.address), DIAL_S)

    def close(self) -> None:
        self.peers.close()
        if self._thread is not None:
            self._thread.join()


class Told(Shelf):
    """A master's shelf that knows some members from the beginning."""

    def __init__(self, blobs: BlobStore) -> None:
        super().__init__(blobs)
        self.members: list[Member] = []

    def seek(self, question: Seek, host: str) -> tuple[Member, ...]:
        return (*self.members, *super().seek(question, host))


@contextmanager
def a_master(store: BlobStore) -> Iterator[tuple[Dial, Told]]:
    """Blobs and units of `store`, as a master gives them out."""
    listening = socket.create_server(("127.0.0.1", 0))
    address = listening.getsockname()
    shelf = Told(store)
    serves = {
        BULK_PREFACE: functools.partial(serve_bulk, store=store, may_put=False),
        SWARM_PREFACE: functools.partial(serve_swarm, shelf=shelf),
    }
    listener = Listener(listening, serves)
    try:
        yield lambda: socket.create_connection(address), shelf
    finally:
        listener.close()


def ask(asker: Machine, member: Member, artifact: Digest, store: BlobStore) -> tuple[Units, bytes]:
    """What a peer says that it has, and its unit 0."""
    units = share_of(artifact, store).units
    with SwarmClient(asker.dial(member), artifact, units, member.key) as client:
        have = client.look(0, 0.0, 0, "")
        return have, client.take(0, lambda _: None)[0]


__all__ = ["Machine", "Share", "a_master", "ask", "load_manifest"]
