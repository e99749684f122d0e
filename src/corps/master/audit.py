"""Audit: copies, launches and runs with phases, bytes, durations and usage; versions compared."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from corps.core.compare import Run, compare
from corps.core.records import CommandRecord
from corps.core.targets import find_instances
from corps.core.usage import peak_of, view_samples, view_tree
from corps.core.views import rfc3339, view_usage
from corps.errors import Invalid, NotFound
from corps.master.driver import MasterDriver
from corps.master.usage import live_usage, series
from corps.model.artifact import split_artifact
from corps.model.certificate import Certificate
from corps.model.command import Copied, Copy, Uploaded
from corps.model.instance import Cause, Exited, Instance, Signaled, SpawnFailed
from corps.model.name import AttemptKey, Digest, did_you_mean
from corps.model.series import Point
from corps.model.view import AuditView, CompareView
from corps.wire.worker import LiveUsage

SERIES_RUNS_MAX = 2_000
VERSIONS_MAX = 2

Attempt: TypeAlias = Instance | Certificate


async def audit(
    driver: MasterDriver, targets: Sequence[str], since: float, *, with_series: bool
) -> list[AuditView]:
    """In order of time. Workers are asked about runs of named targets, and for series.

    Raise Invalid for the series of too many runs.
    """
    cluster = driver.core.cluster
    artifacts = {artifact.name for artifact in cluster.artifacts.values()}
    chosen: Iterable[Instance] = cluster.instances.values()
    if targets:
        named = [target for target in targets if target not in artifacts or target in cluster.apps]
        chosen = find_instances(cluster, named, with_dead=True) if named else ()
    chosen = list(chosen)
    attempts = [one for instance in chosen for one in attempts_of(driver, instance)]
    runs = [one for one in attempts if one.started_at is not None and one.started_at >= since]
    live = await live_usage(driver, chosen, whole=False, with_trees=True) if targets else {}
    points = await _series(driver, runs) if with_series else {}
    sizes = {artifact.digest: artifact.size_bytes for artifact in cluster.artifacts.values()}
    rows: list[tuple[float, AuditView]] = []
    for record in cluster.commands.values():
        if isinstance(record.result, Copied) and record.at >= since:
            rows += [(record.at, row) for row in _copies(record, record.result, targets)]
    placed = [one for one in attempts if one.timings.placed_at >= since]
    rows += [(one.timings.placed_at, _launch_row(one, sizes)) for one in placed]
    now = driver.clock()
    rows += [
        (one.started_at or 0.0, _run_row(one, now, live.get(one.key), points.get(one.key)))
        for one in runs
    ]
    return [row for _, row in sorted(rows, key=lambda pair: pair[0])]


async def compare_versions(driver: MasterDriver, versions: Sequence[str]) -> CompareView:
    """`web`: every version with runs; `web@1a2b`, `web@9f3c`: these two, the second against the
    first. Raise NotFound or Invalid."""
    if not 0 < len(versions) <= VERSIONS_MAX:
        raise Invalid("compare takes one NAME, or NAME@A and NAME@B", field="version")
    split = [split_artifact(version) for version in versions]
    app = split[0][0]
    if len({name for name, _ in split}) > 1 or (len(split) > 1) != all(d for _, d in split):
        raise Invalid("compare takes one NAME, or two versions of it: web@1a2b web@9f3c", field="v")
    cluster = driver.core.cluster
    if app not in cluster.apps:
        raise NotFound(f"no app {app!r}{did_you_mean(app, cluster.apps)}", app=app)
    chosen = cluster.of_app(app)
    live = await live_usage(driver, chosen, whole=False, with_trees=True)
    now = driver.clock()
    runs = [_run(one, now, live.get(one.key)) for i in chosen for one in attempts_of(driver, i)]
    known = dict.fromkeys(run.digest for run in runs)
    return compare(app, runs, [_version(app, digest, known) for _, digest in split if digest])


def attempts_of(driver: MasterDriver, instance: Instance) -> list[Attempt]:
    """Every attempt that is still known, the present one last."""
    known: list[Attempt] = [*driver.core.cluster.certificates_of(instance.id)]
    if not any(one.attempt == instance.attempt for one in known):
        known.append(instance)
    return known


def _version(app: str, digest: Digest, known: Iterable[Digest]) -> Digest:
    meant = [one for one in known if one.startswith(digest)]
    if not meant:
        raise NotFound(f"no runs of {app}@{digest} are known", app=app)
    if len(meant) > 1:
        raise Invalid(f"{app}@{digest} means {len(meant)} versions: give more digits", field="v")
    return meant[0]


async def _series(
    driver: MasterDriver, runs: Sequence[Attempt]
) -> dict[AttemptKey, tuple[Point, ...]]:
    if len(runs) > SERIES_RUNS_MAX:
        raise Invalid(
            f"the series of {len(runs)} runs are more than {SERIES_RUNS_MAX}: name fewer targets, "
            "or say since when",
            field="series",
        )
    return await series(driver, [(run.worker, run.key) for run in runs])


def _run(one: Attempt, now: float, live: LiveUsage | None) -> Run:
    usage, measured, is_failure = one.usage, one.measured, _is_failure(one)
    if live is not None and is_failure is None:
        usage, measured = live.usage, live.measured
    tree = view_tree(measured, usage, is_live=True)
    cpu_s = None if usage is None else usage.cpu_user_s + usage.cpu_system_s
    begin, executed = one.timings.placed_at, one.timings.executed_at
    return Run(
        digest=one.launch.digest,
        placed_at=begin,
        is_failure=is_failure,
        seconds=_seconds(one, now),
        launch_s=None if executed is None else max(0.0, executed - begin),
        cpu_s=cpu_s if tree is None else tree.cpu_user_s + tree.cpu_system_s,
        rss_peak_bytes=tree.rss_peak_bytes if tree else None if usage is None else peak_of(usage),
        rss_mean_bytes=None if tree is None else tree.rss_mean_bytes,
    )


def _is_failure(one: Attempt) -> bool | None:
    """None while it lives, or when nobody knows how it ended; asked-for ends are none."""
    match one.death:
        case Exited(code=code):
            return code != 0 and one.cause is Cause.SELF
        case Signaled():
            return one.cause in (Cause.SELF, Cause.OOM)
        case SpawnFailed(stage=stage):
            return stage != "cancelled"
        case _:
            return None


def _seconds(one: Attempt, now: float) -> float | None:
    if one.started_at is None:
        return None
    return max(0.0, (now if one.ended_at is None else one.ended_at) - one.started_at)


def _copies(record: CommandRecord, result: Copied, targets: Sequence[str]) -> list[AuditView]:
    command = record.command
    if not isinstance(command, Copy) or (targets and command.name not in targets):
        return []
    uploads = [] if command.uploaded is None else [_upload(record, command, command.uploaded)]
    return uploads + [
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
            digest=row.digest,
            bytes_from_peers=row.bytes_from_peers,
            rate_bytes_s=_rate(row.bytes_sent, row.seconds),
        )
        for row in result.workers
    ]


def _upload(record: CommandRecord, command: Copy, uploaded: Uploaded) -> AuditView:
    """What went from the operator to the master, as the operator's end counted it."""
    return AuditView(
        at=rfc3339(record.at - uploaded.seconds),
        kind="upload",
        subject=command.name,
        worker=None,
        by=record.by,
        command=record.id,
        outcome="uploaded",
        phases_s={"upload": uploaded.seconds},
        bytes_sent=uploaded.bytes_sent,
        bytes_total=uploaded.bytes_total,
        seconds=uploaded.seconds,
        digest=command.digest,
        bytes_from_peers=0,
        rate_bytes_s=_rate(uploaded.bytes_sent, uploaded.seconds),
    )


