"""A real cluster of subprocesses for a test: start, kill, look, and end without a trace."""

from __future__ import annotations

import contextlib
import os
import shlex
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from corps.client import Client
from corps.config import Settings
from corps.errors import CorpsError
from corps.model.command import Launch
from corps.model.view import InstanceView
from tests.support import groups
from tests.support.tls import TestCa, enroll
from tests.support.waiting import until

BEAT_S = 0.5
ROOT = Path(__file__).resolve().parents[2]


class Cluster:
    """Daemons of one state directory. Every process it starts it also ends."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.settings = Settings(dir=str(directory / "state"))
        self.client = Client(self.settings)
        self.address = ""
        self._daemons: dict[str, subprocess.Popen[bytes]] = {}

    # ---- daemons

    def enroll(self, *names: str) -> TestCa:
        """These workers have joined by a token before; to be called before the master starts."""
        return enroll(self.settings, *names)

    def start_master(self, *more: str, listen: str = "", prefix: Sequence[str] = ()) -> None:
        """Start the master; again on the same port after a kill."""
        where = listen or self.address or "127.0.0.1:0"
        address_file = self.settings.master_dir / "address"
        address_file.unlink(missing_ok=True)
        beat = ["--heartbeat", str(BEAT_S)]
        self._start("master", ["master", "--listen", where, *beat, *more], prefix)
        until(lambda: address_file.exists() or self._check_alive("master"))
        self.address = address_file.read_text().strip()

    def start_worker(
        self, name: str, *flags: str, prefix: Sequence[str] = (), master: str = ""
    ) -> None:
        """`prefix` runs it elsewhere, as `ip netns exec NS` does."""
        words = ["worker", "--master", master or self.address, "--name", name, *flags]
        self._start(name, words, prefix)

    def start_joining(self, name: str, line: str, prefix: Sequence[str] = ()) -> None:
        """A worker by the line that 'corps token create' printed."""
        self._start(name, shlex.split(line)[1:], prefix)

    def kill(self, name: str) -> None:
        """SIGKILL to one daemon, and wait until it is gone."""
        daemon = self._daemons.pop(name)
        daemon.kill()
        daemon.wait()

    def signal(self, name: str, number: int) -> None:
        self._daemons[name].send_signal(number)

    def returncode(self, name: str) -> int | None:
        return self._daemons[name].poll()

    def pid(self, name: str) -> int:
        """Of one daemon that this test started."""
        return self._daemons[name].pid

    def pids(self) -> list[int]:
        """The daemons that this test started."""
        return [daemon.pid for daemon in self._daemons.values()]

    def log(self, name: str) -> str:
        return (self.directory / f"{name}.log").read_text()

    def keeper_pid(self, worker: str) -> int | None:
        """The keeper of a worker, by its command line."""
        wanted = str(self.settings.worker_dir(worker))
        for pid in filter(str.isdigit, os.listdir("/proc")):
            words = _words(int(pid))
            if wanted in words and any("corps.keeper.main" in word for word in words):
                return int(pid)
        return None

    def wait_state(self, **states: str) -> None:
        """Until each named worker is in the state given."""
        until(lambda: {w.name: w.state for w in self.client.workers()}.items() >= states.items())

    # ---- operators

    def corps(self, *words: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        """One command on the command line, without a terminal."""
        done = subprocess.run(
            [*_corps(self.settings), *words],
            capture_output=True,
            text=True,
            stdin=subprocess.DEVNULL,
            timeout=60,
        )
        assert not check or done.returncode == 0, f"{words}: {done.stdout}{done.stderr}"
        return done

    def command(self, *words: str) -> list[str]:
        """The words of one command line of this cluster."""
        return [*_corps(self.settings), *words]

    def begin(self, *words: str) -> subprocess.Popen[str]:
        """One command on the command line that goes on while the test does; to be waited for."""
        return subprocess.Popen(
            self.command(*words),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )

    def copy(self, path: Path | str, *flags: str) -> None:
        self.corps("copy", str(path), *flags)

    def launch(self, artifact: str, *args: str, **fields: object) -> tuple[InstanceView, ...]:
        return self.client.launch(Launch(artifact=artifact, args=args, **fields))  # type: ignore[arg-type]  # fields of Launch

    def launch_one(self, artifact: str, *args: str, **fields: object) -> InstanceView:
        (instance,) = self.launch(artifact, *args, **fields)
        return instance

    def get(self, id: str) -> InstanceView:
        (instance,) = self.client.instances((id,), with_dead=True)
        return instance

    def wait_dead(self, id: str, deadline_s: float = 20.0) -> InstanceView:
        until(lambda: self.get(id).state == "dead", deadline_s)
        return self.get(id)

    def log_of(self, id: str, stream: str = "stdout") -> str:
        return self.corps("logs", id, "--stream", stream).stdout

    # ---- the end

    def end(self) -> None:
        """End apps, keepers and daemons, and prove that nothing is left."""
        try:
            for name in list(self._daemons):
                self.signal(name, signal.SIGCONT)
            self._end_apps()
        finally:
            self.client.close()
            for name in list(self._daemons):
                daemon = self._daemons.pop(name)
                daemon.terminate()
                try:
                    daemon.wait(10)
                except subprocess.TimeoutExpired:
                    daemon.kill()
                    daemon.wait()
            self._end_keepers()
            leftovers = self.processes()
            for pid in leftovers:
                os.kill(pid, signal.SIGKILL)
            for directory in (self.settings.state_dir / "workers").glob("*"):
                groups.end(directory, is_expected=True)  # keepers are killed here
        assert not leftovers, f"left behind: {[(pid, _words(pid)) for pid in leftovers]}"

    def processes(self) -> list[int]:
        """Every process of this cluster: keepers and apps, by command line or environment."""
        mark = str(self.directory).encode()
        found = []
        for pid in map(int, filter(str.isdigit, os.listdir("/proc"))):
            if pid == os.getpid():
                continue
            try:
                text = Path(f"/proc/{pid}/cmdline").read_bytes()
                text += Path(f"/proc/{pid}/environ").read_bytes()
                state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
            except OSError:
                continue
            if mark in text and state != "Z" and b"pytest" not in text.split(b"\0")[0]:
                found.append(pid)
        return found

    def _end_apps(self) -> None:
        try:
            self.client.kill(("--all",))
            names = [w.name for w in self.client.workers() if w.state == "ready"]
            self.client.shutdown(names)
        except CorpsError:
            pass  # a test that ended its master itself: what is left is found below
        for name in list(self._daemons):
            if name != "master":
                try:
                    self._daemons[name].wait(5)
                except subprocess.TimeoutExpired:
                    continue

    def _end_keepers(self) -> None:
        """A keeper whose worker was killed waits for the next one: it ends when told, if idle."""
        for directory in (self.settings.state_dir / "workers").glob("*"):
            if (pid := self.keeper_pid(directory.name)) is not None:
                os.kill(pid, signal.SIGTERM)
        with contextlib.suppress(AssertionError):  # what is left is told by the caller
            until(lambda: not self.processes(), 20)

    def _start(self, name: str, words: Sequence[str], prefix: Sequence[str] = ()) -> None:
        with (self.directory / f"{name}.log").open("ab") as log:
            self._daemons[name] = subprocess.Popen(
                [*prefix, *_corps(self.settings), *words],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )

    def _check_alive(self, name: str) -> bool:
        assert self.returncode(name) is None, self.log(name)
        return False


@contextmanager
def cluster(tmp_path: Path, *workers: str) -> Iterator[Cluster]:
    """A master and these workers, all ready."""
    made = Cluster(tmp_path)
    try:
        made.start_master()
        for name in workers:
            made.start_worker(name)
        made.wait_state(**dict.fromkeys(workers, "ready"))
        yield made
    finally:
        made.end()
        shutil.rmtree(tmp_path / "state", ignore_errors=True)


def _corps(settings: Settings) -> list[str]:
    return [sys.executable, "-m", "corps.cli.main", "--dir", settings.dir]


def _words(pid: int) -> list[str]:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
    except OSError:
        return []
