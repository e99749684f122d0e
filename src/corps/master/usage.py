"""What workers use now and over time: asked of them, and summed up as operators see it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable, Sequence

from corps.core.targets import find_instances
from corps.core.usage import view_apps, view_instance_usage, view_trees
from corps.master.driver import ASK_DEADLINE_S, MasterDriver
from corps.model.instance import Instance, RssSource, Usage
from corps.model.name import AttemptKey, WorkerName
from corps.model.series import Point
from corps.model.view import AppUsageView, InstanceUsageView, WorkerUsageView
from corps.wire.worker import FromWorker, LiveUsage, ReadSeries, Sample, Sampled, SeriesRead

SERIES_DEADLINE_S = 10.0
POINTS_MAX = 720  # of one run
POINTS_MIN = 24
POINTS_TOTAL = 50_000  # of one answer


async def usage(driver: MasterDriver, targets: Sequence[str]) -> list[WorkerUsageView]:
    """Per worker: all its children ever, or only the instances named by `targets`."""
    cluster = driver.core.cluster
    whole = [target for target in targets if target in cluster.workers]
    named = [target for target in targets if target not in cluster.workers]
    if not targets:
        whole = sorted(cluster.workers)
    rows = list(await asyncio.gather(*(_worker_usage(driver, name) for name in whole)))
    if named:
        chosen = find_instances(cluster, named, with_dead=True)
        by_worker: dict[WorkerName, list[Instance]] = {}
        for instance in chosen:
            by_worker.setdefault(instance.worker, []).append(instance)
        live = await live_usage(driver, chosen, whole=False, with_trees=True)
        rows += [_sum(name, mine, live) for name, mine in sorted(by_worker.items())]
    return rows


async def usage_by_instance(
    driver: MasterDriver, targets: Sequence[str]
) -> list[InstanceUsageView]:
    """A row for each instance, live and dead."""
    rows = {child.id: child for row in await usage(driver, targets) for child in row.instances}
    return list(rows.values())


async def usage_by_app(driver: MasterDriver, targets: Sequence[str]) -> list[AppUsageView]:
    """A row for each app, over all workers and attempts."""
    rows = await usage_by_instance(driver, targets)
    cluster = driver.core.cluster
    present = {row.id: row.attempt for row in rows}
    earlier = [
        one
        for id, attempt in present.items()
        for one in cluster.certificates_of(id)
        if one.attempt != attempt
    ]
    return view_apps(rows, earlier)


async def live_usage(
    driver: MasterDriver, chosen: Sequence[Instance], *, whole: bool, with_trees: bool = False
) -> dict[AttemptKey, LiveUsage]:
    """What workers say now; nothing of those that do not answer."""
    by_worker: dict[WorkerName, list[AttemptKey]] = {}
    for instance in chosen:
        if instance.is_live and instance.pid is not None:
            by_worker.setdefault(instance.worker, []).append(instance.key)
    answers = await asyncio.gather(
        *(
            _ask_sample(driver, name, None if whole else tuple(keys), not whole, with_trees)
            for name, keys in by_worker.items()
        )
    )
    live: dict[AttemptKey, LiveUsage] = {}
    for parts in answers:
        live.update(_by_key(parts or []))
    return live


async def series(
    driver: MasterDriver, wanted: Sequence[tuple[WorkerName, AttemptKey]]
) -> dict[AttemptKey, tuple[Point, ...]]:
    """The usage over time of attempts; without those whose workers do not answer."""
    by_worker: dict[WorkerName, list[AttemptKey]] = {}
    for name, key in wanted:
        by_worker.setdefault(name, []).append(key)
    points_max = min(POINTS_MAX, max(POINTS_MIN, POINTS_TOTAL // (len(wanted) or 1)))
    answers = await asyncio.gather(
        *(_ask_series(driver, name, tuple(keys), points_max) for name, keys in by_worker.items())
    )
    return {
        run.key: run.points
        for parts in answers
        for part in parts or []
        if isinstance(part, SeriesRead)
        for run in part.series
    }


async def _worker_usage(driver: MasterDriver, name: WorkerName) -> WorkerUsageView:
    mine = [i for i in driver.core.cluster.instances.values() if i.worker == name]
    parts = await _ask_sample(driver, name, None, True, True)
    if not parts:
        return _sum(name, mine, {}, is_known=False)
    live = _by_key(parts)
    last = parts[-1]
    assert isinstance(last, Sampled)
    now = [item.usage for item in live.values()]
    totals = last.totals
    rows = tuple(view_instance_usage(i, live.get(i.key)) for i in mine)
    return WorkerUsageView(
        worker=name,
        children_live=len(now),
        children_dead=totals.children_dead,
        cpu_user_s=totals.cpu_user_s + sum(usage.cpu_user_s for usage in now),
        cpu_system_s=totals.cpu_system_s + sum(usage.cpu_system_s for usage in now),
        max_rss_bytes=_peak_of([*now, *(i.usage for i in mine if i.usage)], totals.max_rss_bytes),
        rss_bytes=sum(usage.rss_bytes or 0 for usage in now),
        instances=rows,
        trees=view_trees(rows),
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
        children_live=sum(1 for instance in chosen if not instance.is_over),
        children_dead=sum(1 for instance in chosen if instance.is_over),
        cpu_user_s=sum(row.cpu_user_s or 0.0 for row in rows),
        cpu_system_s=sum(row.cpu_system_s or 0.0 for row in rows),
        max_rss_bytes=max((row.max_rss_bytes or 0 for row in rows), default=0) or None,
        rss_bytes=sum(row.rss_bytes or 0 for row in rows),
        instances=rows,
        trees=view_trees(rows),
    )


async def _ask_sample(
    driver: MasterDriver,
    name: WorkerName,
    keys: tuple[AttemptKey, ...] | None,
    with_peaks: bool,
    with_trees: bool,
) -> list[FromWorker] | None:
    return await driver.ask(
        name,
        lambda ask: Sample(ask=ask, keys=keys, with_peaks=with_peaks, with_trees=with_trees),
        ASK_DEADLINE_S,
    )


async def _ask_series(
    driver: MasterDriver, name: WorkerName, keys: tuple[AttemptKey, ...], points_max: int
) -> list[FromWorker] | None:
    return await driver.ask(
        name,
        lambda ask: ReadSeries(ask=ask, keys=keys, points_max=points_max),
        SERIES_DEADLINE_S,
    )


def _by_key(parts: Iterable[object]) -> dict[AttemptKey, LiveUsage]:
    return {item.key: item for part in parts if isinstance(part, Sampled) for item in part.live}
