"""Files that are not what their digest says, kept for whoever wants to know what became of them.

root/quarantine/<digest>    the last one that was found as that blob, or in its place
"""

from __future__ import annotations

import os
import stat
from pathlib import Path

from corps.model.name import Digest, check_digest
from corps.store.directory import remove
from corps.store.disk import disk_failure, make_directory

KEPT_MAX = 20
KEPT_MAX_BYTES = 256 << 20


class Quarantine:
    """Evidence has a limit: the oldest goes, and what is larger than all of it is not kept."""

    def __init__(self, root: Path) -> None:
        self.path = root / "quarantine"

    def take(self, path: str, digest: Digest) -> None:
        """Move what is at `path` here. A process that has it open or mapped keeps it."""
        check_digest(digest)
        try:
            os.rename(path, self._room(digest))
            self._trim()
        except OSError as error:
            raise disk_failure(error, f"cannot quarantine {path!r}", self.path) from error

    def keep(self, path: str, digest: Digest) -> None:
        """As `take`, of what is about to be replaced: a file stays where it is until then."""
        check_digest(digest)
        try:
            status = os.lstat(path)
            if not stat.S_ISREG(status.st_mode):
                os.rename(path, self._room(digest))
            elif status.st_size <= KEPT_MAX_BYTES:
                os.link(path, self._room(digest), follow_symlinks=False)
            self._trim()
        except FileNotFoundError:
            return
        except OSError as error:
            raise disk_failure(error, f"cannot quarantine {path!r}", self.path) from error

    def size_bytes(self) -> int:
        if not self.path.exists():
            return 0
        return sum(path.lstat().st_size for path in self.path.iterdir())

    def _room(self, digest: Digest) -> Path:
        if not self.path.exists():
            make_directory(self.path, 0o700)
        target = self.path / digest
        remove(target)
        return target

    def _trim(self) -> None:
        if not self.path.exists():
            return
        kept = [(path.lstat().st_ctime_ns, path) for path in self.path.iterdir()]
        left_bytes = KEPT_MAX_BYTES
        for number, (_, path) in enumerate(sorted(kept, reverse=True)):
            left_bytes -= path.lstat().st_size
            if number >= KEPT_MAX or left_bytes < 0:
                remove(path)
