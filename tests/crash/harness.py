"""Kill at one system call after the other, start again what was killed, and judge."""

from __future__ import annotations

import contextlib
import itertools
import shutil
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path

from corps.model.view import InstanceView
from tests.crash.cases import Case, Ledger, Promise, Tally, Victim
from tests.crash.forks import WarmCluster
from tests.crash.trial import LOOK_S, SETTLE_S, WORKER, Trial
from tests.support import programs
from tests.support.waiting import until

STOPS_MAX = 5_000
OVER_IN_A_ROW = 2  # calls vary a little from run to run: how often it must be over before the stop
SAY_EVERY = 100
LOG_LINES = 15

Say = Callable[[str], None]


class Harness:
    """One cluster, used for kill after kill. `guard` is an app that nobody ever means."""

    def __init__(self, cluster: WarmCluster, killer: Path, say: Say) -> None:
        self._cluster, self._killer, self._say = cluster, killer, say
        self._ledger = Ledger(cluster.directory / "ledger")
        self._guard = cluster.launch_one("witness", "guard", str(self._ledger.path))
        self._numbers = itertools.count(1)

    def run(self, case: Case, first: int = 1, stride: int = 1) -> Tally:
        """Kill at stops `first`, `first + stride`, ... until the operation is over before one."""
        tally, over = Tally(), 0
        for stop in range(first, STOPS_MAX, stride):
            trial = Trial(case, self._cluster, self._ledger, next(self._numbers))
            where = self._kill_at(trial, stop)
            over = 0 if where else over + 1
            tally.kills += bool(where)
            stories = len(tally.stories)
            trial.judge(tally)
            self._watch_guard(tally)
            for story in tally.stories[stories:]:
                self._say(f"{case.name}, killed at stop {stop} {where}: {story}")
            if over == OVER_IN_A_ROW:
                break
            if tally.kills % SAY_EVERY == 0:
                self._say(f"{case.name}: {tally.kills} kills")
        else:
            raise AssertionError(f"{case.name} is not over within {STOPS_MAX} calls")
        self._look_at_all(tally)
        return tally

    def _kill_at(self, trial: Trial, stop: int) -> str:
        """Begin, and kill at the stop; say where that was. Empty: it was over before."""
        pids = [str(self._pid(victim)) for victim in trial.case.victims]
        argv = [str(self._killer), *pids, str(stop)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as killer:
            assert killer.stdout is not None
            assert killer.stdout.readline() == "attached\n"
            trial.begin()
            until(lambda: killer.poll() is not None or trial.is_over(), SETTLE_S, LOOK_S)
            killer.terminate()
            where = killer.stdout.read().strip()
        if killer.returncode == 0:
            self._start_again(trial.case)
            until(trial.is_answered, SETTLE_S, LOOK_S)
            return where
        return ""

    def _start_again(self, case: Case) -> None:
        if Victim.MASTER in case.victims:
            self._cluster.kill("master")
            self._cluster.start_master()
        if Victim.WORKER in case.victims:
            self._cluster.kill(WORKER)
            self._cluster.start_worker(WORKER)
        until(self._is_ready, SETTLE_S, LOOK_S)
        until(lambda: self._cluster.keeper_pid(WORKER) is not None, SETTLE_S, LOOK_S)

    def _is_ready(self) -> bool:
        return [worker.state for worker in self._cluster.client.workers()] == ["ready"]

    def _pid(self, victim: Victim) -> int:
        match victim:
            case Victim.KEEPER:
                return until(lambda: self._cluster.keeper_pid(WORKER), SETTLE_S, LOOK_S) or 0
            case Victim.WORKER:
                return self._cluster.pid(WORKER)
            case Victim.MASTER:
                return self._cluster.pid("master")

    def _watch_guard(self, tally: Tally) -> None:
        now, strays = self._cluster.get(self._guard.id), self._ledger.strays()
        tally.hold(Promise.APP_LOST, _same(now, self._guard), now)
        tally.hold(Promise.STRAY, not strays, strays)

    def _look_at_all(self, tally: Tally) -> None:
        """Whatever ran is known, ran once, and no launch was more than one."""
        known = {f"{view.id}#1" for view in self._cluster.client.instances(with_dead=True)}
        runs = self._ledger.runs()
        for key, count in runs.items():
            tally.hold(Promise.DOUBLED, count == 1, f"{key} ran {count} times")
            tally.hold(Promise.APP_LOST, key in known, f"{key} ran, and nobody knows of it")
        for key in known - runs.keys():
            tally.hold(Promise.APP_LOST, False, f"{key} is known, and never ran")


@contextlib.contextmanager
def harness(directory: Path, say: Say) -> Iterator[Harness]:
    killer = programs.build("killer", directory / "programs")
    witness = programs.build("witness", directory / "programs")
    made = WarmCluster(directory)
    try:
        made.start_master()
        made.start_worker(WORKER)
        made.wait_state(w1="ready")
        made.copy(witness)
        yield Harness(made, killer, say)
    except AssertionError:
        for log in (*directory.glob("*.log"), *directory.glob("state/workers/*/keeper.log")):
            say(f"--- {log.name}\n" + "\n".join(log.read_text().splitlines()[-LOG_LINES:]))
        raise
    finally:
        made.end()
        shutil.rmtree(directory / "state", ignore_errors=True)


def _same(now: InstanceView, then: InstanceView) -> bool:
    return (now.state, now.pid, now.attempt) == ("running", then.pid, then.attempt)
