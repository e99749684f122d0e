"""The names an operator can mean, for completion. Asked of the master at most once a second."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable
from enum import StrEnum

from corps.client import Client
from corps.clock import Clock
from corps.errors import CorpsError
from corps.net.exchange import Endpoint

ANSWER_S = 0.5
FRESH_S = 1.0


class Noun(StrEnum):
    ARTIFACT = "artifact"
    WORKER = "worker"
    TARGET = "target"
    CHILD = "child"
    USER = "user"
    TOKEN = "token"
    SECRET = "secret"


class Vocabulary:
    """Names by noun, from any thread; none when the master does not answer soon."""

    def __init__(self, endpoint: Callable[[], Endpoint]) -> None:
        self._endpoint = endpoint
        self._clock = Clock()
        self._lock = threading.Lock()
        self._client: Client | None = None
        self._known: dict[Noun, tuple[float, list[str]]] = {}

    def words(self, noun: Noun) -> list[str]:
        with self._lock:
            asked_at, words = self._known.get(noun, (0.0, []))
            if self._clock() - asked_at < FRESH_S:
                return words
            words = self._ask(noun)
            self._known[noun] = (self._clock(), words)
            return words

    def _ask(self, noun: Noun) -> list[str]:
        try:
            if self._client is None:
                self._client = Client(self._endpoint(), answer_s=ANSWER_S)
            return sorted(set(_names(self._client, noun)))
        except CorpsError:
            return []  # nothing to suggest; the command itself will say what is wrong


def _names(client: Client, noun: Noun) -> Iterable[str]:
    match noun:
        case Noun.ARTIFACT:
            rows = client.artifacts()
            return [row.name for row in rows] + [f"{r.name}:{tag}" for r in rows for tag in r.tags]
        case Noun.WORKER:
            return [worker.name for worker in client.workers()]
        case Noun.TARGET:
            known = client.instances(with_dead=True)
            return [row.id for row in known] + [row.app for row in known]
        case Noun.CHILD:
            return [*_names(client, Noun.WORKER), *_names(client, Noun.TARGET)]
        case Noun.USER:
            return [user.name for user in client.users()]
        case Noun.TOKEN:
            return [token.id for token in client.tokens()]
        case Noun.SECRET:
            return [secret.name for secret in client.secrets()]
