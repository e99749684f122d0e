"""Crate: where the units of an artifact are put as they come, each verified; threads may put at
once. What is complete becomes a blob at once; what is not is found again by the next crate."""

from __future__ import annotations

import threading
from collections.abc import Callable
from types import TracebackType

from blake3 import blake3

from corps.core.swarm import Part, Unit, Units, members, plan, unit_bytes
from corps.errors import Conflict, Invalid
from corps.model.artifact import Manifest
from corps.model.name import Digest
from corps.model.pieces import PIECE_BYTES
from corps.store.blobs import BlobStore
from corps.store.pieces import PieceWriter

PieceList = Callable[[Digest], bytes]


class Crate:
    """`whole`: the units that are here. `have`: those that are not to be asked for: also the ones
    of which most was here before, so that what lacks is fetched alone afterwards."""

    def __init__(self, manifest: Manifest, blobs: BlobStore, piece_list: PieceList) -> None:
        self.units: tuple[Unit, ...] = plan(manifest)
        self.blobs = blobs
        self._lists: dict[Digest, bytes] = {}
        self._lock = threading.Lock()
        self._storing: set[int] = set()
        self._left: dict[Digest, int] = {}  # of large blobs: the pieces that lack
        self._writers: dict[Digest, PieceWriter] = {}
        self.have: Units = 0
        self.whole: Units = 0
        self._look(piece_list)

    def __enter__(self) -> Crate:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for writer in self._writers.values():
            writer.close()

    @property
    def is_begun(self) -> bool:
        """Of some large blob only pieces are here, which nobody else can go on with."""
        return bool(self._writers)

    @property
    def lacking_bytes(self) -> int:
        lacking = members(((1 << len(self.units)) - 1) & ~self.have)
        return sum(unit_bytes(self.units[unit]) for unit in lacking)

    def put(self, unit: int, data: bytes) -> None:
        """Raise Invalid when a digest is wrong; what was right before that stays."""
        with self._lock:
            if unit in self._storing or self.have >> unit & 1:
                return  # it came twice
            self._storing.add(unit)
        try:
            self._store(self.units[unit], data)
            with self._lock:
                self.have |= 1 << unit
                self.whole |= 1 << unit
        finally:
            with self._lock:
                self._storing.remove(unit)

    def _store(self, unit: Unit, data: bytes) -> None:
        view, start = memoryview(data), 0
        for part in unit:
            piece = view[start : start + part.size_bytes]
            start += part.size_bytes
            if part.is_whole:
                self._store_blob(part.digest, piece)
            else:
                self._store_piece(part, piece)

    def _store_blob(self, digest: Digest, data: memoryview) -> None:
        if blake3(data).hexdigest() != digest:
            raise Invalid(f"blob {digest!r} arrived with other bytes", field="digest")
        if not self.blobs.has(digest):
            with self.blobs.writer(digest, len(data)) as writer:
                writer.write(data)
                writer.commit()

    def _store_piece(self, part: Part, data: memoryview) -> None:
        writer = self._writer(part)
        writer.put(part.offset // PIECE_BYTES, data)
        with self._lock:
            self._left[part.digest] -= 1
            is_last = not self._left[part.digest]
        if is_last:
            self._commit(part.digest)

    def _commit(self, digest: Digest) -> None:
        with self._lock:
            writer = self._writers.pop(digest)
        try:
            writer.commit()
        except Invalid as error:  # each piece was right: it is the list that was wrong
            raise Conflict(error.message) from error

    def _writer(self, part: Part) -> PieceWriter:
        with self._lock:
            writer = self._writers.get(part.digest)
            if writer is None:
                writer = self._writers[part.digest] = self.blobs.pieces(
                    part.digest, part.blob_bytes, self._lists[part.digest]
                )
            return writer

    # ---- what is here already

    def _look(self, piece_list: PieceList) -> None:
        is_here: dict[Digest, bool] = {}
        for at, unit in enumerate(self.units):
            here_bytes = 0
            for part in unit:
                if part.digest not in is_here:
                    is_here[part.digest] = self.blobs.has(part.digest)
                    if not is_here[part.digest] and not part.is_whole:
                        self._begin(part, piece_list)
                if self._is_here(part, is_here):
                    here_bytes += part.size_bytes
                elif not part.is_whole:
                    self._left[part.digest] += 1
            self._note(at, here_bytes, all(self._is_here(part, is_here) for part in unit))
        for digest in [digest for digest, left in self._left.items() if not left]:
            self._commit(digest)

    def _note(self, at: int, here_bytes: int, is_whole: bool) -> None:
        self.whole |= is_whole << at
        self.have |= (is_whole or 2 * here_bytes > unit_bytes(self.units[at])) << at

    def _begin(self, part: Part, piece_list: PieceList) -> None:
        self._lists[part.digest] = piece_list(part.digest)
        self._left[part.digest] = 0
        if self.blobs.partial_bytes(part.digest):
            self._writer(part)

    def _is_here(self, part: Part, is_here: dict[Digest, bool]) -> bool:
        writer = self._writers.get(part.digest)
        return is_here[part.digest] or (
            writer is not None and writer.has(part.offset // PIECE_BYTES)
        )
