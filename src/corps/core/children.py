"""The attempts of a worker: what the master asked of each, what the keeper says of it.

The keeper's word is what happened. Deaths are told until the master has said Forget.
"""

from __future__ import annotations

from collections.abc import Callable
from signal import SIGKILL
from typing import assert_never

import msgspec

from corps.core import believe
from corps.core.attempts import (
    DELIVERED_MAX,
    Attempt,
    delivered,
    died,
    kept,
    no_secrets,
    survivors,
    testified,
    usage_of,
)
from corps.core.events import Instruct, KeeperSaid, Peaks, Spawn, SpawnBlocked, WorkerEffect
from corps.core.signals import Signal, Signals
from corps.core.skew import ahead_s, kept_on_ours, spawned_on_ours
from corps.model.instance import (
    Delivered,
    Evidence,
    InstanceState,
    SpawnFailed,
    Vanished,
)
from corps.model.name import AttemptKey, Digest
from corps.model.series import Measured
from corps.wire import keeper, worker
from corps.wire.secret import Secrets, WantSecrets
from corps.wire.worker import FromWorker, Report

CANCELLED = SpawnFailed(stage="cancelled", errno=125, message="stopped before it was started")
ESRCH = 3
ASK_AGAIN_S = 1.0
NEVER_EXECUTED = "never_executed"  # wire.keeper.KeptAttempt: a proof, not a guess
S = InstanceState


