"""Skew: what a peer says of times, on our own clock where the two are far apart.

No two clocks agree: one may have been stepped by years while the other runs on. A little is left
as it is; more would make a process end before it began, or a signal be older than its asking.
"""

from __future__ import annotations

import msgspec

from corps.core import believe
from corps.model.instance import Delivered, Evidence
from corps.wire.keeper import KeptAttempt, KeptSignal, Spawned
from corps.wire.worker import Report

SKEW_S = 5.0


def ahead_s(theirs: float | None, ours: float) -> float:
    """By how much their clock is ahead of ours; 0 when it may be the delay of what they said."""
    said = believe.moment(theirs)
    ahead = 0.0 if said is None else said - ours
    return ahead if abs(ahead) > SKEW_S else 0.0


def report_on_ours(said: Report, ahead: float) -> Report:
    """The report with all its times on our clock."""
    return msgspec.structs.replace(
        said,
        received_at=_less(said.received_at, ahead),
        fetched_at=_less(said.fetched_at, ahead),
        forked_at=_less(said.forked_at, ahead),
        started_at=_less(said.started_at, ahead),
        ended_at=_less(said.ended_at, ahead),
        delivered=tuple(
            Delivered(signal=sent.signal, at=sent.at - ahead) for sent in said.delivered
        ),
        evidence=None if said.evidence is None else _evidence_on_ours(said.evidence, ahead),
    )


def kept_on_ours(said: KeptAttempt, ahead: float) -> KeptAttempt:
    """The keeper's word on an attempt with all its times on our clock."""
    if not ahead:
        return said
    return msgspec.structs.replace(
        said,
        forked_at=said.forked_at - ahead,
        ended_at=_less(said.ended_at, ahead),
        signals=tuple(KeptSignal(signal=sent.signal, at=sent.at - ahead) for sent in said.signals),
    )


def spawned_on_ours(said: Spawned, ahead: float) -> Spawned:
    if not ahead:
        return said
    return msgspec.structs.replace(
        said, forked_at=said.forked_at - ahead, executed_at=said.executed_at - ahead
    )


def _evidence_on_ours(said: Evidence, ahead: float) -> Evidence:
    return msgspec.structs.replace(said, seen_at=said.seen_at - ahead)


def _less(at: float | None, ahead: float) -> float | None:
    return None if at is None else at - ahead
