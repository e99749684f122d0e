"""The bulk connection: blobs in and out of a store, on a connection of their own.

The asking side sends BULK_PREFACE, then any number of requests one after the other; each frame is
as in `codec`. After `Sending` come exactly `size_bytes - offset` raw bytes, in either direction.
"""

from __future__ import annotations

from typing import TypeAlias

from corps.model.name import Digest
from corps.wire.message import Message


class Want(Message, frozen=True, kw_only=True):
    """Ask for a blob from `offset` on. Answer: Sending and the bytes, or Trouble."""

    digest: Digest
    offset: int = 0


class Missing(Message, frozen=True, kw_only=True):
    """Which of these does the store lack? Answer: Missing with those. At most 10,000 at once."""

    digests: tuple[Digest, ...]


class Sending(Message, frozen=True, kw_only=True):
    """A blob follows. As a request: put it; answer: Stored or Trouble."""

    digest: Digest
    size_bytes: int
    offset: int = 0


class Stored(Message, frozen=True, kw_only=True):
    """The blob is verified and durable."""

    digest: Digest


class Trouble(Message, frozen=True, kw_only=True):
    """The request failed, by the codes of `errors`."""

    code: str
    message: str


BulkRequest: TypeAlias = Want | Missing | Sending
BulkAnswer: TypeAlias = Sending | Missing | Stored | Trouble
