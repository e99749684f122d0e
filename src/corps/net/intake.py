"""Uploads under way at one store: what each has claimed to send, and what none of them may lose.

A claim is one connection's: who else lacks that blob waits for it instead of sending it as well.
It ends when the blob is there, with its connection, or when that says nothing for CLAIM_S.
"""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Protocol

from corps.clock import Clock
from corps.errors import Invalid, Unavailable
from corps.model.artifact import FILES_MAX
from corps.model.name import Digest
from corps.net.bulk_client import Blobs, Writer
from corps.wire.bulk import Claimed

CLAIM_S = 5.0
HELD_MAX = 2 * (FILES_MAX + 1)  # by one upload; the other half is for who asks twice
RESERVE_BYTES = 16 << 20  # of the disk, for what else its daemon must write


class Disk(Blobs, Protocol):
    """What `store.blobs.BlobStore` does."""

    def free_bytes(self) -> int: ...


class Intake:
    """`make_room` removes what nobody needs, called when there is too little of it."""

    def __init__(
        self, store: Disk, make_room: Callable[[], None], claim_s: float = CLAIM_S
    ) -> None:
        self._store, self._make_room, self._claim_s = store, make_room, claim_s
        self._clock = Clock()
        self._lock = threading.Lock()
        self._uploads: dict[Upload, None] = {}
        self._claims: dict[Digest, Upload] = {}

    def begin(self) -> Upload:
        """One connection's view of the store; to be closed with it."""
        upload = Upload(self, self._store)
        with self._lock:
            self._uploads[upload] = None
        return upload

    @contextlib.contextmanager
    def removing(self) -> Iterator[frozenset[Digest]]:
        """What must stay in the store; nobody is told that anything is there in the meantime."""
        with self._lock:
            yield frozenset(digest for upload in self._uploads for digest in upload.held)

    def end(self, upload: Upload) -> None:
        with self._lock:
            del self._uploads[upload]
            for digest in [one for one, owner in self._claims.items() if owner is upload]:
                del self._claims[digest]

    def missing(self, upload: Upload, digests: Sequence[Digest]) -> tuple[Digest, ...]:
        with self._lock:
            upload.hold(digests)
            return self._store.missing(digests)

    def claim(
        self, upload: Upload, digests: Sequence[Digest]
    ) -> tuple[tuple[Digest, ...], dict[Digest, int]]:
        """What `upload` should send now; and what another one sends, how many bytes are here."""
        now = self._clock()
        mine: list[Digest] = []
        arriving: dict[Digest, int] = {}
        with self._lock:
            upload.hold(digests)
            upload.heard_at = now
            for digest in self._store.missing(digests):
                owner = self._claims.get(digest, upload)
                if owner is not upload and now - owner.heard_at <= self._claim_s:
                    arriving[digest] = owner.received_bytes(digest)
                else:
                    self._claims[digest] = upload
                    mine.append(digest)
        return tuple(mine), arriving

    def arrived(self, upload: Upload, digest: Digest) -> None:
        with self._lock:
            if self._claims.get(digest) is upload:
                del self._claims[digest]

    def check_room(self, needed_bytes: int) -> None:
        """Raise Unavailable when so much more does not fit. What nobody needs makes room first."""
        if needed_bytes + RESERVE_BYTES <= self._store.free_bytes():
            return
        self._make_room()
        free_bytes = self._store.free_bytes()
        if needed_bytes + RESERVE_BYTES > free_bytes:
            raise Unavailable(
                f"no room at the master: {needed_bytes} bytes should come, {free_bytes} are free "
                f"and {RESERVE_BYTES} of them kept; delete artifacts or free space there, then "
                "copy again",
                needed_bytes=needed_bytes,
                free_bytes=free_bytes,
            )

    def now(self) -> float:
        return self._clock()


class Upload:
    """A store as one connection sees it: whatever it asked for or sent stays until it closes."""

    def __init__(self, intake: Intake, store: Blobs) -> None:
        self.held: dict[Digest, None] = {}
        self.heard_at = intake.now()
        self._intake, self._store = intake, store
        self._writers: dict[Digest, _Writer] = {}

    def close(self) -> None:
        self._intake.end(self)

    def hold(self, digests: Iterable[Digest]) -> None:
        self.held.update(dict.fromkeys(digests))
        if len(self.held) > HELD_MAX:
            raise Invalid(f"an upload of more than {HELD_MAX} files", field="digests")

    def claim(self, digests: Sequence[Digest]) -> Claimed:
        mine, arriving = self._intake.claim(self, digests)
        return Claimed(digests=mine, arriving=arriving)

    def check_room(self, needed_bytes: int) -> None:
        self._intake.check_room(needed_bytes)

    def received_bytes(self, digest: Digest) -> int:
        """How much of a blob this connection has brought so far."""
        writer = self._writers.get(digest)
        return 0 if writer is None else writer.received_bytes

    def heard(self) -> None:
        self.heard_at = self._intake.now()

    def ended(self, digest: Digest) -> None:
        self._writers.pop(digest, None)
        self._intake.arrived(self, digest)

    # ---- Blobs

    def has(self, digest: Digest) -> bool:
        return not self._intake.missing(self, (digest,))

    def missing(self, digests: Iterable[Digest]) -> tuple[Digest, ...]:
        return self._intake.missing(self, tuple(digests))

    def open_blob(self, digest: Digest) -> int:
        return self._store.open_blob(digest)

    def piece_list(self, digest: Digest) -> tuple[int, bytes]:
        return self._store.piece_list(digest)

    def writer(self, digest: Digest, size_bytes: int, *, resumable: bool = False) -> Writer:
        self._intake.claim(self, (digest,))
        writer = self._store.writer(digest, size_bytes, resumable=resumable)
        return self._watch(digest, writer)

    def resume(self, digest: Digest) -> Writer | None:
        self._intake.claim(self, (digest,))
        writer = self._store.resume(digest)
        return None if writer is None else self._watch(digest, writer)

    def sync(self) -> None:
        self._store.sync()

    def _watch(self, digest: Digest, writer: Writer) -> Writer:
        self._writers[digest] = _Writer(self, digest, writer)
        return self._writers[digest]


class _Writer:
    """Tells its upload how far it is."""

    def __init__(self, upload: Upload, digest: Digest, writer: Writer) -> None:
        self._upload, self._digest, self._writer = upload, digest, writer

    @property
    def received_bytes(self) -> int:
        return self._writer.received_bytes

    def expect(self, size_bytes: int) -> object:
        return self._writer.expect(size_bytes)

    def write(self, data: bytes | memoryview) -> None:
        self._writer.write(data)
        self._upload.heard()

    def seal(self) -> None:
        self._writer.seal()

    def commit(self) -> None:
        self._writer.commit()

    def discard(self) -> None:
        self._writer.discard()

    def close(self) -> None:
        self._writer.close()
        self._upload.ended(self._digest)
