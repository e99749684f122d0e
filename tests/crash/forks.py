"""Processes forked from this one, where everything is imported already: a daemon is up in 0.1 s.

They are daemons all the same: a pid, a session and files of their own. This process has one thread
and no event loop, so that a fork of it is whole.
"""

from __future__ import annotations

import contextlib
import functools
import os
import signal
import subprocess
import sys
import traceback
from collections.abc import Callable, Sequence
from pathlib import Path

from corps.cli.operator import Operator
from corps.cli.tree import run
from corps.config import Settings
from corps.master import main as _master_main
from corps.worker import main as _worker_main
from tests.support.cluster import Cluster
from tests.support.waiting import until

IMPORTED = (_master_main, _worker_main)  # by their parent, once for all of them
FD_END = 1 << 16


class Fork:
    """A child of this process that runs `act` once its gate is opened, and as much of Popen as a
    cluster uses. Its output goes to `log`, or where ours goes."""

    def __init__(self, act: Callable[[], int], log: Path | None) -> None:
        gate, self._gate = os.pipe()
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _become(act, log, gate)
        os.close(gate)

    def open(self) -> None:
        with contextlib.suppress(BrokenPipeError):  # killed at its gate
            os.write(self._gate, b"!")

    def poll(self) -> int | None:
        return self._wait(os.WNOHANG)

    def wait(self, timeout: float | None = None) -> int:
        if timeout is not None:
            try:
                until(lambda: self.poll() is not None, timeout, 0.002)
            except AssertionError:
                raise subprocess.TimeoutExpired(f"pid {self.pid}", timeout) from None
        self._wait(0)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def _wait(self, options: int) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, options)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
                os.close(self._gate)
        return self.returncode


class WarmCluster(Cluster):
    """A cluster whose daemons are forks."""

    _is_held = False

    def daemon(self, name: str) -> Fork:
        daemon: object = self._daemons[name]
        assert isinstance(daemon, Fork)
        return daemon

    def start_held_worker(self, name: str) -> None:
        """It does nothing before its `open`."""
        self._is_held = True
        self.start_worker(name)
        self._is_held = False

    def _start(self, name: str, words: Sequence[str], prefix: Sequence[str] = ()) -> None:
        assert not prefix
        serve = functools.partial(_serve, self.settings, list(words))
        fork = Fork(serve, self.directory / f"{name}.log")
        self._daemons[name] = fork  # type: ignore[assignment]  # as good as a Popen
        if not self._is_held:
            fork.open()


def _become(act: Callable[[], int], log: Path | None, gate: int) -> None:
    status = 70
    try:
        os.setsid()
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        if log is not None:
            out = os.open(log, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o644)
            os.dup2(out, 1)
            os.dup2(out, 2)
        os.closerange(3, gate)
        os.closerange(gate + 1, FD_END)
        if os.read(gate, 1):
            os.close(gate)
            status = act()
    except BaseException:  # a fork has one way out
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(status)


def _serve(settings: Settings, words: list[str]) -> int:
    return run(["--dir", settings.dir, *words], Operator())
