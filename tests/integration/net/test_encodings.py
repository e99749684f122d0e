"""What travels is what pays: compressed, as a difference, no faster than asked; cut at any byte."""

from __future__ import annotations

import os
import random
import resource
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
import zstandard
from blake3 import blake3

from corps.clock import Clock
from corps.errors import CorpsError, Invalid, ProtocolError, Unavailable
from corps.model.artifact import Transfer
from corps.model.pieces import PIECE_BYTES
from corps.net.bulk import BulkClient
from corps.net.bulk_client import Dial
from corps.net.encode import (
    PATCH_BYTES,
    PATCH_MIN_BYTES,
    REGION_MAX_BYTES,
    WIRE_MAX_BYTES,
    Memo,
    decode,
    patch,
)
from corps.net.incoming import Asking
from corps.store.blobs import BlobStore
from corps.wire.bulk import Encoding, Sending
from corps.wire.codec import encode_frame
from tests.integration.net.test_install import Worker, put
from tests.support.artifacts import digest_of
from tests.support.bulk import Wire, serving, temporary

ALL = (Encoding.ZSTD, Encoding.PATCH)


def code(seed: int, size_bytes: int) -> bytes:
    """As a program: much of it alike, none of it the same."""
    rng = random.Random(seed)
    words = [rng.randbytes(rng.randrange(3, 12)) for _ in range(3_000)]
    parts, left = [], size_bytes
    while left > 0:
        part = rng.choice(words) + rng.randbytes(2)
        parts.append(part)
        left -= len(part)
    return b"".join(parts)[:size_bytes]


OLD = code(1, 6 << 20)
AT = 3 << 20
NEW = OLD[:AT] + code(2, 3_000) + OLD[AT + 1_000 :]
NOISE = os.urandom(3 << 20)
PLAIN_BYTES = sum(
    len(zstandard.ZstdCompressor(level=3).compress(NEW[at : at + PIECE_BYTES]))
    for at in range(0, len(NEW), PIECE_BYTES)
)


@pytest.fixture
def there(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "there", durable=False)


@pytest.fixture
def here(tmp_path: Path) -> BlobStore:
    return BlobStore(tmp_path / "here", durable=False)


@pytest.fixture
def dial(tmp_path: Path, there: BlobStore) -> Iterator[Dial]:
    with serving(tmp_path, there) as dial:
        yield dial


def fetch(dial: Dial, here: BlobStore, digest: str, asking: Asking) -> tuple[int, int]:
    """How many bytes came on the wire, and of how many of the blob."""
    counts: list[tuple[int, int]] = []
    with BulkClient(dial) as client:
        client.fetch_all(
            [digest], here, lambda wire, count: counts.append((wire, count)), asking=asking
        )
    return sum(wire for wire, _ in counts), sum(count for _, count in counts)


# ---- compression


