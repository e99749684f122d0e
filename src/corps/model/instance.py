"""An instance: one process corps launched, its life and its death.

    pending --> fetching --> starting --> running --> stopping --> dead
                                            |  ^
                                            v  | its worker came back
                                          unknown

Every live state may go straight to dead; starting and stopping may become unknown too. This is the
life of one attempt: what its restart policy starts again is pending, until its next attempt begins.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

import msgspec

from corps.model.name import AttemptKey, CommandId, Digest, InstanceId, WorkerName, attempt_key
from corps.model.series import Measured
from corps.model.signature import Signature
from corps.model.terms import Restart, Terms


class InstanceState(StrEnum):
    PENDING = "pending"
    FETCHING = "fetching"
    STARTING = "starting"
    RUNNING = "running"
    STOPPING = "stopping"
    DEAD = "dead"
    UNKNOWN = "unknown"


S = InstanceState
MOVES: dict[InstanceState, frozenset[InstanceState]] = {
    S.PENDING: frozenset({S.FETCHING, S.STARTING, S.RUNNING, S.STOPPING, S.UNKNOWN, S.DEAD}),
    S.FETCHING: frozenset({S.STARTING, S.RUNNING, S.STOPPING, S.UNKNOWN, S.DEAD}),
    S.STARTING: frozenset({S.RUNNING, S.STOPPING, S.UNKNOWN, S.DEAD}),
    S.RUNNING: frozenset({S.STOPPING, S.UNKNOWN, S.DEAD}),
    S.STOPPING: frozenset({S.UNKNOWN, S.DEAD}),
    S.UNKNOWN: frozenset({S.PENDING, S.FETCHING, S.STARTING, S.RUNNING, S.STOPPING, S.DEAD}),
    S.DEAD: frozenset(),
}


class Desired(StrEnum):
    """What the operator wants of an instance."""

    RUNNING = "running"
    STOPPED = "stopped"


class Cause(StrEnum):
    """Why a death happened. `gang`, `drain` and `rollout` are reserved names."""

    SELF = "self"
    STOP = "stop"
    KILL = "kill"
    OOM = "oom"
    LIMIT = "limit"
    GANG = "gang"
    DRAIN = "drain"
    ROLLOUT = "rollout"
    LOST = "lost"


class RssSource(StrEnum):
    """Where a maximum resident set comes from.

    wait4: the kernel's final figure, exact. sampled: VmHWM of the process, exact when it was read,
    at most one sample old. floor: the process stayed below what its image before exec had, so the
    figure is an upper bound.
    """

    WAIT4 = "wait4"
    SAMPLED = "sampled"
    FLOOR = "floor"


class Usage(msgspec.Struct, frozen=True, kw_only=True):
    """What a process used, from wait4 (final) or /proc (live)."""

    cpu_user_s: float
    cpu_system_s: float
    max_rss_bytes: int | None
    rss_bytes: int | None = None
    max_rss_source: RssSource | None = None


class Exited(msgspec.Struct, frozen=True, kw_only=True, tag="exited", tag_field="type"):
    code: int


class Signaled(msgspec.Struct, frozen=True, kw_only=True, tag="signaled", tag_field="type"):
    signal: int
    core_dumped: bool = False


class SpawnFailed(msgspec.Struct, frozen=True, kw_only=True, tag="spawn_failed", tag_field="type"):
    """It never ran: `stage` (fetch, fork, log, chdir, execve, cancelled) failed with `errno`."""

    stage: str
    errno: int
    message: str


class Vanished(msgspec.Struct, frozen=True, kw_only=True, tag="vanished", tag_field="type"):
    """Nobody saw how it ended. `may_have_run` says that it may never even have begun,
    `may_still_run` that nobody can be sure that it is over: then it is never started again."""

    reason: str
    may_have_run: bool = False
    may_still_run: bool = False


Death: TypeAlias = Exited | Signaled | SpawnFailed | Vanished


class Asked(msgspec.Struct, frozen=True, kw_only=True):
    """Who asked for the end of an instance, by which command and signal, and when."""

    cause: Cause
    signal: int
    by: str
    command: CommandId
    at: float
    grace_s: float = 0.0


class Delivered(msgspec.Struct, frozen=True, kw_only=True):
    """A signal that the keeper delivered to a living process."""

    signal: int
    at: float


class Timings(msgspec.Struct, frozen=True, kw_only=True):
    """When each phase of a launch ended, in unix seconds of the worker (placed: of the master)."""

    placed_at: float
    received_at: float | None = None
    fetched_at: float | None = None
    forked_at: float | None = None
    executed_at: float | None = None


class Launchable(msgspec.Struct, frozen=True, kw_only=True):
    """What to execute: the part of a launch that the worker needs."""

    artifact: str
    digest: Digest
    args: tuple[str, ...] = ()
    env: dict[str, str] = {}
    cwd: str | None = None
    terms: Terms = Terms()
    signature: Signature | None = None


class Survivor(msgspec.Struct, frozen=True, kw_only=True):
    """A descendant that was still there when its instance was over."""

    pid: int
    command: str


class LogLine(msgspec.Struct, frozen=True, kw_only=True):
    stream: str
    text: str


class Machine(msgspec.Struct, frozen=True, kw_only=True):
    """How its machine was at that moment. Pressure: `some avg10` of /proc/pressure, percent."""

    load_1m: float
    memory_total_bytes: int
    memory_available_bytes: int
    cpu_pressure_percent: float | None = None
    memory_pressure_percent: float | None = None
    io_pressure_percent: float | None = None


class Evidence(msgspec.Struct, frozen=True, kw_only=True):
    """What the worker saw when it learned of a death, at `seen_at` by its clock.

    `oom` and `limit` say in words what points to the OOM killer or to a limit; `proves_oom`: it
    names this process or its own cgroup; `survivors` could not be ended; `lingering` counts the
    descendants that were there when the leader ended.
    """

    seen_at: float
    argv: tuple[str, ...] = ()
    last_lines: tuple[LogLine, ...] = ()
    machine: Machine | None = None
    oom: str | None = None
    proves_oom: bool = False
    limit: str | None = None
    lingering: int | None = None
    survivors: tuple[Survivor, ...] = ()


class Instance(msgspec.Struct, frozen=True, kw_only=True):
    """One instance in its present attempt, bound to one worker for good.

    With `not_before` its attempt is over, as `death` tells, and the next one begins then.
    `failures` counts the attempts that ended in a row, none of which was stable.
    """

    id: InstanceId
    app: str
    number: int
    attempt: int
    worker: WorkerName
    launch: Launchable
    command: CommandId
    by: str
    state: InstanceState
    desired: Desired
    timings: Timings
    state_since: float
    pid: int | None = None
    started_at: float | None = None
    ended_at: float | None = None
    asked: Asked | None = None
    delivered: tuple[Delivered, ...] = ()
    death: Death | None = None
    cause: Cause | None = None
    message: str | None = None
    usage: Usage | None = None
    restart: Restart = Restart.NEVER
    failures_max: int | None = None
    failures: int = 0
    not_before: float | None = None
    enforced: dict[str, str] = {}  # each limit, and what holds it: `memory` by `cgroup v2`
    evidence: Evidence | None = None
    placement: str = ""  # why on this worker, in words
    fetched_bytes: int | None = None  # what had to travel before it could start
    asks: tuple[Asked, ...] = ()  # every signal asked for in this attempt; `asked` is what counts
    measured: Measured | None = None

    @property
    def key(self) -> AttemptKey:
        return attempt_key(self.id, self.attempt)

    @property
    def is_stuck(self) -> bool:
        """SIGKILL has no effect: it sleeps in the kernel, where only the kernel can wake it."""
        is_stopping = self.state is InstanceState.STOPPING
        return is_stopping and self.evidence is not None and bool(self.evidence.survivors)

    @property
    def is_live(self) -> bool:
        """It may be running now or later, as far as the master knows."""
        return self.state is not InstanceState.DEAD

    @property
    def is_waiting(self) -> bool:
        """Between two attempts: the present one is over, the next one has not begun."""
        return self.not_before is not None

    @property
    def is_over(self) -> bool:
        """Its present attempt is over, and recorded so."""
        return self.is_waiting or not self.is_live


def move(instance: Instance, state: InstanceState, now: float) -> Instance:
    """The only writer of `state` within an attempt."""
    assert state in MOVES[instance.state], f"{instance.id}: {instance.state} -> {state}"
    return msgspec.structs.replace(instance, state=state, state_since=now)


def await_next(dead: Instance, failures: int, not_before: float) -> Instance:
    """What has just died, and is to be started again."""
    assert dead.state is InstanceState.DEAD and dead.desired is Desired.RUNNING, dead.id
    return msgspec.structs.replace(
        dead, state=InstanceState.PENDING, failures=failures, not_before=not_before
    )


def begin_attempt(instance: Instance, attempt: int, now: float) -> Instance:
    """The instance in a later attempt, of which nothing is known yet."""
    assert attempt > instance.attempt and instance.desired is Desired.RUNNING, instance.id
    return Instance(
        id=instance.id,
        app=instance.app,
        number=instance.number,
        attempt=attempt,
        worker=instance.worker,
        launch=instance.launch,
        command=instance.command,
        by=instance.by,
        state=InstanceState.PENDING,
        desired=Desired.RUNNING,
        timings=Timings(placed_at=now),
        state_since=now,
        restart=instance.restart,
        failures_max=instance.failures_max,
        failures=instance.failures,
        placement="an instance stays on its worker",
    )
