"""What an operator sees: the JSON of INTERFACE, one struct per row. Made by `core.views`."""

from __future__ import annotations

import msgspec

from corps.model.artifact import FileEntry
from corps.model.instance import LogLine, Machine, RssSource, Survivor
from corps.model.terms import Terms

WAITING = "waiting"  # the result of a copy to one worker, until there is one


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
    machine: str | None = None
    kernel: str | None = None
    libc: str | None = None


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
    waits_s: float | None = None
    restart: str = "never"
    not_before: str | None = None
    failures: int = 0
    enforced: dict[str, str] = {}
    survivors: tuple[Survivor, ...] = ()


class TreeView(View, frozen=True, kw_only=True):
    """An attempt with all its descendants, as sampled: at `at`, and over its life so far.

    Of a dead one only what it came to. CPU is a lower bound; a resident set counts shared pages
    once for each process; I/O is what went through read(2), write(2) and their kin.
    """

    at: str
    samples: int
    cpu_user_s: float
    cpu_system_s: float
    rss_bytes: int | None
    rss_mean_bytes: int
    rss_peak_bytes: int
    processes: int | None
    processes_max: int
    threads: int | None
    threads_max: int
    fds: int | None
    fds_max: int | None
    io_read_bytes: int | None
    io_write_bytes: int | None


class TreesView(View, frozen=True, kw_only=True):
    """Sums over the living trees of several instances; null when one of them is not known."""

    rss_bytes: int | None
    processes: int | None
    threads: int | None
    fds: int | None
    io_read_bytes: int | None
    io_write_bytes: int | None


class InstanceUsageView(View, frozen=True, kw_only=True):
    """cpu_... and ..._rss_... are of the process and children it waited for; `tree` has all."""

    id: str
    state: str
    cpu_user_s: float | None
    cpu_system_s: float | None
    max_rss_bytes: int | None
    rss_bytes: int | None
    app: str = ""
    worker: str = ""
    attempt: int = 1
    max_rss_source: RssSource | None = None
    tree: TreeView | None = None


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
    trees: TreesView | None = None


class AppUsageView(View, frozen=True, kw_only=True):
    """All instances of an app on all workers, live and dead, with every attempt that is known."""

    app: str
    workers: tuple[str, ...]
    instances_live: int
    instances_dead: int
    cpu_user_s: float | None
    cpu_system_s: float | None
    max_rss_bytes: int | None
    rss_bytes: int | None
    trees: TreesView


class CopyView(View, frozen=True, kw_only=True):
    """`bytes_sent` is what travelled, compressed or not, `bytes_from_peers` the part of it that
    other workers sent; `bytes_done` of `bytes_total` are there."""

    worker: str
    artifact: str
    digest: str
    bytes_sent: int
    bytes_total: int
    files_sent: int
    files_total: int
    seconds: float | None
    result: str
    bytes_from_peers: int = 0
    bytes_done: int = 0


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


class AskedView(View, frozen=True, kw_only=True):
    """A signal that was asked for, by whom and by which command."""

    verb: str
    signal: int
    by: str
    command: str
    at: str
    grace_s: float | None


class DeliveredView(View, frozen=True, kw_only=True):
    """A signal that reached the living process; `by` and `command`: null when nobody asked, or
    when several did and it cannot be told whose it was."""

    signal: int
    name: str
    at: str
    verb: str | None
    by: str | None
    command: str | None


class EvidenceView(View, frozen=True, kw_only=True):
    """What its worker saw, `seen_after_s` after the death; `argv` as executed."""

    seen_at: str
    seen_after_s: float
    argv: tuple[str, ...]
    last_lines: tuple[LogLine, ...]
    machine: Machine | None
    oom: str | None
    proves_oom: bool
    limit: str | None
    lingering: int | None
    survivors: tuple[Survivor, ...]


class CertificateView(View, frozen=True, kw_only=True):
    """One death, for good: all that is known of one attempt once it is over."""

    key: str
    id: str
    app: str
    attempt: int
    worker: str
    artifact: str
    digest: str
    args: tuple[str, ...]
    cwd: str | None
    terms: Terms
    by: str
    command: str
    placement: str | None
    placed_at: str
    received_at: str | None
    fetched_at: str | None
    fetched_bytes: int | None
    forked_at: str | None
    executed_at: str | None
    started_at: str | None
    ended_at: str
    uptime_s: float | None
    pid: int | None
    death: DeathView
    asked: tuple[AskedView, ...]
    delivered: tuple[DeliveredView, ...]
    usage: UsageView
    enforced: dict[str, str]
    evidence: EvidenceView | None


class SentenceView(View, frozen=True, kw_only=True):
    """One link of the chain; `at` is null for what belongs to the sentence before."""

    at: str | None
    text: str


class WhyView(View, frozen=True, kw_only=True):
    """The causal story of one instance.

    `sentences` tell one attempt in order, and what it is now; `story` is its events, `certificates`
    its deaths, attempt by attempt.
    """

    instance: InstanceView
    story: tuple[EventView, ...]
    sentences: tuple[SentenceView, ...] = ()
    certificates: tuple[CertificateView, ...] = ()


class SampleView(View, frozen=True, kw_only=True):
    """Usage of a whole tree over the time since the sample before.

    cpu_percent is of one processor; rss_bytes is the mean; counts are the largest; I/O counts from
    the start of the attempt.
    """

    at: str
    cpu_percent: float | None
    rss_bytes: int
    rss_max_bytes: int
    threads: int
    fds: int | None
    io_read_bytes: int | None
    io_write_bytes: int | None
    processes: int


class AuditView(View, frozen=True, kw_only=True):
    """One upload, copy, launch or run: who, what, outcome, and how long each phase took.

    `bytes_sent` travelled, compressed or not, `bytes_from_peers` of them between workers, at
    `rate_bytes_s` on average; `bytes_total` is what is there in the end. An upload has no worker.
    `samples` is null when it was not asked for, or its worker does not answer.
    """

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
    attempt: int | None = None
    digest: str | None = None
    tree: TreeView | None = None
    samples: tuple[SampleView, ...] | None = None
    bytes_from_peers: int | None = None
    rate_bytes_s: float | None = None


class VersionView(View, frozen=True, kw_only=True):
    """The runs of one version of an app; medians over runs, null when none tells.

    `failures` ended by themselves other than with 0, or never started.
    """

    version: str
    digest: str
    first_at: str
    runs: int
    runs_live: int
    failures: int
    launch_s: float | None
    cpu_s_per_hour: float | None
    rss_peak_bytes: int | None
    rss_mean_bytes: int | None


class CompareView(View, frozen=True, kw_only=True):
    """Versions of an app, oldest first, and in words how each differs from the one before."""

    app: str
    versions: tuple[VersionView, ...]
    sentences: tuple[str, ...]


class StatusView(View, frozen=True, kw_only=True):
    cluster: str
    version: str
    address: str
    epoch: int
    workers: int
    instances_live: int
    now: float = 0.0
