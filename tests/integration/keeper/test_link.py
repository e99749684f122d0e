"""The connection: frames in pieces, pidfds in order; a worker that is slow, new or a stranger."""

from __future__ import annotations

import contextlib
import os
import signal
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from corps.wire import keeper as wire
from tests.integration.keeper.driver import ENCODER, Keeper, Link, frame, pid_of, status_of
from tests.support.waiting import until

Start = Callable[..., Keeper]
Order = Callable[..., wire.Spawn]
Built = Callable[[str], str]

BAD = {
    "empty": frame(b""),
    "too long": struct.pack(">I", (4 << 20) + 1),
    "no JSON": frame(b"{"),
    "no object": frame(b"[]"),
    "no text": frame(b"\xff\xfe\x00"),
    "no type": frame(b"{}"),
    "odd type": frame(b'{"type":["list"]}'),
    "unknown type": frame(b'{"type":"dance"}'),
    "field missing": frame(b'{"type":"signal","key":"app.1#1"}'),
    "field wrong": frame(b'{"type":"signal","key":"app.1#1","signal":true}'),
    "deep": frame(b"[" * 200_000),
    "huge number": frame(b'{"type":"signal","key":"app.1#1","signal":' + b"9" * 5_000 + b"}"),
    "no key": frame(
        b'{"type":"spawn","key":"\xc3\xbc","path":"","argv":[""],"env":{},"cwd":"",'
        b'"stdout":"","stderr":"","note":""}'
    ),
}


def test_a_bad_frame_closes_its_connection_and_nothing_else(
    keeper: Keeper, order: Order, built: Built
) -> None:
    pid = keeper.link.spawn(order("app.1#1", built("wait"))).pid
    for data in BAD.values():
        keeper.link.send_raw(data)
        assert keeper.link.closed()
        kept = keeper.connect().listing()["app.1#1"]
        assert (kept.is_live, kept.pid, kept.signals) == (True, pid, ())
    keeper.link.send_raw(frame(ENCODER.encode(wire.ListAll()))[:-1])
    assert keeper.connect().listing()["app.1#1"].is_live, "half a frame is no order"


def test_a_frame_may_come_in_any_pieces(keeper: Keeper, order: Order) -> None:
    said = (order("app.1#1", "/bin/true"), order("app.2#1", "/bin/false"), wire.ListAll())
    data = b"".join(frame(ENCODER.encode(message)) for message in said)
    for at in range(len(data)):
        keeper.link.send_raw(data[at : at + 1])
    assert keeper.link.ended("app.1#1").status == 0
    assert keeper.link.ended("app.2#1").status == status_of(1)
    keeper.link.wait(wire.Listing)
    big = order("app.3#1", "/bin/true", env={f"N{n}": "x" * 1_000 for n in range(1_000)})
    assert keeper.link.run(big).status == 0


def test_each_pidfd_comes_with_its_own_message_however_late_it_is_read(
    keeper: Keeper, order: Order, tmp_path: Path
) -> None:
    log = {"stdout": str(tmp_path / "log"), "stderr": str(tmp_path / "log"), "note": "x" * 300}
    keys = [f"app.{number}#1" for number in range(300)]
    for key in keys:
        short = order(f"{key}0", "/bin/true", **log)
        keeper.link.send(order(key, "/bin/sleep", "1000", **log), short)
    until(lambda: _names(keeper.pid) == ["sleep"] * len(keys))
    keeper.link.send(wire.ListAll(), wire.ListAll(), wire.ListAll())
    pids = {key: keeper.link.wait(wire.Spawned, key).pid for key in keys}
    parts = [keeper.link.wait(wire.Listing) for _ in range(9)]
    assert sum(part.is_last for part in parts) == 3
    assert {key: pid_of(keeper.link.pidfds[key]) for key in keys} == pids
    ended = {pid_of(keeper.link.pidfds[f"{key}0"]) for key in keys}
    assert ended == {-1}, "the pidfd in the queue outlives its process"


def test_a_worker_that_does_not_read_is_cut_off_and_loses_nothing(
    keeper: Keeper, order: Order, tmp_path: Path
) -> None:
    log = {"stdout": str(tmp_path / "log"), "stderr": str(tmp_path / "log"), "note": "x" * 8_000}
    keys = [f"app.{number}#1" for number in range(100)]
    keeper.link.send(*(order(key, "/bin/true", **log) for key in keys))
    for key in keys:
        keeper.link.ended(key)
    slow = keeper.link
    asks = frame(ENCODER.encode(wire.ListAll())) * 100
    slow.send_raw(asks)
    until(lambda: "does not read" in keeper.errors.read_text())
    assert sorted(keeper.connect().listing()) == sorted(keys)


def test_the_newest_connection_wins(keeper: Keeper, order: Order, built: Built) -> None:
    keeper.link.spawn(order("app.1#1", built("wait")))
    old = keeper.link
    new = Link(keeper.directory)
    assert old.closed()
    assert new.listing()["app.1#1"].is_live
    assert new.signal("app.1#1", signal.SIGKILL) == 0
    assert new.ended("app.1#1").status == signal.SIGKILL
    new.close()


@pytest.mark.root
def test_a_stranger_is_turned_away(keeper: Keeper) -> None:
    keeper.directory.chmod(0o755)
    (keeper.directory / "keeper.sock").chmod(0o666)
    at = os.open(keeper.directory, os.O_PATH)
    pid = os.fork()
    if pid == 0:
        code = 9
        try:
            os.setresuid(65_534, 65_534, 65_534)
            link = Link(Path(f"/proc/self/fd/{at}"))
            code = 0 if link.closed() else 1
        finally:
            os._exit(code)
    os.close(at)
    assert os.waitpid(pid, 0)[1] == 0
    assert keeper.link.listing() == {}, "the worker's own connection stays"


def _names(keeper: int) -> list[str]:
    """What the children of the keeper run."""
    pids = Path(f"/proc/{keeper}/task/{keeper}/children").read_text().split()
    names = []
    for pid in pids:
        with contextlib.suppress(OSError):  # it has just ended
            names.append(Path(f"/proc/{pid}/comm").read_text().strip())
    return names
