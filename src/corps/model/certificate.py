"""A death certificate: all that is known of one attempt once it is over. Written once."""

from __future__ import annotations

import msgspec

from corps.model.instance import (
    Asked,
    Cause,
    Death,
    Delivered,
    Evidence,
    Instance,
    InstanceState,
    Launchable,
    Timings,
    Usage,
)
from corps.model.name import AttemptKey, CommandId, InstanceId, WorkerName
from corps.model.series import Measured


class Certificate(msgspec.Struct, frozen=True, kw_only=True):
    """One death. The instance goes on with its next attempt, if there is one; this stays."""

    key: AttemptKey
    id: InstanceId
    app: str
    attempt: int
    worker: WorkerName
    launch: Launchable
    command: CommandId
    by: str
    timings: Timings
    pid: int | None
    started_at: float | None
    ended_at: float
    death: Death
    cause: Cause
    message: str
    asked: Asked | None = None
    delivered: tuple[Delivered, ...] = ()
    usage: Usage | None = None
    enforced: dict[str, str] = {}
    evidence: Evidence | None = None
    placement: str = ""
    fetched_bytes: int | None = None
    asks: tuple[Asked, ...] = ()
    measured: Measured | None = None


def certify(instance: Instance) -> Certificate:
    """The certificate of an instance whose present attempt is dead."""
    assert instance.state is InstanceState.DEAD
    assert instance.death is not None and instance.cause is not None
    assert instance.ended_at is not None and instance.message is not None
    return Certificate(
        key=instance.key,
        id=instance.id,
        app=instance.app,
        attempt=instance.attempt,
        worker=instance.worker,
        launch=instance.launch,
        command=instance.command,
        by=instance.by,
        timings=instance.timings,
        pid=instance.pid,
        started_at=instance.started_at,
        ended_at=instance.ended_at,
        death=instance.death,
        cause=instance.cause,
        message=instance.message,
        asked=instance.asked,
        delivered=instance.delivered,
        usage=instance.usage,
        enforced=instance.enforced,
        evidence=instance.evidence,
        placement=instance.placement,
        fetched_bytes=instance.fetched_bytes,
        asks=instance.asks,
        measured=instance.measured,
    )