@pytest.mark.parametrize("size", [0, 1, 3_000, PIECE_BYTES, len(OLD)])
def test_what_can_be_compressed_travels_compressed(
    dial: Dial, here: BlobStore, there: BlobStore, size: int
) -> None:
    data = b"the same again " * (size // 15) + b"x" * (size % 15)
    digest = there.put_bytes(data)
    wire, count = fetch(dial, here, digest, Asking(encodings=ALL))
    assert count == len(data)
    assert wire < len(data) / 10 or size < 2
    assert here.read_bytes(digest, len(data)) == data


def test_what_cannot_be_compressed_travels_as_it_is(
    dial: Dial, here: BlobStore, there: BlobStore
) -> None:
    digest = there.put_bytes(NOISE)
    assert fetch(dial, here, digest, Asking(encodings=ALL)) == (len(NOISE), len(NOISE))


def test_who_does_not_ask_for_it_gets_nothing_encoded(
    dial: Dial, here: BlobStore, there: BlobStore
) -> None:
    there.put_bytes(OLD)
    here.put_bytes(OLD)
    digest = there.put_bytes(NEW)
    asking = Asking(bases={digest: (digest_of(OLD),)})
    assert fetch(dial, here, digest, asking) == (len(NEW), len(NEW))


# ---- differences


def test_a_changed_program_travels_as_a_difference(
    dial: Dial, here: BlobStore, there: BlobStore
) -> None:
    base = there.put_bytes(OLD)
    here.put_bytes(OLD)
    digest = there.put_bytes(NEW)
    asking = Asking(encodings=ALL, bases={digest: ("0" * 64, base)})
    wire, count = fetch(dial, here, digest, asking)
    assert count == len(NEW)
    assert wire < PLAIN_BYTES / 20
    assert here.read_bytes(digest, len(NEW)) == NEW
    assert temporary(here) == []


def test_noise_with_something_put_in_travels_as_a_difference(
    dial: Dial, here: BlobStore, there: BlobStore
) -> None:
    changed = NOISE[:5_000] + os.urandom(700_000) + NOISE[5_000:]
    base = there.put_bytes(NOISE)
    here.put_bytes(NOISE)
    digest = there.put_bytes(changed)
    wire, _ = fetch(dial, here, digest, Asking(encodings=ALL, bases={digest: (base,)}))
    assert wire < 900_000
    assert here.read_bytes(digest, len(changed)) == changed


def test_a_base_that_has_nothing_in_common_costs_nothing(
    dial: Dial, here: BlobStore, there: BlobStore
) -> None:
    other = code(77, 5 << 20)
    base = there.put_bytes(other)
    here.put_bytes(other)
    digest = there.put_bytes(OLD)
    with_base, _ = fetch(dial, here, digest, Asking(encodings=ALL, bases={digest: (base,)}))
    here.remove(digest)
    without, _ = fetch(dial, here, digest, Asking(encodings=ALL))
    assert with_base <= without


@pytest.mark.parametrize("length", [PATCH_MIN_BYTES, PATCH_BYTES])
def test_a_patch_is_the_way_from_one_to_the_other_and_back(length: int) -> None:
    region, plain = OLD[: 2 * length], NEW[:length]
    data = patch(plain, region)
    assert decode(data, length, region) == plain
    for damaged in (data[:-1], data + b"x", b"", b"\0" * 40, NOISE[:1_000]):
        with pytest.raises(Invalid):
            decode(damaged, length, region)
    with pytest.raises(Invalid, match="not the announced"):
        decode(data, length - 1, region)


def test_an_encoding_that_would_fill_the_memory_is_refused() -> None:
    bomb = zstandard.ZstdCompressor().compress(bytes(64 << 20))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(Invalid):
        decode(bomb, 1_000)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 16 << 10


def test_what_many_ask_for_at_once_is_made_once() -> None:
    memo, made = Memo(10), []
    go = threading.Barrier(4)

    def make() -> bytes:
        made.append(1)
        return b"12345"

    def get() -> None:
        go.wait()
        assert memo.get(("a",), make) == b"12345"

    threads = [threading.Thread(target=get) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1
    memo.get(("b",), make)
    memo.get(("c",), make)  # no room for three
    memo.get(("a",), make)
    assert len(made) == 4


# ---- cuts


@pytest.mark.parametrize("part", [0, 1, 90, 300, 9_000, 40_000, 200_000, 700_000, 1_500_000])
@pytest.mark.parametrize("with_base", [True, False])
def test_an_encoded_fetch_that_breaks_anywhere_goes_on_there(
    dial: Dial, here: BlobStore, there: BlobStore, part: int, with_base: bool
) -> None:
    base = there.put_bytes(OLD)
    here.put_bytes(OLD)
    digest = there.put_bytes(NEW)
    asking = Asking(encodings=ALL, bases={digest: (base,)} if with_base else {})
    whole = BlobStore(here.root.with_name("whole"), durable=False)
    whole.put_bytes(OLD)
    whole_wire, _ = fetch(dial, whole, digest, asking)
    wire = Wire(dial)
    wire.down_bytes = part
    try:
        fetch(wire.dial, here, digest, asking)
    except Unavailable:
        carried = wire.carried_down
        wire.down_bytes = None
        again, _ = fetch(wire.dial, here, digest, asking)
        assert carried + again <= whole_wire + WIRE_MAX_BYTES
    wire.join()
    assert here.read_bytes(digest, len(NEW)) == NEW
    assert temporary(here) == []


# ---- peers that lie


@pytest.mark.parametrize(
    "answer",
    [
        {"length": 0},
        {"length": -1},
        {"length": 9_000},
        {"wire_bytes": 5},
        {"encoding": Encoding.ZSTD, "wire_bytes": WIRE_MAX_BYTES + 1},
        {"encoding": Encoding.ZSTD, "wire_bytes": -1},
        {"encoding": Encoding.PATCH, "wire_bytes": 5, "base": "b" * 64, "base_length": 5},
        {"encoding": Encoding.PATCH, "wire_bytes": 5, "base_length": 5},
        {"encoding": Encoding.PATCH, "wire_bytes": 5, "base": "c" * 64, "base_length": 0},
        {
            "encoding": Encoding.PATCH,
            "wire_bytes": 5,
            "base": "c" * 64,
            "base_length": REGION_MAX_BYTES + 1,
        },
    ],
)
def test_an_answer_that_was_not_asked_for_is_refused(
    here: BlobStore, answer: dict[str, object]
) -> None:
    near, far = socket.socketpair()
    digest = "a" * 64
    with far:
        far.sendall(encode_frame(Sending(digest=digest, size_bytes=8_000, **answer)) + bytes(99))  # type: ignore[arg-type]  # as the table says
        with pytest.raises(ProtocolError):
            fetch(lambda: near, here, digest, Asking(encodings=ALL, bases={digest: ("c" * 64,)}))
    assert temporary(here) == []


def test_a_damaged_encoding_is_found_out(here: BlobStore) -> None:
    near, far = socket.socketpair()
    digest = "a" * 64
    sending = Sending(digest=digest, size_bytes=8_000, encoding=Encoding.ZSTD, wire_bytes=50)
    with far:
        far.sendall(encode_frame(sending) + bytes(50))
        with pytest.raises(Invalid):
            fetch(lambda: near, here, digest, Asking(encodings=ALL))
    assert temporary(here) == []


# ---- installs


@pytest.fixture
def worker(tmp_path: Path) -> Worker:
    return Worker(tmp_path / "worker")


def test_a_new_version_is_installed_by_its_difference(
    dial: Dial, there: BlobStore, worker: Worker
) -> None:
    worker.install(put(there, {"prog": OLD, "lib/noise.so": NOISE}), dial)
    report = worker.install(put(there, {"prog": NEW, "lib/noise.so": NOISE}), dial)
    assert 0 < report.bytes_sent < PLAIN_BYTES / 20
    assert report.files_sent == 1
    assert worker.progress[-1].bytes_done == report.bytes_total == len(NEW) + len(NOISE)


def test_a_renamed_library_is_known_by_its_name_in_another_directory(
    dial: Dial, there: BlobStore, worker: Worker
) -> None:
    worker.install(put(there, {"prog": b"1", "lib/a/code.so": OLD}), dial)
    report = worker.install(put(there, {"prog": b"1", "lib/b/code.so": NEW}), dial)
    assert 0 < report.bytes_sent < PLAIN_BYTES / 20


def test_a_damaged_base_makes_no_damaged_blob(dial: Dial, there: BlobStore, worker: Worker) -> None:
    worker.install(put(there, {"prog": OLD}), dial)
    blob = worker.blobs.path(digest_of(OLD))
    blob.chmod(0o644)
    with blob.open("r+b") as file:
        file.seek(1_000)
        file.write(bytes(500_000))
    digest = put(there, {"prog": NEW})
    report = worker.install(digest, dial)
    assert report.bytes_sent > PLAIN_BYTES / 2, "all of it came again, without the base"
    assert worker.blobs.read_bytes(digest_of(NEW), len(NEW)) == NEW


def test_a_base_that_is_gone_is_done_without(dial: Dial, there: BlobStore, worker: Worker) -> None:
    worker.install(put(there, {"prog": OLD}), dial)
    worker.blobs.remove(digest_of(OLD))
    worker.install(put(there, {"prog": NEW}), dial)
    assert worker.blobs.read_bytes(digest_of(NEW), len(NEW)) == NEW


# ---- rates


@pytest.mark.parametrize("data", [NOISE[:300_000], code(5, 300_000)], ids=["raw", "compressed"])
def test_a_rate_is_kept(dial: Dial, there: BlobStore, worker: Worker, data: bytes) -> None:
    rate_bytes_s = 200_000
    digest = put(there, {"prog": data})
    clock = Clock()
    begin = clock()
    report = worker.install(digest, dial, Transfer(rate_bytes_s=rate_bytes_s))
    assert clock() - begin >= 0.8 * report.bytes_sent / rate_bytes_s - 0.1
    assert len(worker.progress) > 5, "in small steps"


def test_a_rate_goes_on_after_a_break(dial: Dial, there: BlobStore, worker: Worker) -> None:
    digest = put(there, {"prog": NOISE})
    wire = Wire(dial)
    wire.down_bytes = 2 << 20
    report = worker.install(digest, wire.dial, Transfer(rate_bytes_s=16 << 20))
    wire.join()
    assert wire.dial_count == 2
    assert report.bytes_sent <= len(NOISE) + WIRE_MAX_BYTES


def test_nobody_can_ask_for_no_bytes_in_a_second(
    dial: Dial, here: BlobStore, there: BlobStore
) -> None:
    digest = there.put_bytes(NOISE)
    with pytest.raises(CorpsError, match="cannot send 0 bytes in a second"):
        fetch(dial, here, digest, Asking(rate_bytes_s=0))


def test_the_memory_of_both_sides_stays_flat(
    tmp_path: Path, dial: Dial, here: BlobStore, there: BlobStore
) -> None:
    """256 MiB of which each MiB differs, then the same with a function changed."""
    chunk = code(9, PIECE_BYTES)
    path = tmp_path / "large"
    digest, changed = blake3(), blake3()
    with path.open("wb") as file, path.with_suffix(".new").open("wb") as new:
        for number in range(64):
            data = b"%20d" % number + chunk[20:]
            file.write(data)
            digest.update(data)
            data = data[:500] + b"changed" * (number == 30) + data[500:]
            new.write(data)
            changed.update(data)
    with BulkClient(dial) as client:
        client.put(digest.hexdigest(), path)
        client.put(changed.hexdigest(), path.with_suffix(".new"))
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    fetch(dial, here, digest.hexdigest(), Asking(encodings=ALL))
    asking = Asking(encodings=ALL, bases={changed.hexdigest(): (digest.hexdigest(),)})
    wire, _ = fetch(dial, here, changed.hexdigest(), asking)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    assert wire < 2 << 20
    assert grown < 128 << 10, "two sides, in KiB"
