"""The master's blobs and who needs them: none is removed that a copy rests on, accepted or not.

A copy looks for its blobs, then becomes a record; a removal looks for records, then removes blobs.
Each does its first two under one lock, and a copy is held from there until it is a record. What an
upload has asked about or sent its `Intake` holds. Blobs that nobody names any more go at once with
a deleted version; those of a broken upload stay, so that they need not be sent again, until another
one has no room, or until they are old and garbage is collected.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import Counter
from collections.abc import AsyncIterator, Iterable

from corps.clock import Clock
from corps.core.events import ArtifactFacts
from corps.errors import Conflict, CorpsError, Invalid, NotFound, Unavailable
from corps.master.driver import MasterDriver
from corps.model.artifact import MANIFEST_MAX_BYTES, Artifact, Manifest, decode_manifest
from corps.model.command import AnyCommand, Copy
from corps.model.finding import Drift, Finding
from corps.model.name import Digest
from corps.net.intake import Intake
from corps.store.blobs import BlobStore
from corps.store.quarantine import Quarantine
from corps.store.verify import content

ORPHAN_AGE_S = 86_400.0  # an upload takes less, and its copy follows at once

_log = logging.getLogger("corps.master")


class Shelf:
    """Of one master. `intake` is where uploads come in; it makes room by what nobody needs."""

    def __init__(self, driver: MasterDriver, blobs: BlobStore) -> None:
        self._driver, self._blobs = driver, blobs
        self._quarantine = Quarantine(blobs.root)
        self.intake = Intake(blobs, self._make_room)
        self._lock = threading.Lock()  # between what looks for blobs and what removes some
        self._count_lock = threading.Lock()
        self._held: Counter[Digest] = Counter()  # manifests of copies that are no records yet

    @contextlib.asynccontextmanager
    async def held(self, command: AnyCommand) -> AsyncIterator[ArtifactFacts | None]:
        """What a Copy rests on, which stays while it is submitted. Raise Conflict."""
        if not isinstance(command, Copy):
            yield None
            return
        self._count(command.digest, 1)  # first: whoever asks may hang up while we look
        try:
            yield await asyncio.to_thread(self._look, command)
        finally:
            self._count(command.digest, -1)

    def dropped(self, artifact: Artifact) -> None:
        """Its record is gone: so is, soon, what no other needs."""
        asyncio.get_running_loop().run_in_executor(None, self._remove, artifact.digest)

    async def contents(self) -> dict[Digest, dict[Digest, int]]:
        """The size of each blob of each version, its manifest among them. Raise Unavailable when
        one cannot be read: then nobody knows what it needs."""
        return await asyncio.to_thread(lambda: _contents(self._blobs, self._needed()))

    async def orphans(self, *, remove: bool) -> tuple[int, int]:
        """How many old blobs nobody needs, and their bytes."""
        return await asyncio.to_thread(self._orphans, remove, Clock()() - ORPHAN_AGE_S)

    async def examine(self, digest: Digest) -> tuple[Finding, ...]:
        """Read every blob of a version, and say what is wrong."""
        return await asyncio.to_thread(_examine, self._blobs, digest)

    async def quarantine(self, digest: Digest) -> int:
        """Put away what is damaged, so that the next copy uploads it; how many blobs."""
        return await asyncio.to_thread(self._put_away, digest)

    def _look(self, command: Copy) -> ArtifactFacts:
        with self._lock:
            return _facts(self._blobs, command)

    def _count(self, digest: Digest, change: int) -> None:
        """Under a lock that nobody keeps: the event loop takes it as well."""
        with self._count_lock:
            self._held[digest] += change
            if not self._held[digest]:
                del self._held[digest]

    def _needed(self) -> list[Digest]:
        """In this order: a copy becomes a record before it is not held any more."""
        with self._count_lock:
            held = [digest for digest in self._held if self._blobs.has(digest)]
        records = list(self._driver.core.cluster.artifacts.values())
        return list(dict.fromkeys([*held, *(record.digest for record in records)]))

    def _remove(self, digest: Digest) -> None:
        """Exactly what it alone needed. Blocking."""
        try:
            with self._lock, self.intake.removing() as arriving:
                needed = self._needed()
                if digest in needed:
                    return
                mine = set(_contents(self._blobs, (digest,))[digest])
                mine -= arriving
                for blob in sorted(mine - _named(self._blobs, needed)):
                    self._blobs.remove(blob)
        except CorpsError as error:
            _log.error("blobs of %s stay at the master: %s", digest[:12], error.message)

    def _make_room(self) -> None:
        try:
            self._orphans(True, None)
        except CorpsError as error:
            _log.error("blobs that nobody needs stay at the master: %s", error.message)

    def _orphans(self, remove: bool, before: float | None) -> tuple[int, int]:
        """Those that came before that time, or all, and what broke off. Blocking."""
        count = size_bytes = 0
        with self._lock, self.intake.removing() as arriving:
            named = _named(self._blobs, self._needed())
            for blob in self._blobs.digests():
                if blob in named or blob in arriving:
                    continue
                status = self._blobs.path(blob).stat()
                if before is not None and status.st_mtime > before:
                    continue
                count, size_bytes = count + 1, size_bytes + status.st_size
                if remove:
                    self._blobs.remove(blob)
            for part, status in self._blobs.parts().items():
                if part in arriving or (before is not None and status.st_mtime > before):
                    continue
                count, size_bytes = count + 1, size_bytes + status.st_size
                if remove:
                    self._blobs.remove_part(part)
        return count, size_bytes

    def _put_away(self, digest: Digest) -> int:
        count = 0
        for blob in _blobs_of(self._blobs, digest):
            path = str(self._blobs.path(blob))
            if content(path) not in (None, blob):
                self._quarantine.take(path, blob)
                self._blobs.remove(blob)  # with what was derived from it
                _log.error("blob %s was damaged on disk: it is in quarantine", blob)
                count += 1
        return count


def load_manifest(blobs: BlobStore, digest: Digest) -> Manifest:
    """Blocking. Raise NotFound or Invalid."""
    return decode_manifest(blobs.read_bytes(digest, MANIFEST_MAX_BYTES))


def _facts(blobs: BlobStore, command: Copy) -> ArtifactFacts:
    """The manifest and every blob it names are in the store."""
    try:
        manifest = load_manifest(blobs, command.digest)
    except NotFound as error:
        raise Conflict(
            f"the manifest {command.digest[:12]} is not at the master: upload it first", missing=1
        ) from error
    missing = blobs.missing(file.digest for file in manifest.files)
    if missing:
        text = f"{len(missing)} files are not at the master: upload them first"
        raise Conflict(text, missing=len(missing))
    return ArtifactFacts(
        size_bytes=sum(file.size_bytes for file in manifest.files),
        file_count=len(manifest.files),
    )


def _contents(blobs: BlobStore, versions: Iterable[Digest]) -> dict[Digest, dict[Digest, int]]:
    found = {}
    for digest in versions:
        try:
            manifest = load_manifest(blobs, digest)
            sizes = {entry.digest: entry.size_bytes for entry in manifest.files}
            found[digest] = sizes | {digest: blobs.size_bytes(digest)}
        except (NotFound, Invalid) as error:
            raise Unavailable(
                f"nobody knows what {digest[:12]} needs: {error.message}; copy it again, or delete "
                "it, then repeat"
            ) from error
    return found


def _named(blobs: BlobStore, versions: Iterable[Digest]) -> set[Digest]:
    return {blob for sizes in _contents(blobs, versions).values() for blob in sizes}


def _blobs_of(blobs: BlobStore, digest: Digest) -> list[Digest]:
    """The manifest, and all that it names if it can be read."""
    try:
        return [digest, *dict.fromkeys(file.digest for file in load_manifest(blobs, digest).files)]
    except (NotFound, Invalid):
        return [digest]


def _examine(blobs: BlobStore, digest: Digest) -> tuple[Finding, ...]:
    try:
        manifest = load_manifest(blobs, digest)
    except NotFound:
        return (Finding(drift=Drift.MISSING, path="", text="its manifest is missing"),)
    except Invalid:
        return (Finding(drift=Drift.DAMAGED, path="", text="its manifest is damaged on disk"),)
    findings = []
    for blob, path in {file.digest: file.path for file in manifest.files}.items():
        there = content(str(blobs.path(blob)))
        if there is None:
            findings.append(Finding(drift=Drift.MISSING, path=path, text="missing"))
        elif there != blob:
            findings.append(Finding(drift=Drift.DAMAGED, path=path, text="damaged on disk"))
    return tuple(findings)
