"""From records to the rows an operator sees. Pure: what is not known is null."""

from __future__ import annotations

import datetime
from typing import assert_never, overload

from corps.core.explain import asker, signal_name, verb_of
from corps.core.records import Event
from corps.model.certificate import Certificate
from corps.model.instance import (
    Asked,
    Delivered,
    Exited,
    Instance,
    Signaled,
    SpawnFailed,
    Usage,
    Vanished,
)
from corps.model.terms import show_restart
from corps.model.trail import TrailEntry, TrailView
from corps.model.trust import Member
from corps.model.view import (
    AskedView,
    CertificateView,
    DeathView,
    DeliveredView,
    EventView,
    EvidenceView,
    InstanceView,
    UsageView,
    WorkerView,
)
from corps.model.worker import Worker
from corps.wire.worker import LiveUsage


@overload
def rfc3339(at: float, timespec: str = ...) -> str: ...
@overload
def rfc3339(at: None, timespec: str = ...) -> None: ...
def rfc3339(at: float | None, timespec: str = "milliseconds") -> str | None:
    """Unix seconds -> `2026-11-23T13:28:00.123Z`: formats a given time, reads no clock."""
    if at is None:
        return None
    moment = datetime.datetime.fromtimestamp(at, tz=datetime.UTC)
    return moment.isoformat(timespec=timespec).replace("+00:00", "Z")


def view_instance(
    instance: Instance, live: LiveUsage | None = None, now: float | None = None
) -> InstanceView:
    """One row of ps. `live` is what its worker said of it just now, None if it could not."""
    due = instance.not_before
    waits_s = None if due is None or now is None else max(0.0, due - now)
    began, ended = instance.started_at, instance.ended_at or now
    ran_s = None if began is None or ended is None else max(0.0, ended - began)
    return InstanceView(
        id=instance.id,
        app=instance.app,
        worker=instance.worker,
        pid=None if instance.is_waiting else instance.pid,
        attempt=instance.attempt,
        state=instance.state,
        os_state=live.os_state if live and instance.is_live else None,
        started_at=rfc3339(instance.started_at),
        ended_at=rfc3339(instance.ended_at),
        death=view_death(instance),
        usage=view_usage(usage_now(instance, live)),
        artifact=instance.launch.artifact,
        digest=instance.launch.digest,
        args=instance.launch.args,
        enforced=instance.enforced,
        survivors=instance.evidence.survivors if instance.evidence else (),
        ran_s=ran_s,
        waits_s=waits_s,
        restart=show_restart(instance.restart, instance.failures_max),
        not_before=rfc3339(instance.not_before),
        failures=instance.failures,
    )


def view_usage(usage: Usage | None) -> UsageView:
    if usage is None:
        return UsageView(cpu_user_s=None, cpu_system_s=None, max_rss_bytes=None, rss_bytes=None)
    return UsageView(
        cpu_user_s=usage.cpu_user_s,
        cpu_system_s=usage.cpu_system_s,
        max_rss_bytes=usage.max_rss_bytes,
        rss_bytes=usage.rss_bytes,
        max_rss_source=usage.max_rss_source,
    )


def view_certificate(certificate: Certificate) -> CertificateView:
    launch, timings = certificate.launch, certificate.timings
    death = view_death(certificate)
    assert death is not None
    return CertificateView(
        key=certificate.key,
        id=certificate.id,
        app=certificate.app,
        attempt=certificate.attempt,
        worker=certificate.worker,
        artifact=launch.artifact,
        digest=launch.digest,
        args=launch.args,
        cwd=launch.cwd,
        terms=launch.terms,
        by=certificate.by,
        command=certificate.command,
        placement=certificate.placement or None,
        placed_at=rfc3339(timings.placed_at),
        received_at=rfc3339(timings.received_at),
        fetched_at=rfc3339(timings.fetched_at),
        fetched_bytes=certificate.fetched_bytes,
        forked_at=rfc3339(timings.forked_at),
        executed_at=rfc3339(timings.executed_at),
        started_at=rfc3339(certificate.started_at),
        ended_at=rfc3339(certificate.ended_at),
        uptime_s=uptime_s(certificate),
        pid=certificate.pid,
        death=death,
        asked=tuple(map(_view_asked, certificate.asks)),
        delivered=tuple(_view_delivered(sent, certificate) for sent in certificate.delivered),
        usage=view_usage(certificate.usage),
        enforced=certificate.enforced,
        evidence=_view_evidence(certificate),
    )


