"""Places: how many connections one certificate has. A worker needs one, and another while that
one dies; one that was taken over could else have all that its master can have."""

from __future__ import annotations

from corps.core.session import Session
from corps.model.name import WorkerName

OF_ONE_MAX = 8


class Places:
    """Of the sessions with a certificate, by whose it is, the oldest first."""

    def __init__(self) -> None:
        self._of: dict[WorkerName, dict[int, None]] = {}

    def take(self, session: Session, joined: int | None) -> int | None:
        """Which session must go for it: the oldest but for the one that has `joined`."""
        name = _name(session)
        if name is None:
            return None
        of_one = self._of.setdefault(name, {})
        of_one[session.id] = None
        if len(of_one) <= OF_ONE_MAX:
            return None
        return next(id for id in of_one if id != joined)

    def leave(self, session: Session) -> None:
        name = _name(session)
        if name is not None and name in self._of:
            self._of[name].pop(session.id, None)
            if not self._of[name]:
                del self._of[name]


def _name(session: Session) -> WorkerName | None:
    return None if session.identity is None else session.identity.worker
