"""A whole cluster on this machine: starting its daemons, and ending them with their apps."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from signal import SIGKILL, SIGTERM

import msgspec

from corps.cli import render
from corps.cli.lock import Holder, holder, keeper_holder
from corps.client import Client
from corps.clock import Clock
from corps.config import Settings
from corps.daemon import make_private, private, write_atomically
from corps.errors import Conflict, Failed, TimedOut, Unavailable
from corps.model.instance import InstanceState
from corps.model.worker import WorkerState

READY_S = 20.0
LOOK_S = 0.02
WATCH_S = 0.2
GRACE_S = 10.0
ENDED_S = 10.0
KILLED_S = 5.0
TAIL_LINES = 20
TAIL_BYTES = 16 << 10
UP = "up.json"
MASTER = "master"
ANY_PORT = "127.0.0.1:0"


class Cluster:
    """The master of a state directory and some of its workers, each a process of its own."""

    def __init__(self, settings: Settings, names: Sequence[str]) -> None:
        self.settings = settings
        self.names = tuple(names)
        self.client = Client(settings.api_socket)
        self._clock = Clock()
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    @property
    def master_pid(self) -> int | None:
        return holder(self._lock(MASTER))

    def start(self) -> None:
        """Returns when every worker is ready. Raise Conflict, or Failed having ended it again."""
        pid = self.master_pid
        if pid is not None:
            raise Conflict(
                f"a master already runs on {self.settings.state_dir}, pid {pid}: "
                "end it with 'corps down', or use another --dir"
            )
        is_up = False
        try:
            self._start_master()
            text = msgspec.json.encode(self.names).decode()
            write_atomically(self.settings.state_dir / UP, f"{text}\n")
            self._start_workers()
            is_up = True
        finally:
            if not is_up:
                self._abandon()

    def end(self) -> bool:
        """Stop every app, then end workers, keepers and master. False: nothing was there to end."""
        held, up = self._holders(), self.settings.state_dir / UP
        if not held and not up.exists():
            return False
        self._revive(held)
        held = self._holders()
        self._stop_apps()
        self.client.shutdown(self.names)
        self._end(held)
        up.unlink(missing_ok=True)
        return True

    def watch(self) -> None:
        """Returns when all is ended from elsewhere. Raise Failed when the master dies alone."""
        master = self._started[MASTER]
        while master.poll() is None:
            time.sleep(WATCH_S)
        if self._left(self._holders(), 0.0 if master.returncode else ENDED_S):
            self._show_log(MASTER)
            raise Failed(
                f"the master has ended with status {master.returncode}; workers and apps go on: "
                "start it again with 'corps up', or end them with 'corps down'"
            )

    def _start_master(self) -> None:
        self._spawn(MASTER, ["master", "--listen", self._listen_address()])
        self._await(self._answers, [MASTER])

    def _listen_address(self) -> str:
        """The old address when workers of an earlier life are there to find it again."""
        old = self.settings.master_dir / "address"
        if any(holder(self._lock(name)) for name in self.names) and old.exists():
            return old.read_text().strip()
        return ANY_PORT

    def _start_workers(self) -> None:
        for name in self.names:
            if holder(self._lock(name)) is None:
                self._spawn_worker(name)
        self._await(partial(self._are_ready, self.names), self.names)

    def _revive(self, held: dict[str, Holder]) -> None:
        """Start again what died before its time and is needed to end the rest in order."""
        awaited: list[str] = []
        if MASTER not in held:
            render.note("corps: the master is gone; starting it again to end all in order")
            self._start_master()
            awaited = [name for name in self.names if f"worker {name}" in held]
        busy = {row.worker for row in self.client.instances()}
        for name in self.names:
            if f"worker {name}" not in held and (name in busy or f"keeper of {name}" in held):
                render.note(f"corps: worker {name} is gone; starting it again to end its apps")
                self._spawn_worker(name)
                awaited.append(name)
        if awaited:
            with suppress(Failed):  # the rest can be ended all the same
                self._await(partial(self._are_ready, awaited), awaited)

    def _spawn_worker(self, name: str) -> None:
        address = (self.settings.master_dir / "address").read_text().strip()
        self._spawn(name, ["worker", "--master", address, "--name", name])

    def _spawn(self, name: str, arguments: list[str]) -> None:
        log = self._log(name)
        command = [sys.executable, "-P", "-m", "corps.cli.main", "--dir", self.settings.dir]
        try:
            make_private(log.parent)
            with open(log, "ab", opener=private) as output:
                self._started[name] = subprocess.Popen(
                    [*command, *arguments, "--heartbeat", str(self.settings.heartbeat_s)],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    start_new_session=True,
                )
        except OSError as error:
            raise Unavailable(f"cannot start {name}: {error}") from error

    def _answers(self) -> bool:
        try:
            self.client.status()
        except Unavailable:
            return False
        return True

    def _are_ready(self, names: Sequence[str]) -> bool:
        ready = {w.name for w in self.client.workers() if w.state == WorkerState.READY}
        return ready.issuperset(names)

    def _await(self, is_so: Callable[[], bool], names: Sequence[str]) -> None:
        """Until it is so. Raise Failed when one of `names` dies or READY_S is over."""
        deadline = self._clock() + READY_S
        while not is_so():
            for name in names:
                process = self._started.get(name)
                if process is not None and process.poll() is not None:
                    self._show_log(name)
                    raise Failed(f"{name} ended with status {process.returncode}; see above")
            if self._clock() > deadline:
                for name in names:
                    self._show_log(name)
                raise Failed(f"{' '.join(names)} not ready within {READY_S:g} s; see above")
            time.sleep(LOOK_S)

    def _show_log(self, name: str) -> None:
        log = self._log(name)
        with log.open("rb") as file:
            file.seek(max(0, log.stat().st_size - TAIL_BYTES))
            lines = file.read().decode(errors="replace").splitlines()[-TAIL_LINES:]
        render.note(f"the end of {log}:")
        for line in lines:
            render.note(f"  {line}")

    def _stop_apps(self) -> None:
        """SIGINT and grace for all; the second ctrl-C makes it SIGKILL."""
        rows = self.client.instances()
        ids = [row.id for row in rows if row.state != InstanceState.DEAD]
        if not ids:
            return
        render.note(f"corps: stopping {len(ids)} instances (grace {GRACE_S:g} s)")
        try:
            rows = list(self.client.stop(ids, GRACE_S))
        except KeyboardInterrupt:
            rows = list(self.client.kill(ids))
        unknown = [row.id for row in rows if row.state != InstanceState.DEAD]
        if unknown:
            render.error(f"what became of {' '.join(unknown)} is unknown: their workers are lost")

    def _end(self, held: dict[str, Holder]) -> None:
        """Wait until these have ended as they were asked to; else make them."""
        left = self._left(held, ENDED_S)
        for number in (SIGTERM, SIGKILL):
            for title, process in left.items():
                render.note(f"corps: {title} is still there: sending {number.name}")
                process.send(number)
            left = self._left(left, KILLED_S)
        if left:
            still = ", ".join(f"{title} (pid {process.pid})" for title, process in left.items())
            raise TimedOut(f"still there: {still}")

    def _left(self, held: dict[str, Holder], seconds: float) -> dict[str, Holder]:
        """Those of `held` that have not ended in time."""
        deadline = self._clock() + seconds
        left: dict[str, Holder] = {}
        for title, process in held.items():
            if process.is_gone(max(0.0, deadline - self._clock())):
                process.close()
            else:
                left[title] = process
        return left

    def _abandon(self) -> None:
        """End what a failed start has begun; what was there before it stays."""
        for process in self._started.values():
            process.terminate()
        for process in self._started.values():
            try:
                process.wait(KILLED_S)
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
        keepers = self._holders()
        for keeper in keepers.values():
            keeper.send(SIGTERM)  # it ignores that while it has children
        self._left(keepers, KILLED_S)

    def _holders(self) -> dict[str, Holder]:
        """The processes there are."""
        found = {MASTER: Holder.find(self._lock(MASTER), holder)}
        for name in self.names:
            keeper = self._directory(name) / "keeper.lock"
            found[f"worker {name}"] = Holder.find(self._lock(name), holder)
            found[f"keeper of {name}"] = Holder.find(keeper, keeper_holder)
        return {title: process for title, process in found.items() if process is not None}

    def _directory(self, name: str) -> Path:
        return self.settings.master_dir if name == MASTER else self.settings.worker_dir(name)

    def _lock(self, name: str) -> Path:
        return self._directory(name) / "lock"

    def _log(self, name: str) -> Path:
        return self._directory(name) / "log"


def find_cluster(settings: Settings) -> Cluster:
    """The one that `corps up` started on this directory; without workers if it did not."""
    try:
        names = msgspec.json.decode((settings.state_dir / UP).read_bytes(), type=list[str])
    except (OSError, msgspec.DecodeError, UnicodeDecodeError):
        names = []
    return Cluster(settings, names)
