"""Secrets in the two cores: who may be handed what, and what waits for it."""

from __future__ import annotations

import msgspec
import pytest

from corps.core import events as ev
from corps.core.secrets import TOLD_MAX
from corps.model.command import AnyCommand, AnyResult, Failure, Kill, Launch, Ruled
from corps.model.instance import InstanceState, Launchable, SpawnFailed
from corps.model.secret import (
    AsFd,
    AsFile,
    AsVariable,
    Clear,
    DeleteSecret,
    Revealed,
    Sealed,
    SetSecret,
)
from corps.model.terms import Restart, Terms
from corps.wire import keeper as kw
from corps.wire import worker as wire
from corps.wire.secret import Secrets, WantSecrets
from tests.support.build import (
    DIGEST,
    AMaster,
    AWorker,
    a_death_report,
    a_ready_worker,
    reports,
    told,
)

S = InstanceState
KEY = "web.1#1"
NAMED = Terms(secrets=(AsFile(name="db", file="db"), AsFd(name="db", fd=3)))


def sealed(version: int = 1) -> Sealed:
    return Sealed(version=version, nonce=b"nonce", box=b"box %d" % version)


def set_secret(master: AMaster, version: int = 1, name: str = "db") -> AnyResult:
    return answer(master, SetSecret(name=name, content=sealed(version)))


def answer(master: AMaster, command: AnyCommand) -> AnyResult:
    (result,) = [e.result for e in master.order(command) if isinstance(e, ev.Reply)]
    return result


def failure(master: AMaster, command: AnyCommand) -> str:
    result = answer(master, command)
    assert isinstance(result, Failure)
    return f"{result.code}: {result.message}"


def revealed(master: AMaster, session: int, key: str = KEY) -> list[tuple[int, str, list[int]]]:
    """What the driver is to send for a question, and to whom."""
    effects = master.hear(session, WantSecrets(key=key))
    return [
        (e.session, e.key, [secret.sealed.version for secret in e.secrets])
        for e in effects
        if isinstance(e, ev.Reveal)
    ]


# ---- the master


def test_versions_count_and_only_what_is_sealed_is_decided_upon() -> None:
    master = AMaster()
    for content in (None, Clear(value=b"hunter2")):
        assert failure(master, SetSecret(name="db", content=content)).startswith("invalid: ")
    assert "changed meanwhile" in failure(master, SetSecret(name="db", content=sealed(2)))
    assert set_secret(master) == Ruled(subject="db") == set_secret(master, 2)
    secret = master.core.cluster.roll.secrets["db"]
    assert secret.sealed == sealed(2)
    assert "bad secret name" in failure(master, SetSecret(name="D B", content=sealed()))
    master.restart()
    assert master.core.cluster.roll.secrets["db"] == secret


def test_what_is_kept_of_a_command_has_no_content() -> None:
    master = AMaster()
    command = SetSecret(name="db", content=sealed())
    master.order(command, id="order-1", body="b")
    (record,) = master.core.cluster.commands.values()
    assert record.command == SetSecret(name="db", content=None)
    again = master.order(SetSecret(name="db", content=sealed(2)), id="order-1", body="b")
    assert [e.result for e in again if isinstance(e, ev.Reply)] == [Ruled(subject="db")]
    assert master.core.cluster.roll.secrets["db"].sealed == sealed()
    master.order(DeleteSecret(name="db"))
    kept = msgspec.json.encode(list(master._stored.values()))
    assert msgspec.json.encode(sealed().box).strip(b'"') not in kept, "nor anywhere else"


def test_a_launch_of_what_is_not_there_is_refused() -> None:
    master = AMaster()
    master.join()
    set_secret(master)
    master.launch()
    near = Terms(secrets=(AsFile(name="dbb", file="x"),))
    assert "no secret 'dbb'; did you mean 'db'?" in failure(
        master, Launch(artifact="web", terms=near)
    )
    twice = Terms(secrets=(AsVariable(name="db", variable="X"),))
    assert "'X' is given twice" in failure(
        master, Launch(artifact="web", env={"X": "1"}, terms=twice)
    )


def test_only_the_worker_of_an_attempt_that_is_to_start_is_handed_what_it_names() -> None:
    master = AMaster()
    one, two = master.join("w1"), master.join("w2")
    set_secret(master)
    set_secret(master, name="other")
    (instance,) = master.launch(on="w1", terms=NAMED)
    assert revealed(master, one) == [(one, KEY, [1])]
    for session, key in ((two, KEY), (one, "web.1#2"), (one, "web.2#1"), (one, "x"), (one, "")):
        assert revealed(master, session, key) == [], key
        (refused,) = [m for m in master.sent(Secrets, session) if m.key == key]
        assert refused.problem is not None and "got no secret" in refused.problem
    set_secret(master, 2)
    assert revealed(master, one) == [(one, KEY, [2])]
    dead = a_death_report(KEY)
    master.hear(one, wire.Changed(reports=(dead,)))
    assert revealed(master, one) == []
    assert instance.launch.terms == NAMED


def test_what_is_to_end_is_handed_nothing() -> None:
    master = AMaster()
    session = master.join()
    set_secret(master)
    master.launch(terms=NAMED)
    master.order(Kill(targets=("web.1",)))
    assert revealed(master, session) == []
    assert master.sent(Secrets)[-1].problem == "it is to end, not to start"


