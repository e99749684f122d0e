"""Rotating the CA: whom it waits for, who is told, and when it is over."""

from __future__ import annotations

import itertools

from corps.core import events as ev
from corps.core.rotation import PINS_MAX
from corps.model.command import AnyResult, Failure, Ruled
from corps.model.identity import Identity
from corps.model.trust import RENEW_GRACE_S, Member, RevokeWorker, RotateCa
from corps.wire.worker import Trust, Trusting
from tests.support.build import CLUSTER, NOW, AMaster

OLD, NEW = "old", "new"
SESSIONS = itertools.count(100)


def a_master(*workers: str, **facts: object) -> AMaster:
    """Members of the old CA, which say so."""
    known = {"trusts": (OLD,), "issuer": OLD, "expires_at": NOW + 86_400.0, **facts}
    members = [
        Member(worker=name, key=name, serial="1", joined_at=NOW, token="t", **known)  # type: ignore[arg-type]  # facts of Member
        for name in workers
    ]
    master = AMaster(members)
    root(master, OLD)
    return master


def join(master: AMaster, name: str) -> int:
    """With its certificate."""
    session = next(SESSIONS)
    identity = Identity(
        cluster=CLUSTER, worker=name, key=name, serial="1", expires_at=NOW + 86_400.0
    )
    master.step(ev.Opened(session, "10.0.0.9:4001", identity))
    master.rejoin(session, name)
    return session


def root(master: AMaster, *pins: str) -> None:
    master.step(ev.Rooted(b"PEM of " + "+".join(pins).encode(), pins))


def rotate(master: AMaster) -> AnyResult:
    effects = master.order(RotateCa())
    (result,) = [effect.result for effect in effects if isinstance(effect, ev.Reply)]
    return result


def is_under_way(master: AMaster) -> bool:
    return master.core.cluster.meta.rotation is not None


def told(master: AMaster, session: int) -> list[bytes]:
    return [message.authorities for message in master.sent(Trust, session)]


def test_it_goes_on_as_far_as_the_last_worker_and_survives_a_restart() -> None:
    master = a_master("w1", "w2")
    session = join(master, "w1")
    assert isinstance(rotate(master), Ruled)
    assert isinstance(rotate(master), Failure)
    root(master, OLD, NEW)
    assert told(master, session) == [b"PEM of old+new"]
    assert master.core.lagging() == ("w1", "w2")
    master.hear(session, Trusting(pins=(OLD, NEW), issuer=OLD))
    assert master.core.lagging() == ("w2",)
    other = join(master, "w2")
    master.hear(other, Trusting(pins=(OLD,), issuer=OLD))
    assert told(master, other) == [b"PEM of old+new"]
    master.hear(other, Trusting(pins=(OLD, NEW), issuer=OLD))
    assert master.core.lagging() == ()

    master.restart()
    root(master, NEW, OLD)
    assert master.core.lagging() == ("w1", "w2")
    session, other = join(master, "w1"), join(master, "w2")
    for number, name in ((session, "w1"), (other, "w2")):
        assert name in master.core.lagging()
        master.hear(number, Trusting(pins=(NEW, OLD), issuer=NEW))
    assert master.core.lagging() == ()
    assert is_under_way(master)

    root(master, NEW)
    assert not is_under_way(master)
    assert master.events("ca")[-2:] == ["ca-rotation", "ca-rotated"]
    assert isinstance(rotate(master), Ruled)


def test_it_waits_for_nobody_who_cannot_come_back() -> None:
    master = a_master("w1", "w2")
    rotate(master)
    root(master, OLD, NEW)
    master.order(RevokeWorker(worker="w1"))
    assert master.core.lagging() == ("w2",)
    master.pause(86_400.0 + RENEW_GRACE_S + 1)
    assert master.core.lagging() == ()


def test_who_has_what_there_is_hears_nothing() -> None:
    master = a_master("w1")
    session = join(master, "w1")
    master.hear(session, Trusting(pins=(OLD,), issuer=OLD))
    assert told(master, session) == []
    assert master.core.lagging() == ()


def test_what_no_honest_worker_says_is_not_kept() -> None:
    master = a_master("w1")
    session = join(master, "w1")
    master.hear(session, Trusting(pins=(NEW,) * (PINS_MAX + 1), issuer=OLD))
    master.hear(session, Trusting(pins=("x" * 1_000,), issuer=OLD))
    assert master.core.cluster.roll.members["w1"].trusts == (OLD,)
    stranger = master.join("w9")
    master.hear(stranger, Trusting(pins=(OLD,), issuer=OLD))
    assert "w9" not in master.core.cluster.roll.members


def test_without_a_ca_there_is_nothing_to_rotate() -> None:
    refusal = rotate(AMaster())
    assert isinstance(refusal, Failure)
    assert "no CA yet" in refusal.message
