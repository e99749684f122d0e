"""Questions of operators: rows made of the core's tables and of what workers say when asked now."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from corps.core.records import CommandRecord
from corps.core.targets import find_instances
from corps.core.views import (
    rfc3339,
    view_event,
    view_instance,
    view_instance_usage,
    view_usage,
    view_worker,
)
from corps.errors import Invalid, NotFound, Unavailable
from corps.master.driver import ASK_DEADLINE_S, MasterDriver
from corps.model.command import Copied
from corps.model.instance import Instance, RssSource, Usage
from corps.model.name import AttemptKey, InstanceId, WorkerName, attempt_key, did_you_mean
from corps.model.view import (
    AuditView,
    EventView,
    InstanceView,
    StatusView,
    WorkerUsageView,
    WorkerView,
)
from corps.wire.worker import (
    LOG_CHUNK_MAX_BYTES,
    FromWorker,
    LiveUsage,
    LogRead,
    ReadLog,
    Sample,
    Sampled,
)

EVENTS_PAGE_MAX = 1_000
WAIT_MAX_S = 60.0
STREAMS = ("stdout", "stderr")


def workers(driver: MasterDriver) -> list[WorkerView]:
    cluster = driver.core.cluster
    return [
        view_worker(worker, driver.core.silence_s(name), cluster.live_count(name))
        for name, worker in sorted(cluster.workers.items())
    ]


def status(driver: MasterDriver, version: str, address: str) -> StatusView:
    cluster = driver.core.cluster
    return StatusView(
        cluster=cluster.meta.cluster,
        version=version,
        address=address,
        epoch=cluster.meta.epoch,
        now=driver.clock(),
        workers=len(cluster.workers),
        instances_live=sum(cluster.live_count(name) for name in cluster.workers),
    )


async def instances(
    driver: MasterDriver, targets: Sequence[str], *, with_dead: bool
) -> list[InstanceView]:
    """Rows of ps. What the operating system says now comes from each worker, or is null."""
    chosen = find_instances(driver.core.cluster, targets or ("--all",), with_dead=with_dead)
    live = await live_usage(driver, chosen, whole=not targets)
    now = driver.clock()
    return [view_instance(instance, live.get(instance.key), now) for instance in chosen]


async def usage(driver: MasterDriver, targets: Sequence[str]) -> list[WorkerUsageView]:
    """Per worker: all its children ever, or only the instances named by `targets`."""
    cluster = driver.core.cluster
    whole = [target for target in targets if target in cluster.workers]
    named = [target for target in targets if target not in cluster.workers]
    if not targets:
        whole = sorted(cluster.workers)
    rows = [await _worker_usage(driver, name) for name in whole]
    if named:
        chosen = find_instances(cluster, named, with_dead=True)
        by_worker: dict[WorkerName, list[Instance]] = {}
        for instance in chosen:
            by_worker.setdefault(instance.worker, []).append(instance)
        live = await live_usage(driver, chosen, whole=False)
        rows += [_sum(name, mine, live) for name, mine in sorted(by_worker.items())]
    return rows


async def events(driver: MasterDriver, after: int, limit: int, wait_s: float) -> list[EventView]:
    """Events after a sequence number; a negative one means the last so many."""
    if not 0 < limit <= EVENTS_PAGE_MAX:
        limit = EVENTS_PAGE_MAX
    cluster = driver.core.cluster
    if after < 0:
        after = max(0, cluster.next_seq - 1 + after)
    if cluster.next_seq - 1 <= after and wait_s > 0:
        await driver.news(min(wait_s, WAIT_MAX_S))
        await driver.settled()
    return [view_event(event) for event in cluster.events if event.seq > after][:limit]


def audit(driver: MasterDriver, targets: Sequence[str], since: float) -> list[AuditView]:
    """Copies, launches and runs, in order of time."""
    cluster = driver.core.cluster
    artifacts = {artifact.name for artifact in cluster.artifacts.values()}
    chosen: Iterable[Instance] = cluster.instances.values()
    if targets:
        named = [target for target in targets if target not in artifacts or target in cluster.apps]
        chosen = find_instances(cluster, named, with_dead=True) if named else ()
    rows: list[tuple[float, AuditView]] = []
    for record in cluster.commands.values():
        if isinstance(record.result, Copied) and record.at >= since:
            rows += [(record.at, row) for row in _copies(record, record.result, targets)]
    for instance in chosen:
        if instance.timings.placed_at >= since:
            rows.append((instance.timings.placed_at, _launch_row(instance)))
        if instance.started_at is not None and instance.started_at >= since:
            rows.append((instance.started_at, _run_row(instance, driver.clock())))
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


async def read_log(
    driver: MasterDriver, id: InstanceId, question: ReadLog, attempt: int | None
) -> LogRead:
    """One piece of a log. Raise Unavailable when the worker that has it cannot be asked."""
    instance = driver.core.cluster.instances.get(id)
    if instance is None:
        known = driver.core.cluster.instances
        raise NotFound(f"no instance {id[:80]!r}{did_you_mean(id, known)}", instance=id)
    if question.stream not in STREAMS:
        raise Invalid(f"no stream {question.stream[:20]!r}: stdout or stderr", field="stream")
    if not 0 < question.limit_bytes <= LOG_CHUNK_MAX_BYTES:
        raise Invalid(f"limit_bytes: from 1 to {LOG_CHUNK_MAX_BYTES}", field="limit_bytes")
    key: AttemptKey = attempt_key(id, instance.attempt if attempt is None else attempt)
    wait_s = min(max(question.wait_s, 0.0), WAIT_MAX_S)
    parts = await driver.ask(
        instance.worker,
        lambda ask: ReadLog(
            ask=ask,
            key=key,
            stream=question.stream,
            offset=question.offset,
            limit_bytes=question.limit_bytes,
            wait_s=wait_s,
        ),
        wait_s + ASK_DEADLINE_S,
    )
    if not parts:
        state = driver.core.cluster.workers[instance.worker].state
        raise Unavailable(
            f"the log of {id!r} is on worker {instance.worker!r}, which does not answer ({state}): "
            "it is kept there, try again when the worker is back"
        )
    answer = parts[0]
    assert isinstance(answer, LogRead)
    if answer.error is not None:
        raise NotFound(answer.error, instance=id)
    return answer


async def _worker_usage(driver: MasterDriver, name: WorkerName) -> WorkerUsageView:
    mine = [i for i in driver.core.cluster.instances.values() if i.worker == name]
    parts = await _ask_sample(driver, name, None, with_peaks=True)
    if not parts:
        return _sum(name, mine, {}, is_known=False)
    live = _by_key(parts)
    last = parts[-1]
    assert isinstance(last, Sampled)
    now = [item.usage for item in live.values()]
    totals = last.totals
    return WorkerUsageView(
        worker=name,
        children_live=len(now),
        children_dead=totals.children_dead,
        cpu_user_s=totals.cpu_user_s + sum(usage.cpu_user_s for usage in now),
        cpu_system_s=totals.cpu_system_s + sum(usage.cpu_system_s for usage in now),
        max_rss_bytes=_peak_of([*now, *(i.usage for i in mine if i.usage)], totals.max_rss_bytes),
        rss_bytes=sum(usage.rss_bytes or 0 for usage in now),
        instances=tuple(view_instance_usage(i, live.get(i.key)) for i in mine),
    )


def _peak_of(usages: Iterable[Usage], known_bytes: int) -> int | None:
    """The largest resident set that was really measured; an upper bound only for want of one."""
    peaks = [(u.max_rss_source is not RssSource.FLOOR, u.max_rss_bytes or 0) for u in usages]
    _, peak_bytes = max([*peaks, (known_bytes > 0, known_bytes)])
    return peak_bytes or None


def _sum(
    worker: WorkerName,
    chosen: Sequence[Instance],
    live: dict[AttemptKey, LiveUsage],
    *,
    is_known: bool = True,
) -> WorkerUsageView:
    rows = tuple(view_instance_usage(i, live.get(i.key)) for i in chosen)
    if not is_known:
        return WorkerUsageView(
            worker=worker,
            children_live=None,
            children_dead=None,
            cpu_user_s=None,
            cpu_system_s=None,
            max_rss_bytes=None,
            rss_bytes=None,
            instances=rows,
        )
    return WorkerUsageView(
        worker=worker,
        children_live=sum(1 for instance in chosen if instance.is_live),
        children_dead=sum(1 for instance in chosen if not instance.is_live),
        cpu_user_s=sum(row.cpu_user_s or 0.0 for row in rows),
        cpu_system_s=sum(row.cpu_system_s or 0.0 for row in rows),
        max_rss_bytes=max((row.max_rss_bytes or 0 for row in rows), default=0) or None,
        rss_bytes=sum(row.rss_bytes or 0 for row in rows),
        instances=rows,
    )


async def live_usage(
    driver: MasterDriver, chosen: Sequence[Instance], *, whole: bool
) -> dict[AttemptKey, LiveUsage]:
    by_worker: dict[WorkerName, list[AttemptKey]] = {}
    for instance in chosen:
        if instance.is_live and instance.pid is not None:
            by_worker.setdefault(instance.worker, []).append(instance.key)
    answers = await asyncio.gather(
        *(
            _ask_sample(driver, name, None if whole else tuple(keys), with_peaks=not whole)
            for name, keys in by_worker.items()
        )
    )
    live: dict[AttemptKey, LiveUsage] = {}
    for parts in answers:
        live.update(_by_key(parts or []))
    return live


async def _ask_sample(
    driver: MasterDriver, name: WorkerName, keys: tuple[AttemptKey, ...] | None, *, with_peaks: bool
) -> list[FromWorker] | None:
    return await driver.ask(
        name, lambda ask: Sample(ask=ask, keys=keys, with_peaks=with_peaks), ASK_DEADLINE_S
    )


def _by_key(parts: Iterable[object]) -> dict[AttemptKey, LiveUsage]:
    return {item.key: item for part in parts if isinstance(part, Sampled) for item in part.live}


def _copies(record: CommandRecord, result: Copied, targets: Sequence[str]) -> list[AuditView]:
    return [
        AuditView(
            at=rfc3339(record.at),
            kind="copy",
            subject=row.artifact,
            worker=row.worker,
            by=record.by,
            command=record.id,
            outcome=row.result,
            phases_s={} if row.seconds is None else {"install": row.seconds},
            bytes_sent=row.bytes_sent,
            bytes_total=row.bytes_total,
            seconds=row.seconds,
        )
        for row in result.workers
        if not targets or row.artifact in targets
    ]


def _launch_row(instance: Instance) -> AuditView:
    timings = instance.timings
    marks = (
        ("send", timings.received_at),
        ("fetch", timings.fetched_at),
        ("fork", timings.forked_at),
        ("exec", timings.executed_at),
    )
    phases: dict[str, float] = {}
    before = timings.placed_at
    for name, at in marks:
        if at is not None:
            phases[name] = max(0.0, at - before)
            before = at
    outcome = "started" if instance.started_at is not None else (instance.message or instance.state)
    return AuditView(
        at=rfc3339(timings.placed_at),
        kind="launch",
        subject=instance.id,
        worker=instance.worker,
        by=instance.by,
        command=instance.command,
        outcome=outcome,
        phases_s=phases,
        seconds=sum(phases.values()) if timings.executed_at is not None else None,
    )


def _run_row(instance: Instance, now: float) -> AuditView:
    assert instance.started_at is not None
    end = instance.ended_at if instance.ended_at is not None else now
    return AuditView(
        at=rfc3339(instance.started_at),
        kind="run",
        subject=instance.id,
        worker=instance.worker,
        by=instance.by,
        command=instance.command,
        outcome=instance.message or instance.state,
        phases_s={},
        seconds=max(0.0, end - instance.started_at),
        usage=view_usage(instance.usage),
    )