def test_a_secret_stays_while_anybody_needs_it() -> None:
    master = AMaster()
    session = master.join()
    set_secret(master)
    master.launch(terms=NAMED, restart=Restart.ALWAYS)
    assert "'web.1': stop them first" in failure(master, DeleteSecret(name="db"))
    master.hear(session, wire.Changed(reports=(a_death_report(KEY),)))
    assert master.instance("web.1").is_waiting
    assert "'web.1': stop them first" in failure(master, DeleteSecret(name="db"))
    master.order(Kill(targets=("web.1",)))
    assert answer(master, DeleteSecret(name="db")) == Ruled(subject="db")
    assert "no secret 'db'" in failure(master, DeleteSecret(name="db"))
    assert set_secret(master) == Ruled(subject="db")


def test_each_hand_over_is_in_the_trail_once_however_often_it_is_asked_for() -> None:
    master = AMaster()
    session = master.join()
    set_secret(master)
    master.launch(terms=NAMED)
    before = master.core.cluster.chain.head.seq
    for _ in range(5):
        revealed(master, session)
    assert master.core.cluster.chain.head.seq == before + 1
    assert master.events("web.1").count("secrets") == 1
    for number in range(TOLD_MAX + 200):
        revealed(master, session, f"evil.{number + 1}#1")
    assert len(master.core._desk._told) <= TOLD_MAX
    assert master.core.cluster.chain.head.seq < before + 200, "denials of one source have a limit"


# ---- the worker


def a_waiting_worker() -> AWorker:
    worker = a_ready_worker()
    launch = Launchable(artifact="web", digest=DIGEST, terms=NAMED)
    effects = worker.obey(wire.Start(key=KEY, launch=launch))
    assert told(effects, WantSecrets) == [WantSecrets(key=KEY)]
    assert not spawned(effects)
    return worker


def spawned(effects: list[ev.WorkerEffect]) -> list[ev.Spawn]:
    return [effect for effect in effects if isinstance(effect, ev.Spawn)]


def some(*names: str) -> tuple[Revealed, ...]:
    return tuple(Revealed(name=name, version=1, value=b"v") for name in names)


def test_an_attempt_starts_with_its_secrets_once() -> None:
    worker = a_waiting_worker()
    given = Secrets(key=KEY, secrets=some("db"))
    (spawn,) = spawned(worker.obey(given))
    assert (spawn.key, spawn.secrets) == (KEY, some("db"))
    assert not spawned(worker.obey(given, given))


@pytest.mark.parametrize(
    "wrong",
    [
        Secrets(key=KEY, problem="no secret 'db'"),
        Secrets(key=KEY, secrets=some("other")),
        Secrets(key=KEY),
        Secrets(key=KEY, secrets=some("db", "more")),
    ],
)
def test_without_them_it_does_not_start_and_says_why(wrong: Secrets) -> None:
    worker = a_waiting_worker()
    effects = worker.obey(wrong)
    assert not spawned(effects)
    death = reports(effects)[KEY].death
    assert isinstance(death, SpawnFailed) and death.stage == "secrets"
    assert death.message == (wrong.problem or "its master sent other secrets")


def test_they_are_asked_for_until_they_come_also_on_the_next_connection() -> None:
    worker = a_waiting_worker()
    assert told(worker.wait(1.2), WantSecrets)
    worker.step(ev.Unlinked())
    assert not told(worker.wait(3.0), WantSecrets)
    worker.step(ev.Linked())
    worker.welcome()
    assert told(worker.wait(1.2), WantSecrets)
    (spawn,) = spawned(worker.obey(Secrets(key=KEY, secrets=some("db"))))
    assert not spawn.is_verified, "that was long ago"
    assert not told(worker.wait(3.0), WantSecrets)


def test_a_stop_ends_the_waiting_at_once() -> None:
    worker = a_waiting_worker()
    effects = worker.obey(wire.End(key=KEY, signal=2, grace_s=5.0))
    assert isinstance(reports(effects)[KEY].death, SpawnFailed)
    assert not spawned(worker.obey(Secrets(key=KEY, secrets=some("db"))))
    assert not told(worker.wait(3.0), WantSecrets)


def test_what_was_on_its_way_to_a_keeper_that_died_is_asked_for_anew() -> None:
    worker = a_waiting_worker()
    worker.obey(Secrets(key=KEY, secrets=some("db")))
    worker.step(ev.KeeperGone())
    assert told(worker.keeper_lists(), WantSecrets) == [WantSecrets(key=KEY)]
    (spawn,) = spawned(worker.obey(Secrets(key=KEY, secrets=some("db"))))
    assert spawn.key == KEY


def test_a_keeper_that_knows_no_secrets_is_given_none() -> None:
    worker = AWorker()
    listing = kw.Listing(attempts=(), totals=wire.Totals(), keeper_pid=7, is_last=True)
    worker.keeper_says(listing)
    worker.step(ev.Linked())
    worker.welcome()
    launch = Launchable(artifact="web", digest=DIGEST, terms=NAMED)
    effects = worker.obey(wire.Start(key=KEY, launch=launch))
    death = reports(effects)[KEY].death
    assert isinstance(death, SpawnFailed) and "older corps" in death.message
    worker.start("web.2#1")
    worker.spawned("web.2#1")
    assert worker.state("web.2#1") is S.RUNNING
