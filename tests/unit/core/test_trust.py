"""Tokens, people and members: what is accepted, what is refused, and who is nobody."""

from __future__ import annotations

import pytest

from corps.model.command import AnyCommand, AnyResult, Failure, Ruled
from corps.model.identity import Identity
from corps.model.trust import (
    AnyTrust,
    CreateToken,
    CreateUserToken,
    Member,
    RemoveUser,
    RevokeToken,
    RevokeWorker,
    Role,
    SetUser,
)
from tests.support.build import AMaster

HASH = "0" * 64
ID = "abcdefgh"


def answer(master: AMaster, command: AnyCommand) -> AnyResult | None:
    effects = master.order(command)
    results = [effect.result for effect in effects if hasattr(effect, "result")]
    return results[-1] if results else None


@pytest.mark.parametrize(
    ("command", "message"),
    [
        (CreateToken(id="x", secret_hash=HASH), "bad token id"),
        (CreateToken(id=ID, secret_hash="secret"), "SHA-256"),
        (CreateToken(id=ID, secret_hash=HASH, ttl_s=0), "lives for"),
        (CreateToken(id=ID, secret_hash=HASH, ttl_s=float("nan")), "lives for"),
        (CreateToken(id=ID, secret_hash=HASH, uses=0), "uses is 0"),
        (CreateToken(id=ID, secret_hash=HASH, uses=2, worker="w1"), "one use"),
        (CreateToken(id=ID, secret_hash=HASH, worker="../w1"), "bad worker name"),
        (RevokeToken(id=ID), "no token"),
        (RevokeWorker(worker="w9"), "no worker"),
        (SetUser(name="Ann\n", role=Role.ADMIN), "bad user name"),
        (RemoveUser(name="ann"), "no user"),
        (CreateUserToken(id=ID, user="ann", secret_hash=HASH), "no user"),
    ],
)
def test_what_cannot_be_is_refused(command: AnyTrust, message: str) -> None:
    master = AMaster()
    result = answer(master, command)
    assert isinstance(result, Failure)
    assert message in result.message
    assert not master.core.cluster.roll.join_tokens


def test_a_person_goes_with_all_tokens() -> None:
    master = AMaster()
    roll = master.core.cluster.roll
    for command in (
        SetUser(name="ann", role=Role.VIEWER),
        SetUser(name="bob", role=Role.ADMIN),
        CreateUserToken(id="aaaaaaaa", user="ann", secret_hash=HASH),
        CreateUserToken(id="bbbbbbbb", user="ann", secret_hash=HASH),
        CreateUserToken(id="cccccccc", user="bob", secret_hash=HASH),
        SetUser(name="ann", role=Role.OPERATOR),
    ):
        assert isinstance(answer(master, command), Ruled)
    assert roll.users["ann"].role is Role.OPERATOR
    assert isinstance(answer(master, RemoveUser(name="ann")), Ruled)
    assert list(roll.users) == ["bob"]
    assert list(roll.user_tokens) == ["cccccccc"]
    assert isinstance(answer(master, RevokeToken(id="cccccccc")), Ruled)
    assert roll.user_tokens == {}


def test_a_certificate_says_who_somebody_is_only_as_long_as_it_holds() -> None:
    roll = AMaster().core.cluster.roll
    identity = Identity(cluster="c", worker="w1", key="k", serial="1", expires_at=100.0)
    member = Member(worker="w1", key="k", serial="1", joined_at=0.0, expires_at=100.0, token=ID)
    assert "no worker here" in (roll.refusal(identity, "c", 1.0) or "")
    roll.put(member)
    assert roll.refusal(identity, "c", 1.0) is None
    assert "another cluster" in (roll.refusal(identity, "d", 1.0) or "")
    assert "expired" in (roll.refusal(identity, "c", 101.0) or "")
    master = Identity(cluster="c", worker=None, key="k", serial="1", expires_at=100.0)
    assert "a master" in (roll.refusal(master, "c", 1.0) or "")
    roll.put(Member(worker="w1", key="l", serial="2", joined_at=0, expires_at=100, token=ID))
    assert "joined anew" in (roll.refusal(identity, "c", 1.0) or "")


def test_a_revoked_worker_is_nobody() -> None:
    master = AMaster()
    roll = master.core.cluster.roll
    roll.put(Member(worker="w1", key="k", serial="1", joined_at=0, expires_at=1e12, token=ID))
    assert isinstance(answer(master, RevokeWorker(worker="w1")), Ruled)
    identity = Identity(cluster="c", worker="w1", key="k", serial="1", expires_at=1e12)
    assert "revoked by" in (roll.refusal(identity, "c", 1.0) or "")
