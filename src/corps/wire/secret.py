"""Master <-> worker: the secrets of one attempt, asked for when it is about to start."""

from __future__ import annotations

from corps.model.name import AttemptKey
from corps.model.secret import Revealed
from corps.wire.message import Message


class WantSecrets(Message, frozen=True, kw_only=True):
    """Of a worker: this attempt can start once it has what it names. Repeating it is harmless."""

    key: AttemptKey


class Secrets(Message, frozen=True, kw_only=True):
    """Answer to WantSecrets: the newest version of each, or in words why there is none."""

    key: AttemptKey
    secrets: tuple[Revealed, ...] = ()
    problem: str | None = None
