"""The journal on disk: damage, growth, compaction, a disk that is full."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from pathlib import Path

import pytest

from corps.keeper.journal import FIRST, HEAD
from corps.wire import keeper as wire
from tests.integration.keeper.driver import Keeper, key_of, status_of
from tests.support.waiting import until

Start = Callable[..., Keeper]
Order = Callable[..., wire.Spawn]
Built = Callable[[str], str]

NOTE = "n" * 8_000


def _run_three(keeper: Keeper, order: Order) -> None:
    for number in (1, 2, 3):
        script = f"exit {number}"
        keeper.link.run(order(f"app.{number}#1", "/bin/sh", "-c", script, note=f"note {number}"))


def test_a_torn_last_record_is_dropped(start: Start, order: Order) -> None:
    old = start()
    _run_three(old, order)
    old.kill()
    journal = old.directory / "journal"
    data = bytearray(journal.read_bytes())
    at = data.rindex(b'"usage"')
    data[at:] = bytes(len(data) - at)
    journal.write_bytes(data)
    new = start()
    listing = new.link.listing()
    assert [kept.status for kept in listing.values()] == [status_of(n) for n in (1, 2, 3)]
    assert (listing["app.2#1"].usage is None, listing["app.3#1"].usage) == (False, None)
    assert "torn last record" in new.errors.read_text()
    assert not (old.directory / "journal.corrupt").exists()


@pytest.mark.parametrize("damage", ["body", "length to zero", "length to much", "many bytes"])
def test_a_damaged_record_is_isolated_and_the_file_kept(
    start: Start, order: Order, damage: str
) -> None:
    old = start()
    _run_three(old, order)
    old.kill()
    journal = old.directory / "journal"
    data = bytearray(journal.read_bytes())
    at = data.index(b'{"t":"app.2#1","is_live":false')
    start_of = at - HEAD.size
    match damage:
        case "body":
            data[at + 40] ^= 0x10
        case "length to zero":
            data[start_of : start_of + 4] = bytes(4)
        case "length to much":
            data[start_of : start_of + 4] = b"\xff" * 4
        case _:
            data[start_of : at + len(FIRST)] = b"\xff" * (HEAD.size + len(FIRST))
    journal.write_bytes(data)
    new = start()
    listing = new.link.listing()
    assert (listing["app.1#1"].status, listing["app.3#1"].status) == (status_of(1), status_of(3))
    assert listing["app.2#1"].note == "note 2"
    assert listing["app.2#1"].lost == "ended while no keeper was there", "never an invented status"
    assert "damaged" in new.errors.read_text()
    assert (old.directory / "journal.corrupt").read_bytes() == bytes(data)
    assert new.link.run(order("app.4#1", "/bin/false")).status == status_of(1)


def test_an_attempt_whose_first_record_is_damaged_is_lost_and_never_launched_again(
    start: Start, order: Order, built: Built
) -> None:
    old = start()
    pid = old.link.spawn(order("app.1#1", built("wait"))).pid
    old.link.run(order("app.2#1", "/bin/false"))
    old.kill()
    journal = old.directory / "journal"
    data = bytearray(journal.read_bytes())
    for key in (b"app.1#1", b"app.2#1"):
        data[data.index(b'{"t":"' + key + b'","pid"') + 20] ^= 0x10
    journal.write_bytes(data)
    new = start()
    listing = new.link.listing()
    lost = listing["app.1#1"]
    assert (lost.lost, lost.is_live, lost.executed) == (
        "its record in the journal is damaged",
        False,
        True,
    )
    assert listing["app.2#1"].status == status_of(1)
    assert new.link.run(order("app.1#1", "/bin/true")) == lost
    os.kill(pid, signal.SIGKILL)


def test_a_journal_nobody_can_read_stops_the_start_and_harms_nothing(
    start: Start, order: Order, built: Built
) -> None:
    old = start()
    pid = old.link.spawn(order("app.1#1", built("wait"))).pid
    old.kill()
    journal = old.directory / "journal"
    good = journal.read_bytes()
    journal.write_bytes(good.replace(b'"version":2', b'"version":9', 1))
    with pytest.raises(AssertionError, match="no header that this version can read"):
        start()
    assert Path(f"/proc/{pid}").exists()
    journal.write_bytes(good)
    new = start()
    assert new.link.listing()["app.1#1"].is_live


def test_an_empty_journal_is_a_new_one(start: Start, order: Order, tmp_path: Path) -> None:
    for number, data in enumerate((b"", bytes(4096))):
        directory = tmp_path / f"at{number}"
        directory.mkdir()
        (directory / "journal").write_bytes(data)
        keeper = start(at=directory.name)
        assert keeper.link.run(order(f"app.{number}#1", "/bin/true")).status == 0


def test_the_journal_shrinks_when_its_attempts_are_forgotten(
    start: Start, order: Order, built: Built, tmp_path: Path
) -> None:
    old = start()
    said = order("app.1#1", built("wait"), "6", note="alive")
    pid = old.link.spawn(said).pid
    log = {"stdout": str(tmp_path / "log"), "stderr": str(tmp_path / "log")}
    written = 0
    for turn in range(5):
        keys = [f"turn{turn}.{number}#1" for number in range(1, 101)]
        old.link.send(*(order(key, "/bin/true", note=NOTE, **log) for key in keys))
        for key in keys:
            old.link.ended(key)
        old.link.send(wire.Forget(keys=tuple(keys)))
        written += len(keys) * len(NOTE)
        assert list(old.link.listing()) == ["app.1#1"]
    assert _used_bytes(old) < written / 2
    assert old.link.signal("app.1#1", signal.SIGCONT) == 0
    totals = old.link.totals()
    old.kill()
    new = start()
    assert new.link.totals() == totals
    assert _used_bytes(new) < 1_500, "a start compacts as well"
    kept = new.link.listing()["app.1#1"]
    assert (kept.is_live, kept.pid, kept.note, len(kept.signals)) == (True, pid, "alive", 1)
    until(lambda: Path(said.stdout).read_text() == "ready\n")
    assert new.link.signal("app.1#1", signal.SIGUSR1) == 0
    assert new.link.ended("app.1#1").status == status_of(6)


def test_on_a_full_disk_a_launch_is_refused_and_no_exit_status_lost(
    start: Start, order: Order, built: Built, tmp_path: Path
) -> None:
    """A limit on the size of files stands for the disk."""
    old = start(limits="ulimit -f 10000")
    log = {"stdout": str(tmp_path / "log"), "stderr": str(tmp_path / "log")}
    spawned: list[str] = []
    refused = None
    for number in range(1, 2_000):
        key = f"app.{number}#1"
        program = built("wait") if number < 100 else "/bin/true"
        old.link.send(order(key, program, note=NOTE, **log))
        while not any(key_of(message) == key for message in old.link.said):
            old.link.read()
        refused = next((one for one in old.link.said if isinstance(one, wire.Refused)), None)
        if refused is not None:
            break
        spawned.append(key)
    assert refused is not None
    assert "disk full" in refused.reason
    assert refused.key not in old.link.listing()
    for key in spawned[:99]:
        assert old.link.signal(key, signal.SIGTERM) == 0
    assert {old.link.ended(key).status for key in spawned[:99]} == {signal.SIGTERM}
    old.kill()
    new = start(limits="ulimit -f 10000")
    listing = new.link.listing()
    assert {listing[key].status for key in spawned[:99]} == {signal.SIGTERM}
    assert {listing[key].status for key in spawned[99:]} == {0}
    new.link.send(wire.Forget(keys=tuple(spawned)))
    assert new.link.run(order("app.9999#1", "/bin/true", note=NOTE)).status == 0


def test_a_durable_keeper_launches_as_well(start: Start, order: Order, tmp_path: Path) -> None:
    old = start("--durable")
    log = {"stdout": str(tmp_path / "log"), "stderr": str(tmp_path / "log")}
    keys = [f"app.{number}#1" for number in range(50)]
    old.link.send(*(order(key, "/bin/false", **log) for key in keys))
    assert {old.link.ended(key).status for key in keys} == {status_of(1)}
    old.kill()
    assert {kept.status for kept in start().link.listing().values()} == {status_of(1)}


def _used_bytes(keeper: Keeper) -> int:
    return len((keeper.directory / "journal").read_bytes().rstrip(b"\0"))
