"""Bring an artifact to this worker: its manifest, the blobs that are missing, the tree.

Blocking, for a thread of the worker daemon; it may be repeated at any time and goes on where it
broke off.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from typing import TypeAlias

import msgspec

from corps.errors import Invalid, NotFound, TimedOut, Unavailable
from corps.model.artifact import BLOB_MAX_BYTES, MANIFEST_MAX_BYTES, Manifest, Transfer
from corps.model.name import Digest, check_digest
from corps.net.bulk_client import BulkClient, Dial
from corps.net.incoming import Asking, OnArrived, ignore_arrived
from corps.store.blobs import BlobStore
from corps.store.trees import Trees
from corps.wire.bulk import Encoding
from corps.wire.worker import Progress
from corps.worker.bases import find_bases
from corps.worker.gather import Wants, gather
from corps.worker.peers import Peers
from corps.worker.room import lack_of_room

BREAKS_MAX = 5
ENCODINGS = (Encoding.ZSTD, Encoding.PATCH)
TRANSFER = Transfer()
ALIKE_WORKERS_MIN = 4  # so many differences from one master take longer than a swarm

OnProgress: TypeAlias = Callable[[Progress], None]
Require: TypeAlias = Callable[[Digest, Manifest], None]

_log = logging.getLogger("corps.worker")


class InstallReport(msgspec.Struct, frozen=True, kw_only=True):
    """`*_sent`: what travelled now, each distinct file once; `*_total`: the manifest's files."""

    bytes_sent: int
    bytes_from_peers: int = 0
    bytes_total: int
    files_sent: int
    files_total: int


def anyhow(_digest: Digest, _manifest: Manifest) -> None:
    """Whatever the machine could make of it."""


def install(  # noqa: PLR0913 - how it travels has a default
    digest: Digest,
    dial: Dial,
    blobs: BlobStore,
    trees: Trees,
    on_progress: OnProgress,
    require: Require = anyhow,
    *,
    transfer: Transfer = TRANSFER,
    peers: Peers | None = None,
) -> InstallReport:
    """Make the artifact whole here, also from `peers`. `on_progress` is called often.

    `require` raises when it cannot run here: then nothing of it is fetched but its manifest.
    """
    if trees.is_installed(check_digest(digest)):
        return _report(trees.manifest(digest), 0, 0)
    with BulkClient(dial, artifact=digest) as client:
        if not blobs.has(digest):
            asking = Asking(encodings=ENCODINGS, rate_bytes_s=transfer.rate_bytes_s)
            _fetch(client, blobs, (digest,), ignore_arrived, asking, MANIFEST_MAX_BYTES)
        manifest = _manifest(digest, blobs, trees)
        require(digest, manifest)
        with trees.keeping(digest, manifest):
            missing = blobs.missing(entry.digest for entry in manifest.files)
            tally = _Tally(digest, manifest, missing, on_progress)
            _check_room(digest, manifest, blobs, trees)
            if missing:
                asking = Asking(
                    ENCODINGS, find_bases(manifest, missing, trees), transfer.rate_bytes_s
                )
                if transfer.workers < ALIKE_WORKERS_MIN:
                    _fetch(client, blobs, asking.bases, tally.on_arrived, asking)
                if transfer.swarm and transfer.workers != 1 and peers is not None:
                    client.close()  # a master has only so many connections
                    ears = (tally.on_wire, tally.on_done)
                    gather(
                        Wants(digest, dial, peers, *ears, transfer.rate_bytes_s), manifest, blobs
                    )
                _fetch(client, blobs, missing, tally.on_arrived, asking)
                tally.on_done(tally.total_bytes)
            trees.build(digest)
    report = _report(manifest, tally.sent_bytes, len(missing))
    return msgspec.structs.replace(report, bytes_from_peers=tally.peers_bytes)


class _Tally:
    """What travelled, and how much is here."""

    def __init__(
        self,
        digest: Digest,
        manifest: Manifest,
        missing: tuple[Digest, ...],
        on_progress: OnProgress,
    ) -> None:
        self.total_bytes = _report(manifest, 0, 0).bytes_total
        self.sent_bytes = self.peers_bytes = 0
        self._done_bytes = self.total_bytes - _size_bytes(manifest, missing)
        self._digest, self._on_progress = digest, on_progress

    def on_arrived(self, wire_bytes: int, count: int) -> None:
        self.sent_bytes += wire_bytes
        self.on_done(count)

    def on_wire(self, count: int, is_peer: bool) -> None:
        self.sent_bytes += count
        self.peers_bytes += count if is_peer else 0
        self.on_done(0)

    def on_done(self, count: int) -> None:
        self._done_bytes = min(self._done_bytes + count, self.total_bytes)
        self._on_progress(
            Progress(
                digest=self._digest,
                bytes_sent=self.sent_bytes,
                bytes_total=self.total_bytes,
                bytes_done=self._done_bytes,
                bytes_from_peers=self.peers_bytes,
            )
        )


def _manifest(digest: Digest, blobs: BlobStore, trees: Trees) -> Manifest:
    """Checked again here: a worker trusts no one with its paths."""
    try:
        return trees.manifest(digest)
    except Invalid:
        blobs.remove(digest)
        raise


def _fetch(
    client: BulkClient,
    blobs: BlobStore,
    digests: Iterable[Digest],
    on_arrived: OnArrived,
    asking: Asking,
    limit_bytes: int = BLOB_MAX_BYTES,
) -> None:
    """Go on after a broken connection, as long as something arrives in between; and without bases
    when they were not what they should be: damaged on this disk, or removed meanwhile."""
    wanted = blobs.missing(digests)
    if not wanted:
        return
    breaks_left = BREAKS_MAX
    arrived_bytes = 0

    def counted(wire_bytes: int, count: int) -> None:
        nonlocal arrived_bytes
        arrived_bytes += wire_bytes
        on_arrived(wire_bytes, count)

    while True:
        arrived_bytes = 0
        breaks = client.break_count
        try:
            client.fetch_all(blobs.missing(wanted), blobs, counted, limit_bytes, asking)
            return
        except (Unavailable, TimedOut):
            breaks_left -= 1
            if client.break_count == breaks or not arrived_bytes or not breaks_left:
                raise
        except (Invalid, NotFound) as error:
            if not asking.bases:
                raise
            _log.warning("%s; all of it is fetched without what is here", error.message)
            asking = asking._replace(bases={})


def _check_room(digest: Digest, manifest: Manifest, store: BlobStore, trees: Trees) -> None:
    """Before anything travels."""
    sizes = {entry.digest: entry.size_bytes for entry in manifest.files}
    if lack := lack_of_room(sizes, store, trees):
        raise Unavailable(
            f"no room for artifact {digest!r}: it needs {lack.needed_bytes} bytes, but "
            f"{lack.free_bytes} are free in '{store.root}'; delete artifacts or free space there, "
            "then copy again",
            needed_bytes=lack.needed_bytes,
            free_bytes=lack.free_bytes,
        )


def _size_bytes(manifest: Manifest, digests: tuple[Digest, ...]) -> int:
    """Of all files with these contents."""
    wanted = frozenset(digests)
    return sum(entry.size_bytes for entry in manifest.files if entry.digest in wanted)


def _report(manifest: Manifest, bytes_sent: int, files_sent: int) -> InstallReport:
    return InstallReport(
        bytes_sent=bytes_sent,
        bytes_total=sum(entry.size_bytes for entry in manifest.files),
        files_sent=files_sent,
        files_total=len(manifest.files),
    )
