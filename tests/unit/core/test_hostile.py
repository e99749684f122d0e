"""Whatever a peer says, a core neither raises nor loses an invariant."""

from __future__ import annotations

from random import Random
from typing import Any

import msgspec
import pytest

from corps.core import events as ev
from corps.core.observe import FOREIGN_MAX
from corps.core.records import Event
from corps.model.command import Copy, Delete, Kill, Launch, Remove, Signal, Stop
from corps.model.instance import (
    Delivered,
    Exited,
    InstanceState,
    Launchable,
    Signaled,
    SpawnFailed,
    Usage,
    Vanished,
)
from corps.model.secret import AsFd, DeleteSecret, Revealed, Sealed, SetSecret
from corps.model.series import Measured
from corps.model.terms import Terms
from corps.wire import keeper as kw
from corps.wire import worker as wire
from corps.wire.secret import Secrets, WantSecrets
from tests.support.build import DIGEST, AMaster, AWorker, a_hello, a_report, kept

SEEDS = range(40)
WORDS = 150
KEYS = (
    "web.1#1", "web.2#1", "web.3#1", "api.1#1", "web.1#2", "", "#", "##", "web.1", "x" * 300,
    "web.999999999999999999#1", "web.1#" + "9" * 5_000, "web.01#1", "web.1#01", "-1#1",
    "web.1#", "a\n.1#1",
)  # fmt: skip
TIMES = (None, 0.0, -1.0, 1.75e9, 1e300, float("nan"), float("inf"), float("-inf"))
NUMBERS = (0, 1, -1, 9, 255, 256, 1 << 31, (1 << 64) - 1, -(1 << 63))
DIGESTS = (DIGEST, "2" * 64, "", "../../etc", "x" * 10_000)
TEXTS = ("", "no space left", "\x1b[2J", "\u202e" * 50, "x" * 100_000)


class Liar:
    """Says anything that the wire would let through."""

    def __init__(self, seed: int) -> None:
        self.rng = Random(seed)

    def any(self, values: Any) -> Any:
        return self.rng.choice(values)

    def death(self) -> Any:
        return self.any(
            (
                None,
                Exited(code=self.any(NUMBERS)),
                Signaled(signal=self.any(NUMBERS)),
                SpawnFailed(
                    stage=self.any(TEXTS), errno=self.any(NUMBERS), message=self.any(TEXTS)
                ),
                Vanished(reason=self.any(TEXTS)),
            )
        )

    def usage(self) -> Usage | None:
        if self.rng.random() < 0.5:
            return None
        return Usage(
            cpu_user_s=self.any(TIMES[1:]),
            cpu_system_s=self.any(TIMES[1:]),
            max_rss_bytes=self.any(NUMBERS),
            rss_bytes=self.any(NUMBERS),
        )

    def report(self) -> wire.Report:
        sent = [
            Delivered(signal=self.any(NUMBERS), at=self.any(TIMES[1:]))
            for _ in range(self.rng.randrange(3))
        ]
        return wire.Report(
            key=self.any(KEYS),
            state=self.any([*InstanceState]),
            digest=self.any(DIGESTS),
            pid=self.any((None, *NUMBERS)),
            received_at=self.any(TIMES),
            fetched_at=self.any(TIMES),
            forked_at=self.any(TIMES),
            started_at=self.any(TIMES),
            ended_at=self.any(TIMES),
            delivered=tuple(sent),
            death=self.death(),
            usage=self.usage(),
            measured=self.measured(),
        )

    def measured(self) -> Measured | None:
        if self.rng.random() < 0.5:
            return None
        times = {name: self.any(TIMES[1:]) for name in ("at", "cpu_user_s", "cpu_system_s")}
        fields = {name: self.any(NUMBERS) for name in Measured.__struct_fields__}
        return Measured(**{**fields, **times})

    def reports(self) -> tuple[wire.Report, ...]:
        return tuple(self.report() for _ in range(self.rng.randrange(4)))

    def keys(self) -> tuple[str, ...]:
        return tuple(self.any(KEYS) for _ in range(self.rng.randrange(4)))

    def to_master(self, orders: list[str]) -> wire.FromWorker:
        numbers = {
            name: self.any(NUMBERS)
            for name in ("bytes_sent", "bytes_total", "files_sent", "files_total")
        }
        digest = self.any(DIGESTS)
        sent, total = numbers["bytes_sent"], numbers["bytes_total"]
        message: wire.FromWorker = self.any(
            (
                a_hello(self.any(("w1", "w1", "w2", "W", "")), cpu_count=self.any(NUMBERS)),
                a_hello("w1"),
                wire.Inventory(
                    reports=self.reports(), artifacts=(digest,), is_last=self.rng.random() < 0.8
                ),
                wire.Heartbeat(seq=self.any(NUMBERS)),
                wire.Changed(reports=self.reports()),
                wire.Changed(reports=self.reports()),
                wire.Installed(digest=digest, seconds=self.any(TIMES[1:]), **numbers),
                wire.InstallFailed(digest=digest, message=self.any(TEXTS)),
                wire.Progress(digest=digest, bytes_sent=sent, bytes_total=total),
                wire.Uninstalled(digest=digest, in_use=self.rng.random() < 0.5),
                wire.Removed(keys=self.keys()),
                WantSecrets(key=self.any(KEYS)),
                wire.SignalDone(
                    key=self.any(KEYS), command=self.any([*orders, ""]), errno=self.any(NUMBERS)
                ),
            )
        )
        return message

    def to_worker(self) -> wire.ToWorker:
        key, digest = self.any(KEYS[:5]), self.any(DIGESTS)
        message: wire.ToWorker = self.any(
            (
                wire.Welcome(cluster=self.any(("c-1", "c-2")), epoch=1, heartbeat_s=1.0),
                wire.Rejoin(),
                wire.Start(key=key, launch=Launchable(artifact="web", digest=digest)),
                wire.Start(key=key, launch=Launchable(artifact="web", digest=digest)),
                wire.Start(key=key, launch=a_secretive_launch(digest)),
                Secrets(key=key, secrets=self.any(((), (A_SECRET,), (A_SECRET, A_SECRET)))),
                Secrets(key=key, secrets=(A_SECRET,)),
                Secrets(key=key, problem=self.any(TEXTS)),
                wire.End(key=key, signal=self.any((2, 9)), grace_s=self.any((None, 0.0, 1.0))),
                wire.SendSignal(key=key, signal=self.any((2, 10)), command="order"),
                wire.Forget(keys=self.keys()),
                wire.Remove(keys=self.keys()),
                wire.Install(digest=digest),
                wire.Uninstall(digest=digest),
            )
        )
        return message

    def from_keeper(self) -> kw.FromKeeper:
        key = self.any(KEYS[:5])
        attempt = kept(
            key,
            is_live=self.rng.random() < 0.5,
            executed=self.rng.random() < 0.8,
            status=self.any((None, 0, 9, 256, 1 << 40)),
            failed_stage=self.any((None, None, "execve")),
        )
        message: kw.FromKeeper = self.any(
            (
                kw.Spawned(key=key, pid=self.any((1, 100)), forked_at=1.0, executed_at=2.0),
                kw.Ended(attempt=attempt),
                kw.Signaled(key=key, signal=self.any((2, 10)), errno=self.any((0, 3))),
                kw.Refused(key=self.any((None, key)), reason=self.any(TEXTS)),
                kw.Listing(
                    attempts=(attempt,),
                    totals=wire.Totals(),
                    keeper_pid=1,
                    is_last=self.rng.random() < 0.8,
                    gives_secrets=self.rng.random() < 0.8,
                ),
            )
        )
        return message


