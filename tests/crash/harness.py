"""Kill at one system call after the other, start again what was killed, and judge."""

from __future__ import annotations

import contextlib
import itertools
import subprocess
import tempfile
import threading
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Empty, SimpleQueue

from tests.crash.cases import Case, Fault, Ledger, Report, Tally, Trial, Victim
from tests.support import programs
from tests.support.cluster import Cluster, cluster
from tests.support.waiting import until

WORKER = "w1"
STOPS_MAX = 3_000
DEADLINE_S = 60.0


class Harness:
    """One cluster, used for kill after kill."""

    def __init__(self, made: Cluster, directory: Path) -> None:
        self._cluster, self._directory = made, directory
        self._killer = programs.build("killer", directory / "programs")
        made.copy(programs.build("witness", directory / "programs"))
        self._trials = itertools.count(1)

    def run(self, case: Case, first: int = 1, stride: int = 1, report: Report = print) -> Tally:
        """Kill at stops `first`, `first + stride`, ... until the operation is over before one."""
        tally = Tally()
        ledger = Ledger(self._directory / f"{case.name.replace(' ', '_')}.ledger")
        for stop in range(first, STOPS_MAX, stride):
            trial = Trial(case, self._cluster, ledger, f"crash-{next(self._trials):06d}")
            if not self._try(trial, stop):
                break
            tally.kills += 1
            trial.judge(tally)
        known = {view.id for view in self._cluster.client.instances(with_dead=True)}
        for key, runs in ledger.keys().items():
            if runs > 1:
                tally.add(Fault.DOUBLED, key)
            if key.rpartition("#")[0] not in known:
                tally.add(Fault.APP_LOST, f"{key} ran, and nobody knows of it")
        report(_line(case, tally))
        return tally

    def _try(self, trial: Trial, stop: int) -> bool:
        """Begin, and kill at the stop. False: it was over before."""
        errors: list[BaseException] = []

        def operate() -> None:
            try:
                trial.run()
            except (Exception, SystemExit) as error:
                errors.append(error)

        pids = [str(self._pid(victim)) for victim in trial.case.victims]
        argv = [str(self._killer), *pids, str(stop)]
        with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as killer:
            assert killer.stdout is not None
            assert killer.stdout.readline() == "attached\n"
            thread = threading.Thread(target=operate, daemon=True)
            thread.start()
            until(lambda: killer.poll() is not None or not thread.is_alive(), DEADLINE_S)
            killer.terminate()
        is_killed = killer.returncode == 0
        if is_killed:
            self._start_again(trial.case)
        thread.join(DEADLINE_S)
        assert not thread.is_alive(), f"{trial.case.name} at {stop}: no answer"
        assert not errors, f"{trial.case.name} at {stop}: {errors}"
        return is_killed

    def _start_again(self, case: Case) -> None:
        names = {Victim.MASTER: "master", Victim.WORKER: WORKER}
        for victim, name in names.items():
            if victim in case.victims:
                self._cluster.kill(name)
        if Victim.MASTER in case.victims:
            self._cluster.start_master()
        if Victim.WORKER in case.victims:
            self._cluster.start_worker(WORKER)
        self._cluster.wait_state(w1="ready")
        until(lambda: self._cluster.keeper_pid(WORKER) is not None, DEADLINE_S)

    def _pid(self, victim: Victim) -> int:
        match victim:
            case Victim.KEEPER:
                pid = self._cluster.keeper_pid(WORKER)
                assert pid is not None
                return pid
            case Victim.WORKER:
                return self._cluster.pid(WORKER)
            case Victim.MASTER:
                return self._cluster.pid("master")


def run_all(
    cases: Sequence[Case], stride_of: Callable[[Case], int], jobs: int, report: Report
) -> list[Tally]:
    """Several clusters side by side, each taking the next case."""
    queue: SimpleQueue[Case] = SimpleQueue()
    for case in cases:
        queue.put(case)

    def work() -> list[Tally]:
        tallies: list[Tally] = []
        with (
            tempfile.TemporaryDirectory(prefix="corps-crash-") as directory,
            harness(Path(directory)) as made,
            contextlib.suppress(Empty),
        ):
            while True:
                case = queue.get_nowait()
                tallies.append(made.run(case, stride=stride_of(case), report=report))
        return tallies

    with ThreadPoolExecutor(jobs) as pool:
        working = [pool.submit(work) for _ in range(jobs)]
        return [tally for job in working for tally in job.result()]


@contextlib.contextmanager
def harness(directory: Path) -> Iterator[Harness]:
    with cluster(directory, WORKER) as made:
        yield Harness(made, directory)


def _line(case: Case, tally: Tally) -> str:
    found = ", ".join(f"{count} {fault}" for fault, count in sorted(tally.faults.items()))
    return f"{case.name:28} killed {tally.kills:4} times: {found or 'nothing lost'}"
