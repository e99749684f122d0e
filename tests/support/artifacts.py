"""Artifacts for tests: their blobs in a store, their manifest as well."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from blake3 import blake3

from corps.client import Client
from corps.model.artifact import (
    FileEntry,
    FileKind,
    LinkEntry,
    Manifest,
    encode_manifest,
)
from corps.model.name import Digest
from corps.net.bulk_client import BulkClient
from corps.pack.parcel import Packed
from corps.store.blobs import BlobStore


def digest_of(data: bytes) -> str:
    return blake3(data).hexdigest()


def a_manifest(
    files: Mapping[str, bytes],
    *,
    executable: tuple[str, ...] = ("prog",),
    links: Mapping[str, str] | None = None,
    library_dirs: tuple[str, ...] = (),
    directories: tuple[str, ...] = (),
) -> Manifest:
    """Of these files; `prog` is the entry."""
    return Manifest(
        entry="prog",
        files=tuple(
            FileEntry(
                path=path,
                size_bytes=len(data),
                digest=digest_of(data),
                kind=FileKind.EXECUTABLE if path in executable else FileKind.DATA,
                executable=path in executable,
            )
            for path, data in files.items()
        ),
        links=tuple(LinkEntry(path=path, target=to) for path, to in (links or {}).items()),
        library_dirs=library_dirs,
        directories=directories,
    )


def put_artifact(store: BlobStore, files: Mapping[str, bytes], manifest: Manifest) -> str:
    """Everything of it in `store`; the digest that names it."""
    for data in files.values():
        store.put_bytes(data)
    return store.put_bytes(encode_manifest(manifest))


def leftovers(root: Path) -> list[str]:
    """What a store keeps beside whole blobs and whole trees."""
    return sorted(
        [path.name for path in (root / "tmp").iterdir()]
        + [path.name for path in (root / "trees").glob(".*")]
    )


def upload(client: Client, packed: Packed) -> Digest:
    """To the master, and to no worker yet."""
    endpoint = client.endpoint
    with BulkClient(endpoint.connect_bulk, opening=endpoint.opening) as bulk:
        bulk.put_all(packed.sources)
        return bulk.put_bytes(packed.manifest_bytes)
