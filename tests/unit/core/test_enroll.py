"""Members: who becomes one by a token, who stays one, and whose session ends."""

from __future__ import annotations

from corps.core import events as ev
from corps.model.command import AnyResult, Failure, Ruled
from corps.model.identity import Identity
from corps.model.trail import Outcome, TrailEntry
from corps.model.trust import RENEW_GRACE_S, CreateToken, RevokeToken, RevokeWorker
from tests.support.build import CLUSTER, AMaster, a_worker

TOKEN = "abcdefgh"
DAY_S = 86_400.0


def answer(effects: list[ev.MasterEffect]) -> AnyResult:
    (result,) = [effect.result for effect in effects if isinstance(effect, ev.Reply)]
    return result


def with_token(uses: int = 1, worker: str | None = None, ttl_s: float = 3_600.0) -> AMaster:
    master = AMaster([a_worker("local")])
    order = CreateToken(id=TOKEN, secret_hash="0" * 64, uses=uses, worker=worker, ttl_s=ttl_s)
    master.order(order)
    return master


def enroll(master: AMaster, worker: str = "w1", key: str = "k1") -> AnyResult:
    event = ev.Enroll(
        id=f"enroll-{worker}-{key}",
        token=TOKEN,
        worker=worker,
        key=key,
        serial="1",
        expires_at=master.now + DAY_S,
        address="10.0.0.9:4000",
    )
    return answer(master.step(event))


def refused(result: AnyResult, text: str) -> bool:
    return isinstance(result, Failure) and text in result.message


def identity(master: AMaster, worker: str = "w1", key: str = "k1", **facts: object) -> Identity:
    known = {"cluster": CLUSTER, "serial": "1", "expires_at": master.now + DAY_S, **facts}
    return Identity(worker=worker, key=key, **known)  # type: ignore[arg-type]  # facts of Identity


# ---- by a token


def test_a_use_and_a_member_are_one_step_that_survives_a_crash() -> None:
    master = with_token()
    assert isinstance(enroll(master), Ruled)
    master.restart()
    roll = master.core.cluster.roll
    assert roll.join_tokens[TOKEN].uses_left == 0
    assert roll.members["w1"].key == "k1"
    assert refused(enroll(master, "w2", "k2"), "used up")
    assert "enrolled" in master.events("w1")


def test_the_answer_is_durable_before_it_is_given() -> None:
    master = with_token()
    event = ev.Enroll("enroll-1", TOKEN, "w1", "k1", "1", master.now + DAY_S, "10.0.0.9:1")
    effects = master.step(event)
    saved = [index for index, effect in enumerate(effects) if isinstance(effect, ev.Save)]
    (replied,) = [index for index, effect in enumerate(effects) if isinstance(effect, ev.Reply)]
    assert max(saved) < replied


def test_why_nobody_gets_in() -> None:
    assert refused(enroll(with_token(worker="w7")), "is for w7")
    assert refused(enroll(with_token(), "all"), "every worker")
    assert refused(enroll(with_token(), "../w1"), "bad worker name")
    assert refused(enroll(with_token(), "local"), "there is a worker local already")
    late = with_token(ttl_s=10.0)
    late.now += 10.0
    assert refused(enroll(late), "expired")
    revoked = with_token()
    revoked.order(RevokeToken(id=TOKEN))
    assert refused(enroll(revoked), "unknown or revoked")
    for master in (late, revoked):
        assert master.core.cluster.roll.members == {}


def test_the_same_key_and_token_cost_one_use() -> None:
    master = with_token(uses=2)
    enroll(master)
    assert isinstance(enroll(master), Ruled)
    assert master.core.cluster.roll.join_tokens[TOKEN].uses_left == 1
    assert refused(enroll(master, key="k2"), "already")


def test_who_is_revoked_does_not_come_back_by_the_token_it_came_by() -> None:
    """Whoever has its key has that token, too: neither by another key, nor by another name."""
    master = with_token(uses=3)
    assert isinstance(enroll(master), Ruled)
    master.order(RevokeWorker(worker="w1"))
    assert refused(enroll(master, key="k2"), "unknown or revoked")
    assert refused(enroll(master, "w2", "k2"), "unknown or revoked")
    master.order(CreateToken(id="bbbbbbbb", secret_hash="0" * 64))
    again = ev.Enroll("enroll-2", "bbbbbbbb", "w1", "k3", "1", master.now + DAY_S, "10.0.0.9:1")
    assert isinstance(answer(master.step(again)), Ruled)


def test_tokens_that_expired_long_ago_are_forgotten() -> None:
    master = with_token(ttl_s=10.0)
    master.now += 8 * DAY_S
    master.order(CreateToken(id="bbbbbbbb", secret_hash="0" * 64))
    assert list(master.core.cluster.roll.join_tokens) == ["bbbbbbbb"]


# ---- by a certificate


def renew(master: AMaster, who: Identity) -> AnyResult:
    event = ev.Renew("renew-01", who, "2", master.now + DAY_S, "10.0.0.9:1")
    return answer(master.step(event))


def test_a_member_renews_as_long_as_it_is_one() -> None:
    master = with_token()
    enroll(master)
    who = identity(master)
    assert isinstance(renew(master, who), Ruled)
    assert master.core.cluster.roll.members["w1"].serial == "2"
    assert refused(renew(master, identity(master, key="k2")), "joined anew")
    assert refused(renew(master, identity(master, worker="w2")), "no worker here")
    assert refused(renew(master, identity(master, cluster="c-2")), "another cluster")
    master.now += DAY_S + RENEW_GRACE_S - 1
    assert isinstance(renew(master, who), Ruled)
    master.now += DAY_S + RENEW_GRACE_S + 1
    assert refused(renew(master, who), "expired")
    master.order(RevokeWorker(worker="w1"))
    assert refused(renew(master, who), "revoked by root")


def test_the_trail_tells_who_joined_and_who_did_not() -> None:
    master = with_token()
    enroll(master)
    enroll(master, "w2", "k2")
    renew(master, identity(master))
    saved = [effect.record for effect in master.said if isinstance(effect, ev.Save)]
    deeds = [record.deed for record in saved if isinstance(record, TrailEntry)]
    assert [(deed.who, deed.act, deed.outcome, deed.subject) for deed in deeds[-3:]] == [
        (f"token {TOKEN}", "join", Outcome.DONE, "w1"),
        (f"token {TOKEN}", "join", Outcome.DENIED, "w2"),
        ("w1", "renew", Outcome.DONE, ""),
    ]
    assert {deed.source for deed in deeds[-3:]} == {"10.0.0.9"}
    assert "used up" in deeds[-2].detail
