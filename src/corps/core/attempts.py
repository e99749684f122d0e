"""An attempt as a worker knows it, and how the keeper's word becomes a report."""

from __future__ import annotations

from dataclasses import dataclass

import msgspec

from corps.core import believe
from corps.core.explain import errno_name
from corps.model.instance import (
    Death,
    Delivered,
    Evidence,
    Exited,
    InstanceState,
    Launchable,
    RssSource,
    Signaled,
    SpawnFailed,
    Usage,
    Vanished,
)
from corps.wire.keeper import KeptAttempt, KeptUsage
from corps.wire.worker import Report

DELIVERED_MAX = 20
FLOOR_SLACK = 1.05  # the resident set before exec varies a little from fork to fork


@dataclass
class Attempt:
    """`launch` is None for one that an earlier life of this worker started.

    `end_signal` was asked for; at `kill_at` it becomes SIGKILL.
    """

    report: Report
    launch: Launchable | None = None
    end_signal: int | None = None
    kill_at: float | None = None
    peak_bytes: int | None = None


def kept(listed: KeptAttempt) -> Report:
    """The report of an attempt that only the keeper remembers, before its word is applied."""
    return Report(
        key=listed.key, state=InstanceState.STARTING, digest=listed.note, forked_at=listed.forked_at
    )


def died(report: Report, listed: KeptAttempt, reason: str | None, now: float) -> Report:
    """The final report; `reason` explains in words why it did not start."""
    was_seen = report.started_at is not None
    did_start = listed.executed and listed.status is not None
    return msgspec.structs.replace(
        report,
        state=InstanceState.DEAD,
        death=_death(listed, reason, was_seen=was_seen),
        pid=listed.pid or None,
        forked_at=listed.forked_at if listed.pid else None,
        started_at=report.started_at or (listed.forked_at if did_start else None),
        ended_at=listed.ended_at if listed.ended_at is not None else now,
        delivered=delivered(listed),
    )


def testified(evidence: Evidence | None, listed: KeptAttempt, now: float) -> Evidence | None:
    """What was seen of a death, together with what its keeper knows of it."""
    if listed.deadline_s is None:
        return evidence
    limit = f"its keeper ended it: it had not executed {listed.deadline_s:g} s after its fork"
    return msgspec.structs.replace(evidence or Evidence(seen_at=now), limit=limit)


def delivered(listed: KeptAttempt) -> tuple[Delivered, ...]:
    """The signals that the keeper delivered, the last ones if there were many."""
    sent = listed.signals[-DELIVERED_MAX:]
    return tuple(Delivered(signal=signal.signal, at=signal.at) for signal in sent)


def usage_of(usage: KeptUsage | None, peak_bytes: int | None) -> Usage | None:
    """The final usage. ru_maxrss also counts the image before exec: at that floor the sampled
    peak of the program itself is the better figure, and without one it is an upper bound."""
    if usage is None:
        return None
    max_rss_bytes, source = usage.max_rss_bytes, RssSource.WAIT4
    if max_rss_bytes <= usage.floor_bytes * FLOOR_SLACK:
        source = RssSource.FLOOR
        if peak_bytes is not None:
            max_rss_bytes, source = peak_bytes, RssSource.SAMPLED
    return Usage(
        cpu_user_s=usage.cpu_user_s,
        cpu_system_s=usage.cpu_system_s,
        max_rss_bytes=max_rss_bytes,
        max_rss_source=source,
    )


def _death(listed: KeptAttempt, reason: str | None, *, was_seen: bool) -> Death:
    if listed.failed_stage is not None:
        errno = listed.failed_errno or 0
        stage = listed.failed_stage
        message = believe.text(reason or f"{stage} failed with {errno_name(errno)}")
        return SpawnFailed(stage=stage, errno=errno, message=message)
    if listed.status is None:
        # What had not used its right to exec is no loss: the keeper says so by `failed_stage`.
        reason = believe.text(listed.lost or "its keeper was lost")
        # Without a pid, of a damaged record, the keeper cannot have looked whether it is gone.
        return Vanished(reason=reason, may_have_run=not was_seen, may_still_run=listed.pid == 0)
    return _from_status(listed.status)


def _from_status(status: int) -> Death:
    """A wait status as waitpid(2) defines it: low 7 bits signal, bit 7 core, next 8 exit code."""
    number = status & 0x7F
    if number:
        return Signaled(signal=number, core_dumped=bool(status & 0x80))
    return Exited(code=(status >> 8) & 0xFF)
