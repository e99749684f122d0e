"""The master's driver: events -> core -> commit -> perform, in that order and no other.

What others may see is durable first: sends and replies wait for the commit of all that was decided
before them. Commits are grouped: while one is under way, the next one gathers.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import os
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple, TypeAlias, assert_never

import msgspec

from corps.clock import Clock
from corps.core.events import (
    Close,
    Commanded,
    Drop,
    Enroll,
    MasterEffect,
    MasterEvent,
    Renew,
    Reply,
    Reveal,
    Save,
    Send,
    Tick,
    Witnessed,
)
from corps.core.master import MasterCore
from corps.core.records import Event
from corps.errors import Unavailable
from corps.model.artifact import Artifact
from corps.model.command import Accepted, AnyResult
from corps.model.name import CommandId, WorkerName
from corps.model.trail import Deed, TrailEntry, TrailPage
from corps.store.records import RecordStore
from corps.trust.vault import Vault
from corps.wire.probe import Probed
from corps.wire.worker import (
    Answer,
    FromWorker,
    LogRead,
    OutputRead,
    ToWorker,
)

TICK_S = 0.05
JUST_AFTER_S = 0.001
RECENT_EVENTS = 1_000
RETRY_COMMIT_S = 0.5
STALLED_S = 5.0
ASK_DEADLINE_S = 2.0

Late: TypeAlias = Send | Close | Reply | Reveal | Drop  # waits for what was decided before it

_log = logging.getLogger("corps.master")


class _Question(NamedTuple):
    """What was asked of a worker, and the parts of its answer so far."""

    session: int
    over: asyncio.Future[None]
    parts: list[FromWorker]


class MasterDriver:
    """Owns the core; everything that happens is fed to it, everything it wants is done here."""

    def __init__(self, core: MasterCore, store: RecordStore, clock: Clock, dump_dir: Path) -> None:
        self.core, self.clock = core, clock
        self.vault = Vault(dump_dir / "secrets.key")
        self._store, self._dump_dir = store, dump_dir
        self._loop = asyncio.get_running_loop()
        self._writer = ThreadPoolExecutor(1, thread_name_prefix="store")
        self._changes: list[Save | Drop] = []
        self._after: list[Late] = []
        self._settled: list[asyncio.Future[None]] = []
        self._committing: asyncio.Task[None] | None = None
        self._stalled_since: float | None = None
        self._waiters: dict[CommandId, list[asyncio.Future[AnyResult]]] = {}
        self._questions: dict[int, _Question] = {}
        self._next_ask = itertools.count(1)
        self._ticker: asyncio.TimerHandle | None = None
        self._recent: deque[tuple[float, MasterEvent]] = deque(maxlen=RECENT_EVENTS)
        self._news: asyncio.Event = asyncio.Event()
        self.on_send: Callable[[int, ToWorker], None] = lambda session, message: None
        self.on_close: Callable[[int, str], None] = lambda session, reason: None
        self.on_artifact_dropped: Callable[[Artifact], None] = lambda artifact: None
        self.failed: asyncio.Future[None] = self._loop.create_future()
        self.absorb(core.begin())

    def feed(self, event: MasterEvent) -> None:
        """One event through the core. A bug in the core ends the daemon, with what led to it."""
        now = self.clock()
        self._recent.append((now, event))
        try:
            effects = self.core.step(now, event)
        except Exception as error:
            self._dump()
            if not self.failed.done():
                self.failed.set_exception(error)
            raise
        self.absorb(effects)

    def absorb(self, effects: list[MasterEffect]) -> None:
        for effect in effects:
            match effect:
                case Save():
                    self._changes.append(effect)
                case Drop():
                    self._changes.append(effect)
                    self._after.append(effect)
                case Send() | Close() | Reply() | Reveal():
                    self._after.append(effect)
                case _:
                    assert_never(effect)
        if self._committing is None and (self._changes or self._after):
            if self._changes:
                self._committing = self._loop.create_task(self._commit())
            else:
                self._perform(self._swap_after())

    async def submit(self, event: Commanded | Enroll | Renew, wait_s: float) -> AnyResult:
        """The command's result, or Accepted when it is not done within `wait_s`.

        Raise Unavailable when the store has taken nothing for STALLED_S: nothing was accepted.
        """
        if self.is_stalled():
            raise Unavailable("the store takes no commits now: nothing was accepted, see the log")
        future: asyncio.Future[AnyResult] = self._loop.create_future()
        waiters = self._waiters.setdefault(event.id, [])
        waiters.append(future)
        self.feed(event)
        try:
            return await asyncio.wait_for(future, wait_s)
        except TimeoutError:
            await self.settled()
            return Accepted(id=event.id)
        finally:
            if future in waiters:
                waiters.remove(future)
            if not waiters and self._waiters.get(event.id) is waiters:
                del self._waiters[event.id]

    def witness(self, deed: Deed) -> None:
        """For the audit trail, of what is no command. Await `settled` before what it permits."""
        self.feed(Witnessed(deed))

    async def trail(self, after: int, limit: int) -> TrailPage:
        """What is durable of the audit trail."""
        return await self._loop.run_in_executor(self._writer, self._store.trail, after, limit)

    async def settled(self) -> None:
        """Returns when all that was decided so far is durable: then it may be shown."""
        if self._committing is not None:
            future: asyncio.Future[None] = self._loop.create_future()
            self._settled.append(future)
            await future

    async def ask(
        self, worker: WorkerName, question: Callable[[int], ToWorker], deadline_s: float
    ) -> list[FromWorker] | None:
        """All parts of a worker's answer; None when it is not there or does not answer in time."""
        session = self.core.session_of(worker)
        if session is None:
            return None
        number = next(self._next_ask)
        asked = self._questions[number] = _Question(session, self._loop.create_future(), [])
        self.on_send(session, question(number))
        try:
            await asyncio.wait_for(asked.over, deadline_s)
        except (TimeoutError, ConnectionError):
            return None
        finally:
            del self._questions[number]
        return asked.parts

    def hung_up(self, session: int) -> None:
        """Nothing comes of what was asked on this connection: its askers need not wait."""
        for question in self._questions.values():
            if question.session == session and not question.over.done():
                question.over.set_exception(ConnectionError("the worker's connection ended"))

    def answered(self, session: int, message: FromWorker) -> None:
        """Hand an answer to whoever asked: that of the connection on which it was asked."""
        if isinstance(message, Answer):
            question = self._questions.get(message.ask)
            if question is None or question.session != session:
                return
            question.parts.append(message)
            is_last = isinstance(message, LogRead | OutputRead | Probed) or message.is_last
            if is_last and not question.over.done():
                question.over.set_result(None)

    async def news(self, deadline_s: float) -> None:
        """Returns when an event was recorded, or after `deadline_s`."""
        try:
            await asyncio.wait_for(self._news.wait(), deadline_s)
        except TimeoutError:
            return

    def is_stalled(self) -> bool:
        since = self._stalled_since
        return since is not None and self._loop.time() - since > STALLED_S

    def tick(self) -> None:
        """Every TICK_S, and when a worker may be lost, for ever.

        A timer, because a sleeping task costs twice its wake-ups.
        """
        due_s = self.core.due_s()
        is_soon = due_s is not None and 0 < due_s < TICK_S
        self._ticker = self._loop.call_later(
            due_s + JUST_AFTER_S if is_soon and due_s is not None else TICK_S, self.tick
        )
        self.feed(Tick())

    async def close(self) -> None:
        """Commit what was decided, then close the store."""
        if self._ticker is not None:
            self._ticker.cancel()
        await self.settled()
        self._writer.shutdown()
        self._store.close()

    # ---- commit, then perform

    async def _commit(self) -> None:
        while self._changes:
            changes, self._changes = self._changes, []
            after, settled = self._swap_after(), self._settled
            self._settled = []
            await self._write(changes)
            self._perform(after)
            if any(isinstance(change.record, Event | TrailEntry) for change in changes):
                self._news.set()
                self._news = asyncio.Event()
            for future in settled:
                if not future.done():
                    future.set_result(None)
        self._committing = None
        # Decided while nothing was left to commit: it rests on what is durable now.
        self._perform(self._swap_after())
        settled, self._settled = self._settled, []
        for future in settled:
            if not future.done():
                future.set_result(None)

    async def _write(self, changes: list[Save | Drop]) -> None:
        while True:
            try:
                await self._loop.run_in_executor(self._writer, self._store.commit, changes)
            except Unavailable as error:
                # Nothing of it was acknowledged to anyone: hold it, and try until it goes.
                self._stalled_since = self._stalled_since or self._loop.time()
                _log.error("%s; %d changes wait", error.message, len(changes))
                await asyncio.sleep(RETRY_COMMIT_S)
            else:
                self._stalled_since = None
                return

    def _swap_after(self) -> list[Late]:
        after, self._after = self._after, []
        return after

    def _perform(self, effects: list[Late]) -> None:
        for effect in effects:
            match effect:
                case Send():
                    self.on_send(effect.session, effect.message)
                case Close():
                    self.on_close(effect.session, effect.reason)
                case Reveal():
                    self.on_send(effect.session, self.vault.reveal(effect))
                case Reply():
                    for future in self._waiters.pop(effect.id, []):
                        if not future.done():
                            future.set_result(effect.result)
                case Drop():
                    if isinstance(effect.record, Artifact):
                        self.on_artifact_dropped(effect.record)
                case _:
                    assert_never(effect)

    def _dump(self) -> None:
        path = self._dump_dir / f"crash-{os.getpid()}.jsonl"
        lines = [msgspec.json.encode([now, type(e).__name__, e]) for now, e in self._recent]
        path.touch(mode=0o600)  # it has the environment of launches
        path.write_bytes(b"\n".join(lines) + b"\n")
        _log.critical("a bug: the last %d events are in %s", len(lines), path)
