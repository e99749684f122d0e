"""How a worker becomes a member of the cluster, and stays one: by a token, then by its key.

A use of the token and the new member are one step: of many who come with a token for one, one wins.
"""

from __future__ import annotations

from typing import assert_never

import msgspec

from corps.core.events import Enroll, Renew
from corps.core.ledger import Ledger
from corps.errors import Conflict, CorpsError, Denied
from corps.model.command import Failure, Ruled
from corps.model.identity import MASTER
from corps.model.name import WorkerName, check_name
from corps.model.selector import ALL
from corps.model.trail import Deed, Outcome
from corps.model.trust import JoinToken, Member

MEMBERS_MAX = 20_000
JOINED_KEPT = 100  # names in a token, the last ones


def receive(ledger: Ledger, event: Enroll | Renew) -> None:
    """Answered by Ruled, or by a Failure that says why not."""
    try:
        match event:
            case Enroll():
                member = _enroll(ledger, event)
            case Renew():
                member = _renew(ledger, event)
            case _:
                assert_never(event)
    except CorpsError as error:
        ledger.witness(_deed(event, Outcome.DENIED, error.message))
        ledger.reply(event.id, "", Failure(code=error.code, message=error.message))
        return
    ledger.save(member)
    done = _deed(event, Outcome.DONE, f"certificate {member.serial}")
    ledger.witness(done, is_free=isinstance(event, Renew))  # nothing limits how often it renews
    ledger.reply(event.id, "", Ruled(subject=member.worker))


def _enroll(ledger: Ledger, event: Enroll) -> Member:
    token = ledger.cluster.roll.join_tokens.get(event.token)
    known = ledger.cluster.roll.members.get(event.worker)
    if token is None:
        raise Denied("its token is unknown or revoked")
    if ledger.now >= token.expires_at:
        raise Denied(f"token {token.id} has expired")
    if known is not None and (known.token, known.key) == (token.id, event.key):
        # The answer to it was lost, and it asks again: one use, whoever else comes.
        _check_not_revoked(known)
        return msgspec.structs.replace(known, serial=event.serial, expires_at=event.expires_at)
    if token.uses_left < 1:
        raise Denied(f"token {token.id} is used up")
    _check_name(ledger, token, event.worker)
    ledger.save(
        msgspec.structs.replace(
            token,
            uses_left=token.uses_left - 1,
            joined=(*token.joined, event.worker)[-JOINED_KEPT:],
        )
    )
    text = f"from {event.address}, by token {token.id} of {token.created_by}"
    ledger.happened("enrolled", event.worker, text, event.worker)
    return Member(
        worker=event.worker,
        key=event.key,
        serial=event.serial,
        joined_at=ledger.now,
        expires_at=event.expires_at,
        token=token.id,
    )


def _check_name(ledger: Ledger, token: JoinToken, name: WorkerName) -> None:
    """Only a token that names it takes a name from whoever has it."""
    check_name("worker", name)
    if name == ALL:
        raise Denied(f"a worker cannot be named {ALL!r}, which means every worker")
    if token.worker == name:
        return
    if token.worker is not None:
        raise Denied(f"token {token.id} is for {token.worker}, not for {name}")
    members = ledger.cluster.roll.members
    if name not in members and len(members) >= MEMBERS_MAX:
        raise Conflict(f"{MEMBERS_MAX} workers have joined: there is room for no more")
    is_taken = name in ledger.cluster.workers and name not in members
    if is_taken or (name in members and members[name].revoked_at is None):
        raise Conflict(
            f"there is a worker {name} already: let the new one have another --name, or make a "
            f"token for it with 'corps token create --name {name}'"
        )


def _renew(ledger: Ledger, event: Renew) -> Member:
    roll, identity = ledger.cluster.roll, event.identity
    refusal = roll.no_renewal(identity, ledger.cluster.meta.cluster, ledger.now)
    if refusal is not None:
        raise Denied(f"{refusal}: join again, with a new token")
    assert identity.worker is not None
    member = roll.members[identity.worker]
    return msgspec.structs.replace(member, serial=event.serial, expires_at=event.expires_at)


def _deed(event: Enroll | Renew, outcome: Outcome, detail: str) -> Deed:
    source = event.address.rpartition(":")[0]
    match event:
        case Enroll():
            who, act, subject = f"token {event.token}", "join", event.worker
        case Renew():
            who, act, subject = event.identity.worker or MASTER, "renew", ""
        case _:
            assert_never(event)
    return Deed(who=who, act=act, outcome=outcome, source=source, subject=subject, detail=detail)


def _check_not_revoked(member: Member) -> None:
    if member.revoked_at is not None:
        raise Denied(f"the certificate of {member.worker} was revoked by {member.revoked_by}")
