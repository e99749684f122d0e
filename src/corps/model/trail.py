"""The audit trail: who did what, from where, and what came of it; each entry holds its predecessor.

    GENESIS <-prev- entry 1 <-prev- entry 2 <-prev- ... <-prev- entry N <- head

An entry is one line of JSON, and `prev` the SHA-256 of the line before, so that `sha256sum` proves
an export too. Text in it is JSON: a newline in a name makes no second line.
"""

from __future__ import annotations

import hashlib
from enum import StrEnum
from typing import TypeAlias

import msgspec

from corps.model.name import CommandId

GENESIS = "0" * 64
NOBODY = "?"  # nobody knows who
WORD_MAX = 200
DETAIL_MAX = 1_000
TRAIL_PAGE_MAX = 1_000


class Outcome(StrEnum):
    ACCEPTED = "accepted"  # durable and under way; its result follows
    DONE = "done"
    FAILED = "failed"  # carried out, and it failed
    REFUSED = "refused"  # it was allowed, and could not be done
    DENIED = "denied"  # it was not allowed


class Deed(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What somebody did. `who` is a person, a worker, the id of a token or `master`, as far as it
    is known; `source` an address, or `unix`; `detail` holds no secret and no value of a variable.
    """

    who: str
    act: str
    outcome: Outcome
    source: str = ""
    subject: str = ""
    detail: str = ""
    command: CommandId | None = None


class TrailMark(msgspec.Struct, frozen=True, kw_only=True):
    """The hash of an entry at which the trail may be cut."""

    seq: int
    hash: str


class TrailHead(msgspec.Struct, frozen=True, kw_only=True):
    """The newest entry, so that nobody takes away the last ones unseen."""

    seq: int = 0
    hash: str = GENESIS


class TrailEntry(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """`cut`: the entries up to that one, the oldest, were dropped."""

    seq: int
    at: float
    deed: Deed
    prev: str
    cut: TrailMark | None = None


TrailRecord: TypeAlias = TrailEntry | TrailHead | TrailMark


class TrailPage(msgspec.Struct, frozen=True, kw_only=True):
    """Entries in their order, each as the line that is hashed; `last` is where to go on, `head` the
    newest entry at that moment."""

    entries: list[str]
    last: int
    head: TrailHead


class TrailView(msgspec.Struct, frozen=True, kw_only=True):
    """An entry as it is shown; `at` RFC 3339."""

    seq: int
    at: str
    who: str
    source: str
    act: str
    subject: str
    outcome: str
    detail: str
    command: CommandId | None


_ENCODER = msgspec.json.Encoder()
_DECODER = msgspec.json.Decoder(TrailEntry)


def line_of(entry: TrailEntry) -> bytes:
    return _ENCODER.encode(entry)


def parse_line(line: str) -> TrailEntry | None:
    """None for what is no entry."""
    try:
        return _DECODER.decode(line)
    except (msgspec.DecodeError, UnicodeError):
        return None


def hash_line(line: bytes) -> str:
    return hashlib.sha256(line).hexdigest()


def short(text: str, chars_max: int = WORD_MAX) -> str:
    """So much of it, and what no file can hold spelled out."""
    text = text if len(text) <= chars_max else f"{text[: chars_max - 3]}..."
    return text.encode("utf-8", "backslashreplace").decode()
