"""WorkerCore: what a worker decides. It starts what it is told, once, and reports the outcome.

Nothing here is durable: after a restart everything comes back from the keeper's Listing and from
the disk, and what is not there was never started.
"""

from __future__ import annotations

import signal
from collections.abc import Iterable
from typing import assert_never

import msgspec

from corps.core.attempts import Attempt, died, kept, usage_of
from corps.core.events import (
    Adopt,
    Fetch,
    Instruct,
    KeeperGone,
    KeeperSaid,
    Leave,
    Linked,
    MasterSaid,
    Peaks,
    Performed,
    RemoveArtifact,
    RemoveFiles,
    Spawn,
    SpawnBlocked,
    Tell,
    Tick,
    Unlinked,
    WorkerEffect,
    WorkerEvent,
)
from corps.model.instance import InstanceState, SpawnFailed
from corps.model.name import AttemptKey, Digest
from corps.wire import keeper, worker
from corps.wire.worker import Report

ECANCELED = 125
ESRCH = 3
ENOENT = 2
S = InstanceState


class WorkerCore:
    """Feed events to `step`, carry out the effects it returns, in order."""

    def __init__(self, hello: worker.Hello, installed: Iterable[Digest]) -> None:
        self._hello = hello
        self._installed: dict[Digest, None] = dict.fromkeys(installed)
        self._fetching: dict[Digest, None] = {}
        self._attempts: dict[AttemptKey, Attempt] = {}
        self._signals: dict[tuple[AttemptKey, int], list[str]] = {}
        self._is_linked = False
        self._is_welcome = False
        self._has_keeper = False
        self._floor_bytes = 0
        self._heartbeat_s = 1.0
        self._beat_at = 0.0
        self._beats = 0
        self._changed: dict[AttemptKey, None] = {}
        self._now = 0.0
        self._effects: list[WorkerEffect] = []

    def step(self, now: float, event: WorkerEvent) -> list[WorkerEffect]:  # noqa: C901, PLR0912 - a case per event
        assert now >= self._now, "the clock went backwards"
        self._now = now
        match event:
            case Tick():
                self._tick()
            case Linked():
                self._is_linked, self._is_welcome = True, False
                self._tell(self._hello)
            case Unlinked():
                self._is_linked = self._is_welcome = False
            case MasterSaid():
                for message in event.messages:
                    self._obey(message)
            case KeeperSaid():
                reasons = dict(event.reasons)
                for said in event.messages:
                    self._keeper_said(said, reasons)
            case KeeperGone():
                self._has_keeper = False
            case Performed():
                self._performed(event)
            case SpawnBlocked():
                self._fail(event.key, event.stage, event.errno, event.message)
            case Peaks():
                for key, peak in event.peaks:
                    if key in self._attempts:
                        self._attempts[key].peak_bytes = peak
            case _:
                assert_never(event)
        return self._take()

    def report(self, key: AttemptKey) -> Report | None:
        """What is known of an attempt, None when it is forgotten or never was."""
        attempt = self._attempts.get(key)
        return attempt.report if attempt else None

    def live(self) -> list[tuple[AttemptKey, int]]:
        """Attempts with a living process, and its pid."""
        return [
            (key, attempt.report.pid)
            for key, attempt in self._attempts.items()
            if attempt.report.pid is not None and attempt.report.state is not S.DEAD
        ]

    def check(self) -> None:
        """Assert every invariant."""
        for key, attempt in self._attempts.items():
            report = attempt.report
            assert report.key == key
            assert (report.death is not None) is (report.state is S.DEAD), key
            assert report.state is not S.RUNNING or report.pid is not None, key
            if report.state is S.FETCHING:
                assert report.digest in self._fetching, key

    # ---- time

    def _tick(self) -> None:
        if self._is_welcome and self._now >= self._beat_at:
            self._beats += 1
            # Keep the cadence, but never send a burst for beats that were missed.
            self._beat_at = max(self._beat_at + self._heartbeat_s, self._now)
            self._tell(worker.Heartbeat(seq=self._beats))
        for attempt in self._attempts.values():
            if attempt.kill_at is not None and self._now >= attempt.kill_at:
                attempt.kill_at = None
                attempt.end_signal = int(signal.SIGKILL)
                self._signal(attempt)

    # ---- the master

    def _obey(self, message: worker.ToWorker) -> None:  # noqa: C901, PLR0912 - a case per message
        match message:
            case worker.Welcome():
                self._be_welcome(message)
            case worker.Refused():
                self._effects.append(Leave(message.code, message.message))
            case worker.Rejoin():
                self._is_welcome = False
                self._tell(self._hello)
            case worker.Start():
                self._start(message)
            case worker.End():
                self._end(message)
            case worker.SendSignal():
                self._send_signal(message)
            case worker.Forget():
                self._forget(message.keys)
            case worker.Remove():
                self._effects.append(RemoveFiles(message.keys))
            case worker.Install():
                self._fetch(message.digest)
            case worker.Uninstall():
                self._uninstall(message.digest)
            case worker.Shutdown():
                self._effects.append(Instruct(keeper.Quit()))
                self._effects.append(Leave(None, "the master ended this worker"))
            case worker.Sample() | worker.ReadLog():
                raise AssertionError("questions are answered by the driver")
            case _:
                assert_never(message)

    def _be_welcome(self, message: worker.Welcome) -> None:
        if self._hello.cluster is None:
            self._hello = msgspec.structs.replace(self._hello, cluster=message.cluster)
            self._effects.append(Adopt(message.cluster))
        self._is_welcome = True
        self._heartbeat_s = message.heartbeat_s
        self._beat_at = self._now + message.heartbeat_s
        reports = [attempt.report for attempt in self._attempts.values()]
        self._changed.clear()
        size = worker.INVENTORY_BATCH
        parts = [tuple(reports[at : at + size]) for at in range(0, len(reports), size)] or [()]
        for number, part in enumerate(parts, 1):
            is_last = number == len(parts)
            artifacts = tuple(self._installed) if is_last else ()
            self._tell(worker.Inventory(reports=part, artifacts=artifacts, is_last=is_last))

    def _start(self, message: worker.Start) -> None:
        key, digest = message.key, message.launch.digest
        if key in self._attempts:
            self._changed[key] = None  # heard before: say again how it is
            return
        report = Report(key=key, state=S.PENDING, digest=digest, received_at=self._now)
        attempt = self._attempts[key] = Attempt(report=report, launch=message.launch)
        if digest in self._installed:
            self._spawn(attempt)
        else:
            self._update(attempt, state=S.FETCHING)
            self._fetch(digest)

    def _fetch(self, digest: Digest) -> None:
        if digest not in self._fetching:
            self._fetching[digest] = None
            self._effects.append(Fetch(digest))

    def _spawn(self, attempt: Attempt) -> None:
        """The files are there: have the keeper start it, now or as soon as there is a keeper."""
        assert attempt.launch is not None
        report = msgspec.structs.replace(attempt.report, state=S.STARTING, fetched_at=self._now)
        attempt.report = report  # not worth a message: running or dead follows at once
        if self._has_keeper:
            self._effects.append(Spawn(report.key, attempt.launch))

    def _end(self, message: worker.End) -> None:
        attempt = self._attempts.get(message.key)
        if attempt is None:
            return  # it ended, and the master knows
        if attempt.report.state in (S.PENDING, S.FETCHING):
            self._fail(message.key, "cancelled", ECANCELED, "stopped before it was started")
            return
        if attempt.report.state is S.DEAD:
            self._changed[message.key] = None
            return
        if attempt.end_signal == message.signal and attempt.kill_at is not None:
            return  # asked before, and the grace still runs
        attempt.end_signal = message.signal
        attempt.kill_at = None if message.grace_s is None else self._now + message.grace_s
        if attempt.report.state is not S.STARTING:
            self._signal(attempt)
            if attempt.report.state is not S.STOPPING:
                self._update(attempt, state=S.STOPPING)

    def _signal(self, attempt: Attempt) -> None:
        assert attempt.end_signal is not None
        if self._has_keeper and attempt.report.state is not S.STARTING:
            message = keeper.SendSignal(key=attempt.report.key, signal=attempt.end_signal)
            self._effects.append(Instruct(message))

    def _send_signal(self, message: worker.SendSignal) -> None:
        attempt = self._attempts.get(message.key)
        if attempt is None or attempt.report.pid is None or not self._has_keeper:
            self._tell(worker.SignalDone(key=message.key, command=message.command, errno=ESRCH))
            return
        slot = (message.key, message.signal)
        self._signals.setdefault(slot, []).append(message.command)
        self._effects.append(Instruct(keeper.SendSignal(key=message.key, signal=message.signal)))

    def _forget(self, keys: tuple[AttemptKey, ...]) -> None:
        gone = tuple(
            key
            for key in keys
            if key in self._attempts and self._attempts[key].report.state is S.DEAD
        )
        for key in gone:
            del self._attempts[key]
            self._changed.pop(key, None)
        if gone and self._has_keeper:
            self._effects.append(Instruct(keeper.Forget(keys=gone)))

    def _uninstall(self, digest: Digest) -> None:
        users = (
            attempt.report
            for attempt in self._attempts.values()
            if attempt.report.digest == digest and attempt.report.state is not S.DEAD
        )
        if digest in self._fetching or next(users, None) is not None:
            self._tell(worker.Uninstalled(digest=digest, in_use=True))
        else:
            self._installed.pop(digest, None)
            self._effects.append(RemoveArtifact(digest))

    # ---- the keeper

    def _keeper_said(self, said: keeper.FromKeeper, reasons: dict[AttemptKey, str]) -> None:
        match said:
            case keeper.Listing():
                self._list(said, reasons)
            case keeper.Spawned():
                self._spawned(said)
            case keeper.Ended():
                self._ended(said.attempt, reasons)
            case keeper.Signaled():
                for command in self._signals.pop((said.key, said.signal), []):
                    self._tell(worker.SignalDone(key=said.key, command=command, errno=said.errno))
            case keeper.Refused():
                if said.key is not None and said.key in self._attempts:
                    self._fail(said.key, "keeper", 0, said.reason)
            case keeper.TotalsNow():
                pass  # the driver answers questions with it
            case _:
                assert_never(said)

    def _list(self, listing: keeper.Listing, reasons: dict[AttemptKey, str]) -> None:
        """The keeper's word: what it lists is, and what it does not list was never started."""
        self._floor_bytes = listing.floor_bytes
        for attempt in listing.attempts:
            if attempt.is_live:
                self._adopt(attempt)
            else:
                self._ended(attempt, reasons)
        if not listing.is_last:
            return
        self._has_keeper = True
        for known in list(self._attempts.values()):
            if known.report.state is S.STARTING and known.report.pid is None:
                self._spawn(known)

    def _adopt(self, listed: keeper.KeptAttempt) -> None:
        attempt = self._attempts.get(listed.key)
        if attempt is None:
            attempt = Attempt(report=kept(listed))
            self._attempts[listed.key] = attempt
            self._changed[listed.key] = None
        sent = {delivered.signal for delivered in listed.signals}
        state = S.STOPPING if attempt.end_signal is not None else S.RUNNING
        self._update(
            attempt,
            state=state,
            pid=listed.pid,
            forked_at=listed.forked_at,
            started_at=attempt.report.started_at or listed.forked_at,
        )
        if attempt.end_signal is not None and attempt.end_signal not in sent:
            message = keeper.SendSignal(key=listed.key, signal=attempt.end_signal)
            self._effects.append(Instruct(message))

    def _spawned(self, said: keeper.Spawned) -> None:
        attempt = self._attempts.get(said.key)
        if attempt is None or attempt.report.state is not S.STARTING:
            return
        self._update(
            attempt,
            state=S.RUNNING,
            pid=said.pid,
            forked_at=said.forked_at,
            started_at=said.executed_at,
        )
        if attempt.end_signal is not None:
            self._signal(attempt)
            self._update(attempt, state=S.STOPPING)

    def _ended(self, listed: keeper.KeptAttempt, reasons: dict[AttemptKey, str]) -> None:
        attempt = self._attempts.get(listed.key)
        if attempt is None:
            attempt = self._attempts[listed.key] = Attempt(report=kept(listed))
        elif attempt.report.state is S.DEAD:
            return
        attempt.kill_at = None
        attempt.report = died(attempt.report, listed, reasons.get(listed.key), self._now)
        usage = usage_of(listed.usage, self._floor_bytes, attempt.peak_bytes)
        self._update(attempt, usage=usage)
        self._changed[listed.key] = None

    # ---- artifacts

    def _performed(self, event: Performed) -> None:
        outcome = event.outcome
        self._tell(outcome)
        match outcome:
            case worker.Installed():
                self._fetching.pop(outcome.digest, None)
                self._installed[outcome.digest] = None
                for attempt in self._waiting_for(outcome.digest):
                    self._spawn(attempt)
            case worker.InstallFailed():
                self._fetching.pop(outcome.digest, None)
                for attempt in self._waiting_for(outcome.digest):
                    self._fail(attempt.report.key, "fetch", ENOENT, outcome.message)
            case worker.Uninstalled() | worker.Removed():
                pass
            case _:
                assert_never(outcome)

    def _waiting_for(self, digest: Digest) -> list[Attempt]:
        return [
            attempt
            for attempt in self._attempts.values()
            if attempt.report.state is S.FETCHING and attempt.report.digest == digest
        ]

    # ---- changes

    def _fail(self, key: AttemptKey, stage: str, errno: int, message: str) -> None:
        death = SpawnFailed(stage=stage, errno=errno, message=message)
        attempt = self._attempts.get(key)
        if attempt is not None and attempt.report.state is not S.DEAD:
            attempt.kill_at = None
            self._update(attempt, state=S.DEAD, death=death, ended_at=self._now)

    def _update(self, attempt: Attempt, **fields: object) -> None:
        attempt.report = msgspec.structs.replace(attempt.report, **fields)
        self._changed[attempt.report.key] = None

    def _tell(self, message: worker.FromWorker) -> None:
        if self._is_linked:
            self._effects.append(Tell(message))

    def _take(self) -> list[WorkerEffect]:
        if self._changed and self._is_welcome:
            reports = tuple(self._attempts[key].report for key in self._changed)
            size = worker.INVENTORY_BATCH
            for at in range(0, len(reports), size):
                self._effects.append(Tell(worker.Changed(reports=reports[at : at + size])))
            self._changed.clear()
        effects, self._effects = self._effects, []
        return effects
