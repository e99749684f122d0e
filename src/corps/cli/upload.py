"""Bringing an artifact to the master, and watching it go on to the workers."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from corps.client import Client
from corps.errors import CorpsError
from corps.model.artifact import encode_manifest
from corps.model.name import Digest
from corps.net.bulk_client import BulkClient, OnBytes, ignore_bytes
from corps.net.unix_http import connect_unix
from corps.pack.parcel import Packed

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID

BULK_SOCKET = "bulk.sock"
LOOK_S = 0.2


def upload(client: Client, packed: Packed) -> Digest:
    """Send the master what it lacks; the digest of the manifest, which proves all the rest."""
    path = client.socket_path.with_name(BULK_SOCKET)
    with BulkClient(lambda: connect_unix(path)) as bulk:
        missing = {digest: packed.sources[digest] for digest in bulk.missing(packed.sources)}
        if missing:
            sizes = {file.digest: file.size_bytes for file in packed.manifest.files}
            with _bar("master", sum(sizes.get(digest, 0) for digest in missing)) as on_bytes:
                bulk.put_all(missing, on_bytes)
        return bulk.put_bytes(encode_manifest(packed.manifest))


@contextmanager
def watched(client: Client) -> Iterator[None]:
    """While a copy of `client` is under way, a bar per worker, on a terminal."""
    if not sys.stderr.isatty():
        yield
        return
    is_over = threading.Event()
    watcher = threading.Thread(target=_watch, args=(client, is_over), daemon=True)
    watcher.start()
    try:
        yield
    finally:
        is_over.set()
        watcher.join()


def _watch(client: Client, is_over: threading.Event) -> None:
    tasks: dict[str, TaskID] = {}
    with Client(client.socket_path) as own, _bars() as bars:
        while not is_over.wait(LOOK_S):
            id = client.under_way
            try:
                rows = own.progress(id) if id else []
            except CorpsError:
                continue  # only for the eye; the command itself will say what is wrong
            for row in rows:
                if row.worker not in tasks:
                    tasks[row.worker] = bars.add_task(row.worker, total=row.bytes_total)
                bars.update(tasks[row.worker], completed=row.bytes_sent, total=row.bytes_total)


@contextmanager
def _bar(title: str, total_bytes: int) -> Iterator[OnBytes]:
    if not sys.stderr.isatty():
        yield ignore_bytes
        return
    with _bars() as bars:
        task = bars.add_task(title, total=total_bytes)
        yield lambda count: bars.advance(task, count)


def _bars() -> Progress:
    from rich import progress  # noqa: PLC0415  # as above
    from rich.console import Console  # noqa: PLC0415  # 90 ms that only a terminal costs

    return progress.Progress(
        progress.TextColumn("{task.description}", markup=False),
        progress.BarColumn(),
        progress.DownloadColumn(binary_units=True),
        console=Console(stderr=True),
        transient=True,
    )
