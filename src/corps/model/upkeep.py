"""What an operator sees of artifacts over their life: drift, garbage, and the room they take."""

from __future__ import annotations

import msgspec

from corps.model.finding import Finding
from corps.model.name import Digest
from corps.model.view import View

WHOLE = "whole"
DRIFTED = "drift"


class DriftView(View, frozen=True, kw_only=True):
    """One version on one worker, or at the master (`worker` null), read byte by byte.

    `result` is whole, drift, or why it could not be verified. `more` findings are not listed. What
    nobody copied is among the findings, and alone no drift.
    """

    worker: str | None
    artifact: str
    digest: Digest
    result: str
    findings: tuple[Finding, ...] = ()
    more: int = 0


class GarbageView(View, frozen=True, kw_only=True):
    """One version, and whether it may go. `kept_for`: why not; null: it goes.

    `frees_bytes` is what no other version that stays has, `used_at` when it was last copied or
    launched.
    """

    artifact: str
    digest: Digest
    tags: tuple[str, ...]
    size_bytes: int = msgspec.field(name="bytes")
    frees_bytes: int
    used_at: str
    kept_for: str | None


class GarbagePlan(View, frozen=True, kw_only=True):
    """`stored_bytes`: of all versions, each content once, before and after. `orphan...`: blobs at
    the master that no version names, left by uploads that nobody finished."""

    versions: tuple[GarbageView, ...]
    stored_bytes: int
    left_bytes: int
    budget_bytes: int | None
    orphan_count: int
    orphan_bytes: int


class RoomView(View, frozen=True, kw_only=True):
    """What versions are at one place, as the master knows it: `named_bytes` is the sum of their
    sizes, `stored_bytes` each content once, `ratio` the one by the other (null without any)."""

    worker: str | None
    versions: int
    named_bytes: int
    stored_bytes: int
    ratio: float | None


class Order(msgspec.Struct, frozen=True, kw_only=True):
    """Which version: `POST` of what is done at the master itself."""

    artifact: str = ""
