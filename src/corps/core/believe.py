"""What of a peer's words may enter the tables: no time that no calendar has, no endless text.

A number that cannot be is missing, never guessed; a death that cannot be is a death nobody saw.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import assert_never

import msgspec

from corps.model.instance import (
    Death,
    Delivered,
    Evidence,
    Exited,
    InstanceState,
    LogLine,
    Machine,
    Signaled,
    SpawnFailed,
    Survivor,
    Usage,
    Vanished,
)
from corps.model.series import Measured, Point
from corps.wire.worker import Report

TIME_MAX_S = 100_000_000_000.0  # the year 5138: later ones datetime may refuse
TEXT_MAX = 1_000
DELIVERED_MAX = 64
PID_MAX = 1 << 31
COUNT_MAX = 1 << 63
SIGNAL_MAX = 64
LINES_MAX = 20
LINES_MAX_CHARS = 2_000  # of all lines of one death
LIST_MAX = 20
ERRNO_MAX = 4_096  # MAX_ERRNO of the kernel


def text(said: str) -> str:
    """At most TEXT_MAX characters of it."""
    return said if len(said) <= TEXT_MAX else f"{said[: TEXT_MAX - 3]}..."


def moment(at: float | None) -> float | None:
    """Unix seconds that a calendar has, else None."""
    return at if at is not None and 0 < at < TIME_MAX_S else None


def seconds(duration: float) -> float | None:
    """A duration that can be, else None."""
    return duration if 0 <= duration < TIME_MAX_S else None


def count(number: int) -> int:
    """A count or size, within what every store and reader can hold."""
    return min(max(number, 0), COUNT_MAX - 1)


def report(said: Report) -> Report | None:
    """The report without what cannot be; None when nothing is left that means anything."""
    if said.state is InstanceState.UNKNOWN:
        return None  # that is the master's word for a silent worker
    pid = said.pid if said.pid is not None and 0 < said.pid < PID_MAX else None
    is_dead = said.state is InstanceState.DEAD
    return msgspec.structs.replace(
        said,
        pid=pid,
        received_at=moment(said.received_at),
        fetched_at=moment(said.fetched_at),
        forked_at=moment(said.forked_at),
        started_at=moment(said.started_at),
        ended_at=moment(said.ended_at) if is_dead else None,
        delivered=_delivered(said.delivered),
        death=_death(said.death) if is_dead and said.death is not None else None,
        usage=None if said.usage is None else _usage(said.usage),
        enforced=_enforced(said.enforced),
        evidence=None if said.evidence is None or not is_dead else evidence(said.evidence),
        fetched_bytes=None if said.fetched_bytes is None else count(said.fetched_bytes),
        measured=None if said.measured is None or not is_dead else measured(said.measured),
    )


def measured(said: Measured) -> Measured | None:
    """None when a time or duration in it cannot be; counts within bounds."""
    times = (moment(said.at), seconds(said.cpu_user_s), seconds(said.cpu_system_s))
    if any(time is None for time in times):
        return None
    counts = {
        name: count(value)
        for name, value in msgspec.structs.asdict(said).items()
        if isinstance(value, int)
    }
    return msgspec.structs.replace(said, **counts)


def points(said: Sequence[Point]) -> list[Point]:
    """Those of a calendar's times and finite durations, in order of time."""
    known: list[Point] = []
    for point in said:
        spans = (point.span_s, point.cpu_user_s, point.cpu_system_s)
        is_sane = moment(point.at) is not None and None not in map(seconds, spans)
        if is_sane and (not known or point.at > known[-1].at):
            known.append(point)
    return known


def evidence(said: Evidence) -> Evidence | None:
    """Bounded, the last lines first of all; None when it is of no time."""
    if moment(said.seen_at) is None:
        return None
    lines: list[LogLine] = []
    left = LINES_MAX_CHARS
    for line in reversed(said.last_lines[-LINES_MAX:]):
        left -= len(line.text)
        if left < 0:
            break
        lines.append(LogLine(stream=line.stream[:LIST_MAX], text=line.text))
    return msgspec.structs.replace(
        said,
        argv=tuple(text(word) for word in said.argv[:LIST_MAX]),
        last_lines=tuple(reversed(lines)),
        machine=None if said.machine is None else _machine(said.machine),
        oom=None if said.oom is None else text(said.oom),
        limit=None if said.limit is None else text(said.limit),
        lingering=None if said.lingering is None else count(said.lingering),
        survivors=tuple(
            Survivor(pid=count(one.pid), command=text(one.command))
            for one in said.survivors[:LIST_MAX]
        ),
    )


def _machine(said: Machine) -> Machine | None:
    pressures = (said.cpu_pressure_percent, said.memory_pressure_percent, said.io_pressure_percent)
    known = [value for value in (said.load_1m, *pressures) if value is not None]
    if not all(0 <= value < TIME_MAX_S for value in known):
        return None
    return msgspec.structs.replace(
        said,
        memory_total_bytes=count(said.memory_total_bytes),
        memory_available_bytes=count(said.memory_available_bytes),
    )


def _enforced(said: dict[str, str]) -> dict[str, str]:
    return {text(name): text(said[name]) for name in sorted(said)[:LIST_MAX]}


def _delivered(said: tuple[Delivered, ...]) -> tuple[Delivered, ...]:
    return tuple(
        sent
        for sent in said[-DELIVERED_MAX:]
        if 0 < sent.signal <= SIGNAL_MAX and moment(sent.at) is not None
    )


def _death(said: Death) -> Death:
    match said:
        case Exited():
            return said if 0 <= said.code <= 255 else _impossible(f"exit code {said.code}")
        case Signaled():
            is_signal = 0 < said.signal <= 127
            return said if is_signal else _impossible(f"signal {said.signal}")
        case SpawnFailed():
            return SpawnFailed(
                stage=text(said.stage),
                errno=said.errno if 0 <= said.errno < ERRNO_MAX else 0,
                message=text(said.message),
            )
        case Vanished():
            return msgspec.structs.replace(said, reason=text(said.reason))
        case _:
            assert_never(said)


def _impossible(what: str) -> Vanished:
    return Vanished(reason=f"its worker reported {what}, which cannot be")


def _usage(said: Usage) -> Usage | None:
    if not (math.isfinite(said.cpu_user_s) and math.isfinite(said.cpu_system_s)):
        return None
    return msgspec.structs.replace(
        said,
        cpu_user_s=max(0.0, said.cpu_user_s),
        cpu_system_s=max(0.0, said.cpu_system_s),
        max_rss_bytes=None if said.max_rss_bytes is None else count(said.max_rss_bytes),
        rss_bytes=None if said.rss_bytes is None else count(said.rss_bytes),
    )
