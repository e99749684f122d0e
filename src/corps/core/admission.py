"""Who may be a worker: whose certificate holds, and whose hello fits to what is known here.

Without a certificate it comes from this machine, from root or the master's own user; that one may
be any worker which has none.
"""

from __future__ import annotations

from collections.abc import Iterable

from corps.core.ledger import Ledger
from corps.core.lineage import FACT_MAX, Doubt, check_facts, check_not_ahead
from corps.core.session import Session
from corps.errors import Conflict, Denied, ProtocolError, Unavailable
from corps.model.identity import Identity
from corps.model.name import WorkerName
from corps.model.worker import WorkerState
from corps.wire.codec import PROTOCOL_VERSION
from corps.wire.worker import Expired, Hello, Refused

WORKERS_MAX = 10_000
LOOK_EVERY_S = 5.0
TOLD_MAX = 10_000


class Admission:
    """Judges sessions by their identities and hellos."""

    def __init__(self, ledger: Ledger, *, accepts_rollback: bool) -> None:
        self._ledger, self._accepts_rollback = ledger, accepts_rollback
        self._ahead: dict[WorkerName, None] = {}  # of whom it was said that they heard more
        self._changes_seen = ledger.cluster.roll.changes
        self._looked_at = ledger.now
        self._told: dict[tuple[str, WorkerName], None] = {}  # of whom operators have heard

    def refusal(self, identity: Identity | None) -> Refused | Expired | None:
        """What to tell the bearer of a certificate that is worth nothing."""
        reason = None if identity is None else self._ledger.refusal(identity)
        if identity is None or reason is None:
            return None
        cluster = self._ledger.cluster
        if cluster.roll.no_renewal(identity, cluster.meta.cluster, self._ledger.now) is None:
            return Expired(message=reason)
        return Refused(code=Denied.code, message=f"{reason}: join again, with a new token")

    def check_hello(self, session: Session, hello: Hello) -> None:
        """Raise what it must be refused for."""
        self._check_name(session, hello.name)
        if hello.protocol != PROTOCOL_VERSION:
            raise ProtocolError(
                f"worker speaks protocol {hello.protocol}, master {PROTOCOL_VERSION}: "
                "install the same version of corps on both"
            )
        check_facts(hello)
        cluster = self._ledger.cluster
        if hello.cluster is not None and hello.cluster != cluster.meta.cluster:
            raise Conflict(
                f"worker {hello.name!r} belongs to cluster {hello.cluster[:FACT_MAX]}, this is "
                f"{cluster.meta.cluster}: start it with another --dir or --name"
            )
        if not self._accepts_rollback:
            self._check_not_ahead(hello)
        known = cluster.workers.get(hello.name)
        if known is None and len(cluster.workers) >= WORKERS_MAX:
            raise Unavailable(f"{WORKERS_MAX} workers have joined: there is room for no more")
        if known is None or known.state_id == hello.state_id:
            return
        if known.state is not WorkerState.LOST:
            raise Conflict(
                f"a worker named {hello.name!r} is {known.state} at {known.address}: "
                "choose another --name"
            )

    def ended(self, sessions: Iterable[Session]) -> list[tuple[Session, str]]:
        """Those whose identity ended, and why; looked for when the roll changed, and at times."""
        ledger, changes = self._ledger, self._ledger.cluster.roll.changes
        if changes == self._changes_seen and ledger.now - self._looked_at < LOOK_EVERY_S:
            return []
        self._changes_seen, self._looked_at = changes, ledger.now
        judged = [(session, self._refusal(session)) for session in sessions]
        return [(session, reason) for session, reason in judged if reason is not None]

    def _refusal(self, session: Session) -> str | None:
        if session.identity is not None:
            return self._ledger.refusal(session.identity)
        name = session.worker
        is_taken = name is not None and name in self._ledger.cluster.roll.members
        return f"{name} has joined by a token, from elsewhere" if is_taken else None

    def _check_name(self, session: Session, name: WorkerName) -> None:
        """Raise Denied for who calls itself something that it is not."""
        identity = session.identity
        if identity is None:
            if name in self._ledger.cluster.roll.members:
                raise Denied(
                    f"{name!r} has joined by a token: only its certificate speaks for it; choose "
                    "another --name"
                )
        elif identity.worker != name:
            self._tell(session, identity, name)
            raise Denied(f"this is the certificate of {identity.worker!r}, not of {name[:80]!r}")

    def _tell(self, session: Session, identity: Identity, name: WorkerName) -> None:
        """To operators, once for each name: it may go on to try."""
        who = identity.worker or ""
        if (who, name) not in self._told and len(self._told) < TOLD_MAX:
            self._told[who, name] = None
            text = f"{session.address} has the certificate of {who}, and says it is {name[:80]!r}"
            self._ledger.happened("identity", who, text, who)

    def _check_not_ahead(self, hello: Hello) -> None:
        try:
            check_not_ahead(hello, self._ledger.cluster)
        except Conflict as error:
            if hello.name not in self._ahead and len(self._ahead) < WORKERS_MAX:
                self._ahead[hello.name] = None
                self._ledger.happened(Doubt.MASTER_SET_BACK, "master", error.message, hello.name)
            raise
