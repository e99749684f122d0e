"""Restarts: which deaths make a new attempt, and when it begins.

1 s after the first failure, doubling to 5 min with each further one, +-20 %; after a stable run it
begins at 1 s again. An attempt begins only when the one before it is recorded as over, and only on
a usable worker: who is due while the worker is not waits until it is.
"""

from __future__ import annotations

import errno
import heapq
from random import Random
from typing import NamedTuple, assert_never

from corps.core.ledger import Ledger
from corps.model.instance import (
    Desired,
    Exited,
    Instance,
    Signaled,
    SpawnFailed,
    Vanished,
    begin_attempt,
)
from corps.model.name import InstanceId, WorkerName
from corps.model.terms import Restart
from corps.model.worker import WorkerState
from corps.wire.worker import Start

DELAY_MIN_S = 1.0
DELAY_MAX_S = 300.0
JITTER = 0.2
STABLE_S = 10.0
SPREAD_S = 0.001  # between those that are due at once
_DOUBLINGS_MAX = 9  # 2^9 s is beyond DELAY_MAX_S
# execve(2) refuses the file or its arguments as such, and neither ever changes.
_FOR_GOOD = frozenset(
    {errno.E2BIG, errno.ENOEXEC, errno.EACCES, errno.EINVAL, errno.ELOOP, errno.ELIBBAD}
)


class Verdict(NamedTuple):
    """What follows a death. `delay_s` None: nothing does, as `reason` says."""

    delay_s: float | None
    failures: int
    reason: str


def next_attempt(dead: Instance, rng: Random) -> Verdict:
    """Whether what has just died is started again, and after how long."""
    reason = _is_unwanted(dead)
    if reason is not None:
        return Verdict(None, dead.failures, reason)
    failures = 1 if _was_stable(dead) else dead.failures + 1
    reason = _is_hopeless(dead, failures)
    if reason is not None:
        return Verdict(None, failures, reason)
    delay_s = back_off_s(failures) * rng.uniform(1 - JITTER, 1 + JITTER)
    return Verdict(delay_s, failures, f"{dead.restart}, failure {failures} in a row")


def back_off_s(failures: int) -> float:
    """The delay after so many failures in a row, before jitter."""
    return min(DELAY_MIN_S * 2.0 ** min(failures - 1, _DOUBLINGS_MAX), DELAY_MAX_S)


def _was_stable(dead: Instance) -> bool:
    """It ran for longer than it had waited before."""
    if dead.started_at is None or dead.ended_at is None:
        return False
    ran_s = dead.ended_at - dead.started_at
    return ran_s >= max(STABLE_S, back_off_s(dead.failures) if dead.failures else 0.0)


def _is_unwanted(dead: Instance) -> str | None:
    if dead.desired is Desired.STOPPED:
        return "somebody asked for its end"
    match dead.restart:
        case Restart.NEVER:
            return "its restart policy is never"
        case Restart.ON_FAILURE if dead.death == Exited(code=0):
            return "it exited 0"
        case Restart.ON_FAILURE | Restart.ALWAYS:
            return None
        case _:
            assert_never(dead.restart)


def _is_hopeless(dead: Instance, failures: int) -> str | None:
    if dead.failures_max is not None and failures >= dead.failures_max:
        return f"failure {failures} of {dead.failures_max} in a row"
    match dead.death:
        case SpawnFailed(stage="execve") if dead.death.errno in _FOR_GOOD:
            return "the same file and arguments would fail again"
        case Vanished(may_still_run=True):
            return "it may still run"
        case SpawnFailed() | Vanished() | Exited() | Signaled():
            return None
        case None:
            raise AssertionError(f"{dead.id} is dead of nothing")
        case _:
            assert_never(dead.death)


class Restarts:
    """Who waits for the next attempt, soonest first. Soft state: rebuilt from the instances."""

    def __init__(self, ledger: Ledger, rng: Random) -> None:
        self._ledger, self._rng = ledger, rng
        self._due: list[tuple[float, InstanceId, int]] = []  # a heap; what is over is left in it
        self._held: dict[WorkerName, dict[InstanceId, int]] = {}  # due, and their worker is not
        self._resume()

    def judge(self, dead: Instance) -> Verdict:
        """What follows the death of an instance."""
        return next_attempt(dead, self._rng)

    def waits(self, instance: Instance) -> None:
        """It is saved, and its time will come."""
        assert instance.not_before is not None
        heapq.heappush(self._due, (instance.not_before, instance.id, instance.attempt))

    def tick(self) -> None:
        now = self._ledger.now
        while self._due and self._due[0][0] <= now:
            _, id, attempt = heapq.heappop(self._due)
            self._begin(id, attempt)

    def worker_ready(self, worker: WorkerName) -> None:
        """Those that were due meanwhile begin now, one after the other."""
        held = self._held.pop(worker, {})
        for place, (id, attempt) in enumerate(held.items()):
            heapq.heappush(self._due, (self._ledger.now + place * SPREAD_S, id, attempt))

    def check(self) -> None:
        """Assert that nobody who waits is forgotten."""
        known = {(id, attempt) for _, id, attempt in self._due}
        known |= {pair for held in self._held.values() for pair in held.items()}
        for instance in self._ledger.cluster.instances.values():
            if instance.is_waiting:
                assert (instance.id, instance.attempt) in known, instance.id

    def _begin(self, id: InstanceId, attempt: int) -> None:
        ledger = self._ledger
        instance = ledger.cluster.instances.get(id)
        if instance is None or instance.attempt != attempt or not instance.is_waiting:
            return  # stopped meanwhile
        worker = ledger.cluster.workers[instance.worker]
        if worker.state is not WorkerState.READY or worker.name not in ledger.session_of:
            self._held.setdefault(worker.name, {})[id] = attempt
            return
        begun = begin_attempt(instance, attempt + 1, ledger.now)
        ledger.save(begun)
        ledger.send_to(worker.name, Start(key=begun.key, launch=begun.launch))

    def _resume(self) -> None:
        """After a restart of the master: who is due begins at once, one after the other.

        A clock that was set back must not make anyone wait for longer than it should have.
        """
        now = self._ledger.now
        latest = now + DELAY_MAX_S * (1 + JITTER)
        waiting = [i for i in self._ledger.cluster.instances.values() if i.not_before is not None]
        for place, instance in enumerate(waiting):
            assert instance.not_before is not None
            at = max(min(instance.not_before, latest), now + place * SPREAD_S)
            self._due.append((at, instance.id, instance.attempt))
        heapq.heapify(self._due)
