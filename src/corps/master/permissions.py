"""What each route and each command takes: two literal tables. What is in neither is refused, and
a route or a command that was forgotten here fails when the master is imported.
"""

from __future__ import annotations

from collections.abc import Iterable
from enum import Enum
from typing import Any, get_args

from litestar.connection import ASGIConnection
from litestar.enums import ScopeType
from litestar.handlers import BaseRouteHandler, HTTPRouteHandler

from corps.errors import NotFound
from corps.model.access import Caller, check_may
from corps.model.command import (
    AnyCommand,
    Copy,
    Delete,
    Kill,
    Launch,
    Remove,
    Sign,
    Signal,
    Stop,
    Tag,
)
from corps.model.secret import DeleteSecret, SetSecret
from corps.model.trust import (
    CreateToken,
    CreateUserToken,
    Permission,
    RemoveUser,
    RevokeToken,
    RevokeWorker,
    RotateCa,
    SetUser,
)

Connection = ASGIConnection[Any, Any, Any, Any]


class Access(Enum):
    """Where it is no one permission."""

    ANYONE = "anyone"  # also without a token
    ANYBODY = "anybody"  # with a token, whatever the role
    COMMAND = "command"  # what the command in its body takes


SCHEMA = "/v1/schema/openapi.json"
ROUTES: dict[tuple[str, str], Permission | Access] = {
    ("GET", "/v1/hello"): Access.ANYONE,
    ("GET", "/v1/whoami"): Access.ANYBODY,
    ("GET", SCHEMA): Access.ANYBODY,
    ("POST", "/v1/commands"): Access.COMMAND,
    ("GET", "/v1/status"): Permission.READ,
    ("GET", "/v1/workers"): Permission.READ,
    ("GET", "/v1/instances"): Permission.READ,
    ("GET", "/v1/usage"): Permission.READ,
    ("GET", "/v1/usage/apps"): Permission.READ,
    ("GET", "/v1/usage/instances"): Permission.READ,
    ("GET", "/v1/why"): Permission.READ,
    ("GET", "/v1/events"): Permission.READ,
    ("GET", "/v1/audit"): Permission.READ,
    ("GET", "/v1/compare"): Permission.READ,
    ("GET", "/v1/progress"): Permission.READ,
    ("GET", "/v1/progress/{id}"): Permission.READ,
    ("GET", "/v1/artifacts"): Permission.READ,
    ("GET", "/v1/artifacts/garbage"): Permission.READ,
    ("GET", "/v1/artifacts/room"): Permission.READ,
    ("GET", "/v1/instances/{id}/log"): Permission.LOGS,
    ("GET", "/v1/instances/{id}/output"): Permission.LOGS,
    # these two read every byte of what they are asked about, on every machine
    ("GET", "/v1/artifacts/drift"): Permission.DEPLOY,
    ("POST", "/v1/plan"): Permission.DEPLOY,
    # and this one looks for whatever paths it is given, with the rights of each worker
    ("POST", "/v1/check"): Permission.DEPLOY,
    ("POST", "/v1/artifacts/quarantine"): Permission.DEPLOY,
    ("POST", "/v1/artifacts/orphans"): Permission.DEPLOY,
    ("GET", "/v1/secrets"): Permission.SECRETS,
    ("GET", "/v1/trust"): Permission.ADMIN,
    ("GET", "/v1/ca"): Permission.ADMIN,
    ("GET", "/v1/tokens"): Permission.ADMIN,
    ("GET", "/v1/users"): Permission.ADMIN,
    ("GET", "/v1/audit/trail"): Permission.ADMIN,
    ("POST", "/v1/shutdown"): Permission.ADMIN,
}
COMMANDS: dict[type[AnyCommand], Permission] = {
    Launch: Permission.LAUNCH,
    Stop: Permission.END,
    Kill: Permission.END,
    Signal: Permission.END,
    Remove: Permission.END,
    Copy: Permission.DEPLOY,
    Delete: Permission.DEPLOY,
    Sign: Permission.DEPLOY,
    Tag: Permission.DEPLOY,
    CreateToken: Permission.ADMIN,
    RevokeToken: Permission.ADMIN,
    RevokeWorker: Permission.ADMIN,
    RotateCa: Permission.ADMIN,
    SetUser: Permission.ADMIN,
    RemoveUser: Permission.ADMIN,
    CreateUserToken: Permission.ADMIN,
    SetSecret: Permission.SECRETS,
    DeleteSecret: Permission.SECRETS,
}
SPELLED: dict[type[AnyCommand], str] = {  # as an operator types it, where it is not its own name
    Remove: "rm",
    CreateToken: "token create",
    RevokeToken: "token revoke",
    RevokeWorker: "worker revoke",
    RotateCa: "ca rotate",
    SetUser: "user add",
    RemoveUser: "user remove",
    CreateUserToken: "user token",
    SetSecret: "secret set",
    DeleteSecret: "secret delete",
}
METHODS = ("GET", "POST")  # all there are: no preflight, no HEAD

_forgotten = [kind.__name__ for kind in get_args(AnyCommand) if kind not in COMMANDS]
assert not _forgotten, f"commands without a permission: {_forgotten}"


def check_routes(handlers: Iterable[HTTPRouteHandler]) -> None:
    """Assert that the table has every route, and nothing else."""
    served = {("GET", SCHEMA)}
    for one in handlers:
        for path in one.paths:
            served.update((method, path.replace(":str}", "}")) for method in one.http_methods)
    assert served == set(ROUTES), f"routes without a permission: {served ^ set(ROUTES)}"


async def guard_route(connection: Connection, _: BaseRouteHandler) -> None:
    """Before anything of the request's body is read. Raise Denied."""
    scope = connection.scope
    assert scope["type"] == ScopeType.HTTP
    method, path = scope["method"], scope["path_template"]
    access = ROUTES.get((method, path))
    if access is None:
        raise NotFound(f"no {method} {path}: see {SCHEMA}")
    if access is Access.ANYONE:
        return
    caller = connection.user
    assert isinstance(caller, Caller), "nobody came past the door"
    if isinstance(access, Permission):
        check_may(caller, access, f"{method} {path}")


def check_command(caller: Caller, command: AnyCommand) -> None:
    """Raise Denied. To have a program given a secret is to read it."""
    kind = type(command)
    check_may(caller, COMMANDS[kind], SPELLED.get(kind, kind.__name__.lower()))
    if isinstance(command, Launch) and command.terms.secrets:
        check_may(caller, Permission.SECRETS, "launch with secrets")
