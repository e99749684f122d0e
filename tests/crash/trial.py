"""One operation on one witness: prepared, begun while its victim is watched, and judged."""

from __future__ import annotations

import contextlib
import os
import signal
from pathlib import Path

import msgspec

from corps.client import Client
from corps.errors import Unavailable
from corps.model.command import AnyCommand, Instances, Kill, Launch, Stop
from corps.model.view import InstanceView
from tests.crash.cases import Case, Ledger, Operation, Promise, Tally
from tests.crash.forks import Fork, WarmCluster
from tests.support.waiting import until

WORKER = "w1"
SETTLE_S = 60.0
LOOK_S = 0.005
EXPECTED = {
    Operation.STOP: ("exited", 7, None, "stop"),
    Operation.KILL: ("signaled", None, 9, "kill"),
    Operation.EXIT: ("exited", 5, None, "self"),
    Operation.REPORT: ("exited", 5, None, "self"),
}


class Answer(msgspec.Struct):
    """What an operator was told, after how many refusals, and the command id that was taken."""

    command: str
    refusals: int
    instance: InstanceView


class Trial:
    """`number` is never used again: it makes the command's id."""

    def __init__(self, case: Case, cluster: WarmCluster, ledger: Ledger, number: int) -> None:
        self.case, self._cluster, self._ledger = case, cluster, ledger
        self._command_id = f"crash-{number:06d}"
        self._launch = Launch(artifact="witness", args=(str(ledger.path),))
        self._file = cluster.directory / "answer.json"
        self._file.unlink(missing_ok=True)
        self._operator: Fork | None = None
        self._answer: Answer | None = None
        self._instance, self._pid = "", 0
        if case.operation is not Operation.LAUNCH:
            self._instance = cluster.client.launch(self._launch)[0].id
            until(lambda: ledger.pids(self._key), SETTLE_S, LOOK_S)
            (self._pid,) = ledger.pids(self._key)
        if case.operation is Operation.REPORT:
            self._end_while_its_worker_is_away()

    def begin(self) -> None:
        match self.case.operation:
            case Operation.EXIT:
                os.kill(self._pid, signal.SIGUSR1)
            case Operation.REPORT:
                self._cluster.daemon(WORKER).open()
            case _:
                self._operator = Fork(self._operate, self._cluster.directory / "operator.log")
                self._operator.open()

    def is_over(self) -> bool:
        """The operator has an answer, and nothing of a death is left to be told."""
        is_launch = self.case.operation is Operation.LAUNCH
        return self.is_answered() and (is_launch or self._is_forgotten())

    def is_answered(self) -> bool:
        if self._operator is not None and self._operator.poll() is None:
            return False
        if self._operator is not None and self._answer is None:
            assert self._operator.returncode == 0, f"no answer to {self._command_id}"
            self._answer = msgspec.json.decode(self._file.read_bytes(), type=Answer)
            self._instance = self._answer.instance.id
        return True

    def judge(self, tally: Tally) -> None:
        """Everything is up again: is what is shown the truth?"""
        until(self._is_settled, SETTLE_S, LOOK_S)
        view = self._cluster.get(self._instance)
        if self.case.operation is Operation.LAUNCH:
            self._judge_launch(view, tally)
        else:
            self._judge_death(view, tally)
        tally.hold(Promise.DOUBLED, len(self._ledger.pids(self._key)) <= 1, self._key)
        with contextlib.suppress(AssertionError):
            until(self._is_forgotten, SETTLE_S, LOOK_S)
        tally.hold(Promise.REMAINS, self._is_forgotten(), self._key)
        if self._answer is not None:
            self._judge_answer(self._answer, view, tally)

    @property
    def _key(self) -> str:
        return f"{self._instance}#1"

    def _end_while_its_worker_is_away(self) -> None:
        self._cluster.kill(WORKER)
        os.kill(self._pid, signal.SIGUSR1)
        until(lambda: not _is_there(self._pid), SETTLE_S, LOOK_S)
        self._cluster.start_held_worker(WORKER)

    def _operate(self) -> int:
        """In a process of its own, which outlives every daemon."""
        with Client(self._cluster.settings, patience_s=SETTLE_S) as client:
            for refusals in range(10_000):
                id = f"{self._command_id}-{refusals}"
                try:
                    (view,) = client.submit(self._command(), Instances, id).instances
                except Unavailable:  # an answer too, while no master or no worker is there
                    continue
                self._file.write_bytes(msgspec.json.encode(Answer(id, refusals, view)))
                return 0
        return 1

    def _command(self) -> AnyCommand:
        match self.case.operation:
            case Operation.LAUNCH:
                return self._launch
            case Operation.STOP:
                return Stop(targets=(self._instance,), grace_s=SETTLE_S)
            case _:
                return Kill(targets=(self._instance,))

    def _is_forgotten(self) -> bool:
        """The keeper's journal says so, or has nothing of it any more."""
        journal = (self._cluster.settings.worker_dir(WORKER) / "journal").read_bytes()
        at = journal.rfind(f'"{self._key}"'.encode())
        start = journal.rfind(b'{"t":', 0, max(at, 0))
        return at < 0 or journal.startswith(b'{"t":"","forget":', start)

    def _is_settled(self) -> bool:
        state = self._cluster.get(self._instance).state
        return state == "dead" or (self.case.operation is Operation.LAUNCH and state == "running")

    def _judge_launch(self, view: InstanceView, tally: Tally) -> None:
        is_running = view.state == "running" and view.pid is not None and _is_there(view.pid)
        if is_running:
            until(lambda: self._ledger.pids(self._key), SETTLE_S, LOOK_S)
        pids = self._ledger.pids(self._key)
        is_true = is_running and pids == [view.pid]
        tally.hold(Promise.APP_LOST, is_true, f"{view.id}: {view.state} as {view.pid}; ran: {pids}")
        (dead,) = self._cluster.client.kill((view.id,)) if view.state == "running" else (view,)
        is_exact = dead.death is not None and dead.death.signal == signal.SIGKILL
        tally.hold(Promise.STATUS_LOST, is_exact, f"{view.id}: {dead.death}")

    def _judge_death(self, view: InstanceView, tally: Tally) -> None:
        death = view.death
        assert death is not None
        if death.kind == "vanished" and self.case.may_be_unknown:
            tally.unknown += 1
            return
        kind, code, number, cause = EXPECTED[self.case.operation]
        is_exact = (death.kind, death.code, death.signal) == (kind, code, number)
        tally.hold(Promise.STATUS_LOST, is_exact, f"{view.id}: {death}")
        if is_exact:
            tally.hold(Promise.CAUSE_WRONG, death.cause == cause, f"{view.id}: {death}")

    def _judge_answer(self, answer: Answer, view: InstanceView, tally: Tally) -> None:
        """What was told still holds, and the same command again has no other effect."""
        tally.refused += answer.refusals > 0
        told, known = answer.instance, len(self._cluster.client.instances(with_dead=True))
        holds = told.pid in (None, view.pid) and told.death in (None, view.death)
        story = f"{view.id}: told {told}, now {view}"
        tally.hold(Promise.COMMAND_LOST, holds, story)
        again = self._cluster.client.submit(self._command(), Instances, answer.command)
        is_same = (told,) == again.instances
        is_one = known == len(self._cluster.client.instances(with_dead=True))
        tally.hold(Promise.COMMAND_LOST, is_same and is_one, f"{told}, and again: {again}")


def _is_there(pid: int) -> bool:
    return Path(f"/proc/{pid}").exists()
