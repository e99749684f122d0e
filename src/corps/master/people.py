"""Who an operator is: on the unix socket the kernel says, over HTTPS a token does.

Tokens are looked up anew for each request: one that was revoked a moment ago is worth nothing.
"""

from __future__ import annotations

import functools
import pwd

from corps.core.views import rfc3339
from corps.errors import Denied, Invalid
from corps.master.driver import MasterDriver
from corps.model.access import Caller, CallerView
from corps.model.token import TokenKind, hash_secret, is_secret, parse_token
from corps.model.trail import NOBODY, Deed, Outcome
from corps.model.trust import MAY, Role, TokenView, UserToken, UserView

SCHEME = "bearer"
_NO_HASH = hash_secret(b"")


class Unauthenticated(Denied):
    """Nobody knows who asks: 401, so that a client may ask its person for a token."""

    http_status = 401

    @property
    def who(self) -> str:
        """As far as one can tell: the id of the token."""
        return str(self.details.get("token", NOBODY))


class People:
    """Those of one master."""

    def __init__(self, driver: MasterDriver) -> None:
        self._driver = driver

    def caller(self, authorization: str | None, source: str) -> Caller:
        """By the Authorization header of a request. Raise Unauthenticated."""
        if authorization is None:
            raise Unauthenticated("no token: log in with 'corps login', or set CORPS_TOKEN")
        scheme, _, text = authorization.partition(" ")
        if scheme.lower() != SCHEME:
            raise Unauthenticated("no token: send 'Authorization: Bearer P1....'")
        return self.bearer(text, source)

    def bearer(self, text: str, source: str) -> Caller:
        """By a token alone. What is wrong is told only to whoever has its secret."""
        try:
            shown = parse_token(text, TokenKind.PERSON)
        except Invalid as error:
            raise Unauthenticated(error.message) from error
        roll = self._driver.core.cluster.roll
        token = roll.user_tokens.get(shown.id)
        is_theirs = is_secret(shown.secret, _NO_HASH if token is None else token.secret_hash)
        if token is None or not is_theirs:
            raise Unauthenticated(
                "this token opens nothing here: it is another cluster's, or was revoked; "
                "ask for a new one",
                token=shown.id,
            )
        if self._driver.clock() > token.expires_at:
            raise Unauthenticated(
                f"this token expired at {rfc3339(token.expires_at)}: ask for a new one",
                token=shown.id,
            )
        user = roll.users[token.user]
        source = f"{source}, token {token.id}"
        return Caller(name=user.name, role=user.role, source=source, token=token.id)

    def still(self, caller: Caller) -> Caller:
        """The same one as they are now: what they may do can have changed while they spoke.
        Raise Unauthenticated."""
        if caller.token is None:
            return caller
        roll = self._driver.core.cluster.roll
        token = roll.user_tokens.get(caller.token)
        if token is None or self._driver.clock() > token.expires_at:
            raise Unauthenticated(
                "this token was revoked or has expired: ask for a new one", token=caller.token
            )
        return Caller(
            name=caller.name,
            role=roll.users[token.user].role,
            source=caller.source,
            token=caller.token,
        )

    def denied(self, who: str, source: str, what: str, why: str) -> None:
        """For the audit trail."""
        self._driver.witness(
            Deed(
                who=who,
                act="denied",
                outcome=Outcome.DENIED,
                source=source,
                subject=what,
                detail=why,
            )
        )

    def view(self, caller: Caller) -> CallerView:
        tokens = self._driver.core.cluster.roll.user_tokens
        token = None if caller.token is None else tokens.get(caller.token)
        return CallerView(
            name=caller.name,
            role=caller.role,
            permissions=MAY[caller.role],
            source=caller.source.partition(", token")[0],
            token=caller.token,
            token_expires_at=None if token is None else rfc3339(token.expires_at),
        )

    def users(self) -> list[UserView]:
        roll = self._driver.core.cluster.roll
        owned = [token.user for token in roll.user_tokens.values()]
        return [
            UserView(
                name=name,
                role=user.role,
                created_at=rfc3339(user.created_at),
                tokens=owned.count(name),
            )
            for name, user in sorted(roll.users.items())
        ]

    def tokens(self) -> list[TokenView]:
        """Of workers that may join first, each sort by its end."""
        roll, now = self._driver.core.cluster.roll, self._driver.clock()
        return [
            *(
                TokenView(
                    id=one.id,
                    kind=TokenKind.JOIN.value,
                    expires_at=rfc3339(one.expires_at),
                    created_by=one.created_by,
                    uses_left=one.uses_left,
                    worker=one.worker,
                    joined=one.joined,
                    is_valid=one.uses_left > 0 and now <= one.expires_at,
                )
                for one in sorted(roll.join_tokens.values(), key=lambda one: one.expires_at)
            ),
            *(
                _view_user_token(one, now)
                for one in sorted(roll.user_tokens.values(), key=lambda one: one.expires_at)
            ),
        ]


def local_caller(uid: int, pid: int) -> Caller:
    """A process of this machine, which the kernel let through to a socket of the master's user."""
    return Caller(name=_user_name(uid), role=Role.ADMIN, source=f"uid {uid}, pid {pid}")


@functools.cache
def _user_name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"


def _view_user_token(token: UserToken, now: float) -> TokenView:
    return TokenView(
        id=token.id,
        kind=TokenKind.PERSON.value,
        expires_at=rfc3339(token.expires_at),
        created_by=token.created_by,
        user=token.user,
        is_valid=now <= token.expires_at,
    )
