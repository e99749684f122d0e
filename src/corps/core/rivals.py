"""Rivals: two processes with one state. A state directory has one daemon, so one is its clone.

A second process of a state waits until the first is gone, and joins then as its successor. If the
first is still heard a beat later both are alive: neither is given work until one is ended.
"""

from __future__ import annotations

from collections.abc import Callable

from corps.core.ledger import Ledger
from corps.core.liveness import Hearing, judge
from corps.core.session import Phase, Session
from corps.model.name import WorkerName
from corps.model.worker import WorkerState
from corps.wire.worker import Hello, Rejoin, Told


class Rivals:
    """`shut` closes a session; `suspect` makes a worker so, with the reason."""

    def __init__(
        self,
        ledger: Ledger,
        sessions: dict[int, Session],
        hearing: Hearing,
        shut: Callable[[Session, str], None],
        suspect: Callable[[WorkerName, str], None],
    ) -> None:
        self._ledger, self._sessions, self._hearing = ledger, sessions, hearing
        self._shut, self._suspect = shut, suspect
        self._of: dict[WorkerName, dict[int, None]] = {}
        self._cloned: dict[WorkerName, None] = {}  # until one of the clones has joined

    def contest(self, session: Session, hello: Hello) -> bool:
        """Another process of its state is connected: it waits until that one is gone."""
        name = hello.name
        first = self._ledger.session_of.get(name)
        rivals = self._of.setdefault(name, {})
        there = list(rivals) if first is None else [first]
        mine = [id for id in rivals if self._sessions[id].process == hello.process_id]
        if all(self._sessions[id].process == hello.process_id for id in there):
            return False
        self._add(session, name)
        for id in mine:
            self._shut(self._sessions[id], "the worker connected again")
        return True

    def heard(self, session: Session) -> None:
        """A sign of life of a rival; of the worker itself only when nobody has joined."""
        assert session.worker is not None
        session.heard_at = self._hearing.awake
        if session.worker not in self._ledger.session_of:
            self._hearing.hear(session.worker)

    def accused(self, name: WorkerName, heartbeat_s: float) -> bool:
        """The one that has joined was heard. True: it and another are both alive.

        What was under way when the other came may still arrive: a beat later it is alive.
        """
        rivals = [self._sessions[id] for id in self._of.get(name, {})]
        is_proven = any(self._hearing.awake - one.rival_since >= heartbeat_s for one in rivals)
        if is_proven:
            self._quarantine(name)
        return is_proven

    def judge(self, heartbeat_s: float) -> None:
        """Give up those that are silent."""
        for session in [self._sessions[id] for ids in self._of.values() for id in ids]:
            silence_s = self._hearing.awake - session.heard_at
            if judge(silence_s, heartbeat_s) is WorkerState.LOST:
                self._shut(session, f"silent for {silence_s:.2f} s: two heartbeats")

    def closed(self, session: Session) -> None:
        if session.worker is not None:
            self._of.get(session.worker, {}).pop(session.id, None)

    def settle(self, name: WorkerName) -> int | None:
        """Nobody has joined any more: the only one left is asked to. Returns its session."""
        rivals = self._of.get(name, {})
        if not rivals or name in self._ledger.session_of:
            return None
        if len(rivals) > 1:
            if name not in self._cloned:
                self._quarantine(name)
            return None
        ((id, _),) = self._of.pop(name).items()
        self._sessions[id].phase = Phase.RECALLED
        self._ledger.send(id, Rejoin())
        return id

    def was_cloned(self, name: WorkerName) -> bool:
        """And is no more: asked when one joins."""
        return self._cloned.pop(name, True) is None

    def check(self) -> None:
        for name, ids in self._of.items():
            assert all(self._sessions[id].phase is Phase.RIVAL for id in ids), name

    def _quarantine(self, name: WorkerName) -> None:
        """Nothing that runs is touched; nothing new is given to either."""
        first = self._ledger.session_of.pop(name, None)
        if first is not None:
            self._add(self._sessions[first], name)
        self._cloned[name] = None
        self._hearing.hear(name)
        addresses = " and ".join(sorted(self._sessions[id].address for id in self._of[name]))
        text = f"{addresses} both claim to be {name}: its state directory was cloned; "
        text += "no new work for either until one of them is ended"
        self._suspect(name, text)
        for id in self._of[name]:
            self._ledger.send(id, Told(text=text))

    def _add(self, session: Session, name: WorkerName) -> None:
        session.phase, session.worker = Phase.RIVAL, name
        session.rival_since = session.heard_at = self._hearing.awake
        self._of[name][session.id] = None
