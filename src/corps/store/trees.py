"""Artifacts unpacked on a worker: one directory per manifest, of hard links to blobs.

    root/trees/<digest>          whole; `digest` is the manifest's
    root/trees/.new-<digest>     being built; gone at the next start
    root/trees/.old-<digest>     being removed; the next start goes on with it

A rename makes a tree appear and disappear, so a crash leaves either nothing or a whole tree.
"""

from __future__ import annotations

import contextlib
import errno
import os
import posixpath
import re
import stat
import threading
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from corps.daemon import private
from corps.errors import Conflict, Invalid, NotFound
from corps.model.artifact import (
    MANIFEST_MAX_BYTES,
    FileEntry,
    LinkEntry,
    Manifest,
    decode_manifest,
)
from corps.model.name import Digest, check_digest
from corps.model.spelling import on_disk
from corps.store.blobs import BlobStore, disk_failure, make_directory, sync_directory
from corps.store.directory import DIRECTORY_MODE, opened, remove_directory
from corps.store.verify import file_mode

COPY_BYTES = 1 << 30
NEW, OLD, AGAIN = ".new-", ".old-", ".again-"
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")
_DIGEST = re.compile("[0-9a-f]{64}")
_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NEW_FILE = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
_NO_HARD_LINK = (errno.EMLINK, errno.EXDEV, errno.EPERM, errno.EOPNOTSUPP)


class LaunchPaths(NamedTuple):
    """What a launch needs of a tree. `library_path` is for LD_LIBRARY_PATH; empty: none."""

    entry_path: str
    library_path: str


