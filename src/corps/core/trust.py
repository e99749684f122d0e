"""What changes who may do what: checked here, saved at once, done when it is durable."""

from __future__ import annotations

from typing import assert_never

import msgspec

from corps.core import secrets
from corps.core.ledger import Ledger
from corps.core.records import Rotation
from corps.errors import Conflict, Invalid, NotFound
from corps.model.name import check_name, did_you_mean
from corps.model.secret import AnySecret, DeleteSecret, SetSecret
from corps.model.token import check_hash, check_token_id
from corps.model.trust import (
    TTL_MAX_DAYS,
    TTL_MAX_S,
    USES_MAX,
    AnyTrust,
    CreateToken,
    CreateUserToken,
    JoinToken,
    RemoveUser,
    RevokeToken,
    RevokeWorker,
    RotateCa,
    SetUser,
    User,
    UserToken,
)

TOKENS_MAX = 10_000
USERS_MAX = 10_000
EXPIRED_KEPT_S = 7 * 86_400.0  # so that an operator sees why a token is worth nothing


def rule(ledger: Ledger, command: AnyTrust | AnySecret, by: str) -> tuple[str, ...]:
    """Carry it out; there is nothing to wait for. Raise what it must be refused for."""
    match command:
        case CreateToken():
            _create_token(ledger, command, by)
        case RevokeToken():
            _revoke_token(ledger, command)
        case RevokeWorker():
            _revoke_worker(ledger, command, by)
        case SetUser():
            _set_user(ledger, command, by)
        case RemoveUser():
            _remove_user(ledger, command)
        case CreateUserToken():
            _create_user_token(ledger, command, by)
        case RotateCa():
            _rotate_ca(ledger, by)
        case SetSecret() | DeleteSecret():
            secrets.rule(ledger, command, by)
        case _:
            assert_never(command)
    return ()


def subject(command: AnyTrust | AnySecret) -> str:
    """What it is about, as its result says."""
    match command:
        case CreateToken() | RevokeToken() | CreateUserToken():
            return command.id
        case RevokeWorker():
            return command.worker
        case SetUser() | RemoveUser() | SetSecret() | DeleteSecret():
            return command.name
        case RotateCa():
            return "ca"
        case _:
            assert_never(command)


def _create_token(ledger: Ledger, command: CreateToken, by: str) -> None:
    _check_new(ledger, command.id, command.secret_hash, command.ttl_s)
    if not 1 <= command.uses <= USES_MAX:
        raise Invalid(f"uses is {command.uses}: from 1 to {USES_MAX}", field="uses")
    if command.worker is not None:
        check_name("worker", command.worker)
        if command.uses > 1:
            raise Invalid("a token for one worker has one use", field="uses")
    ledger.save(
        JoinToken(
            id=command.id,
            secret_hash=command.secret_hash,
            expires_at=ledger.now + command.ttl_s,
            uses_left=command.uses,
            created_at=ledger.now,
            created_by=by,
            worker=command.worker,
        )
    )


def _revoke_token(ledger: Ledger, command: RevokeToken) -> None:
    roll = ledger.cluster.roll
    token = roll.join_tokens.get(command.id) or roll.user_tokens.get(command.id)
    if token is None:
        raise NotFound(f"no token {command.id[:80]!r}: see 'corps token list'", token=command.id)
    ledger.drop(token)


def _revoke_worker(ledger: Ledger, command: RevokeWorker, by: str) -> None:
    """Its connection, if there is one, is cut in the same step. Whoever has its key knows the
    tokens by which it came, too, and would be back by what is left of them."""
    members = ledger.cluster.roll.members
    member = members.get(command.worker)
    if member is None:
        near = did_you_mean(command.worker, members)
        raise NotFound(
            f"no worker {command.worker[:80]!r} has a certificate{near}", worker=command.worker
        )
    ledger.save(msgspec.structs.replace(member, revoked_at=ledger.now, revoked_by=by))
    known = [
        token
        for token in ledger.cluster.roll.join_tokens.values()
        if token.id == member.token or member.worker in token.joined
    ]
    for token in known:
        ledger.drop(token)
    more = f", and the tokens by which it came: {' '.join(token.id for token in known)}"
    text = f"its certificate, by {by}{more if known else ''}"
    ledger.happened("revoked", command.worker, text, command.worker)


def _set_user(ledger: Ledger, command: SetUser, by: str) -> None:
    check_name("user", command.name)
    users = ledger.cluster.roll.users
    known = users.get(command.name)
    if known is None and len(users) >= USERS_MAX:
        raise Conflict(f"there are {USERS_MAX} users: remove one first")
    created = (ledger.now, by) if known is None else (known.created_at, known.created_by)
    ledger.save(
        User(name=command.name, role=command.role, created_at=created[0], created_by=created[1])
    )


def _remove_user(ledger: Ledger, command: RemoveUser) -> None:
    roll = ledger.cluster.roll
    user = _user(ledger, command.name)
    for token in [one for one in roll.user_tokens.values() if one.user == user.name]:
        ledger.drop(token)
    ledger.drop(user)


def _create_user_token(ledger: Ledger, command: CreateUserToken, by: str) -> None:
    _check_new(ledger, command.id, command.secret_hash, command.ttl_s)
    ledger.save(
        UserToken(
            id=command.id,
            user=_user(ledger, command.user).name,
            secret_hash=command.secret_hash,
            expires_at=ledger.now + command.ttl_s,
            created_at=ledger.now,
            created_by=by,
        )
    )


def _rotate_ca(ledger: Ledger, by: str) -> None:
    """The driver sees that it is wanted, and makes the next one."""
    meta = ledger.cluster.meta
    if meta.rotation is not None:
        raise Conflict("the CA is being rotated already: see 'corps ca status'")
    if ledger.rooted is None:
        raise Conflict("there is no CA yet: it is made when somebody first connects by TLS")
    begun = Rotation(pin=ledger.rooted.pins[0], began_at=ledger.now, by=by)
    ledger.save(msgspec.structs.replace(meta, rotation=begun))
    ledger.happened("ca-rotation", "ca", f"begun by {by}: the CA of pin {begun.pin} is to go")


def _user(ledger: Ledger, name: str) -> User:
    users = ledger.cluster.roll.users
    user = users.get(name)
    if user is None:
        raise NotFound(f"no user {name[:80]!r}{did_you_mean(name, users)}", user=name)
    return user


def _check_new(ledger: Ledger, id: str, secret_hash: str, ttl_s: float) -> None:
    roll = ledger.cluster.roll
    check_token_id(id)
    check_hash(secret_hash)
    if not 0 < ttl_s <= TTL_MAX_S:
        raise Invalid(f"a token lives for more than 0 and at most {TTL_MAX_DAYS}d", field="ttl")
    if id in roll.join_tokens or id in roll.user_tokens:
        raise Conflict(f"there is a token {id!r} already: make another one")
    known: list[JoinToken | UserToken] = [*roll.join_tokens.values(), *roll.user_tokens.values()]
    for token in known:
        if token.expires_at < ledger.now - EXPIRED_KEPT_S:
            ledger.drop(token)
    if len(roll.join_tokens) + len(roll.user_tokens) >= TOKENS_MAX:
        raise Conflict(f"there are {TOKENS_MAX} tokens: revoke one first")
