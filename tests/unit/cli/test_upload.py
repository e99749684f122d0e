"""What one of several uploads sends itself, and what it waits for."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from corps.cli.progress import Lap
from corps.cli.upload import MASTER, PORTION_FILES, Sender
from corps.net.bulk import BulkListener
from corps.net.bulk_client import BulkClient, Dial
from corps.net.intake import Intake
from corps.pack.build import pack
from corps.pack.parcel import Packed
from corps.store.blobs import BlobStore
from tests.support.artifacts import digest_of
from tests.support.bulk import listen_on
from tests.support.waiting import until

LONG_S = 600.0
ONE, TWO = os.urandom(300_000), os.urandom(200_000)


@pytest.fixture
def store(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "store")


@pytest.fixture
def dial(tmp_path: Path, store: BlobStore) -> Iterator[Dial]:
    listening, dial = listen_on(tmp_path, "unix")
    intake = Intake(store, lambda: None, LONG_S)
    listener = BulkListener(listening, store, may_put=True, intake=intake)
    yield dial
    listener.close()


def a_tree(directory: Path, **files: bytes) -> Packed:
    directory.mkdir()
    for name, data in files.items():
        (directory / name).write_bytes(data)
    program = directory / "run"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    return pack(directory, entry="run", libraries=[], with_libraries=False)


def test_what_somebody_else_sends_is_waited_for_and_counted(
    tmp_path: Path, store: BlobStore, dial: Dial
) -> None:
    packed = a_tree(tmp_path / "tree", one=ONE, two=TWO)
    with BulkClient(dial) as other, BulkClient(dial) as bulk:
        assert other.claim([digest_of(ONE)]).digests == (digest_of(ONE),)
        sender = Sender(bulk, packed)
        assert sender.look() == [Lap(MASTER, 0, packed.size_bytes)]
        thread = threading.Thread(target=sender.run)
        thread.start()
        until(lambda: store.has(digest_of(TWO)))
        assert thread.is_alive()
        assert not store.has(digest_of(ONE))
        source = tmp_path / "source"
        source.write_bytes(ONE)
        other.put(digest_of(ONE), source)
        thread.join()
        assert sender.sent_bytes == packed.size_bytes - len(ONE)
        assert sender.look() == [Lap(MASTER, packed.size_bytes, packed.size_bytes)]
    assert store.missing(packed.sources) == ()


def test_two_that_send_the_same_share_the_work(
    tmp_path: Path, store: BlobStore, dial: Dial
) -> None:
    files = {f"file{n}": os.urandom(50) for n in range(3 * PORTION_FILES)}
    packed = a_tree(tmp_path / "tree", **files)
    sent: list[int] = []

    def send() -> None:
        with BulkClient(dial) as bulk:
            sender = Sender(bulk, packed)
            start.wait()
            sender.run()
            sent.append(sender.sent_bytes)

    start = threading.Barrier(2)
    threads = [threading.Thread(target=send) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sum(sent) == packed.size_bytes
    assert store.missing(packed.sources) == ()