A_SECRET = Revealed(name="db", version=1, value=b"v")


def a_secretive_launch(digest: str) -> Launchable:
    terms = Terms(secrets=(AsFd(name="db", fd=3),))
    return Launchable(artifact="web", digest=digest, terms=terms)


COMMANDS = (
    Copy(name="web", digest=DIGEST),
    Launch(artifact="web", count=2),
    Launch(artifact="web", terms=Terms(secrets=(AsFd(name="db", fd=3),))),
    SetSecret(name="db", content=Sealed(version=1, nonce=b"n", box=b"b")),
    SetSecret(name="db", content=Sealed(version=2, nonce=b"n", box=b"b")),
    DeleteSecret(name="db"),
    Stop(targets=("--all",)),
    Kill(targets=("web.1",)),
    Signal(targets=("web.1",), signal=10),
    Remove(targets=("web.1",)),
    Delete(artifact="web"),
)


@pytest.mark.parametrize("seed", SEEDS)
def test_a_worker_may_say_anything_to_the_master(seed: int) -> None:
    liar = Liar(seed)
    master = AMaster()
    master.join("w1")
    master.join("w2")
    sessions = [1, 2]
    orders: list[str] = []
    for number in range(WORDS):
        if liar.rng.random() < 0.2:
            orders.append(f"order-{number:04d}")
            master.order(liar.any(COMMANDS), id=orders[-1])
        if liar.rng.random() < 0.1:
            sessions.append(liar.any((master.open, lambda: master.join("w1")))())
        if liar.rng.random() < 0.05:
            master.wait(0.5)
        said = [liar.to_master(orders) for _ in range(liar.rng.randrange(1, 4))]
        master.hear(liar.any(sessions), *said)
    for table in ("workers", "artifacts", "instances", "commands"):
        for record in getattr(master.core.cluster, table).values():
            data = msgspec.json.encode(record)
            assert msgspec.json.decode(data, type=type(record)) == record, "it can be read back"
    assert max(len(event.message) for event in master.core.cluster.events) < 2_000
    master.restart()


@pytest.mark.parametrize("seed", SEEDS)
def test_anything_may_be_said_to_a_worker(seed: int) -> None:
    liar = Liar(seed)
    worker = AWorker()
    for _ in range(WORDS):
        worker.step(
            liar.any(
                (
                    ev.MasterSaid((liar.to_worker(), liar.to_worker())),
                    ev.MasterSaid((liar.to_worker(),)),
                    ev.KeeperSaid((liar.from_keeper(),)),
                    ev.KeeperSaid((liar.from_keeper(),)),
                    ev.KeeperGone(),
                    ev.Linked(),
                    ev.Unlinked(),
                    ev.SpawnBlocked(liar.any(KEYS), "log", 28, liar.any(TEXTS)),
                    ev.Performed(wire.InstallFailed(digest=liar.any(DIGESTS), message="no")),
                    ev.Peaks(((liar.any(KEYS), 5),)),
                )
            )
        )
        worker.wait(0.3)


def test_very_many_foreign_attempts_fill_neither_memory_nor_history() -> None:
    master = AMaster()
    session = master.join()
    for start in range(1, 100_001, 50_000):
        reports = tuple(a_report(f"evil.{n}#1") for n in range(start, start + 50_000))
        master.hear(session, wire.Changed(reports=reports))
    events = [event for event in master.core.cluster.events if event.kind == "foreign"]
    assert len(events) == FOREIGN_MAX
    assert all(isinstance(event, Event) and len(event.message) < 200 for event in events)
    assert list(master.core.cluster.instances) == []
