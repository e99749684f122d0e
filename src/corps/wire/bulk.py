"""The bulk connection: blobs in and out of a store, on a connection of their own.

The asking side sends BULK_PREFACE, then any number of requests one after the other; each frame is
as in `codec`. After `Sending` come exactly `wire_bytes` bytes, in either direction.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

from corps.model.name import Digest
from corps.wire.message import Message


class Encoding(StrEnum):
    """How a range of a blob travels: as it is; compressed; or compressed by what it has in common
    with a region of another blob, which both sides have."""

    RAW = "raw"
    ZSTD = "zstd"
    PATCH = "patch"


class Authorize(Message, frozen=True, kw_only=True):
    """At the API's port, the first of all: the token of a person who may copy. No answer but
    Trouble, then the connection ends."""

    token: str


class Want(Message, frozen=True, kw_only=True):
    """Ask for a blob from `offset` on: `length` bytes of it, None for the rest.

    Answer: Trouble, or as many Sending as it takes, each with its bytes. `encodings`: what the
    asker understands beside raw; `bases`: similar blobs it has, the best first; the answers come no
    faster than `rate_bytes_s`. `artifact`: that which the blob is, or is a file of: a worker is
    given only what belongs to those that it should have.
    """

    digest: Digest
    offset: int = 0
    length: int | None = None
    encodings: tuple[Encoding, ...] = ()
    bases: tuple[Digest, ...] = ()
    rate_bytes_s: int | None = None
    artifact: Digest | None = None


class Pieces(Message, frozen=True, kw_only=True):
    """Ask for the piece list of a blob, `artifact` as above. Answer: PieceList or Trouble."""

    digest: Digest
    artifact: Digest | None = None


class PieceList(Message, frozen=True, kw_only=True):
    """`pieces` as in model.pieces. Who gets it from the master trusts it; the digest of the whole
    blob is verified all the same."""

    digest: Digest
    size_bytes: int
    pieces: bytes


class Missing(Message, frozen=True, kw_only=True):
    """Which of these does the store lack? Answer: Missing with those. At most 10,000 at once."""

    digests: tuple[Digest, ...]


class Claim(Message, frozen=True, kw_only=True):
    """I will put what of these nobody else is putting. Answer: Claimed. At most 10,000 at once."""

    digests: tuple[Digest, ...]


class Claimed(Message, frozen=True, kw_only=True):
    """Put these. `arriving`: from others, and how many bytes of each are here; ask again."""

    digests: tuple[Digest, ...]
    arriving: dict[Digest, int]


class Room(Message, frozen=True, kw_only=True):
    """Is there room for so many bytes more? Answer: the same, or Trouble."""

    size_bytes: int


class Partial(Message, frozen=True, kw_only=True):
    """How much of a blob is there that broke off while it was put? Answer: Partial with that."""

    digest: Digest
    offset: int = 0


class Sending(Message, frozen=True, kw_only=True):
    """Bytes of a blob follow: `length` from `offset` on, None for the rest. As a request: put it;
    answer: Stored or Trouble.

    They are `wire_bytes` as they travel, None for as many as they are. A patch is made against
    `base_length` bytes of `base` from `base_offset` on.
    """

    digest: Digest
    size_bytes: int
    offset: int = 0
    length: int | None = None
    encoding: Encoding = Encoding.RAW
    wire_bytes: int | None = None
    base: Digest | None = None
    base_offset: int = 0
    base_length: int = 0


class Stored(Message, frozen=True, kw_only=True):
    """The blob is verified and durable."""

    digest: Digest


class Trouble(Message, frozen=True, kw_only=True):
    """The request failed, by the codes of `errors`."""

    code: str
    message: str


BulkRequest: TypeAlias = Want | Pieces | Missing | Claim | Room | Partial | Sending
BulkAnswer: TypeAlias = Sending | PieceList | Missing | Claimed | Room | Partial | Stored | Trouble
