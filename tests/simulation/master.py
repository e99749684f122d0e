"""The fake machine of the master: a real MasterCore, a fake driver, and a store with group commit.

Effects of a step become durable together; what is sent or replied waits for the commit of all that
was decided before it. A crash loses every step that was not committed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from random import Random
from typing import assert_never

import msgspec

from corps.core import events as ev
from corps.core.cluster import Cluster
from corps.core.master import MasterCore
from corps.core.proof import Proof, Verdict
from corps.core.records import TABLES, TRAIL, TRAIL_HEAD, Meta, Record, record_key
from corps.model.secret import Revealed, Secret
from corps.model.trail import TrailHead
from corps.wire.secret import Secrets
from corps.wire.worker import FromWorker
from tests.simulation.network import Line
from tests.simulation.world import World

TICK_S = 0.1
HEARTBEAT_S = 1.0
CRASH_CHANCE = 0.0005  # at each seam of a commit, while things go wrong

Effects = list[ev.MasterEffect]


class Store:
    """Durable records, as bytes: what cannot be written and read back is no record."""

    def __init__(self) -> None:
        meta = Meta(cluster="c-1", epoch=0)
        self._tables: dict[str, dict[str, bytes]] = {name: {} for name in TABLES}
        self._encoder = msgspec.json.Encoder()
        self.commit([ev.Save(meta)])

    def commit(self, effects: Effects) -> None:
        for effect in effects:
            if isinstance(effect, ev.Save | ev.Drop):
                table, key = record_key(effect.record)
                if isinstance(effect, ev.Save):
                    self._tables[table][key] = self._encoder.encode(effect.record)
                else:
                    self._tables[table].pop(key, None)

    def prove(self) -> Verdict:
        """The audit trail, as it is durable."""
        proof = Proof()
        for _, line in sorted(self._tables[TRAIL].items()):
            proof.take(line.decode())
        return proof.finish(msgspec.json.decode(self._tables[TRAIL_HEAD]["head"], type=TrailHead))

    def load(self) -> tuple[Meta, list[Record]]:
        """The cluster, and all records: tables in their order, oldest first."""
        records: list[Record] = [
            msgspec.json.decode(body, type=kind)
            for name, kind in TABLES.items()
            for body in self._tables[name].values()
        ]
        meta = records[0]
        assert isinstance(meta, Meta)
        return meta, records


class MasterHost:
    """One master. `on_step`, `on_commit` and `on_start` are for those who check it."""

    def __init__(self, world: World) -> None:
        self._world = world
        self.store = Store()
        self.core: MasterCore | None = None
        self.is_frozen = False
        self.commit_s = 0.003
        self.on_start: Callable[[MasterCore], None] = lambda core: None
        self.on_step: Callable[[MasterCore, Effects], None] = lambda core, effects: None
        self.on_commit: Callable[[Effects], None] = lambda effects: None
        self.on_reply: Callable[[ev.Reply], None] = lambda reply: None
        self.ticks = 0  # only while it is awake
        self.heard: dict[str, int] = {}  # the tick at which a host that had joined last spoke
        self._hosts: dict[int, str] = {}
        self._inbox: deque[ev.MasterEvent] = deque()
        self._lines: dict[int, Line] = {}
        self._sessions = 0
        self._life = 0
        self._decided: list[Effects] = []
        self._is_committing = False

    # ---- lives

    def start(self) -> None:
        if self.core is not None:
            return
        self._life += 1
        self._decided, self._is_committing = [], False
        meta, records = self.store.load()
        rng = Random(self._world.rng.getrandbits(32))
        self.core = MasterCore(
            Cluster(meta, records), HEARTBEAT_S, self._world.now, rng, life=f"life-{self._life}"
        )
        self.heard = dict.fromkeys(self.core.cluster.workers, self.ticks)
        self._world.note("master", f"starts, life {self._life}")
        self.on_start(self.core)
        self._absorb(self.core.begin())
        self._later(TICK_S, self._tick)

    def crash(self) -> None:
        if self.core is None:
            return
        self._world.note("master", "crashes")
        self.core = None
        self._life += 1
        self.is_frozen = False
        self._inbox.clear()
        lines, self._lines = self._lines, {}
        for line in lines.values():
            if self._world.rng.random() < 0.5:
                line.cut(1.0)
            else:
                line.hang_up_listener()
        self._world.after(self._world.delay(0.05, 3.0), self.start)

    def freeze(self) -> None:
        self.is_frozen = True

    def thaw(self) -> None:
        self.is_frozen = False
        life = self._life
        while self._inbox and life == self._life:
            self._step(self._inbox.popleft())

    # ---- lines

    def accepts(self) -> bool:
        return self.core is not None

    def opened(self, line: Line) -> None:
        self._sessions += 1
        line.session = self._sessions
        self._lines[line.session] = line
        self._hosts[line.session] = line.host
        self._feed(ev.Opened(line.session, "10.0.0.1:1"))

    def received(self, line: Line, messages: tuple[FromWorker, ...]) -> None:
        if self._lines.get(line.session) is line:
            self._feed(ev.Received(line.session, messages))

    def closed(self, line: Line) -> None:
        if self._lines.pop(line.session, None) is line:
            self._feed(ev.Closed(line.session))

    def submit(self, event: ev.Commanded) -> None:
        self._feed(event)

    # ---- events and effects

    def _tick(self) -> None:
        if not self.is_frozen:
            self.ticks += 1
            self._step(ev.Tick())
        self._later(TICK_S, self._tick)

    def _feed(self, event: ev.MasterEvent) -> None:
        if self.core is None:
            return
        if self.is_frozen or self._inbox:
            self._inbox.append(event)
        else:
            self._step(event)

    def _step(self, event: ev.MasterEvent) -> None:
        if self.core is None:
            return
        effects = self.core.step(self._world.now, event)
        if isinstance(event, ev.Received):
            host = self._hosts[event.session]
            if self.core.session_of(host) == event.session:
                self.heard[host] = self.ticks
        if effects or not isinstance(event, ev.Tick):
            self._world.note("master", f"{event!r} -> {'; '.join(map(repr, effects))}")
            self._absorb(effects)

    def _absorb(self, effects: Effects) -> None:
        assert self.core is not None
        self.core.check()
        self.on_step(self.core, effects)
        if effects:
            self._decided.append(effects)
            self._commit_soon()

    def _commit_soon(self) -> None:
        if not self._is_committing and self._decided:
            self._is_committing = True
            group, self._decided = self._decided, []
            self._later(self._world.rng.random() * self.commit_s, lambda: self._commit(group))

    def _commit(self, group: list[Effects]) -> None:
        if self._world.chance(CRASH_CHANCE):
            self.crash()  # nothing of the group is durable
            return
        for effects in group:
            self.store.commit(effects)
            self.on_commit(effects)
        if self._world.chance(CRASH_CHANCE):
            self.crash()  # all of it is, and nobody was told
            return
        life = self._life
        for effect in (effect for effects in group for effect in effects):
            if life != self._life:
                return
            self._perform(effect)
            if self._world.chance(CRASH_CHANCE):
                self.crash()
        if life == self._life:
            self._is_committing = False
            self._commit_soon()

    def _perform(self, effect: ev.MasterEffect) -> None:
        match effect:
            case ev.Send():
                line = self._lines.get(effect.session)
                if line is not None:
                    line.down.send(effect.message)
            case ev.Reveal():
                line = self._lines.get(effect.session)
                if line is not None:
                    line.down.send(Secrets(key=effect.key, secrets=_opened(effect.secrets)))
            case ev.Close():
                line = self._lines.get(effect.session)
                if line is not None:
                    del self._lines[effect.session]
                    line.hang_up_listener()
                    self._later(0.0, lambda: self._feed(ev.Closed(effect.session)))
            case ev.Reply():
                self.on_reply(effect)
            case ev.Save() | ev.Drop():
                pass  # durable already
            case _:
                assert_never(effect)

    def _later(self, delay_s: float, action: Callable[[], None]) -> None:
        life = self._life
        self._world.after(delay_s, lambda: action() if life == self._life else None)


def _opened(secrets: tuple[Secret, ...]) -> tuple[Revealed, ...]:
    return tuple(
        Revealed(name=one.name, version=one.sealed.version, value=one.sealed.box) for one in secrets
    )
