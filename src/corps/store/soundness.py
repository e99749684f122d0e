"""Which trees may be executed: those whose every byte was verified since this daemon began.

    unknown --repair: nothing found--> trusted --(looks otherwise at a glance)--> unknown
       |  ^                                                  or a blob of any tree was damaged
       |  +------ all came from here
       +--repair: something must be fetched--> doubted, as if not installed --build--> unknown

A boot begins with a new daemon, so what is executed first in a boot was read whole in that boot.
"""

from __future__ import annotations

import os

from corps.errors import Invalid, NotFound
from corps.model.artifact import FileKind
from corps.model.finding import Drift, Finding
from corps.model.name import Digest
from corps.store.blobs import BlobStore
from corps.store.disk import disk_failure
from corps.store.quarantine import Quarantine
from corps.store.trees import Trees
from corps.store.verify import Examined, examine

GLANCE_FILES_MAX = 100


class Soundness:
    """Of the trees of one worker. For any thread; what it does to one tree, one at a time."""

    def __init__(self, trees: Trees, blobs: BlobStore) -> None:
        self._trees, self._blobs = trees, blobs
        self._quarantine = Quarantine(blobs.root)
        self._glances: dict[Digest, tuple[tuple[str, ...], int]] = {}

    def is_trusted(self, digest: Digest) -> bool:
        """It was verified, and inode, size, time and mode of its first files are what they were
        then: GLANCE_FILES_MAX of them, programs and libraries before data."""
        paths, seen = self._glances.get(digest, ((), 0))
        return bool(paths) and self._trees.is_installed(digest) and _glance(paths) == seen

    def trust(self, digest: Digest) -> None:
        """Every byte of it was verified just now."""
        entries = sorted(
            self._trees.manifest(digest).files, key=lambda entry: entry.kind is FileKind.DATA
        )
        tree = self._trees.path(digest)
        paths = tuple(f"{tree}/{entry.path}" for entry in entries[:GLANCE_FILES_MAX])
        self._glances[digest] = (paths, _glance(paths))

    def forget(self, digest: Digest) -> None:
        """Have it verified before it is executed again."""
        self._glances.pop(digest, None)

    def verify(self, digest: Digest) -> tuple[Finding, ...]:
        """Read all of a tree that stands, change nothing, and say what is wrong with it."""
        examined = self._examine(digest)
        return examined.findings if isinstance(examined, Examined) else (examined,)

    def repair(self, digest: Digest) -> tuple[Finding, ...]:
        """Verify; what is damaged goes into quarantine; what is wrong is righted from what is here.

        If that is not enough the tree counts as not installed: fetch what is missing, and build.
        What nobody copied stays where it is.
        """
        examined = self._examine(digest)
        self.forget(digest)
        if isinstance(examined, Finding):
            self._trees.doubt(digest)
            if self._blobs.has(digest):
                self._quarantine.take(str(self._blobs.path(digest)), digest)
            return (examined,)
        self._right(digest, examined)
        return examined.findings

    def _examine(self, digest: Digest) -> Examined | Finding:
        """A finding when the manifest itself is no use."""
        try:
            manifest = self._trees.manifest(digest)
        except NotFound:
            return Finding(drift=Drift.MISSING, path="", text="its manifest is missing")
        except Invalid:
            return Finding(drift=Drift.DAMAGED, path="", text="its manifest is damaged on disk")
        tree = self._trees.path(digest)
        try:
            return examine(tree, manifest, lambda blob: str(self._blobs.path(blob)))
        except OSError as error:
            raise disk_failure(error, f"cannot verify artifact {digest!r}", self._blobs.root) from (
                error
            )

    def _right(self, digest: Digest, examined: Examined) -> None:
        tree = self._trees.path(digest)
        for blob in examined.damaged:
            self._glances.clear()  # other trees may have the same inode
            self._quarantine.take(str(self._blobs.path(blob)), blob)
            self._blobs.remove(blob)  # with what was derived from it
        for entry in examined.saved:
            self._save(f"{tree}/{entry.path}", entry.digest)
        here = [entry for entry in examined.files if self._blobs.has(entry.digest)]
        for entry in here:
            if entry.digest not in examined.damaged:
                self._quarantine.keep(f"{tree}/{entry.path}", entry.digest)
        self._trees.place_again(digest, (*here, *examined.links))
        if len(here) < len(examined.files):
            self._trees.doubt(digest)

    def _save(self, place: str, blob: Digest) -> None:
        temp = f"{self._blobs.root}/tmp/{blob}.saved.tmp"
        try:
            os.link(place, temp, follow_symlinks=False)
        except OSError as error:
            raise disk_failure(error, f"cannot save {place!r}", self._blobs.root) from error
        self._blobs.place(temp, blob)


def _glance(paths: tuple[str, ...]) -> int:
    """The time of change is left out: another tree's link to the same file sets it."""
    seen = []
    for path in paths:
        try:
            status = os.lstat(path)
        except OSError:
            return 0
        seen.append((status.st_ino, status.st_size, status.st_mtime_ns, status.st_mode))
    return hash(tuple(seen)) or 1
