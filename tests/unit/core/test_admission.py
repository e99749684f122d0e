"""Whose certificate counts for whom, and until when."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest

from corps.core import events as ev
from corps.core.admission import LOOK_EVERY_S
from corps.core.places import OF_ONE_MAX
from corps.core.records import Event, Record
from corps.core.roster import JOIN_MAX_S
from corps.model.identity import Identity
from corps.model.instance import InstanceState
from corps.model.trail import Deed, TrailEntry
from corps.model.trust import RENEW_GRACE_S, Member, RevokeWorker
from corps.model.worker import WorkerState
from corps.wire import worker as wire
from tests.support.build import CLUSTER, NOW, AMaster, a_hello, a_report

HOUR_S = 3_600.0


def a_member(worker: str = "w1", **facts: Any) -> Member:
    known = {
        "worker": worker,
        "key": f"key of {worker}",
        "serial": "1",
        "joined_at": NOW,
        "expires_at": NOW + HOUR_S,
        "token": "t",
    }
    return Member(**{**known, **facts})


def an_identity(worker: str | None = "w1", **facts: Any) -> Identity:
    known = {
        "cluster": CLUSTER,
        "worker": worker,
        "key": f"key of {worker}",
        "serial": "1",
        "expires_at": NOW + HOUR_S,
    }
    return Identity(**{**known, **facts})


def refused(master: AMaster, session: int) -> str:
    """What it was told; that is the end of its connection."""
    (message,) = master.sent(wire.Refused, session)
    assert message.code == "denied"
    assert [id for id, _ in master.closed()] == [session]
    return message.message


def events(master: AMaster, kind: str) -> list[Event]:
    return [event for event in master.core.cluster.events if event.kind == kind]


def test_a_certificate_that_holds_is_its_worker() -> None:
    master = AMaster([a_member()])
    session = master.open(an_identity())
    master.rejoin(session)
    assert master.core.session_of("w1") == session


def trail(master: AMaster) -> list[Deed]:
    saved = [effect.record for effect in master.said if isinstance(effect, ev.Save)]
    return [record.deed for record in saved if isinstance(record, TrailEntry)]


def test_who_is_turned_away_is_in_the_trail() -> None:
    master = AMaster([a_member(revoked_at=NOW, revoked_by="ann"), a_member("w2")])
    refused(master, master.open(an_identity()))
    deed = trail(master)[-1]
    assert (deed.who, deed.act, deed.outcome) == ("w1", "hello", "denied")
    assert "revoked by ann" in deed.detail
    assert deed.source.startswith("10.0.0.1:")
    master.hear(master.open(an_identity("w2")), a_hello("w1"))
    deed = trail(master)[-1]
    assert (deed.who, deed.subject, deed.outcome) == ("w2", "w1", "denied")


@pytest.mark.parametrize(
    ("identity", "why"),
    [
        (an_identity(cluster="other"), "of another cluster"),
        (an_identity("w9"), "no worker here"),
        (an_identity(None), "a master, which is no worker"),
        (an_identity(key="an earlier key"), "joined anew"),
    ],
    ids=["cluster", "unknown", "master", "key"],
)
def test_a_certificate_that_is_worth_nothing_gets_no_word_in(identity: Identity, why: str) -> None:
    master = AMaster([a_member()])
    session = master.open(identity)
    assert why in refused(master, session)
    master.rejoin(session)
    assert master.core.cluster.workers == {}


def test_a_revoked_one_is_refused_for_good() -> None:
    master = AMaster([a_member(revoked_at=NOW, revoked_by="ann")])
    assert "revoked by ann" in refused(master, master.open(an_identity()))


def test_an_expired_one_may_come_again_with_another() -> None:
    """For so long as it is renewed without a token; later it is refused."""
    master = AMaster([a_member()], now=NOW + HOUR_S + 1)
    session = master.open(an_identity())
    (told,) = master.sent(wire.Expired, session)
    assert "expired" in told.message
    assert master.sent(wire.Refused) == []
    late = AMaster([a_member()], now=NOW + HOUR_S + RENEW_GRACE_S + 1)
    assert "expired" in refused(late, late.open(an_identity()))


def test_a_worker_is_the_one_that_its_certificate_names() -> None:
    master = AMaster([a_member(), a_member("w2")])
    session = master.open(an_identity("w2"))
    master.hear(session, a_hello("w1"))
    assert "of 'w2', not of 'w1'" in refused(master, session)
    for _ in range(3):
        master.hear(master.open(an_identity("w2")), a_hello("w1"))
    (event,) = events(master, "identity")
    assert event.worker == "w2", "said once, however often it tries"


def test_a_name_that_has_a_certificate_is_not_taken_without() -> None:
    master = AMaster([a_member()])
    session = master.open()
    master.hear(session, a_hello("w1"))
    assert "only its certificate" in refused(master, session)
    plain = master.join("w3")
    assert master.core.session_of("w3") == plain


def test_who_was_here_without_goes_when_its_name_joins_by_a_token() -> None:
    master = AMaster()
    session = master.join("w1")
    master.core.cluster.put(a_member())
    master.wait(0.1)
    assert master.closed() == [(session, "w1 has joined by a token, from elsewhere")]


def test_a_revocation_cuts_in_the_same_step() -> None:
    master = AMaster([a_member(), a_member("w2")])
    sessions = [master.join("w1"), master.join("w2")]
    master.order(RevokeWorker(worker="w1"))
    assert [id for id, _ in master.closed()] == sessions[:1]
    assert master.core.session_of("w1") is None
    assert master.worker("w1").state is WorkerState.SUSPECT
    assert master.core.session_of("w2") == sessions[1]


def test_a_session_ends_with_its_certificate_unless_that_was_renewed() -> None:
    master = AMaster([a_member(), a_member("w2")])
    first, second = master.join("w1"), master.join("w2")
    renewed = msgspec.structs.replace(a_member("w2"), expires_at=NOW + 2 * HOUR_S)
    master.core.cluster.put(renewed)
    master.now = NOW + HOUR_S
    master.hear(first, wire.Heartbeat(seq=1))
    master.hear(second, wire.Heartbeat(seq=1))
    assert master.closed() == []
    for beat in range(round(LOOK_EVERY_S) + 1):
        master.wait(1.0)
        master.hear(second, wire.Heartbeat(seq=2 + beat))
        if master.core.session_of("w1") == first:
            master.hear(first, wire.Heartbeat(seq=2 + beat))
    assert [id for id, _ in master.closed()] == [first]
    assert master.core.session_of("w2") == second


def test_a_worker_reports_on_its_own_instances_only() -> None:
    """B040-B045: of those of another one it is not believed, and operators hear of it."""
    records: list[Record] = [a_member(), a_member("w2")]
    master = AMaster(records)
    first, second = master.join("w1"), master.join("w2")
    instance = master.launch_running(first, "w1")
    master.hear(second, wire.Changed(reports=(a_report(instance.key, InstanceState.DEAD),)))
    assert master.instance(instance.id).state is InstanceState.RUNNING
    master.hear(second, wire.Removed(keys=(instance.key,)))
    assert instance.id in master.core.cluster.instances
    master.hear(second, wire.Changed(reports=(a_report("nobody.1#1"),)))
    said = events(master, "foreign")
    assert [event.worker for event in said] == ["w2", "w2"]
    assert instance.key in said[0].message


def test_who_says_nothing_is_cut_with_a_certificate_too() -> None:
    master = AMaster([a_member()])
    session = master.open(an_identity())
    master.wait(JOIN_MAX_S + 1)
    assert [id for id, _ in master.closed()] == [session]


def test_one_that_was_taken_over_has_no_more_than_its_places() -> None:
    """Neither by silence, nor as ever so many rivals of itself, which nobody else would cut."""
    master = AMaster([a_member(), a_member("w2")])
    first = master.join()
    for number in range(10 * OF_ONE_MAX):
        rival = master.open(an_identity())
        hello = a_hello(process_id=f"process-{number}")
        master.hear(rival, hello, wire.Inventory(reports=(), artifacts=(), is_last=True))
    cut = {id for id, _ in master.closed()}
    assert len(cut) == 9 * OF_ONE_MAX + 1
    assert not cut & {first, rival}
    assert master.core.session_of("w1") == first
    assert master.join("w2") == master.core.session_of("w2")
