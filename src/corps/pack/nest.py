"""A directory of our own into which an archive is unpacked, whatever its entries say.

Every path is checked before anything is made, links are made last, so nothing is ever written
through one; modes are ours, a setuid bit of a stranger never reaches the disk.
"""

from __future__ import annotations

import os
import posixpath
from collections.abc import Iterable
from pathlib import Path

from corps.errors import Invalid, Unavailable
from corps.model.artifact import BLOB_MAX_BYTES, FILES_MAX, LinkEntry, check_link, check_path

UNPACKED_MAX_BYTES = 64 << 30
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_ZEROS = bytes(1 << 20)


class Nest:
    """`root` is new and nobody else's; `archive` is for what is said of it."""

    def __init__(self, root: Path, archive: Path) -> None:
        self._root, self._archive = root, archive
        self._files: set[str] = set()
        self._links: dict[str, str] = {}
        self._directories: set[str] = set()
        self._size_bytes = 0
        self.modes: dict[str, int] = {}

    def add_directory(self, name: str) -> None:
        """Also one that is there already."""
        path = self._check(name)
        if path:
            self._make_way(f"{path}/")

    def add_file(self, name: str, mode: int, size_bytes: int, chunks: Iterable[bytes]) -> None:
        path = self._claim(name)
        self._check_size(path, size_bytes)
        self._files.add(path)
        self.modes[path] = mode
        try:
            fd = os.open(self._root / path, _NEW_FILE, 0o600)
            try:
                for chunk in chunks:
                    _write(fd, chunk)
                os.ftruncate(fd, size_bytes)
                os.fchmod(fd, 0o700 if mode & 0o111 else 0o600)
            finally:
                os.close(fd)
        except OSError as error:
            raise self._full(path, error) from error

    def add_link(self, name: str, target: str) -> None:
        path = self._claim(name)
        try:
            check_link(LinkEntry(path=path, target=target))
        except Invalid as error:
            raise self._refusal(error.message) from None
        self._links[path] = target

    def add_hard_link(self, name: str, target: str) -> None:
        """To a file that came before it."""
        source = self._check(target)
        if source not in self._files:
            raise self._refusal(
                f"{name[:80]!r} is a hard link to {target[:80]!r}, which is no file before it"
            )
        path = self._claim(name)
        self._files.add(path)
        self.modes[path] = self.modes[source]
        try:
            os.link(self._root / source, self._root / path, follow_symlinks=False)
        except OSError as error:
            raise self._full(path, error) from error

    def refuse(self, name: str, what: str) -> Invalid:
        return self._refusal(f"{name[:80]!r} is {what}: only files, directories and links travel")

    def finish(self) -> None:
        """The links, once nothing is written any more."""
        for path, target in self._links.items():
            try:
                os.symlink(target, self._root / path)
            except OSError as error:
                raise self._full(path, error) from error

    # ---- what may be added

    def _check(self, name: str) -> str:
        """Without the `./` that tar puts in front and the `/` behind directories."""
        path = name
        while path.startswith("./"):
            path = path[2:]
        path = path.rstrip("/") if path.strip("/") else path
        if path in ("", "."):
            return ""
        try:
            return check_path(path)
        except Invalid as error:
            raise self._refusal(error.message) from None

    def _claim(self, name: str) -> str:
        path = self._check(name)
        if not path or name.endswith("/"):
            raise self._refusal(f"bad path {name[:80]!r} of a file")
        if path in self._files or path in self._links or path in self._directories:
            raise self._refusal(f"{path[:80]!r} is in it twice")
        if len(self._files) + len(self._links) >= FILES_MAX:
            raise self._refusal(f"it has more than {FILES_MAX} files")
        self._make_way(path)
        return path

    def _make_way(self, path: str) -> None:
        """The directories above `path`."""
        new: list[str] = []
        above = posixpath.dirname(path)
        while above and above not in self._directories:
            if above in self._files or above in self._links:
                raise self._refusal(f"{path[:80]!r} lies below {above[:80]!r}, no directory")
            new.append(above)
            above = posixpath.dirname(above)
        if len(self._directories) + len(new) > FILES_MAX:
            raise self._refusal(f"it has more than {FILES_MAX} directories")
        self._directories.update(new)
        try:
            for directory in reversed(new):
                os.mkdir(self._root / directory, 0o700)
        except OSError as error:
            raise self._full(path, error) from error

    def _check_size(self, path: str, size_bytes: int) -> None:
        self._size_bytes += size_bytes
        if not 0 <= size_bytes <= BLOB_MAX_BYTES:
            raise self._refusal(f"{path[:80]!r} has {size_bytes} bytes: at most {BLOB_MAX_BYTES}")
        if self._size_bytes > UNPACKED_MAX_BYTES:
            raise self._refusal(f"it has more than {UNPACKED_MAX_BYTES} bytes unpacked")

    def _full(self, path: str, error: OSError) -> Unavailable:
        return Unavailable(
            f"cannot unpack {path[:80]!r} of '{self._archive}' in '{self._root}': "
            f"{(error.strerror or str(error)).lower()}; name a directory with room in TMPDIR",
            errno=error.errno or 0,
        )

    def _refusal(self, why: str) -> Invalid:
        return Invalid(f"'{self._archive}' is not unpacked: {why}", field="path")


def _write(fd: int, chunk: bytes) -> None:
    """Zeros become holes."""
    if chunk == _ZEROS[: len(chunk)]:
        os.lseek(fd, len(chunk), os.SEEK_CUR)
        return
    rest = memoryview(chunk)
    while rest:
        rest = rest[os.write(fd, rest) :]
