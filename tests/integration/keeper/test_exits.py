"""Deaths, signals, orphans and totals; and the worker that misses them."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

from corps.wire import keeper as wire
from tests.integration.keeper.driver import Keeper, pid_of, status_of
from tests.support.waiting import until

Order = Callable[..., wire.Spawn]
Built = Callable[[str], str]


def test_a_stopped_program_acts_on_a_stop(keeper: Keeper, order: Order, built: Built) -> None:
    keeper.link.spawn(order("app.1#1", built("wait")))
    assert keeper.link.signal("app.1#1", signal.SIGSTOP) == 0
    pid = keeper.link.listing()["app.1#1"].pid
    until(lambda: _state(pid) == "T")
    assert keeper.link.signal("app.1#1", signal.SIGTSTP) == 0
    assert _state(pid) == "T", "only what asks it to end makes it go on"
    assert keeper.link.signal("app.1#1", signal.SIGINT) == 0
    ended = keeper.link.ended("app.1#1")
    assert ended.status == signal.SIGINT
    sent = [one.signal for one in ended.signals]
    assert sent == [signal.SIGSTOP, signal.SIGTSTP, signal.SIGINT]
    assert all(ended.forked_at <= one.at for one in ended.signals)


def test_a_signal_reaches_only_the_living(keeper: Keeper, order: Order, built: Built) -> None:
    keeper.link.spawn(order("app.1#1", built("wait"), "7"))
    until(lambda: Path(order("app.1#1", "").stdout).read_text() == "ready\n")
    assert keeper.link.signal("app.1#1", signal.SIGUSR1) == 0
    assert keeper.link.ended("app.1#1").status == status_of(7)
    assert keeper.link.signal("app.1#1", signal.SIGKILL) == errno.ESRCH
    assert keeper.link.signal("nobody.1#1", signal.SIGKILL) == errno.ESRCH
    assert len(keeper.link.listing()["app.1#1"].signals) == 1
    keeper.link.spawn(order("app.2#1", built("wait")))
    for number in (0, -1, 65, 1 << 40):
        assert keeper.link.signal("app.2#1", number) == errno.EINVAL
    assert keeper.link.listing()["app.2#1"].signals == ()


def test_an_end_is_told_before_the_signal_that_came_too_late(
    keeper: Keeper, order: Order, built: Built
) -> None:
    """The keeper is stopped, so that both wait for it at once."""
    pid = keeper.link.spawn(order("app.1#1", built("wait"))).pid
    os.kill(keeper.pid, signal.SIGSTOP)
    os.kill(pid, signal.SIGKILL)
    until(lambda: _state(pid) == "Z")
    keeper.link.send(wire.SendSignal(key="app.1#1", signal=signal.SIGTERM))
    os.kill(keeper.pid, signal.SIGCONT)
    assert keeper.link.wait(wire.Signaled, "app.1#1").errno == errno.ESRCH
    told = [message for message in keeper.link.said if isinstance(message, wire.Ended)]
    assert [one.attempt.status for one in told] == [signal.SIGKILL]


def test_many_signals_are_delivered_and_the_last_ones_listed(
    keeper: Keeper, order: Order, built: Built
) -> None:
    keeper.link.spawn(order("app.1#1", built("wait")))
    for _ in range(30):
        assert keeper.link.signal("app.1#1", signal.SIGCONT) == 0
    assert keeper.link.signal("app.1#1", signal.SIGKILL) == 0
    sent = [one.signal for one in keeper.link.ended("app.1#1").signals]
    assert sent == [signal.SIGCONT] * 19 + [signal.SIGKILL]


def test_an_orphan_is_reaped_and_counted(
    keeper: Keeper, order: Order, built: Built, tmp_path: Path
) -> None:
    said = order("app.1#1", built("orphan"), str(tmp_path / "pid"), keeps_children=True)
    ended = keeper.link.run(said)
    assert ended.status == 0
    file = tmp_path / "pid"
    pid = int(until(lambda: file.exists() and file.read_text().strip()))
    assert _parent(pid) == keeper.pid
    assert keeper.link.totals().children_dead == 1
    os.kill(pid, signal.SIGUSR1)
    until(lambda: not Path(f"/proc/{pid}").exists())
    totals = keeper.link.totals()
    assert totals.children_dead == 2
    assert totals.cpu_user_s + totals.cpu_system_s >= 0.04
    assert list(keeper.link.listing()) == ["app.1#1"]


def test_a_thousand_deaths_at_once_are_a_thousand_statuses(
    keeper: Keeper, order: Order, tmp_path: Path
) -> None:
    """The keeper is stopped while they die, so that it gets one SIGCHLD for all."""
    keys = [f"app.{number}#1" for number in range(1_000)]
    log = {"stdout": str(tmp_path / "log"), "stderr": str(tmp_path / "log")}
    keeper.link.send(*(order(key, "/bin/sleep", "1000", **log) for key in keys))
    pids = {key: keeper.link.wait(wire.Spawned, key).pid for key in keys}
    for key, pidfd in keeper.link.pidfds.items():
        assert pid_of(pidfd) == pids[key]
    os.kill(keeper.pid, signal.SIGSTOP)
    deadly = [signal.SIGHUP, signal.SIGINT, signal.SIGKILL, signal.SIGTERM, signal.SIGRTMAX]
    for number, key in enumerate(keys):
        os.kill(pids[key], deadly[number % 5])
    until(lambda: all(_state(pid) == "Z" for pid in pids.values()))
    os.kill(keeper.pid, signal.SIGCONT)
    statuses = {key: keeper.link.ended(key).status for key in keys}
    assert statuses == {key: deadly[number % 5] for number, key in enumerate(keys)}
    assert keeper.link.wait(wire.TotalsNow).totals.children_dead == 1_000
    parts = keeper.link.listing_parts()
    assert len(parts) == 5
    assert {kept.key: kept.status for part in parts for kept in part.attempts} == statuses


def test_a_worker_that_comes_back_misses_nothing(
    keeper: Keeper, order: Order, built: Built
) -> None:
    first, second = order("app.1#1", built("wait"), "5"), order("app.2#1", built("wait"))
    pids = [keeper.link.spawn(one).pid for one in (first, second)]
    keeper.link.close()
    until(lambda: Path(first.stdout).read_text() == "ready\n")
    os.kill(pids[0], signal.SIGUSR1)
    until(lambda: not Path(f"/proc/{pids[0]}").exists())
    link = keeper.connect()
    listing = link.listing()
    assert (listing["app.1#1"].status, listing["app.2#1"].is_live) == (status_of(5), True)
    assert list(link.pidfds) == ["app.2#1"]
    assert pid_of(link.pidfds["app.2#1"]) == pids[1]
    link.send(wire.Forget(keys=("app.1#1", "app.2#1", "unknown")))
    assert list(link.listing()) == ["app.2#1"], "the living and the unforgotten stay"


def _state(pid: int) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
