"""A keeper that dies in the middle of something: what the next one can still tell of it."""

from __future__ import annotations

import contextlib
import fcntl
import os
import resource
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from corps.keeper import process
from corps.keeper.journal import Journal
from corps.keeper.process import FAILED, MARK, USED
from corps.wire import keeper as wire
from tests.integration.keeper.driver import DEADLINE_S, Keeper, status_of
from tests.support.pids import stranger
from tests.support.waiting import until

Start = Callable[..., Keeper]
Order = Callable[..., wire.Spawn]
Built = Callable[[str], str]

KEY = "app.1#1"
CALLS_MAX = 100  # a signal has some ten


def test_a_signal_is_told_of_wherever_its_keeper_was_killed(
    start: Start, order: Order, built: Built
) -> None:
    deaths = {"noted": 0, "on its way": 0}
    for call in range(1, CALLS_MAX):
        keeper, key = start(), f"app.{call}#1"
        pid = keeper.link.spawn(order(key, built("wait"))).pid
        if not _is_killed_while_signalling(keeper, key, built("killer"), call):
            break
        new = start()
        kept = new.link.listing()[key]
        if kept.is_live and not _is_ending(pid):
            assert kept.signals == (), "what was not sent is not noted as sent"
            assert new.link.signal(key, signal.SIGINT) == 0
            kept = new.link.ended(key)
        elif kept.is_live:
            kept = new.link.ended(key)
        assert kept.status == signal.SIGINT
        assert [one.signal for one in kept.signals] == [2] or kept.sending is not None, call
        deaths["noted" if kept.signals else "on its way"] += 1
        new.kill()
    assert call < CALLS_MAX - 1 and all(deaths.values()), deaths