def uptime_s(certificate: Certificate) -> float | None:
    """How long it ran; None when it never did."""
    if certificate.started_at is None:
        return None
    return max(0.0, certificate.ended_at - certificate.started_at)


def seen_after_s(certificate: Certificate) -> float:
    """How long after a death its evidence was taken."""
    seen_at = certificate.evidence.seen_at if certificate.evidence else certificate.ended_at
    return max(0.0, seen_at - certificate.ended_at)


def _view_asked(asked: Asked) -> AskedView:
    return AskedView(
        verb=verb_of(asked),
        signal=asked.signal,
        by=asked.by,
        command=asked.command,
        at=rfc3339(asked.at),
        grace_s=asked.grace_s if verb_of(asked) == "stop" else None,
    )


def _view_delivered(sent: Delivered, certificate: Certificate) -> DeliveredView:
    asked = asker(sent, certificate)
    return DeliveredView(
        signal=sent.signal,
        name=signal_name(sent.signal),
        at=rfc3339(sent.at),
        verb=verb_of(asked) if asked else None,
        by=asked.by if asked else None,
        command=asked.command if asked else None,
    )


def _view_evidence(certificate: Certificate) -> EvidenceView | None:
    evidence = certificate.evidence
    if evidence is None:
        return None
    return EvidenceView(
        seen_at=rfc3339(evidence.seen_at),
        seen_after_s=seen_after_s(certificate),
        argv=evidence.argv,
        last_lines=evidence.last_lines,
        machine=evidence.machine,
        oom=evidence.oom,
        proves_oom=evidence.proves_oom,
        limit=evidence.limit,
        lingering=evidence.lingering,
        survivors=evidence.survivors,
    )


def view_death(instance: Instance | Certificate) -> DeathView | None:
    death = instance.death
    if death is None:
        return None
    cause, message = str(instance.cause), instance.message or ""
    match death:
        case Exited():
            return DeathView(kind="exited", code=death.code, cause=cause, message=message)
        case Signaled():
            return DeathView(
                kind="signaled",
                signal=death.signal,
                core_dumped=death.core_dumped,
                cause=cause,
                message=message,
            )
        case SpawnFailed():
            return DeathView(
                kind="spawn_failed",
                stage=death.stage,
                errno=death.errno,
                cause=cause,
                message=message,
            )
        case Vanished():
            return DeathView(kind="vanished", cause=cause, message=message)
        case _:
            assert_never(death)


def view_worker(
    worker: Worker, silence_s: float | None, instances: int, member: Member | None = None
) -> WorkerView:
    """That its certificate was revoked says more than the silence which followed."""
    reason = worker.reason
    if member is not None and member.revoked_at is not None:
        reason = f"its certificate was revoked by {member.revoked_by}"
    return WorkerView(
        name=worker.name,
        address=worker.address,
        state=worker.state,
        last_seen_s=silence_s,
        instances=instances,
        labels=worker.labels,
        cpu_count=worker.cpu_count,
        memory_bytes=worker.memory_bytes,
        version=worker.version,
        reason=reason or None,
        machine=worker.facts.machine or None,
        kernel=worker.facts.kernel or None,
        libc=worker.facts.libc or None,
    )


def view_entry(entry: TrailEntry) -> TrailView:
    deed = entry.deed
    return TrailView(
        seq=entry.seq,
        at=rfc3339(entry.at),
        who=deed.who,
        source=deed.source,
        act=deed.act,
        subject=deed.subject,
        outcome=deed.outcome,
        detail=deed.detail,
        command=deed.command,
    )


def view_event(event: Event) -> EventView:
    return EventView(
        seq=event.seq,
        at=rfc3339(event.at),
        kind=event.kind,
        subject=event.subject,
        worker=event.worker,
        message=event.message,
    )


def usage_now(instance: Instance, live: LiveUsage | None) -> Usage | None:
    """Of the living what its worker says, of the dead what it came to."""
    return live.usage if live and instance.is_live else instance.usage