class Trees:
    """`root` is the state directory that `blobs` has too; all blobs there belong to trees."""

    def __init__(self, root: Path, blobs: BlobStore) -> None:
        self._root = root / "trees"
        self._blobs = blobs
        self._lock = threading.RLock()
        self._launch_paths: dict[Digest, LaunchPaths] = {}
        self._runners: dict[Digest, tuple[str, ...]] = {}
        self._kept: list[tuple[Digest, Manifest]] = []
        self._doubted: dict[Digest, None] = {}  # they stand, and lack what must be fetched
        make_directory(self._root, DIRECTORY_MODE)
        self._finish_interrupted()
        if not blobs.durable:
            self._look_again_after_boot(root / "boot_id")

    def installed(self) -> tuple[Digest, ...]:
        """The digests of all whole trees, sorted, as the disk says."""
        try:
            names = os.listdir(self._root)
        except OSError as error:
            raise disk_failure(error, "cannot list the trees", self._root) from error
        return tuple(sorted(name for name in names if self._is_whole(name)))

    def path(self, digest: Digest) -> str:
        """Where the tree is, or would be."""
        return f"{self._root.absolute()}/{check_digest(digest)}"

    def stands(self, digest: Digest) -> bool:
        """Its directory is there, whatever is in it, or is not."""
        return os.path.isdir(self.path(digest))

    def newest(self, limit: int) -> tuple[Digest, ...]:
        """Of all whole trees those that were built last, the newest first."""
        built_at = {}
        for digest in self.installed():
            with contextlib.suppress(FileNotFoundError):
                built_at[digest] = os.stat(self._root / digest).st_ctime_ns
        return tuple(sorted(built_at, key=lambda digest: -built_at[digest])[:limit])

    def is_installed(self, digest: Digest) -> bool:
        return self._is_whole(check_digest(digest))

    def manifest(self, digest: Digest) -> Manifest:
        """Raise NotFound, or Invalid when its bytes are no manifest."""
        return decode_manifest(self._blobs.read_bytes(digest, MANIFEST_MAX_BYTES))

    def launch_paths(self, digest: Digest) -> LaunchPaths:
        """Raise NotFound unless the tree is whole."""
        if not self.is_installed(digest):
            raise NotFound(f"no artifact {digest!r} on this worker; copy it again", digest=digest)
        known = self._launch_paths.get(digest)
        if known is None:
            manifest = self.manifest(digest)
            tree = f"{self._root.absolute()}/{digest}"
            known = self._launch_paths[digest] = LaunchPaths(
                entry_path=f"{tree}/{manifest.entry}",
                library_path=":".join(f"{tree}/{name}" for name in manifest.library_dirs),
            )
            self._runners[digest] = manifest.runner
        return known

    def runner(self, digest: Digest) -> tuple[str, ...]:
        """What the entry is given to; empty: it is executed itself. Raise NotFound as above."""
        self.launch_paths(digest)
        return self._runners[digest]

    @contextlib.contextmanager
    def keeping(self, digest: Digest, manifest: Manifest) -> Iterator[None]:
        """While its blobs arrive, nobody removes the ones that are here already."""
        with self._lock:
            self._kept.append((digest, manifest))
        try:
            yield
        finally:
            with self._lock:
                self._kept.remove((digest, manifest))

    def build(self, digest: Digest) -> None:
        """Unpack the manifest; all its blobs are here. A tree that is whole already stays.

        Raise NotFound for a missing blob, Invalid when a blob is not what the manifest says.
        """
        with self._lock:
            if self.is_installed(digest):
                return
            manifest = self.manifest(digest)
            if self.stands(digest):
                self.place_again(digest, (*manifest.files, *manifest.links))
                self._doubted.pop(digest, None)
                return
            new = self._root / f"{NEW}{digest}"
            try:
                self._fill(new, manifest)
                os.rename(new, self._root / digest)
                if self._blobs.durable:
                    sync_directory(self._root)
            except OSError as error:
                raise disk_failure(error, f"cannot unpack artifact {digest!r}", new) from error
            finally:
                remove_directory(new)

    def doubt(self, digest: Digest) -> None:
        """Something of it must be fetched: it counts as not installed until it is built again."""
        with self._lock:
            self._doubted[digest] = None

    def place_again(self, digest: Digest, entries: Iterable[FileEntry | LinkEntry]) -> None:
        """Replace files of a tree that stands, one by one: what runs there always finds them."""
        with self._lock:
            try:
                self._replace(self._root / digest, entries, self.manifest(digest))
            except OSError as error:
                tree = self._root / digest
                raise disk_failure(error, f"cannot repair artifact {digest!r}", tree) from error

    def remove(self, digest: Digest) -> None:
        """Remove the tree, and exactly the blobs nothing else needs. None there is fine."""
        check_digest(digest)
        with self._lock:
            if any(kept == digest for kept, _ in self._kept):
                raise Conflict(f"artifact {digest!r} is being copied here; repeat when it is done")
            self._launch_paths.pop(digest, None)
            self._doubted.pop(digest, None)
            old = self._root / f"{OLD}{digest}"
            try:
                remove_directory(old)
                with contextlib.suppress(FileNotFoundError):
                    os.rename(self._root / digest, old)
                self._finish_removal(digest, old)
            except OSError as error:
                raise disk_failure(error, f"cannot remove artifact {digest!r}", old) from error

    def collect(self) -> int:
        """Remove the blobs that neither a tree nor an install needs; the bytes that made free."""
        with self._lock:
            needed = self._needed()
            freed_bytes = 0
            for digest in self._blobs.digests():
                if digest not in needed:
                    freed_bytes += self._blobs.size_bytes(digest)
                    self._blobs.remove(digest)
            return freed_bytes

    def _is_whole(self, name: str) -> bool:
        return (
            _DIGEST.fullmatch(name) is not None
            and name not in self._doubted
            and os.path.isdir(f"{self._root}/{name}")
            and self._blobs.has(name)
        )

    # ---- building

    def _fill(self, new: Path, manifest: Manifest) -> None:
        """The manifest is checked; still no path is followed: each is walked, links come last."""
        remove_directory(new)
        new.mkdir(mode=0o700)
        root_fd = os.open(new, _DIRECTORY)
        try:
            for directory, entries in _by_directory(manifest.files):
                with opened(root_fd, directory) as fd:
                    for entry in entries:
                        self._place(entry, fd)
                    self._sync(fd)
            for directory, links in _by_directory(manifest.links):
                with opened(root_fd, directory) as fd:
                    for link in links:
                        name = posixpath.basename(on_disk(link.path))
                        os.symlink(on_disk(link.target), name, dir_fd=fd)
                    self._sync(fd)
            self._make_directories(root_fd, manifest)
            os.fchmod(root_fd, DIRECTORY_MODE)
            self._sync(root_fd)
        finally:
            os.close(root_fd)

    def _make_directories(self, root_fd: int, manifest: Manifest) -> None:
        for directory in manifest.directories:
            with opened(root_fd, on_disk(directory)) as fd:
                self._sync(fd)

    def _sync(self, fd: int) -> None:
        if self._blobs.durable:
            os.fsync(fd)

    def _replace(
        self, tree: Path, entries: Iterable[FileEntry | LinkEntry], manifest: Manifest
    ) -> None:
        root_fd = os.open(tree, _DIRECTORY)
        try:
            for entry in entries:
                directory, name = posixpath.split(on_disk(entry.path))
                with opened(root_fd, directory) as fd:
                    again = f"{AGAIN}{tree.name}"
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(again, dir_fd=fd)
                    if isinstance(entry, LinkEntry):
                        os.symlink(on_disk(entry.target), again, dir_fd=fd)
                    else:
                        self._place(entry, fd, again)
                    os.rename(again, name, src_dir_fd=fd, dst_dir_fd=fd)
                    with contextlib.suppress(FileNotFoundError):
                        os.unlink(again, dir_fd=fd)  # rename(2) of one inode to itself does nothing
            self._make_directories(root_fd, manifest)
        finally:
            os.close(root_fd)

    def _place(self, entry: FileEntry, directory_fd: int, name: str = "") -> None:
        """A hard link when the inode has, or may get, the mode this tree wants; else a copy."""
        name = name or posixpath.basename(on_disk(entry.path))
        blob = self._blobs.path(entry.digest)
        mode = file_mode(entry)
        try:
            status = os.lstat(blob)
        except FileNotFoundError:
            raise NotFound(
                f"no blob {entry.digest!r} for {entry.path!r}; copy the artifact again"
            ) from None
        if not stat.S_ISREG(status.st_mode) or status.st_size != entry.size_bytes:
            raise Invalid(
                f"{entry.path!r} should have {entry.size_bytes} bytes, its blob "
                f"{entry.digest!r} has {status.st_size}",
                field="bytes",
            )
        if stat.S_IMODE(status.st_mode) != mode and status.st_nlink == 1:
            os.chmod(blob, mode)  # no tree has it yet
        elif stat.S_IMODE(status.st_mode) != mode:
            self._copy(entry, name, directory_fd)
            return
        try:
            os.link(blob, name, dst_dir_fd=directory_fd, follow_symlinks=False)
        except OSError as error:
            if error.errno not in _NO_HARD_LINK:
                raise
            self._copy(entry, name, directory_fd)

    def _copy(self, entry: FileEntry, name: str, directory_fd: int) -> None:
        source = self._blobs.open_blob(entry.digest)
        try:
            target = os.open(name, _NEW_FILE, 0o600, dir_fd=directory_fd)
            try:
                while os.sendfile(target, source, None, COPY_BYTES):
                    pass
                os.fchmod(target, file_mode(entry))
                self._sync(target)
            finally:
                os.close(target)
        finally:
            os.close(source)

    # ---- removing

    def _needed(self) -> set[Digest]:
        """The blobs of every tree, and of every manifest that is being installed."""
        needed: set[Digest] = set()
        for digest, manifest in self._kept:
            needed.add(digest)
            needed.update(entry.digest for entry in manifest.files)
        for digest in (*self.installed(), *self._doubted):
            needed.add(digest)
            with contextlib.suppress(Invalid, NotFound):  # cannot be launched either
                needed.update(entry.digest for entry in self.manifest(digest).files)
        return needed

    def _finish_removal(self, digest: Digest, old: Path) -> None:
        """The manifest goes after its blobs, the directory last: any rest is found again."""
        needed = self._needed()
        if digest not in needed and self._blobs.has(digest):
            try:
                doomed = [entry.digest for entry in self.manifest(digest).files]
            except Invalid:
                doomed = []  # damaged on disk; `collect` finds what it named
            for blob in dict.fromkeys(doomed):
                if blob not in needed:
                    self._blobs.remove(blob)
            self._blobs.remove(digest)
        remove_directory(old)

    def _finish_interrupted(self) -> None:
        try:
            for path in list(self._root.iterdir()):
                if path.name.startswith(NEW):
                    remove_directory(path)
                elif path.name.startswith(OLD):
                    self._finish_removal(check_digest(path.name.removeprefix(OLD)), path)
        except OSError as error:
            raise disk_failure(error, "cannot tidy up the trees", self._root) from error

    # ---- after a boot

    def _look_again_after_boot(self, seen: Path) -> None:
        """Without fsync a power loss may have cut files short: drop what it can have damaged.

        Of trees, sizes are enough: file systems that journal make a file longer only once its
        bytes are on the disk. Manifests are hashed. Blobs of no tree have no size to compare with.
        """
        try:
            boot_id = BOOT_ID.read_text() if BOOT_ID.exists() else ""
            if seen.exists() and (not boot_id or seen.read_text() != boot_id):
                for digest in self.installed():
                    self._drop_damaged(digest)
                self.collect()
            with open(seen, "w", opener=private) as file:
                file.write(boot_id)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            raise disk_failure(error, "cannot check the trees", self._root) from error

    def _drop_damaged(self, digest: Digest) -> None:
        try:
            entries = self.manifest(digest).files
        except Invalid:
            self._blobs.remove(digest)
            remove_directory(self._root / digest)
            return
        damaged = [entry for entry in entries if not self._is_intact(digest, entry)]
        for entry in damaged:
            self._blobs.remove(entry.digest)
        if damaged:
            remove_directory(self._root / digest)

    def _is_intact(self, digest: Digest, entry: FileEntry) -> bool:
        try:
            placed = os.lstat(self._root / digest / on_disk(entry.path))
            return placed.st_size == entry.size_bytes == self._blobs.size_bytes(entry.digest)
        except (FileNotFoundError, NotADirectoryError, NotFound):
            return False


def _by_directory(entries: tuple[Any, ...]) -> Iterator[tuple[str, Iterator[Any]]]:
    """As on the disk."""
    return groupby(
        sorted(entries, key=lambda entry: posixpath.split(on_disk(entry.path))),
        key=lambda entry: posixpath.dirname(on_disk(entry.path)),
    )
