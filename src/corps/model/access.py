"""Who asks something of the master, and what the master tells of its own trust."""

from __future__ import annotations

import msgspec

from corps.errors import Denied
from corps.model.trust import MAY, Permission, Role


class Caller(msgspec.Struct, frozen=True, kw_only=True):
    """Whoever sent a request. `source` is where from: an address, or a process of this machine;
    `token` is the id of the one that was shown, None for a process of this machine."""

    name: str
    role: Role
    source: str
    token: str | None = None


def check_may(caller: Caller, permission: Permission, what: str) -> None:
    """Raise Denied, with who may do it."""
    if permission in MAY[caller.role]:
        return
    roles = [role.value for role in Role if permission in MAY[role]]
    raise Denied(
        f"{caller.name} is {caller.role.value} here and may not {what}: it takes the permission "
        f"'{permission.value}', which {_listed(roles)}",
        permission=permission.value,
        role=caller.role.value,
    )


def _listed(roles: list[str]) -> str:
    if len(roles) == 1:
        return f"only {roles[0]} has"
    return f"{', '.join(roles[:-1])} and {roles[-1]} have"


class HelloView(msgspec.Struct, frozen=True, kw_only=True):
    """What anyone is told: nothing that is not in each handshake. `authorities` in PEM, `former`
    those before them, which tokens may still pin."""

    cluster: str
    authorities: str
    former: str = ""


class TrustView(msgspec.Struct, frozen=True, kw_only=True):
    """Of the cluster. `pin` begins what a token ends with; `workers_at` and `api_at` are where
    workers and people dial in, HOST:PORT; `api_at` is None where there is no HTTPS."""

    cluster: str
    pin: str
    workers_at: str
    api_at: str | None


class CallerView(msgspec.Struct, frozen=True, kw_only=True):
    """The one who asks. `token` and when it expires (RFC 3339) are null on the unix socket."""

    name: str
    role: Role
    permissions: tuple[Permission, ...]
    source: str
    token: str | None = None
    token_expires_at: str | None = None
