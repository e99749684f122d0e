"""An attempt as a worker knows it, and how the keeper's word becomes a report."""

from __future__ import annotations

from dataclasses import dataclass
from signal import SIGKILL, SIGXCPU, SIGXFSZ

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
    Survivor,
    Usage,
    Vanished,
)
from corps.model.secret import names_of
from corps.wire.keeper import KeptAttempt, KeptUsage
from corps.wire.secret import Secrets
from corps.wire.worker import Report

DELIVERED_MAX = 20
ENOENT = 2
FLOOR_SLACK = 1.05  # the resident set before exec varies a little from fork to fork


@dataclass
class Attempt:
    """`launch` is None for one that an earlier life of this worker started.

    `end_signal` was asked for; at `kill_at` it becomes SIGKILL. Its files are in place, and it
    waits for its secrets alone: until `ask_at`, then they are asked for again.
    """

    report: Report
    launch: Launchable | None = None
    end_signal: int | None = None
    kill_at: float | None = None
    peak_bytes: int | None = None
    ask_at: float | None = None
    is_verified: bool = False

    @property
    def is_waiting(self) -> bool:
        """Asked for, and without a process as far as anybody was told."""
        is_starting = self.report.state is InstanceState.STARTING
        return self.launch is not None and is_starting and self.report.pid is None

    @property
    def launchable(self) -> Launchable:
        assert self.launch is not None, "only what was started here is spawned"
        return self.launch

    def lacks(self, message: Secrets) -> str | None:
        """Why it cannot start with these."""
        named = names_of(self.launchable.terms.secrets)
        is_all = named == tuple(secret.name for secret in message.secrets)
        return message.problem or (None if is_all else "its master sent other secrets")


def no_secrets(why: str) -> SpawnFailed:
    return SpawnFailed(stage="secrets", errno=ENOENT, message=why)


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
        delivered=delivered(listed) + _on_their_way(listed),
        enforced=listed.enforced or report.enforced,
    )


def testified(evidence: Evidence | None, listed: KeptAttempt, now: float) -> Evidence | None:
    """What was seen of a death, together with what its keeper knows of it."""
    if evidence is None and not listed.executed and listed.deadline_s is None:
        return None
    seen = evidence or Evidence(seen_at=now)
    oom = _oom(listed)
    return msgspec.structs.replace(
        seen,
        oom=oom or seen.oom,
        proves_oom=oom is not None or seen.proves_oom,
        limit=_limit(listed) or seen.limit,
        lingering=listed.lingering,
        survivors=survivors(listed),
    )


def survivors(listed: KeptAttempt) -> tuple[Survivor, ...]:
    return tuple(Survivor(pid=one.pid, command=one.command) for one in listed.survivors)


def delivered(listed: KeptAttempt) -> tuple[Delivered, ...]:
    """The signals that the keeper delivered, the last ones if there were many."""
    sent = listed.signals[-DELIVERED_MAX:]
    return tuple(Delivered(signal=signal.signal, at=signal.at) for signal in sent)


def _on_their_way(listed: KeptAttempt) -> tuple[Delivered, ...]:
    """A keeper died while it sent this one, and then its target did: nobody else sent any."""
    sent = listed.sending
    return () if sent is None else (Delivered(signal=sent.signal, at=sent.at),)


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


def _oom(listed: KeptAttempt) -> str | None:
    """The kernel counts for each group whom the OOM killer took."""
    if not listed.oom_kills:
        return None
    whom = "1 process" if listed.oom_kills == 1 else f"{listed.oom_kills} processes"
    return f"the OOM killer took {whom} of this instance at its memory limit"


def _limit(listed: KeptAttempt) -> str | None:
    """The limit that ended it; of a death by SIGKILL or SIGXCPU nothing else may be said here."""
    if listed.deadline_s is not None:
        return f"its keeper ended it: it had not executed {listed.deadline_s:g} s after its fork"
    number = (listed.status or 0) & 0x7F
    notes = [sent.note for sent in listed.signals if sent.note]
    if number == SIGKILL and notes:
        return f"its worker ended it: {notes[-1]}"
    if number == SIGXCPU and "cpu" in listed.enforced:
        return "it had used the CPU time of its limit cpu"
    if number in (SIGXCPU, SIGKILL):
        return None
    if number == SIGXFSZ:
        return "a file had reached the size that setrlimit(2) allows"
    met = [f"{name}, {times} times" for name, times in sorted(listed.limit_hits.items())]
    return f"it met its limits: {'; '.join(met)}" if met else None


def _from_status(status: int) -> Death:
    """A wait status as waitpid(2) defines it: low 7 bits signal, bit 7 core, next 8 exit code."""
    number = status & 0x7F
    if number:
        return Signaled(signal=number, core_dumped=bool(status & 0x80))
    return Exited(code=(status >> 8) & 0xFF)
