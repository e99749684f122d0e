"""Roll: who belongs to the cluster, the tokens by which somebody may, and what apps must know."""

from __future__ import annotations

from typing import assert_never

from corps.core.records import TrustRecord
from corps.model.identity import Identity
from corps.model.name import WorkerName
from corps.model.secret import Secret
from corps.model.trust import RENEW_GRACE_S, JoinToken, Member, User, UserToken


class Roll:
    """Tables of a Cluster: only that one changes them."""

    def __init__(self) -> None:
        self.join_tokens: dict[str, JoinToken] = {}
        self.members: dict[WorkerName, Member] = {}
        self.users: dict[str, User] = {}
        self.user_tokens: dict[str, UserToken] = {}
        self.secrets: dict[str, Secret] = {}
        self.changes = 0  # so many: whoever rests on this looks again when there are more

    def put(self, record: TrustRecord) -> None:
        self.changes += 1
        match record:
            case JoinToken():
                self.join_tokens[record.id] = record
            case Member():
                self.members[record.worker] = record
            case User():
                self.users[record.name] = record
            case UserToken():
                self.user_tokens[record.id] = record
            case Secret():
                self.secrets[record.name] = record
            case _:
                assert_never(record)

    def drop(self, record: TrustRecord) -> None:
        self.changes += 1
        match record:
            case JoinToken():
                del self.join_tokens[record.id]
            case Member():
                del self.members[record.worker]
            case User():
                del self.users[record.name]
            case UserToken():
                del self.user_tokens[record.id]
            case Secret():
                del self.secrets[record.name]
            case _:
                assert_never(record)

    def refusal(self, identity: Identity, cluster: str, now: float) -> str | None:
        """Why the bearer of this certificate is nobody now; None when it is who it says."""
        member = None if identity.worker is None else self.members.get(identity.worker)
        if identity.cluster != cluster:
            return f"a certificate of another cluster, {identity.cluster}"
        if member is None:
            return f"a certificate of {identity.worker or 'a master'}, which is no worker here"
        if member.key != identity.key:
            return f"a certificate of an earlier {member.worker}, which has joined anew since"
        if member.revoked_at is not None:
            return f"the certificate of {member.worker} was revoked by {member.revoked_by}"
        if now > max(identity.expires_at, member.expires_at):
            return f"the certificate of {member.worker} has expired"
        return None

    def no_renewal(self, identity: Identity, cluster: str, now: float) -> str | None:
        """Why the bearer gets no other certificate for this one, which may have expired."""
        return self.refusal(identity, cluster, now - RENEW_GRACE_S)
