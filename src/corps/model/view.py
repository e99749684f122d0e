"""What an operator sees: the JSON of INTERFACE, one struct per row. Made by `core.views`."""

from __future__ import annotations

import msgspec

from corps.model.artifact import FileEntry
from corps.model.instance import RssSource


class View(msgspec.Struct, frozen=True):
    """Base of every row."""


class WorkerView(View, frozen=True, kw_only=True):
    name: str
    address: str
    state: str
    last_seen_s: float | None
    instances: int
    labels: dict[str, str]
    cpu_count: int
    memory_bytes: int
    version: str
    reason: str | None = None


class DeathView(View, frozen=True, kw_only=True):
    """`kind` is exited, signaled, spawn_failed or vanished; what does not apply is null."""

    kind: str
    code: int | None = None
    signal: int | None = None
    core_dumped: bool | None = None
    errno: int | None = None
    stage: str | None = None
    cause: str
    message: str


class UsageView(View, frozen=True, kw_only=True):
    cpu_user_s: float | None
    cpu_system_s: float | None
    max_rss_bytes: int | None
    rss_bytes: int | None
    max_rss_source: RssSource | None = None


class InstanceView(View, frozen=True, kw_only=True):
    id: str
    app: str
    worker: str
    pid: int | None
    attempt: int
    state: str
    os_state: str | None
    started_at: str | None
    ended_at: str | None
    death: DeathView | None
    usage: UsageView
    artifact: str
    digest: str
    args: tuple[str, ...]
    ran_s: float | None = None


class InstanceUsageView(View, frozen=True, kw_only=True):
    id: str
    state: str
    cpu_user_s: float | None
    cpu_system_s: float | None
    max_rss_bytes: int | None
    rss_bytes: int | None


class WorkerUsageView(View, frozen=True, kw_only=True):
    """All children of a worker, live and dead; null where the worker could not be asked."""

    worker: str
    children_live: int | None
    children_dead: int | None
    cpu_user_s: float | None
    cpu_system_s: float | None
    max_rss_bytes: int | None
    rss_bytes: int | None
    instances: tuple[InstanceUsageView, ...]


class CopyView(View, frozen=True, kw_only=True):
    worker: str
    artifact: str
    digest: str
    bytes_sent: int
    bytes_total: int
    files_sent: int
    files_total: int
    seconds: float | None
    result: str


class DeleteView(View, frozen=True, kw_only=True):
    worker: str
    artifact: str
    digest: str
    result: str


class ArtifactView(View, frozen=True, kw_only=True):
    name: str
    digest: str
    size_bytes: int = msgspec.field(name="bytes")
    files: tuple[FileEntry, ...]
    workers: tuple[str, ...]


class EventView(View, frozen=True, kw_only=True):
    seq: int
    at: str
    kind: str
    subject: str
    worker: str | None
    message: str


class WhyView(View, frozen=True, kw_only=True):
    """The causal story of one instance: sentences in order, then what it is now."""

    instance: InstanceView
    story: tuple[EventView, ...]


class AuditView(View, frozen=True, kw_only=True):
    """One copy, launch or run: who, what, outcome, and how long each phase took."""

    at: str
    kind: str
    subject: str
    worker: str | None
    by: str
    command: str
    outcome: str
    phases_s: dict[str, float]
    bytes_sent: int | None = None
    bytes_total: int | None = None
    seconds: float | None = None
    usage: UsageView | None = None


class LogChunkView(View, frozen=True, kw_only=True):
    """Bytes of a log are sent raw over HTTP; this is what the headers say."""

    offset: int
    next_offset: int
    size_bytes: int
    is_final: bool


class StatusView(View, frozen=True, kw_only=True):
    """The master itself. `now` is what its clock says."""

    cluster: str
    version: str
    address: str
    epoch: int
    workers: int
    instances_live: int
    now: float = 0.0
