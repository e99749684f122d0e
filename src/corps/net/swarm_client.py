"""The asking side of the swarm connection: one source of units, the master or a peer."""

from __future__ import annotations

import socket
from collections.abc import Callable
from types import TracebackType
from typing import TypeAlias, TypeVar

import zstandard

from corps.core.supply import Member
from corps.core.swarm import Unit, Units, unit_bytes
from corps.errors import ProtocolError, error_of
from corps.model.name import Digest
from corps.net.channel import STALL_S, Channel
from corps.wire.bulk import Trouble
from corps.wire.codec import SWARM_PREFACE
from corps.wire.swarm import (
    Encoding,
    Have,
    Look,
    MemberEntry,
    Members,
    Seek,
    SendingUnit,
    SwarmAnswer,
    Take,
    TakeAny,
    as_bytes,
    as_units,
)

OnBytes: TypeAlias = Callable[[int], None]
Answer = TypeVar("Answer", Members, Have, SendingUnit)


class SwarmClient:
    """One connection, for one thread; any method may raise OSError or CorpsError, and then it is
    of no use any more. `own` is what the asker serves on itself."""

    def __init__(
        self,
        sock: socket.socket,
        artifact: Digest,
        units: tuple[Unit, ...],
        key: str = "",
        stall_s: float = STALL_S,
    ) -> None:
        self._sock, self._artifact, self._units, self._key = sock, artifact, units, key
        self._channel: Channel[SwarmAnswer] = Channel(sock, SwarmAnswer, stall_s)
        self._channel.hold(SWARM_PREFACE)

    def __enter__(self) -> SwarmClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._channel.close()

    def seek(self, port: int, key: str) -> tuple[Member, ...]:
        """Of the master: who else has units."""
        self._channel.send(Seek(artifact=self._artifact, port=port, key=key))
        entries: tuple[MemberEntry, ...] = self._receive(Members).members
        return tuple(Member(entry.address, entry.key) for entry in entries)

    def look(self, known: Units, wait_s: float, port: int, own_key: str) -> Units:
        """Of a peer: what it has, once that is not what is known."""
        look = Look(
            artifact=self._artifact,
            key=self._key,
            port=port,
            own_key=own_key,
            known=as_bytes(known),
            wait_s=wait_s,
        )
        self._channel.send(look)
        return as_units(self._receive(Have).units)

    def take(self, unit: int, on_bytes: OnBytes) -> tuple[bytes, Units]:
        """Of a peer: the unit, not verified yet, and what the peer has now."""
        self._channel.send(Take(artifact=self._artifact, key=self._key, unit=unit))
        sending = self._receive(SendingUnit)
        if sending.unit != unit:
            raise ProtocolError(f"asked for unit {unit}, got {sending.unit}")
        return self._receive_unit(sending, on_bytes), as_units(sending.have)

    def take_any(
        self, wanted: Units, on_unit: Callable[[int], None], on_bytes: OnBytes
    ) -> tuple[int, bytes]:
        """Of the master: one of these; `on_unit` hears which before its bytes come."""
        self._channel.send(TakeAny(artifact=self._artifact, wanted=as_bytes(wanted)))
        sending = self._receive(SendingUnit)
        if not 0 <= sending.unit < len(self._units) or not wanted >> sending.unit & 1:
            raise ProtocolError(f"unit {sending.unit} was not asked for")
        on_unit(sending.unit)
        return sending.unit, self._receive_unit(sending, on_bytes)

    def _receive(self, kind: type[Answer]) -> Answer:
        answer = self._channel.receive()
        if answer is None:
            raise ConnectionError("closed by the peer")
        if isinstance(answer, Trouble):
            raise error_of(answer.code, answer.message, {})
        if not isinstance(answer, kind):
            raise ProtocolError(f"asked for {kind.__name__}, got {type(answer).__name__}")
        return answer

    def _receive_unit(self, sending: SendingUnit, on_bytes: OnBytes) -> bytes:
        size_bytes = unit_bytes(self._units[sending.unit])
        if not 0 <= sending.wire_bytes <= size_bytes:
            raise ProtocolError(f"{sending.wire_bytes} bytes for a unit of {size_bytes}")
        received = bytearray()
        for piece in self._channel.receive_raw(sending.wire_bytes):
            received += piece
            on_bytes(len(piece))
        data = bytes(received)
        if sending.encoding is Encoding.ZSTD:
            data = _unpack(data, size_bytes)
        if len(data) != size_bytes:
            raise ProtocolError(f"{len(data)} bytes for a unit of {size_bytes}")
        return data


def _unpack(data: bytes, size_bytes: int) -> bytes:
    """Not a byte more than the unit has, whatever the frame says of itself."""
    try:
        with zstandard.ZstdDecompressor().stream_reader(data) as reader:
            return reader.read(size_bytes + 1)
    except zstandard.ZstdError as error:
        raise ProtocolError(f"cannot unpack a unit: {error}") from error
