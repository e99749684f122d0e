"""Who may do what: roles and permissions, people, workers with a certificate, and tokens.

Secrets are made by whoever asks for a token: the master gets, and keeps, their hash.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TypeAlias

import msgspec

from corps.model.name import WorkerName

USES_MAX = 10_000
TTL_MAX_DAYS = 366
TTL_MAX_S = TTL_MAX_DAYS * 86_400.0
RENEW_GRACE_S = 30 * 86_400.0  # how long after its end a certificate may still be renewed


class Permission(StrEnum):
    READ = "read"  # status, workers, instances, usage, events, why, audit of performance
    LOGS = "logs"  # what apps wrote, which may hold anything
    LAUNCH = "launch"  # versions that are there
    END = "end"  # stop, kill, signal, rm
    DEPLOY = "deploy"  # copy, delete, tag, sign: new code
    SECRETS = "secrets"
    ADMIN = "admin"  # workers, tokens, people, the audit trail, shutdown


class Role(StrEnum):
    VIEWER = "viewer"
    OPERATOR = "operator"
    DEPLOYER = "deployer"
    ADMIN = "admin"


_OPERATES = (Permission.READ, Permission.LOGS, Permission.LAUNCH, Permission.END)
MAY: dict[Role, tuple[Permission, ...]] = {
    Role.VIEWER: (Permission.READ, Permission.LOGS),
    Role.OPERATOR: _OPERATES,
    Role.DEPLOYER: (*_OPERATES, Permission.DEPLOY, Permission.SECRETS),
    Role.ADMIN: tuple(Permission),
}


# ---- what the master stores


class JoinToken(msgspec.Struct, frozen=True, kw_only=True):
    """Lets `uses_left` workers more join until `expires_at`; only `worker` when that is said."""

    id: str
    secret_hash: str
    expires_at: float
    uses_left: int
    created_at: float
    created_by: str
    worker: WorkerName | None = None
    joined: tuple[WorkerName, ...] = ()


class Member(msgspec.Struct, frozen=True, kw_only=True):
    """A worker that joined by a token: `key` is the SHA-256 of its public key, and no other key
    speaks for it. `expires_at`: of its newest certificate. As it said itself: by their pins, which
    CAs it `trusts`, and which one issued the certificate that it has."""

    worker: WorkerName
    key: str
    serial: str
    joined_at: float
    expires_at: float
    token: str
    revoked_at: float | None = None
    revoked_by: str | None = None
    trusts: tuple[str, ...] = ()
    issuer: str = ""


class User(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    role: Role
    created_at: float
    created_by: str


class UserToken(msgspec.Struct, frozen=True, kw_only=True):
    """What a person shows at the HTTPS API."""

    id: str
    user: str
    secret_hash: str
    expires_at: float
    created_at: float
    created_by: str


# ---- what operators ask


class TrustCommand(msgspec.Struct, frozen=True, tag_field="type", tag=str.lower):
    """Base of what changes who may do what. Done when it is durable."""


class CreateToken(TrustCommand, frozen=True, kw_only=True):
    id: str
    secret_hash: str
    ttl_s: float = 3_600.0
    uses: int = 1
    worker: WorkerName | None = None


class RevokeToken(TrustCommand, frozen=True, kw_only=True):
    """A join token or a person's: nobody gets in by it any more."""

    id: str


class RevokeWorker(TrustCommand, frozen=True, kw_only=True):
    """Its certificate is worth nothing from now on, nor are the tokens by which it came; it may
    join again by a new one."""

    worker: WorkerName


class SetUser(TrustCommand, frozen=True, kw_only=True):
    """A new person, or a new role of a known one."""

    name: str
    role: Role


class RemoveUser(TrustCommand, frozen=True, kw_only=True):
    """With all tokens of that person."""

    name: str


class CreateUserToken(TrustCommand, frozen=True, kw_only=True):
    id: str
    user: str
    secret_hash: str
    ttl_s: float = 90 * 86_400.0


class RotateCa(TrustCommand, frozen=True, kw_only=True):
    """Have another CA in place of this one, without an interruption: `GET /v1/ca` says how far."""


AnyTrust: TypeAlias = (
    CreateToken | RevokeToken | RevokeWorker | SetUser | RemoveUser | CreateUserToken | RotateCa
)


class CaStage(StrEnum):
    """How far a rotation of the CA is (ADR 26)."""

    STEADY = "steady"
    SPREADING = "spreading"  # until all know the new CA
    REPLACING = "replacing"  # until all have a certificate of it


class CaView(msgspec.Struct, frozen=True, kw_only=True):
    """The CA. `lagging`: the workers that its rotation waits for."""

    pin: str
    trusted: tuple[str, ...]
    stage: CaStage
    lagging: tuple[WorkerName, ...] = ()
    began_at: str | None = None
    began_by: str | None = None


class TokenView(msgspec.Struct, frozen=True, kw_only=True):
    """A token, without anything that would let somebody in. `worker`: the only one that may use it,
    `user`: whose it is; times RFC 3339."""

    id: str
    kind: str
    expires_at: str
    created_by: str
    uses_left: int | None = None
    worker: WorkerName | None = None
    joined: tuple[WorkerName, ...] = ()
    user: str | None = None
    is_valid: bool = True


class UserView(msgspec.Struct, frozen=True, kw_only=True):
    name: str
    role: Role
    created_at: str
    tokens: int
