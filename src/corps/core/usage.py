"""Rows about usage: of an attempt and its tree, of an app, over time. What is not known is null."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from corps.core import believe
from corps.core.series import cpu_percents
from corps.core.views import rfc3339, usage_now, view_usage
from corps.model.certificate import Certificate
from corps.model.instance import Instance, InstanceState, RssSource, Usage
from corps.model.series import Measured, Point
from corps.model.view import AppUsageView, InstanceUsageView, SampleView, TreesView, TreeView
from corps.wire.worker import LiveUsage

S = InstanceState
WITHOUT_PROCESS = frozenset({S.DEAD, S.PENDING, S.FETCHING})


def view_instance_usage(instance: Instance, live: LiveUsage | None) -> InstanceUsageView:
    used = usage_now(instance, live)
    usage = view_usage(used)
    measured = live.measured if live and not instance.is_over else instance.measured
    return InstanceUsageView(
        id=instance.id,
        state=instance.state,
        cpu_user_s=usage.cpu_user_s,
        cpu_system_s=usage.cpu_system_s,
        max_rss_bytes=usage.max_rss_bytes,
        rss_bytes=usage.rss_bytes,
        app=instance.app,
        worker=instance.worker,
        attempt=instance.attempt,
        max_rss_source=usage.max_rss_source,
        tree=view_tree(measured, used, is_live=not instance.is_over),
    )


def view_tree(measured: Measured | None, usage: Usage | None, *, is_live: bool) -> TreeView | None:
    """What wait4 or /proc says of the process itself is part of its tree, and may be newer."""
    known = None if measured is None else believe.measured(measured)
    if known is None:
        return None
    user_s, system_s, peak_bytes = known.cpu_user_s, known.cpu_system_s, known.rss_peak_bytes
    if usage is not None:
        user_s, system_s = max(user_s, usage.cpu_user_s), max(system_s, usage.cpu_system_s)
        peak_bytes = max(peak_bytes, peak_of(usage) or 0)
    return TreeView(
        at=rfc3339(known.at),
        samples=known.samples,
        cpu_user_s=user_s,
        cpu_system_s=system_s,
        rss_bytes=known.rss_bytes if is_live else None,
        rss_mean_bytes=known.rss_mean_bytes,
        rss_peak_bytes=peak_bytes,
        processes=known.processes if is_live else None,
        processes_max=known.processes_max,
        threads=known.threads if is_live else None,
        threads_max=known.threads_max,
        fds=known.fds if is_live else None,
        fds_max=known.fds_max,
        io_read_bytes=known.io_read_bytes,
        io_write_bytes=known.io_write_bytes,
    )


def peak_of(usage: Usage) -> int | None:
    """A resident set that was measured, not an upper bound."""
    return None if usage.max_rss_source is RssSource.FLOOR else usage.max_rss_bytes


def view_trees(rows: Iterable[InstanceUsageView]) -> TreesView:
    """Over those of them that have a process."""
    trees = [row.tree for row in rows if row.state not in WITHOUT_PROCESS]
    return TreesView(
        rss_bytes=_total(None if tree is None else tree.rss_bytes for tree in trees),
        processes=_total(None if tree is None else tree.processes for tree in trees),
        threads=_total(None if tree is None else tree.threads for tree in trees),
        fds=_total(None if tree is None else tree.fds for tree in trees),
        io_read_bytes=_total(None if tree is None else tree.io_read_bytes for tree in trees),
        io_write_bytes=_total(None if tree is None else tree.io_write_bytes for tree in trees),
    )


def view_apps(
    rows: Sequence[InstanceUsageView], earlier: Sequence[Certificate]
) -> list[AppUsageView]:
    """One row for each app; `earlier` are the attempts before the present ones."""
    found = []
    for app in sorted({row.app for row in rows}):
        mine = [row for row in rows if row.app == app]
        past = [one.usage for one in earlier if one.app == app and one.usage is not None]
        live = [row for row in mine if row.state != S.DEAD]
        peaks = [row.max_rss_bytes for row in mine] + [usage.max_rss_bytes for usage in past]
        users = [row.cpu_user_s for row in mine] + [usage.cpu_user_s for usage in past]
        systems = [row.cpu_system_s for row in mine] + [usage.cpu_system_s for usage in past]
        found.append(
            AppUsageView(
                app=app,
                workers=tuple(sorted({row.worker for row in mine})),
                instances_live=len(live),
                instances_dead=len(mine) - len(live),
                cpu_user_s=_known_total(users),
                cpu_system_s=_known_total(systems),
                max_rss_bytes=max((peak for peak in peaks if peak is not None), default=None),
                rss_bytes=_total(row.rss_bytes for row in live if row.state not in WITHOUT_PROCESS),
                trees=view_trees(mine),
            )
        )
    return found


def view_samples(points: Sequence[Point], started_at: float | None) -> tuple[SampleView, ...]:
    """A series as far as it can be believed."""
    known = believe.points(points)
    return tuple(
        SampleView(
            at=rfc3339(point.at),
            cpu_percent=None if percent is None else round(percent, 2),
            rss_bytes=point.rss_mean_bytes,
            rss_max_bytes=point.rss_max_bytes,
            threads=point.threads,
            fds=point.fds,
            io_read_bytes=point.io_read_bytes,
            io_write_bytes=point.io_write_bytes,
            processes=point.processes,
        )
        for point, percent in zip(known, cpu_percents(known, started_at), strict=True)
    )


def _total(values: Iterable[int | None]) -> int | None:
    """None when one is not known."""
    total = 0
    for value in values:
        if value is None:
            return None
        total += value
    return total


def _known_total(values: Sequence[float | None]) -> float | None:
    """Over what is known: an attempt that never ran has used nothing."""
    known = [value for value in values if value is not None]
    return sum(known) if known else None