def _rate(count: int | None, seconds: float | None) -> float | None:
    """Null where nothing travelled."""
    return count / seconds if count and seconds else None


def _launch_row(one: Attempt, sizes: Mapping[Digest, int]) -> AuditView:
    """`sizes` of the artifacts that are still known."""
    timings = one.timings
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
    return AuditView(
        at=rfc3339(timings.placed_at),
        kind="launch",
        subject=one.id,
        worker=one.worker,
        by=one.by,
        command=one.command,
        outcome="started" if one.started_at is not None else _outcome(one),
        phases_s=phases,
        bytes_sent=one.fetched_bytes,
        bytes_total=sizes.get(one.launch.digest),
        seconds=sum(phases.values()) if timings.executed_at is not None else None,
        attempt=one.attempt,
        digest=one.launch.digest,
        rate_bytes_s=_rate(one.fetched_bytes, phases.get("fetch")),
    )


def _run_row(
    one: Attempt, now: float, live: LiveUsage | None, points: Sequence[Point] | None
) -> AuditView:
    assert one.started_at is not None
    is_live = one.ended_at is None
    usage, measured = one.usage, one.measured
    if live is not None and is_live:
        usage, measured = live.usage, live.measured
    return AuditView(
        at=rfc3339(one.started_at),
        kind="run",
        subject=one.id,
        worker=one.worker,
        by=one.by,
        command=one.command,
        outcome=_outcome(one),
        phases_s={},
        seconds=_seconds(one, now),
        usage=view_usage(usage),
        attempt=one.attempt,
        digest=one.launch.digest,
        tree=view_tree(measured, usage, is_live=is_live),
        samples=None if points is None else view_samples(points, one.started_at),
    )


def _outcome(one: Attempt) -> str:
    return one.message or (one.state if isinstance(one, Instance) else "dead")
