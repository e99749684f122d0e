"""The swarm connection (wire/swarm.py): units of an artifact out of a store, and asking for them.

Blocking, in threads, as the bulk connection is. What a sender says is believed only as far as the
receiver can verify it: a unit is kept when its digests are right, and else costs its bytes.
"""

from __future__ import annotations

import os
import socket
import threading
from typing import Protocol, assert_never

import zstandard

from corps.core.supply import Member, Supply
from corps.core.swarm import Unit, Units, as_set, plan
from corps.errors import CorpsError, NotFound, ProtocolError, Unavailable
from corps.model.artifact import MANIFEST_MAX_BYTES, Manifest, decode_manifest
from corps.model.name import Digest
from corps.net.address import format_address
from corps.net.channel import STALL_S, Channel
from corps.net.pace import Pace
from corps.wire.bulk import Trouble
from corps.wire.swarm import (
    LOOK_MAX_S,
    Encoding,
    Have,
    Look,
    MemberEntry,
    Members,
    Seek,
    SendingUnit,
    SwarmRequest,
    Take,
    TakeAny,
    as_bytes,
    as_units,
)

ZSTD_LEVEL = 1
WORTH = 0.9  # what is not smaller than this share of itself travels as it is
SEND_BYTES = 64 << 10


class Reader(Protocol):
    """What `store.pieces.PieceReader` does; `net` and `store` do not know each other."""

    fd: int

    def close(self) -> None: ...


class Blobs(Protocol):
    """What `store.blobs.BlobStore` does."""

    def has(self, digest: Digest) -> bool: ...
    def open_pieces(self, digest: Digest) -> Reader: ...
    def read_bytes(self, digest: Digest, limit_bytes: int) -> bytes: ...


class Share:
    """What is here of one artifact, for others to take; it may grow meanwhile."""

    def __init__(
        self, units: tuple[Unit, ...], have: Units, blobs: Blobs, pace: Pace | None = None
    ) -> None:
        self.units, self.pace = units, pace
        self._have, self._blobs = have, blobs
        self._supply = Supply()
        self._grown = threading.Condition()

    @property
    def have(self) -> Units:
        return self._have

    @property
    def is_whole(self) -> bool:
        return self._have.bit_count() == len(self.units)

    def add(self, unit: int) -> None:
        with self._grown:
            self._have |= 1 << unit
            self._grown.notify_all()

    def wait(self, known: Units, wait_s: float) -> Units:
        """What is here, once that is not what is known."""
        with self._grown:
            self._grown.wait_for(lambda: self._have != known, min(max(wait_s, 0.0), LOOK_MAX_S))
            return self._have

    def choose(self, wanted: Units) -> int:
        with self._grown:
            unit = self._supply.choose(wanted & self._have)
        if unit is None:
            raise NotFound("none of these units is here")
        return unit

    def read(self, unit: int) -> bytes:
        """Raise NotFound when it is not here, or not any more."""
        if not 0 <= unit < len(self.units) or not self._have >> unit & 1:
            raise NotFound(f"no unit {unit} here")
        return b"".join(
            _read(self._blobs, part.digest, part.offset, part.size_bytes)
            for part in self.units[unit]
        )


def share_of(artifact: Digest, blobs: Blobs) -> Share:
    """What a store that is at rest has of an artifact. Raise NotFound."""
    units = plan(load_manifest(artifact, blobs))
    whole = (at for at, unit in enumerate(units) if all(blobs.has(part.digest) for part in unit))
    return Share(units, as_set(whole), blobs)


def load_manifest(artifact: Digest, blobs: Blobs) -> Manifest:
    return decode_manifest(blobs.read_bytes(artifact, MANIFEST_MAX_BYTES))


class Shelf(Protocol):
    """What a swarm connection is served from: at the master, or at a worker. All may refuse."""

    def seek(self, question: Seek, host: str) -> tuple[Member, ...]: ...
    def admit(self, request: SwarmRequest) -> None: ...
    def met(self, artifact: Digest, member: Member) -> None: ...
    def share(self, artifact: Digest) -> Share: ...


def serve_swarm(sock: socket.socket, shelf: Shelf, stall_s: float = STALL_S) -> None:
    """Answer requests until the peer closes, breaks the contract or stalls; closes `sock`."""
    host = str(sock.getpeername()[0]) if sock.family != socket.AF_UNIX else ""
    channel: Channel[SwarmRequest] = Channel(sock, SwarmRequest, stall_s)
    try:
        while (request := channel.receive()) is not None:
            try:
                _answer(channel, shelf, request, host)
            except ProtocolError:
                raise
            except CorpsError as error:
                channel.send(Trouble(code=error.code, message=error.message))
    except ProtocolError as error:
        channel.hang_up(Trouble(code=error.code, message=error.message))
    except OSError:
        pass  # gone or stalled: nobody is left to tell
    finally:
        channel.close()


def _answer(channel: Channel[SwarmRequest], shelf: Shelf, request: SwarmRequest, host: str) -> None:
    shelf.admit(request)
    match request:
        case Seek():
            found = shelf.seek(request, host)
            entries = tuple(MemberEntry(address=m.address, key=m.key) for m in found)
            channel.send(Members(members=entries))
        case Look():
            if request.port:
                shelf.met(
                    request.artifact, Member(format_address((host, request.port)), request.own_key)
                )
            share = shelf.share(request.artifact)
            have = share.wait(as_units(request.known), request.wait_s)
            channel.send(Have(units=as_bytes(have)))
        case Take():
            _send(channel, shelf.share(request.artifact), request.unit)
        case TakeAny():
            share = shelf.share(request.artifact)
            _send(channel, share, share.choose(as_units(request.wanted)))
        case _:
            assert_never(request)


def _send(channel: Channel[SwarmRequest], share: Share, unit: int) -> None:
    data = share.read(unit)
    packed = zstandard.ZstdCompressor(level=ZSTD_LEVEL).compress(data)
    is_worth = len(packed) < WORTH * len(data)
    sent = packed if is_worth else data
    sending = SendingUnit(
        unit=unit,
        wire_bytes=len(sent),
        encoding=Encoding.ZSTD if is_worth else Encoding.RAW,
        have=as_bytes(share.have),
    )
    channel.send(sending)
    if share.pace is None:
        channel.hold(sent)
        channel.flush()
        return
    for start in range(0, len(sent), SEND_BYTES):
        piece = sent[start : start + SEND_BYTES]
        share.pace.spend(len(piece))
        channel.hold(piece)
        channel.flush()


def _read(blobs: Blobs, digest: Digest, offset: int, count: int) -> bytes:
    reader = blobs.open_pieces(digest)
    try:
        data = os.pread(reader.fd, count, offset)
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        raise Unavailable(f"cannot read blob {digest!r}: {reason}") from error
    finally:
        reader.close()
    if len(data) < count:
        raise Unavailable(f"blob {digest!r} was cut short on disk")
    return data
