"""What is under way when a daemon is killed, and what must be true afterwards.

An operation begins with a command or a signal and is over when an operator has the answer. The
witness keeps a ledger of its own, outside of corps: what corps says is held against it.
"""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from corps.client import Client
from corps.errors import CorpsError, Unavailable
from corps.model.command import AnyCommand, Instances, Kill, Launch, Stop
from corps.model.view import InstanceView
from tests.support.cluster import Cluster
from tests.support.waiting import until

SETTLE_S = 30.0


class Victim(StrEnum):
    KEEPER = "keeper"
    WORKER = "worker"
    MASTER = "master"


class Operation(StrEnum):
    LAUNCH = "launch"
    STOP = "stop"
    KILL = "kill"
    EXIT = "exit"


class Fault(StrEnum):
    """What must never be; and the one thing that may, if it is said."""

    DOUBLED = "attempts run twice"
    APP_LOST = "apps lost"
    STATUS_LOST = "exit statuses lost"
    COMMAND_LOST = "acknowledged commands lost"
    CAUSE_WRONG = "causes of death wrong"
    UNKNOWN = "shown as unknown"


@dataclass(frozen=True)
class Case:
    """`victims`: the first is stopped at its system calls, all are killed at once."""

    operation: Operation
    victims: tuple[Victim, ...]

    @property
    def name(self) -> str:
        return f"{self.operation} x {'+'.join(self.victims)}"

    @property
    def may_be_unknown(self) -> bool:
        """An app that ends while neither its keeper nor its worker is there is seen by nobody."""
        return {Victim.KEEPER, Victim.WORKER} <= set(self.victims)


SINGLES = tuple((victim,) for victim in Victim)
PAIRS = tuple((one, other) for one in Victim for other in Victim if one is not other)
CASES = tuple(Case(operation, victims) for operation in Operation for victims in SINGLES + PAIRS)


@dataclass
class Tally:
    """Counts over many kills."""

    kills: int = 0
    faults: Counter[Fault] = field(default_factory=Counter)
    stories: list[str] = field(default_factory=list)

    def add(self, fault: Fault, story: str) -> None:
        self.faults[fault] += 1
        self.stories.append(f"{fault}: {story}")

    @property
    def is_clean(self) -> bool:
        return not any(count for fault, count in self.faults.items() if fault is not Fault.UNKNOWN)


class Ledger:
    """What the witnesses wrote: which attempt ran as which pid."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pids(self, key: str) -> list[int]:
        if not self.path.exists():
            return []
        lines = (line.split(" ") for line in self.path.read_text().splitlines())
        return [int(pid) for written, pid in lines if written == key]

    def keys(self) -> Counter[str]:
        """How often each attempt ran."""
        return Counter(line.split(" ")[0] for line in self.path.read_text().splitlines())


class Trial:
    """One operation on one witness."""

    def __init__(self, case: Case, cluster: Cluster, ledger: Ledger, id: str) -> None:
        self.case, self._cluster, self._ledger, self._id = case, cluster, ledger, id
        self._launch = Launch(artifact="witness", args=(str(ledger.path),))
        self._refusals = 0
        self.instance = ""
        if case.operation is not Operation.LAUNCH:
            self.instance = cluster.client.launch(self._launch)[0].id
            until(lambda: self._ledger.pids(self._key))

    @property
    def _key(self) -> str:
        return f"{self.instance}#1"

    def run(self) -> None:
        """The operation, from a thread: returns when an operator has the answer."""
        with Client(self._cluster.settings, patience_s=SETTLE_S) as client:
            if self.case.operation is Operation.EXIT:
                os.kill(self._ledger.pids(self._key)[0], signal.SIGUSR1)
                until(lambda: _is_dead(client, self.instance), SETTLE_S)
            else:
                until(lambda: self._is_accepted(client), SETTLE_S)

    def _is_accepted(self, client: Client) -> bool:
        """A refusal is an answer too, while no worker is back yet: then it is asked anew."""
        try:
            answer = client.submit(self._command(), Instances, self._id)
        except Unavailable:
            self._refusals += 1
            self._id = f"{self._id.partition('-again-')[0]}-again-{self._refusals}"
            return False
        self.instance = answer.instances[0].id
        return True

    def judge(self, tally: Tally) -> None:
        """Everything is up again and the answer is there: is it the truth?"""
        client = self._cluster.client
        until(lambda: self._view().state in ("running", "dead"), SETTLE_S)
        view = self._view()
        if len(self._ledger.pids(self._key)) > 1:
            tally.add(Fault.DOUBLED, self._key)
        if self.case.operation is Operation.LAUNCH:
            self._judge_launch(view, tally)
        else:
            self._judge_death(view, tally)
        if self.case.operation is not Operation.EXIT:
            again = client.submit(self._command(), Instances, self._id)
            if [one.id for one in again.instances] != [self.instance]:
                tally.add(Fault.COMMAND_LOST, f"{self.instance}: {again}")

    def _judge_launch(self, view: InstanceView, tally: Tally) -> None:
        if _is_unknown(view):
            self._unknown(view, tally)
            return
        if view.state != "running" or view.pid is None or not Path(f"/proc/{view.pid}").exists():
            tally.add(Fault.APP_LOST, f"{view.id}: {view.state} {view.death}")
            return
        until(lambda: self._ledger.pids(self._key), SETTLE_S)
        if self._ledger.pids(self._key) != [view.pid]:
            tally.add(Fault.APP_LOST, f"{view.id}: pid {view.pid}, {self._ledger.pids(self._key)}")
        (dead,) = self._cluster.client.kill((view.id,))
        if dead.death is None or (dead.death.kind, dead.death.signal) != ("signaled", 9):
            tally.add(Fault.STATUS_LOST, f"{view.id}: {dead.death}")

    def _judge_death(self, view: InstanceView, tally: Tally) -> None:
        expected = {
            Operation.STOP: ("exited", 7, None, "stop"),
            Operation.KILL: ("signaled", None, 9, "kill"),
            Operation.EXIT: ("exited", 5, None, "self"),
        }[self.case.operation]
        death = view.death
        if death is None:
            tally.add(Fault.COMMAND_LOST, f"{view.id} lives")
        elif _is_unknown(view):
            self._unknown(view, tally)
        elif (death.kind, death.code, death.signal) != expected[:3]:
            tally.add(Fault.STATUS_LOST, f"{view.id}: {death}")
        elif death.cause != expected[3]:
            tally.add(Fault.CAUSE_WRONG, f"{view.id}: {death}")

    def _unknown(self, view: InstanceView, tally: Tally) -> None:
        assert view.death is not None
        story = f"{view.id}: {view.death.message}"
        tally.add(Fault.UNKNOWN if self.case.may_be_unknown else Fault.STATUS_LOST, story)

    def _command(self) -> AnyCommand:
        match self.case.operation:
            case Operation.LAUNCH:
                return self._launch
            case Operation.STOP:
                return Stop(targets=(self.instance,), grace_s=60.0)
            case Operation.KILL | Operation.EXIT:
                return Kill(targets=(self.instance,))

    def _view(self) -> InstanceView:
        return self._cluster.get(self.instance)


def _is_unknown(view: InstanceView) -> bool:
    return view.death is not None and view.death.kind == "vanished"


def _is_dead(client: Client, id: str) -> bool:
    try:
        (view,) = client.instances((id,), with_dead=True)
    except Unavailable:
        return False
    except CorpsError as error:
        raise AssertionError(f"asking for {id}: {error.message}") from error
    return view.state == "dead"


Report = Callable[[str], None]
