"""WorkerCore: what a worker decides. It starts what it is told, once, and reports the outcome.

Nothing here is durable: after a restart everything comes back from the keeper's Listing and from
the disk, and what is not there was never started.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from enum import Enum, auto
from typing import assert_never

import msgspec

from corps.core import believe
from corps.core.children import Children
from corps.core.events import (
    Adopt,
    Instruct,
    KeeperGone,
    KeeperSaid,
    Leave,
    Linked,
    MasterSaid,
    Noticed,
    Peaks,
    Performed,
    RemoveFiles,
    SpawnBlocked,
    Tell,
    Tick,
    Unlinked,
    Unverified,
    WorkerEffect,
    WorkerEvent,
)
from corps.core.stock import Stock
from corps.model.artifact import Transfer
from corps.model.instance import InstanceState, SpawnFailed
from corps.model.name import AttemptKey, Digest
from corps.wire import keeper, worker
from corps.wire.drift import Verify
from corps.wire.output import Note
from corps.wire.probe import Probe
from corps.wire.secret import Secrets
from corps.wire.worker import Report

ENOENT = 2
REPORTS_A_PART = 20  # a frame has room for that many of the largest
DIGESTS_A_PART = 5_000
NOTES_MAX = 100
S = InstanceState


class Link(Enum):
    """How far we are with the master."""

    DOWN = auto()
    UP = auto()  # connected, hello not said: the keeper has not listed yet
    GREETED = auto()  # hello said
    WELCOME = auto()


class WorkerCore:
    """Feed events to `step`, carry out the effects it returns, in order."""

    def __init__(self, hello: worker.Hello, installed: Iterable[Digest]) -> None:
        self._hello = hello
        self._children = Children(self._effect, self._tell)
        self._stock = Stock(installed, self._effect, self._children.is_used, self._in_use)
        self._link = Link.DOWN
        self._heartbeat_s = 1.0
        self._beat_at = 0.0
        self._beats = 0
        self._now = 0.0
        self._notes: deque[Note] = deque(maxlen=NOTES_MAX)  # for when there is a master
        self._effects: list[WorkerEffect] = []

    def step(self, now: float, event: WorkerEvent) -> list[WorkerEffect]:
        assert now >= self._now, "the clock went backwards"
        self._now = self._children.now = now
        match event:
            case Tick():
                self._beat()
                self._children.escalate()
            case Linked() | Unlinked():
                self._link = Link.UP if isinstance(event, Linked) else Link.DOWN
                self._say_hello()
            case MasterSaid():
                for message in event.messages:
                    self._obey(message)
            case KeeperSaid() | KeeperGone():
                self._hear_keeper(event)
            case Performed():
                self._performed(event)
            case SpawnBlocked() | Unverified() | Peaks():
                self._hear_driver(event)
            case Noticed():
                self._notes.extend(event.notes)
            case _:
                assert_never(event)
        return self._take()

    def report(self, key: AttemptKey) -> Report | None:
        """What is known of an attempt, None when it is forgotten or never was."""
        attempt = self._children.table.get(key)
        return attempt.report if attempt else None

    def live(self) -> list[tuple[AttemptKey, int]]:
        """Attempts with a living process, and its pid."""
        return [
            (key, attempt.report.pid)
            for key, attempt in self._children.table.items()
            if attempt.report.pid is not None and attempt.report.state is not S.DEAD
        ]

    def check(self) -> None:
        """Assert every invariant."""
        self._children.check()
        assert self._link in (Link.DOWN, Link.UP) or self._children.has_listing
        for attempt in self._children.table.values():
            if attempt.report.state is S.FETCHING:
                assert self._stock.is_coming(attempt.report.digest), attempt.report.key

    # ---- the master

    def _beat(self) -> None:
        if self._link is Link.WELCOME and self._now >= self._beat_at:
            self._beats += 1
            # Keep the cadence, but never send a burst for beats that were missed.
            self._beat_at = max(self._beat_at + self._heartbeat_s, self._now)
            self._tell(worker.Heartbeat(seq=self._beats))

    def _obey(self, message: worker.ToWorker) -> None:  # noqa: C901, PLR0912 - a case per message
        match message:
            case worker.Refused():
                self._effect(Leave(message.code, message.message))
            case worker.Welcome():
                self._be_welcome(message)
            case _ if self._link is not Link.WELCOME:
                pass  # of an older connection, or of no master of ours
            case worker.Rejoin():
                self._link = Link.UP
                self._say_hello()
            case worker.Start():
                self._start(message)
            case Secrets():
                self._children.given(message)
            case worker.End():
                self._children.end(message)
            case worker.SendSignal():
                self._children.send_signal(message)
            case worker.Forget():
                self._learn(heard_seq=max(message.seq, self._hello.heard_seq))
                self._children.forget(message.keys)
            case worker.Told():
                self._told(message)
            case worker.Remove():
                self._remove(message.keys)
            case worker.Install():
                self._stock.fetch(message.digest, message.transfer)
            case worker.Uninstall():
                self._stock.remove(message.digest)
            case worker.Shutdown():
                self._effect(Instruct(keeper.Quit()))
                self._effect(Leave(None, "the master ended this worker"))
            case worker.Sample() | worker.ReadSeries() | worker.ReadLog() | worker.ReadOutput():
                pass  # the driver answers questions
            case Probe() | Verify() | worker.Expired() | worker.Trust():
                pass  # the driver's as well
            case _:
                assert_never(message)

    def _say_hello(self) -> None:
        """Once the keeper has said what runs here: who says hello must know it."""
        if self._link is Link.UP and self._children.has_listing:
            self._link = Link.GREETED
            self._effect(Tell(msgspec.structs.replace(self._hello, now=self._now)))

    def _be_welcome(self, message: worker.Welcome) -> None:
        if self._link is not Link.GREETED:
            return
        hello = self._hello
        if hello.cluster not in (None, message.cluster):
            text = f"the master there is of cluster {message.cluster}, not {hello.cluster}"
            self._effect(Leave("conflict", text))
            return
        if _is_set_back(message, hello):
            self._effect(Leave("conflict", _set_back(message, hello)))
            return
        self._learn(
            cluster=message.cluster,
            epoch=message.epoch,
            life=message.life,
            heard_seq=message.seq,
        )
        if hello.cluster is None or message.epoch > hello.epoch:
            self._remember()
        self._link = Link.WELCOME
        self._heartbeat_s = message.heartbeat_s
        self._beat_at = self._now + message.heartbeat_s
        self._children.changed.clear()
        reports = [attempt.report for attempt in self._children.table.values()]
        artifacts = self._stock.there
        parts = max(-(-len(reports) // REPORTS_A_PART), -(-len(artifacts) // DIGESTS_A_PART), 1)
        for part in range(parts):
            at, digest_at = part * REPORTS_A_PART, part * DIGESTS_A_PART
            self._tell(
                worker.Inventory(
                    reports=tuple(reports[at : at + REPORTS_A_PART]),
                    artifacts=artifacts[digest_at : digest_at + DIGESTS_A_PART],
                    is_last=part == parts - 1,
                )
            )

    def _remove(self, keys: tuple[AttemptKey, ...]) -> None:
        alive = tuple(key for key in keys if not self._children.is_dead(key))
        if alive:  # its death was recorded when nobody could know of it
            self._tell(worker.Removed(keys=(), alive=alive))
        if len(alive) < len(keys):
            self._effect(RemoveFiles(tuple(key for key in keys if key not in alive)))

    def _learn(self, **facts: object) -> None:
        self._hello = msgspec.structs.replace(self._hello, **facts)

    def _remember(self) -> None:
        hello = self._hello
        assert hello.cluster is not None
        self._effect(Adopt(hello.cluster, hello.epoch, hello.life, hello.heard_seq, hello.is_copy))

    def _told(self, message: worker.Told) -> None:
        if message.is_noted and self._hello.is_copy:
            self._learn(is_copy=False)
            self._remember()

    def _start(self, message: worker.Start) -> None:
        attempt = self._children.add(message)
        if attempt is None:
            return
        if message.launch.digest in self._stock:
            self._children.spawn(attempt)
        else:
            self._children.await_files(attempt)
            self._stock.fetch(message.launch.digest, Transfer())

    # ---- the keeper and the driver

    def _hear_keeper(self, event: KeeperSaid | KeeperGone) -> None:
        if isinstance(event, KeeperSaid):
            self._children.keeper_said(event)
        else:
            self._children.keeper_gone()
        self._say_hello()

    def _hear_driver(self, event: SpawnBlocked | Unverified | Peaks) -> None:
        match event:
            case SpawnBlocked():
                self._children.blocked(event)
            case Unverified():
                attempt = self._children.unverified(event.key)
                if attempt is not None:
                    self._stock.fetch(attempt.report.digest, Transfer())
            case Peaks():
                self._children.saw_peaks(event)
            case _:
                assert_never(event)

    def _performed(self, event: Performed) -> None:
        outcome = event.outcome
        match outcome:
            case worker.Installed():
                self._tell(outcome)
                for attempt in self._children.waiting_for(outcome.digest):
                    self._children.spawn(attempt, outcome.bytes_sent)
                self._stock.performed(outcome.digest, is_there=True)
            case worker.InstallFailed():
                reason = believe.text(outcome.message)
                self._tell(worker.InstallFailed(digest=outcome.digest, message=reason))
                self._stock.performed(outcome.digest, is_there=outcome.digest in self._stock)
                if not self._stock.is_coming(outcome.digest):
                    death = SpawnFailed(stage="fetch", errno=ENOENT, message=reason)
                    for attempt in self._children.waiting_for(outcome.digest):
                        self._children.not_started(attempt.report.key, death, event.evidence)
            case worker.Uninstalled():
                self._tell(outcome)
                self._stock.performed(outcome.digest, is_there=outcome.in_use)
            case worker.Removed():
                self._tell(outcome)
            case _:
                assert_never(outcome)

    def _in_use(self, digest: Digest) -> None:
        self._tell(worker.Uninstalled(digest=digest, in_use=True))

    # ---- effects

    def _tell(self, message: worker.FromWorker) -> None:
        """What the master would not hear now it learns from the next inventory."""
        if self._link is Link.WELCOME:
            self._effect(Tell(message))

    def _effect(self, effect: WorkerEffect) -> None:
        self._effects.append(effect)

    def _take(self) -> list[WorkerEffect]:
        children = self._children
        if children.changed and self._link is Link.WELCOME:
            reports = tuple(children.table[key].report for key in children.changed)
            for at in range(0, len(reports), REPORTS_A_PART):
                self._effect(Tell(worker.Changed(reports=reports[at : at + REPORTS_A_PART])))
            children.changed.clear()
        if self._notes and self._link is Link.WELCOME:
            self._effect(Tell(worker.Noted(notes=tuple(self._notes))))
            self._notes.clear()
        effects, self._effects = self._effects, []
        return effects


def _is_set_back(said: worker.Welcome, heard: worker.Hello) -> bool:
    """An older copy of a master: at an epoch that is over, or that was another's."""
    if said.epoch != heard.epoch:
        return said.epoch < heard.epoch
    return said.life != heard.life or said.seq < heard.heard_seq


def _set_back(said: worker.Welcome, heard: worker.Hello) -> str:
    return (
        f"the master there was set back: it is at epoch {said.epoch} and event {said.seq}, this "
        f"worker has heard of epoch {heard.epoch} and event {heard.heard_seq}: put its newest "
        "state.db back, or start it with --accept-rollback"
    )
