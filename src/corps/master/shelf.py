"""The master's blobs and who needs them: none is removed that a copy rests on, accepted or not.

A copy is held, looks for its blobs, and becomes a record; a removal looks for what is held and
for records, then removes blobs. Each looks and acts under the lock of uploads, which hold what they
count on as well. Blobs of a deleted version go at once; those of an upload that broke off stay, so
that they need not be sent again, until one has no room or somebody collects what is left.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
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
    """Of one master. For its event loop; what blocks runs in threads."""

    def __init__(self, driver: MasterDriver, blobs: BlobStore) -> None:
        self._driver, self._blobs = driver, blobs
        self._quarantine = Quarantine(blobs.root)
        self._lock = asyncio.Lock()
        self._held: Counter[Digest] = Counter()
        self._tasks: set[asyncio.Task[None]] = set()
        self.intake = Intake(blobs, self._make_room)

    @contextlib.asynccontextmanager
    async def held(self, command: AnyCommand) -> AsyncIterator[ArtifactFacts | None]:
        """What a Copy rests on, which stays while it is submitted. Raise Conflict."""
        if not isinstance(command, Copy):
            yield None
            return
        self._held[command.digest] += 1
        try:
            yield await asyncio.to_thread(self._facts, command)
        finally:
            self._held[command.digest] -= 1
            self._held += Counter()  # without those that are 0

    def dropped(self, artifact: Artifact) -> None:
        """Its record is gone: so is, soon, what no other needs."""
        task = asyncio.get_running_loop().create_task(self._remove(artifact.digest))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def contents(self) -> dict[Digest, dict[Digest, int]]:
        """The size of each blob of each version, its manifest among them. Raise Unavailable when
        one cannot be read: then nobody knows what it needs."""
        return await asyncio.to_thread(_contents, self._blobs, self._needed())

    async def orphans(self, *, remove: bool) -> tuple[int, int]:
        """How many old blobs no version names, and their bytes."""
        async with self._lock:
            return await asyncio.to_thread(self._orphans, ORPHAN_AGE_S, remove=remove)

    async def examine(self, digest: Digest) -> tuple[Finding, ...]:
        """Read every blob of a version, and say what is wrong."""
        return await asyncio.to_thread(_examine, self._blobs, digest)

    async def quarantine(self, digest: Digest) -> int:
        """Put away what is damaged, so that the next copy uploads it; how many blobs."""
        return await asyncio.to_thread(self._put_away, digest)

    def _needed(self) -> list[Digest]:
        records = self._driver.core.cluster.artifacts.values()
        return list(dict.fromkeys([*(record.digest for record in records), *self._held]))

    async def _remove(self, digest: Digest) -> None:
        async with self._lock:
            try:
                await asyncio.to_thread(self._remove_blobs, digest)
            except CorpsError as error:
                _log.error("blobs of %s stay at the master: %s", digest[:12], error.message)

    def _facts(self, command: Copy) -> ArtifactFacts:
        """The manifest and every blob it names are in the store, and stay."""
        with self.intake.removing():
            return _facts(self._blobs, command)

    def _remove_blobs(self, digest: Digest) -> None:
        with self.intake.removing() as held:
            needed = self._needed()
            if digest in needed:
                return
            mine = _contents(self._blobs, (digest,))[digest].keys()
            others = {blob for sizes in _contents(self._blobs, needed).values() for blob in sizes}
            for blob in sorted(mine - others - held):
                self._blobs.remove(blob)

    def _make_room(self) -> None:
        """For an upload, in its thread."""
        try:
            self._orphans(0.0, remove=True)
        except CorpsError as error:
            _log.error("blobs that nobody needs stay at the master: %s", error.message)

    def _orphans(self, age_s: float, *, remove: bool) -> tuple[int, int]:
        count = size_bytes = 0
        oldest = Clock()() - age_s
        with self.intake.removing() as held:
            contents = _contents(self._blobs, self._needed())
            named = {blob for sizes in contents.values() for blob in sizes} | held
            for blob in self._blobs.digests():
                if blob in named or self._blobs.path(blob).stat().st_mtime > oldest:
                    continue
                count, size_bytes = count + 1, size_bytes + self._blobs.size_bytes(blob)
                if remove:
                    self._blobs.remove(blob)
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