class Children:
    """`effect` takes what is to be done, `tell` what the master should hear."""

    def __init__(
        self, effect: Callable[[WorkerEffect], None], tell: Callable[[FromWorker], None]
    ) -> None:
        self._effect, self._tell = effect, tell
        self.table: dict[AttemptKey, Attempt] = {}
        self.changed: dict[AttemptKey, None] = {}  # since the master was last told
        self.has_listing = False  # before that nobody may be told what runs here
        self.now = 0.0
        self._has_keeper = self._gives_secrets = False
        self._listed: dict[AttemptKey, None] = {}  # in the parts of a listing so far
        self._signals = Signals()
        self._ahead_s = 0.0  # the keeper's clock, of ours
        self._reasons: dict[AttemptKey, str] = {}  # of the deaths the keeper tells of now
        self._evidence: dict[AttemptKey, Evidence] = {}
        self._measured: dict[AttemptKey, Measured] = {}  # of the deaths the keeper tells of now

    # ---- what the master asks

    def add(self, message: worker.Start) -> Attempt | None:
        """A new attempt; None when it was heard of before: then say again how it is."""
        key = message.key
        if key in self.table:
            self.changed[key] = None
            return None
        report = Report(
            key=key, state=S.PENDING, digest=message.launch.digest, received_at=self.now
        )
        self.table[key] = Attempt(report=report, launch=message.launch)
        return self.table[key]

    def await_files(self, attempt: Attempt) -> None:
        self._update(attempt, state=S.FETCHING)

    def spawn(self, attempt: Attempt, fetched_bytes: int | None = None) -> None:
        """The files are there: have the keeper start it, now or as soon as there is a keeper.

        With `fetched_bytes` they were verified just now, if nothing had to travel as well.
        """
        report = msgspec.structs.replace(
            attempt.report,
            state=S.STARTING,
            fetched_at=attempt.report.fetched_at or self.now,
            fetched_bytes=fetched_bytes or attempt.report.fetched_bytes,
        )
        attempt.report = report  # not worth a message: running or dead follows at once
        attempt.is_verified = fetched_bytes is not None
        if self._has_keeper and attempt.launchable.terms.secrets and not self._gives_secrets:
            self.not_started(report.key, no_secrets("its keeper is of an older corps"))
        elif self._has_keeper and attempt.launchable.terms.secrets:
            self._want_secrets(attempt)
        elif self._has_keeper:
            self._effect(Spawn(report.key, attempt.launchable, attempt.is_verified))

    def given(self, message: Secrets) -> None:
        """The last that an attempt was waiting for, or why it does not get it."""
        attempt = self.table.get(message.key)
        if attempt is None or attempt.ask_at is None or not self._has_keeper:
            return  # it is over, has them already, or is asked for again when there is a keeper
        attempt.ask_at = None
        if problem := attempt.lacks(message):
            self.not_started(message.key, no_secrets(problem))
        else:
            launch, is_verified = attempt.launchable, attempt.is_verified
            self._effect(Spawn(message.key, launch, is_verified, message.secrets))

    def unverified(self, key: AttemptKey) -> Attempt | None:
        """Its files must be verified before it starts; None when it is not to start any more."""
        attempt = self.table.get(key)
        if attempt is None or not attempt.is_waiting:
            return None
        if attempt.end_signal is not None:
            self.not_started(key, CANCELLED)
            return None
        self.await_files(attempt)
        return attempt

    def end(self, message: worker.End) -> None:
        attempt = self.table.get(message.key)
        if attempt is None:
            return  # it ended, and the master knows
        if attempt.report.state in (S.PENDING, S.FETCHING) or attempt.ask_at is not None:
            self.not_started(message.key, CANCELLED)
        elif attempt.report.state is S.DEAD:
            self.changed[message.key] = None
        elif attempt.end_signal != SIGKILL or message.signal == SIGKILL:  # never softened
            self._end(attempt, message)

    def send_signal(self, message: worker.SendSignal) -> None:
        attempt = self.table.get(message.key)
        if attempt is None or attempt.report.pid is None or attempt.report.state is S.DEAD:
            self._tell(worker.SignalDone(key=message.key, command=message.command, errno=ESRCH))
        else:
            self._signal(message.key, Signal(message.signal, message.command))

    def escalate(self) -> None:
        """The grace of some is over; others still wait for their secrets."""
        for attempt in self.table.values():
            if attempt.ask_at is not None and self.now >= attempt.ask_at:
                attempt.is_verified = False  # a moment ago, it was
                self._want_secrets(attempt)
            if attempt.kill_at is not None and self.now >= attempt.kill_at:
                attempt.end_signal, attempt.kill_at = SIGKILL, None
                self._press(attempt)

    def forget(self, keys: tuple[AttemptKey, ...]) -> None:
        """The master has recorded these deaths. The living are left alone."""
        gone = tuple(dict.fromkeys(key for key in keys if key in self.table and self.is_dead(key)))
        for key in gone:
            del self.table[key]
            self.changed.pop(key, None)
        if gone and self._has_keeper:
            self._effect(Instruct(keeper.Forget(keys=gone)))

    def is_dead(self, key: AttemptKey) -> bool:
        """Dead, or never heard of."""
        attempt = self.table.get(key)
        return attempt is None or attempt.report.state is S.DEAD

    def is_used(self, digest: Digest) -> bool:
        return any(
            attempt.report.digest == digest and attempt.report.state is not S.DEAD
            for attempt in self.table.values()
        )

    def waiting_for(self, digest: Digest) -> list[Attempt]:
        return [
            attempt
            for attempt in self.table.values()
            if attempt.report.state is S.FETCHING and attempt.report.digest == digest
        ]

    def not_started(
        self, key: AttemptKey, death: SpawnFailed, evidence: Evidence | None = None
    ) -> None:
        """Only what has no process can have failed to start."""
        attempt = self.table.get(key)
        if attempt is None or attempt.report.state is S.DEAD or attempt.report.pid is not None:
            return
        said = msgspec.structs.replace(death, message=believe.text(death.message))
        self._die(attempt, death=said, ended_at=self.now, evidence=evidence)

    def check(self) -> None:
        """Assert every invariant."""
        for key, attempt in self.table.items():
            report = attempt.report
            assert report.key == key
            assert (report.death is not None) is (report.state is S.DEAD), key
            assert report.state not in (S.RUNNING, S.STOPPING) or report.pid is not None, key
            assert attempt.kill_at is None or report.state is not S.DEAD, key
            assert attempt.ask_at is None or attempt.is_waiting, key

    # ---- what the driver and the keeper say

    def blocked(self, event: SpawnBlocked) -> None:
        death = SpawnFailed(stage=event.stage, errno=event.errno, message=event.message)
        self.not_started(event.key, death, event.evidence)

    def saw_peaks(self, event: Peaks) -> None:
        for key, peak_bytes in event.peaks:
            if key in self.table:
                self.table[key].peak_bytes = peak_bytes

    def keeper_gone(self) -> None:
        self._has_keeper = False
        self._listed.clear()

    def keeper_said(self, event: KeeperSaid) -> None:
        self._reasons, self._evidence = dict(event.reasons), dict(event.evidence)
        self._measured = dict(event.measured)
        for said in event.messages:
            match said:
                case keeper.Listing():
                    self._ahead_s = ahead_s(said.now, self.now)
                    self._gives_secrets = said.gives_secrets
                    self._list(said)
                case keeper.Spawned():
                    self._spawned(spawned_on_ours(said, self._ahead_s))
                case keeper.Stuck():
                    self._stuck(said.attempt)
                case keeper.Ended():
                    self._ended(kept_on_ours(said.attempt, self._ahead_s))
                case keeper.Signaled():
                    self._signaled(said)
                case keeper.Refused():
                    if said.key is not None:
                        death = SpawnFailed(stage=said.stage, errno=0, message=said.reason)
                        self.not_started(said.key, death, self._evidence.get(said.key))
                case keeper.TotalsNow() | keeper.Cleared():
                    pass  # what the driver asked for
                case _:
                    assert_never(said)

    def _list(self, listing: keeper.Listing) -> None:
        """The keeper's word: what it lists is, and what it does not list was never started."""
        for said in listing.attempts:
            attempt = kept_on_ours(said, self._ahead_s)
            self._listed[attempt.key] = None
            if attempt.is_live:
                self._adopt(attempt)
            else:
                self._ended(attempt)
        if not listing.is_last:
            return
        self._has_keeper = self.has_listing = True
        for known in self.table.values():
            if known.report.key not in self._listed:
                self._not_listed(known)
        self._listed.clear()
        self._signal_again()

    def _adopt(self, listed: keeper.KeptAttempt) -> None:
        attempt = self.table.get(listed.key)
        if attempt is None:
            attempt = self.table[listed.key] = Attempt(report=kept(listed))
        elif attempt.report.state is S.DEAD:
            return  # the master was told so: not taken back
        now = delivered(listed)
        self._answer(listed.key, now)
        if listed.executed:  # else its pid may yet be another one: it has not begun
            self._update(attempt, pid=listed.pid, forked_at=listed.forked_at, delivered=now)
        if listed.executed and attempt.report.state is S.STARTING:
            started = {"started_at": listed.forked_at, "enforced": listed.enforced}
            self._update(attempt, state=S.RUNNING, **started)
            self._press(attempt)
        if listed.survivors:
            self._stuck(listed)

    def _not_listed(self, attempt: Attempt) -> None:
        if attempt.is_waiting:
            self.spawn(attempt)
        elif attempt.report.state in (S.STARTING, S.RUNNING, S.STOPPING):
            reason = "its keeper has no record of it any more"
            death = Vanished(reason=reason, may_still_run=True)
            self._die(attempt, death=death, ended_at=self.now)

    def _spawned(self, said: keeper.Spawned) -> None:
        attempt = self.table.get(said.key)
        if attempt is not None and attempt.report.state is S.STARTING:
            self._update(
                attempt,
                state=S.RUNNING,
                pid=said.pid,
                forked_at=said.forked_at,
                started_at=said.executed_at,
                enforced=said.enforced,
            )
            self._press(attempt)

    def _ended(self, listed: keeper.KeptAttempt) -> None:
        attempt = self.table.get(listed.key)
        if listed.failed_stage == NEVER_EXECUTED and (attempt is None or attempt.is_waiting):
            self._never_ran(listed.key, attempt)
            return
        if attempt is None:
            attempt = self.table[listed.key] = Attempt(report=kept(listed))
        elif attempt.report.state is S.DEAD:
            self.changed[listed.key] = None
            return
        self._answer(listed.key, delivered(listed))
        attempt.report = died(attempt.report, listed, self._reasons.get(listed.key), self.now)
        self._die(
            attempt,
            usage=usage_of(listed.usage, attempt.peak_bytes),
            evidence=testified(self._evidence.get(listed.key), listed, self.now),
            measured=self._measured.get(listed.key),
        )

    def _never_ran(self, key: AttemptKey, attempt: Attempt | None) -> None:
        """Its keeper died before it might execute, and nobody else may: so it is asked for again.

        What only the keeper remembers the master sends again, as we do not list it.
        """
        self._effect(Instruct(keeper.Forget(keys=(key,))))
        self._listed.pop(key, None)
        if attempt is not None and attempt.end_signal is not None:
            self.not_started(key, CANCELLED)
        elif attempt is not None and self._has_keeper:
            self.spawn(attempt)

    def _stuck(self, listed: keeper.KeptAttempt) -> None:
        """It lives, and what should have ended it had no effect: its operator must know."""
        attempt = self.table.get(listed.key)
        if attempt is not None and attempt.report.state is not S.DEAD:
            stuck = Evidence(seen_at=self.now, survivors=survivors(listed))
            self._update(attempt, evidence=stuck)

    # ---- signals

    def _end(self, attempt: Attempt, message: worker.End) -> None:
        kill_at = None if message.grace_s is None else self.now + message.grace_s
        is_repeated = attempt.end_signal == message.signal and attempt.kill_at is not None
        if is_repeated and kill_at is not None and attempt.kill_at is not None:
            attempt.kill_at = min(attempt.kill_at, kill_at)
            return
        attempt.end_signal, attempt.kill_at = message.signal, kill_at
        self._press(attempt)

    def _press(self, attempt: Attempt) -> None:
        """If it runs, it gets the signal that should end it; else as soon as it does."""
        if attempt.report.state in (S.RUNNING, S.STOPPING) and attempt.end_signal is not None:
            self._signal(attempt.report.key, Signal(attempt.end_signal, None))
            if attempt.report.state is S.RUNNING:
                self._update(attempt, state=S.STOPPING)

    def _signal(self, key: AttemptKey, signal: Signal) -> None:
        self._signals.add(key, signal)
        if self._has_keeper:
            self._effect(Instruct(keeper.SendSignal(key=key, signal=signal.number)))

    def _signaled(self, said: keeper.Signaled) -> None:
        attempt = self.table.get(said.key)
        if said.errno == 0 and attempt is not None and attempt.report.state is not S.DEAD:
            sent = (*attempt.report.delivered, Delivered(signal=said.signal, at=self.now))
            self._update(attempt, delivered=sent[-DELIVERED_MAX:])
        signal = self._signals.answered(said.key, said.signal)
        if signal is not None:
            self._done(said.key, signal, said.errno)

    def _answer(self, key: AttemptKey, now: tuple[Delivered, ...]) -> None:
        """Signals whose delivery the keeper lists and whose answer was lost."""
        for signal in self._signals.listed(key, self.table[key].report.delivered, now):
            self._done(key, signal, 0)

    def _signal_again(self) -> None:
        for key, signal in self._signals.all():
            self._effect(Instruct(keeper.SendSignal(key=key, signal=signal.number)))

    def _done(self, key: AttemptKey, signal: Signal, errno: int) -> None:
        if signal.command is not None:
            self._tell(worker.SignalDone(key=key, command=signal.command, errno=errno))

    # ---- changes

    def _want_secrets(self, attempt: Attempt) -> None:
        attempt.ask_at = self.now + ASK_AGAIN_S
        self._tell(WantSecrets(key=attempt.report.key))

    def _die(self, attempt: Attempt, **facts: object) -> None:
        attempt.kill_at = None
        self._update(attempt, state=S.DEAD, **facts)
        for signal in self._signals.drop(attempt.report.key):
            self._done(attempt.report.key, signal, ESRCH)

    def _update(self, attempt: Attempt, **fields: object) -> None:
        attempt.report = msgspec.structs.replace(attempt.report, **fields)
        attempt.ask_at = attempt.ask_at if attempt.is_waiting else None
        self.changed[attempt.report.key] = None