def _is_killed_while_signalling(keeper: Keeper, key: str, killer: str, call: int) -> bool:
    argv = [killer, str(keeper.pid), str(call)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as held:
        assert held.stdout is not None
        assert held.stdout.readline() == "attached\n"
        with contextlib.suppress(BrokenPipeError):  # already
            keeper.link.send(wire.SendSignal(key=key, signal=signal.SIGINT))
        while keeper.link.read():
            if any(isinstance(said, wire.Ended) for said in keeper.link.said):
                held.terminate()
                return False
        assert held.wait(DEADLINE_S) == 0
    keeper.process.wait(DEADLINE_S)
    keeper.link.close()
    return True


def _is_ending(pid: int) -> bool:
    """It is dead, or will be as soon as it runs."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return True
    facts = dict(line.split(":\t", 1) for line in text.splitlines() if ":\t" in line)
    pending = int(facts["SigPnd"], 16) | int(facts["ShdPnd"], 16)
    return facts["State"][0] in "ZX" or bool(pending & 1 << signal.SIGINT - 1)


class Halted:
    """A child of a keeper that died, between its mark and its program."""

    def __init__(self, directory: Path) -> None:
        self._go_r, self._go_w = os.pipe()
        self.pid = os.fork()
        if self.pid == 0:
            try:
                self._halt(directory)
            finally:
                os._exit(126)
        os.close(self._go_r)
        self._journal(directory)
        os.write(self._go_w, b"%020d" % self._place)
        until(lambda: _flag(directory, self._place) == USED)

    def _halt(self, directory: Path) -> None:
        os.close(self._go_w)
        place = int(os.read(self._go_r, 20))
        journal = os.open(directory / "journal", os.O_RDWR)
        fcntl.lockf(journal, fcntl.LOCK_EX, 1, place)
        os.pwrite(journal, MARK.pack(USED, 1), place)
        if os.read(self._go_r, 1) == b"x":
            os.execv("/bin/sleep", ["sleep", "1000"])
        os.pwrite(journal, bytes([FAILED]), place)

    def _journal(self, directory: Path) -> None:
        """What its keeper had written."""
        boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
        with contextlib.chdir(directory):
            journal = Journal(boot, False)
            journal.compact()
        pidfd = process.Fd(os.pidfd_open(self.pid))
        facts = {"pid": self.pid, "note": "", "forked_at": 1.0, "is_live": True, "executed": False}
        journal.put(KEY, identity=process.identity(self.pid, pidfd, True), **facts)
        assert journal.write()
        self._place = int(journal.table[KEY]["place"])

    def goes_on(self, *, executes: bool) -> None:
        os.write(self._go_w, b"x" if executes else b"-")
        os.close(self._go_w)


@pytest.fixture
def halted(tmp_path: Path) -> Iterator[Halted]:
    (tmp_path / "state").mkdir()
    made = Halted(tmp_path / "state")
    yield made
    with contextlib.suppress(ChildProcessError):
        os.waitpid(made.pid, 0)


def test_an_exec_that_fails_after_its_keeper_died_is_told_as_one(
    halted: Halted, start: Start
) -> None:
    new = start()
    kept = new.link.listing()[KEY]
    assert (kept.is_live, kept.executed) == (True, False), "nobody can know yet"
    halted.goes_on(executes=False)
    ended = new.link.ended(KEY)
    assert (ended.failed_stage, ended.executed, ended.status) == ("execve", False, None)


def test_an_exec_that_succeeds_after_its_keeper_died_is_waited_for(
    halted: Halted, start: Start
) -> None:
    new = start()
    assert not new.link.listing()[KEY].executed
    new.link.send(wire.SendSignal(key=KEY, signal=signal.SIGTERM))
    assert not new.link.listing()[KEY].signals, "it waits for the program that will have it"
    halted.goes_on(executes=True)
    assert new.link.wait(wire.Spawned, KEY).pid == halted.pid
    assert new.link.wait(wire.Signaled, KEY).errno == 0
    ended = new.link.ended(KEY)
    assert (ended.status, ended.executed) == (signal.SIGTERM, True)


def test_killed_again_meanwhile_the_third_keeper_knows_as_well(
    halted: Halted, start: Start
) -> None:
    second = start()
    assert second.link.listing()[KEY].is_live
    second.kill()
    halted.goes_on(executes=False)
    until(lambda: os.waitid(os.P_PID, halted.pid, os.WEXITED | os.WNOWAIT | os.WNOHANG))
    third = start()
    until(lambda: not third.link.listing()[KEY].is_live)
    assert third.link.listing()[KEY].failed_stage == "execve"


def test_a_stranger_with_the_pid_of_a_lost_one_is_neither_adopted_nor_signalled(
    start: Start, order: Order, built: Built
) -> None:
    old = start()
    pids = {key: old.link.spawn(order(key, built("wait"))).pid for key in ("app.1#1", "app.2#1")}
    old.kill()
    os.kill(pids["app.1#1"], signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pids['app.1#1']}").exists())
    with stranger(pids["app.1#1"]) as first:
        new = start()
        listing = new.link.listing()
        assert (listing["app.1#1"].is_live, listing["app.2#1"].is_live) == (False, True)
        assert new.link.signal("app.1#1", signal.SIGKILL) != 0
        os.kill(pids["app.2#1"], signal.SIGKILL)
        assert new.link.ended("app.2#1").status == signal.SIGKILL
        until(lambda: not Path(f"/proc/{pids['app.2#1']}").exists())
        with stranger(pids["app.2#1"]) as second:
            assert new.link.signal("app.2#1", signal.SIGKILL) != 0
            assert (first.poll(), second.poll()) == (None, None)


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    """Each child has a pidfd here, and the usual limit is 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def _flag(directory: Path, place: int) -> int:
    return (directory / "journal").read_bytes()[place]


@pytest.mark.usefixtures("many_descriptors")
def test_a_thousand_deaths_at_once_are_a_thousand_statuses(
    keeper: Keeper, order: Order, built: Built
) -> None:
    """The keeper is stopped meanwhile: all of it is one SIGCHLD to it."""
    said = [order(f"app.{number}#1", built("wait"), str(number % 256)) for number in range(1_000)]
    for at in range(0, len(said), 100):
        keeper.link.spawn(*said[at : at + 100])
    pids = {key: kept.pid for key, kept in keeper.link.listing().items()}
    for one in said:
        until(partial(_is_ready, one))
    os.kill(keeper.pid, signal.SIGSTOP)
    expected = {}
    for number, one in enumerate(said):
        sent = (signal.SIGUSR1, signal.SIGUSR1, signal.SIGTERM, signal.SIGKILL)[number % 4]
        os.kill(pids[one.key], sent)
        is_exit = sent == signal.SIGUSR1
        expected[one.key] = status_of(number % 256) if is_exit else status_of(0, sent)
    until(lambda: all(_state(pid) == "Z" for pid in pids.values()), DEADLINE_S)
    os.kill(keeper.pid, signal.SIGCONT)
    until(lambda: not any(kept.is_live for kept in keeper.link.listing().values()), 3 * DEADLINE_S)
    listing = keeper.link.listing()
    assert {key: kept.status for key, kept in listing.items()} == expected
    assert all(kept.usage is not None for kept in listing.values())
    assert keeper.link.totals().children_dead == 1_000


def _is_ready(said: wire.Spawn) -> bool:
    return Path(said.stdout).read_text() == "ready\n"


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
