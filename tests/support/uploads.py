"""An artifact at the master, on no worker yet: so that a copy of it is the workers' part alone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from corps.cli.upload import BULK_SOCKET
from corps.client import Client
from corps.model.artifact import encode_manifest
from corps.model.name import Digest
from corps.net.bulk_client import BulkClient
from corps.net.unix_http import connect_unix
from corps.pack.build import pack


@contextmanager
def at_master(client: Client, directory: Path, entry: str) -> Iterator[Digest]:
    """While the block runs nothing of it goes from there, though no artifact names it yet."""
    packed = pack(directory, entry=entry, libraries=(), with_libraries=False)
    path = client.socket_path.with_name(BULK_SOCKET)
    with BulkClient(lambda: connect_unix(path)) as bulk:
        bulk.put_all(packed.sources)
        yield bulk.put_bytes(encode_manifest(packed.manifest))
