"""Which blobs that are here resemble those that lack: what was at the same place in an artifact."""

from __future__ import annotations

import contextlib
import posixpath
from collections.abc import Iterable

from corps.errors import CorpsError
from corps.model.artifact import FileEntry, Manifest
from corps.model.name import Digest
from corps.net.encode import BASES_MAX, PATCH_MIN_BYTES
from corps.store.trees import Trees

TREES_MAX = 16
SIZE_RATIO_MAX = 4


def find_bases(
    manifest: Manifest, missing: Iterable[Digest], trees: Trees
) -> dict[Digest, tuple[Digest, ...]]:
    """For each blob that lacks, the likeliest first: of the same path, then of the same file name;
    of these the one whose size is nearest. Only the newest trees are looked through."""
    lacking = frozenset(missing)
    wanted = {
        entry.digest: entry
        for entry in manifest.files
        if entry.digest in lacking and entry.size_bytes >= PATCH_MIN_BYTES
    }
    if not wanted:
        return {}
    by_name = _by_name(trees, frozenset(posixpath.basename(e.path) for e in wanted.values()))
    found = {}
    for digest, entry in wanted.items():
        similar = [
            one
            for one in by_name.get(posixpath.basename(entry.path), ())
            if entry.size_bytes <= SIZE_RATIO_MAX * one.size_bytes
            and one.size_bytes <= SIZE_RATIO_MAX * entry.size_bytes
        ]
        similar.sort(key=lambda one: _distance(entry, one))
        bases = tuple(dict.fromkeys(one.digest for one in similar))[:BASES_MAX]
        if bases:
            found[digest] = bases
    return found


def _distance(entry: FileEntry, one: FileEntry) -> tuple[bool, int]:
    return one.path != entry.path, abs(one.size_bytes - entry.size_bytes)


def _by_name(trees: Trees, names: frozenset[str]) -> dict[str, list[FileEntry]]:
    found: dict[str, list[FileEntry]] = {}
    for digest in trees.newest(TREES_MAX):
        with contextlib.suppress(CorpsError):  # removed meanwhile, or damaged: it serves nobody
            for entry in trees.manifest(digest).files:
                name = posixpath.basename(entry.path)
                if name in names:
                    found.setdefault(name, []).append(entry)
    return found
