"""From records to the rows an operator sees. Pure: what is not known is null."""

from __future__ import annotations

import datetime
from typing import assert_never, overload

from corps.core.records import Event
from corps.model.instance import Exited, Instance, Signaled, SpawnFailed, Usage, Vanished
from corps.model.view import (
    DeathView,
    EventView,
    InstanceUsageView,
    InstanceView,
    UsageView,
    WorkerView,
)
from corps.model.worker import Worker
from corps.wire.worker import LiveUsage


@overload
def rfc3339(at: float) -> str: ...
@overload
def rfc3339(at: None) -> None: ...
def rfc3339(at: float | None) -> str | None:
    """Unix seconds -> `2026-11-23T13:28:00.123Z`: formats a given time, reads no clock."""
    if at is None:
        return None
    moment = datetime.datetime.fromtimestamp(at, tz=datetime.UTC)
    return moment.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def view_instance(
    instance: Instance, live: LiveUsage | None = None, now: float | None = None
) -> InstanceView:
    """One row of ps. `live` is what its worker said of it just now, None if it could not."""
    began, ended = instance.started_at, instance.ended_at or now
    ran_s = None if began is None or ended is None else max(0.0, ended - began)
    return InstanceView(
        id=instance.id,
        app=instance.app,
        worker=instance.worker,
        pid=instance.pid,
        attempt=instance.attempt,
        state=instance.state,
        os_state=live.os_state if live and instance.is_live else None,
        started_at=rfc3339(instance.started_at),
        ended_at=rfc3339(instance.ended_at),
        death=view_death(instance),
        usage=view_usage(_usage(instance, live)),
        artifact=instance.launch.artifact,
        digest=instance.launch.digest,
        args=instance.launch.args,
        ran_s=ran_s,
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


def view_instance_usage(instance: Instance, live: LiveUsage | None) -> InstanceUsageView:
    usage = view_usage(_usage(instance, live))
    return InstanceUsageView(
        id=instance.id,
        state=instance.state,
        cpu_user_s=usage.cpu_user_s,
        cpu_system_s=usage.cpu_system_s,
        max_rss_bytes=usage.max_rss_bytes,
        rss_bytes=usage.rss_bytes,
    )


def view_death(instance: Instance) -> DeathView | None:
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


def view_worker(worker: Worker, silence_s: float | None, instances: int) -> WorkerView:
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
        reason=worker.reason or None,
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


def _usage(instance: Instance, live: LiveUsage | None) -> Usage | None:
    return live.usage if live and instance.is_live else instance.usage
