"""kill -9 of the keeper: what the next one finds, adopts, and says of what it cannot know."""

from __future__ import annotations

import binascii
import contextlib
import ctypes
import errno
import os
import signal
import uuid
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest

from corps.keeper.journal import HEAD
from corps.keeper.process import MARK, UNUSED
from corps.wire import keeper as wire
from tests.integration.keeper.driver import Keeper, status_of
from tests.support.waiting import until

Start = Callable[..., Keeper]
Order = Callable[..., wire.Spawn]
Built = Callable[[str], str]

PR_SET_CHILD_SUBREAPER = 36


@pytest.fixture
def orphans_are_ours() -> Iterator[None]:
    """Children of a killed keeper become children of this test, which may reap them or not."""
    prctl = ctypes.CDLL(None).prctl
    assert prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) == 0
    yield
    prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)


def test_an_adopted_program_ends_with_its_exact_status(
    start: Start, order: Order, built: Built
) -> None:
    old = start()
    pids = {}
    for number, code in enumerate((42, 0, 255), 1):
        said = order(f"app.{number}#1", built("wait"), str(code), note=f"note {number}")
        pids[said.key] = old.link.spawn(said).pid
        until(partial(_is_ready, said))
    old.link.run(order("app.9#1", "/bin/false"))
    old.kill()
    new = start()
    listing = new.link.listing()
    assert listing["app.9#1"].status == status_of(1)
    for key, pid in pids.items():
        kept = listing[key]
        assert (kept.is_live, kept.executed, kept.pid, kept.has_pidfd) == (True, True, pid, True)
        assert kept.note == f"note {key[4]}"
    assert new.link.spawn(order("app.1#1", built("wait"))).pid == pids["app.1#1"]
    assert new.link.signal("app.1#1", signal.SIGUSR1) == 0
    assert new.link.signal("app.2#1", signal.SIGUSR1) == 0
    os.kill(pids["app.3#1"], signal.SIGTERM)
    ends = {key: new.link.ended(key) for key in pids}
    statuses = [status_of(42), status_of(0), status_of(signal_number=signal.SIGTERM)]
    assert [ended.status for ended in ends.values()] == statuses
    assert [len(ended.signals) for ended in ends.values()] == [1, 1, 0]
    assert all(ended.usage is None and ended.lost is None for ended in ends.values())
    assert new.link.signal("app.1#1", signal.SIGKILL) == errno.ESRCH
    assert new.link.totals().children_dead == 1


@pytest.mark.usefixtures("orphans_are_ours")
@pytest.mark.parametrize("is_reaped", [False, True])
def test_a_status_is_exact_before_and_after_somebody_reaps_it(
    start: Start, order: Order, built: Built, is_reaped: bool
) -> None:
    old = start()
    pid = old.link.spawn(order("app.1#1", built("crash"), "0", path=built("wait"))).pid
    old.kill()
    new = start()
    assert new.link.listing()["app.1#1"].is_live
    if is_reaped:
        os.kill(new.pid, signal.SIGSTOP)
        os.kill(pid, signal.SIGQUIT)
        os.waitpid(pid, 0)
        os.kill(new.pid, signal.SIGCONT)
        assert new.link.ended("app.1#1").status in (signal.SIGQUIT, signal.SIGQUIT | 0x80)
    else:
        assert new.link.signal("app.1#1", signal.SIGKILL) == 0
        assert new.link.ended("app.1#1").status == signal.SIGKILL
        os.waitpid(pid, 0)


def test_on_an_old_kernel_the_status_of_an_adopted_one_is_lost_not_invented(
    start: Start, order: Order, built: Built
) -> None:
    old = start("--lost-status")
    for key in ("app.1#1", "app.2#1"):
        old.link.spawn(order(key, built("wait")))
    wiped = order("app.3#1", built("wait"), env={"CORPS_ATTEMPT": "app.33#1"})
    pid = old.link.spawn(wiped).pid
    old.kill()
    new = start("--lost-status")
    listing = new.link.listing()
    assert (listing["app.1#1"].is_live, listing["app.2#1"].is_live) == (True, True)
    # It does not name itself, so nobody may signal it; told when what is in its group is over.
    until(lambda: new.link.listing()["app.3#1"].lost)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
    assert new.link.signal("app.1#1", signal.SIGINT) == 0
    ended = new.link.ended("app.1#1")
    assert (ended.status, ended.lost, ended.executed) == (None, "keeper lost", True)
    assert ended.ended_at is not None
    assert new.link.signal("app.1#1", signal.SIGINT) == errno.ESRCH


