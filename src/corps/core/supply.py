"""Supply: which unit whoever has them sends next, and who else is asked for an artifact's units.

All of it is soft: a master that begins anew learns it from the next questions.
"""

from __future__ import annotations

from random import Random
from typing import NamedTuple

from corps.core.swarm import Units
from corps.model.name import Digest

ACTIVE_S = 10.0
MEMBER_S = 3_600.0
TOLD_MAX = 16
MEMBERS_MAX = 1_000
ARTIFACTS_MAX = 200


class Supply:
    """What was sent how often. One that was sent least is sent next, so that each leaves the
    master about once and the workers have something to give each other."""

    def __init__(self) -> None:
        self._sent: list[Units] = []  # at k: what was sent more than k times

    def choose(self, wanted: Units) -> int | None:
        """The unit of `wanted` to send now, counted as sent; None when nothing is wanted."""
        if not wanted:
            return None
        for units in self._sent:
            if rest := wanted & ~units:
                return self._send(rest)
        return self._send(wanted)

    def _send(self, units: Units) -> int:
        lowest = units & -units
        for at, sent in enumerate(self._sent):
            if not sent & lowest:
                self._sent[at] |= lowest
                return lowest.bit_length() - 1
        self._sent.append(lowest)
        return lowest.bit_length() - 1


class Member(NamedTuple):
    """A worker that serves peers at `address` to those who say its `key`."""

    address: str
    key: str


class Tracker:
    """Who fetches which artifact, or has it since a while."""

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._heard_at: dict[Digest, dict[Member, float]] = {}

    def seek(self, now: float, digest: Digest, member: Member | None) -> tuple[Member, ...]:
        """Note that `member` is one, None: it serves nobody; who else is one, those first that
        were heard of just now."""
        heard_at = self._heard_at.pop(digest, {})
        self._heard_at[digest] = heard_at  # the newest last
        if member is not None:
            for other in [o for o in heard_at if o.address == member.address]:
                del heard_at[other]  # perhaps with the key of an earlier life
            heard_at[member] = now
        self._forget(now, heard_at)
        others = [other for other in heard_at if other is not member]
        active = [other for other in others if now - heard_at[other] <= ACTIVE_S]
        idle = [other for other in others if now - heard_at[other] > ACTIVE_S]
        self._rng.shuffle(active)
        self._rng.shuffle(idle)
        return tuple((active + idle)[:TOLD_MAX])

    def _forget(self, now: float, heard_at: dict[Member, float]) -> None:
        while len(self._heard_at) > ARTIFACTS_MAX:
            del self._heard_at[next(iter(self._heard_at))]
        for member, at in list(heard_at.items()):  # the oldest first
            if now - at <= MEMBER_S and len(heard_at) <= MEMBERS_MAX:
                break
            del heard_at[member]
