"""The swarm connection: units of an artifact (core/swarm.py), from the master or from a peer.

The asking side sends SWARM_PREFACE, then requests one after the other; each frame is as in
`codec`. Sets of units are bytes, the lowest bit of the first byte being unit 0. After `SendingUnit`
come exactly `wire_bytes` bytes. A peer answers only who says its key.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

from corps.errors import ProtocolError
from corps.model.name import Digest
from corps.wire.bulk import Trouble
from corps.wire.worker import Message

LOOK_MAX_S = 10.0
UNITS_MAX = 200_000


class Encoding(StrEnum):
    RAW = "raw"
    ZSTD = "zstd"


class Seek(Message, frozen=True, kw_only=True):
    """To the master: who else fetches or has it? The asker serves on `port` who says `key`; 0: it
    serves nobody. Answer: Members."""

    artifact: Digest
    port: int
    key: str


class Look(Message, frozen=True, kw_only=True):
    """To a peer: what has it? Answer: Have, once that is not `known`, at the latest after `wait_s`.
    The asker serves on `port` who says `own_key`."""

    artifact: Digest
    key: str
    port: int = 0
    own_key: str = ""
    known: bytes = b""
    wait_s: float = 0.0


class TakeAny(Message, frozen=True, kw_only=True):
    """To the master: send any one of these. Answer: SendingUnit and the bytes, or Trouble."""

    artifact: Digest
    wanted: bytes


class Take(Message, frozen=True, kw_only=True):
    """To a peer: send this one. Answer: SendingUnit and the bytes, or Trouble."""

    artifact: Digest
    key: str
    unit: int


class MemberEntry(Message, frozen=True, kw_only=True):
    address: str
    key: str


class Members(Message, frozen=True, kw_only=True):
    members: tuple[MemberEntry, ...]


class Have(Message, frozen=True, kw_only=True):
    units: bytes


class SendingUnit(Message, frozen=True, kw_only=True):
    """A unit follows. `have`: what the sender has."""

    unit: int
    wire_bytes: int
    encoding: Encoding = Encoding.RAW
    have: bytes = b""


SwarmRequest: TypeAlias = Seek | Look | Take | TakeAny
SwarmAnswer: TypeAlias = Members | Have | SendingUnit | Trouble


def as_bytes(units: int) -> bytes:
    """A set of units (core/swarm.py) as it travels."""
    return units.to_bytes(-(-units.bit_length() // 8), "little")


def as_units(data: bytes) -> int:
    """Raise ProtocolError for more units than an artifact has."""
    if len(data) * 8 > UNITS_MAX:
        raise ProtocolError(f"a set of {len(data) * 8} units: at most {UNITS_MAX}")
    return int.from_bytes(data, "little")