@pytest.mark.usefixtures("orphans_are_ours")
def test_what_ended_while_no_keeper_was_there_is_lost(
    start: Start, order: Order, built: Built
) -> None:
    old = start()
    pid = old.link.spawn(order("app.1#1", built("wait"))).pid
    zombie = old.link.spawn(order("app.2#1", built("wait"))).pid
    old.kill()
    for one in (pid, zombie):
        os.kill(one, signal.SIGKILL)
    os.waitpid(pid, 0)
    new = start()
    status = until(lambda: new.link.listing()["app.2#1"].status)
    assert status == signal.SIGKILL, "nobody has reaped it yet"
    os.waitpid(zombie, 0)
    lost = new.link.listing()["app.1#1"]
    assert lost.lost == "ended while no keeper was there"
    assert (lost.is_live, lost.executed, lost.status, lost.ended_at) == (False, True, None, None)
    new.kill()
    again = start()
    assert again.link.listing()["app.1#1"] == lost


def test_after_a_reboot_all_that_lived_is_lost_and_may_have_run(
    start: Start, order: Order, built: Built
) -> None:
    old = start()
    pid = old.link.spawn(order("app.1#1", built("wait"))).pid
    old.link.run(order("app.2#1", "/bin/false"))
    old.kill()
    journal = old.directory / "journal"
    data = journal.read_bytes()
    length, _, flag, floor = HEAD.unpack_from(data)
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    body = data[HEAD.size : HEAD.size + length].replace(boot.encode(), str(uuid.uuid4()).encode())
    head = HEAD.pack(length, binascii.crc32(body), flag, floor) + body
    journal.write_bytes(head + data[len(head) :])
    new = start()
    listing = new.link.listing()
    lost = listing["app.1#1"]
    assert (lost.lost, lost.executed, lost.status) == ("machine rebooted", True, None)
    assert listing["app.2#1"].status == status_of(1)
    assert new.link.signal("app.1#1", signal.SIGKILL) == errno.ESRCH
    assert Path(f"/proc/{pid}").exists(), "a stranger of another boot is never signalled"
    os.kill(pid, signal.SIGKILL)


def test_totals_outlive_the_keeper(
    start: Start, order: Order, built: Built, tmp_path: Path
) -> None:
    old = start()
    old.link.run(order("app.1#1", "/bin/true"))
    old.link.run(order("app.2#1", "/nowhere"))
    said = order("app.3#1", built("orphan"), str(tmp_path / "pid"), keeps_children=True)
    old.link.run(said)
    file = tmp_path / "pid"
    pid = int(until(lambda: file.exists() and file.read_text().strip()))
    os.kill(pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}").exists())
    totals = old.link.totals()
    assert totals.children_dead == 4
    old.link.send(wire.Forget(keys=("app.1#1", "app.2#1")))
    assert list(old.link.listing()) == ["app.3#1"]
    old.kill()
    new = start()
    assert new.link.totals() == totals
    assert list(new.link.listing()) == ["app.3#1"], "what is forgotten stays forgotten"


def _is_ready(said: wire.Spawn) -> bool:
    return Path(said.stdout).read_text() == "ready\n"


def test_of_a_copied_journal_the_living_are_adopted_and_the_gone_may_have_run(
    start: Start, order: Order, built: Built, tmp_path: Path
) -> None:
    """A mark that is older than the program's beginning proves nothing in a copy."""
    keeper = start()
    lives, goes = order("app.1#1", built("wait")), order("app.2#1", built("wait"))
    keeper.link.spawn(lives)
    keeper.link.spawn(goes)
    data = bytearray((tmp_path / "state" / "journal").read_bytes())
    for key in (lives.key, goes.key):  # as it was before they had used their right to exec
        place = data.index(f'{{"t":"{key}"'.encode()) - MARK.size
        data[place : place + MARK.size] = MARK.pack(UNUSED, 0)
    keeper.link.signal(goes.key, signal.SIGKILL)
    keeper.link.ended(goes.key)
    keeper.kill()
    copied = tmp_path / "copied"
    copied.mkdir()
    (copied / "journal").write_bytes(data)
    new = start("--copied", at="copied")
    listing = new.link.listing()
    assert listing[lives.key].is_live
    gone = listing[goes.key]
    assert (gone.is_live, gone.executed, gone.failed_stage) == (False, True, None)
    assert gone.lost
