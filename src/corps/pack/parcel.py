"""What is put together on its way into an artifact: entries, where their bytes are, warnings."""

from __future__ import annotations

from pathlib import Path

import msgspec
from blake3 import blake3

from corps.model.artifact import (
    FileEntry,
    FileKind,
    LinkEntry,
    Manifest,
    check_manifest,
    check_path,
    encode_manifest,
)
from corps.model.name import Digest
from corps.model.needs import Needs
from corps.pack.form import PLAIN, Form
from corps.pack.modes import Modes
from corps.pack.source import Source, read_source

TREE_LIBRARY_DIR = ".corps-lib"
WARNINGS_MAX = 100


class LibraryRow(msgspec.Struct, frozen=True, kw_only=True):
    """A library of the closure: whether it travels and why, where it is here (None: it stays, so
    each worker has its own), who asks for it first, and which versions all ask of it."""

    name: str
    travels: bool
    why: str
    path: str | None
    asked_by: str
    versions: dict[str, str]


class Packed(msgspec.Struct, frozen=True, kw_only=True):
    """What is to be put: the blobs `sources`, then `manifest_bytes`, whose digest names all."""

    manifest: Manifest
    sources: dict[Digest, Path]
    warnings: tuple[str, ...]
    size_bytes: int
    libraries: tuple[LibraryRow, ...] = ()

    @property
    def manifest_bytes(self) -> bytes:
        return encode_manifest(self.manifest)

    @property
    def digest(self) -> Digest:
        return blake3(self.manifest_bytes).hexdigest()


class Parcel:
    """Collects entries, sources and warnings; a file that is met twice is hashed once."""

    def __init__(self, form: Form = PLAIN) -> None:
        self.form = form
        self.files: dict[str, FileEntry] = {}
        self.links: list[LinkEntry] = []
        self.sources: dict[Digest, Path] = {}
        self.warnings: dict[str, None] = dict.fromkeys(form.warnings)
        self.needs = Needs()
        self.libraries: tuple[LibraryRow, ...] = ()
        self._read: dict[str, Source] = {}
        self._modes = Modes()

    def read(self, real: Path) -> Source:
        """`real` has no links in it."""
        key = str(real)
        if key not in self._read:
            self._read[key] = read_source(real)
        return self._read[key]

    def has_read(self, real: str) -> bool:
        """Of what was packed so far: does this very file travel?"""
        return real in self._read

    def warn(self, text: str) -> None:
        self.warnings[text] = None

    def add(self, path: str, source: Source, kind: FileKind, executable: bool) -> None:
        check_path(path)
        self._modes.note(path, self.form.modes.get(path, source.mode), source.attributes)
        self.sources.setdefault(source.digest, source.path)
        self.files[path] = FileEntry(
            path=path,
            size_bytes=source.size_bytes,
            digest=source.digest,
            kind=kind,
            executable=executable,
        )

    def free_directory(self, wanted: str) -> str:
        """A top directory that nothing packed has: libraries of ours must not hide others."""
        taken = {path.split("/")[0] for path in self.files}
        taken |= {link.path.split("/")[0] for link in self.links}
        names = (wanted, *(f"{TREE_LIBRARY_DIR}-{number}" for number in range(1, len(taken) + 2)))
        return next(name for name in names if name not in taken)

    def packed(self, entry: str, library_directory: str) -> Packed:
        has_libraries = any(path.startswith(f"{library_directory}/") for path in self.files)
        manifest = Manifest(
            entry=entry,
            files=tuple(self.files[path] for path in sorted(self.files)),
            links=tuple(sorted(self.links, key=lambda link: link.path)),
            library_dirs=(library_directory,) if has_libraries else (),
            runner=self.form.runner,
            needs=self.needs,
        )
        check_manifest(manifest)
        warnings = [*self.warnings, *self._modes.warnings()]
        if len(warnings) > WARNINGS_MAX:
            warnings[WARNINGS_MAX:] = [f"and {len(warnings) - WARNINGS_MAX} more warnings"]
        return Packed(
            manifest=manifest,
            sources=self.sources,
            warnings=tuple(warnings),
            size_bytes=sum(file.size_bytes for file in manifest.files),
            libraries=self.libraries,
        )
