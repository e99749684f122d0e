"""Stock: the artifacts a worker has, and what is being done to each: one thing after the other.

absent --fetch--> (under way) --> there --remove--> (under way) --> absent
What is asked of a digest while something is under way waits for its turn.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

from corps.core.events import Fetch, RemoveArtifact
from corps.model.artifact import Transfer
from corps.model.name import Digest

Ask = type[Fetch] | type[RemoveArtifact]


class Stock:
    """`perform` takes what is to be done; `refuse` a removal of files that are in use."""

    def __init__(
        self,
        installed: Iterable[Digest],
        perform: Callable[[Fetch | RemoveArtifact], None],
        is_used: Callable[[Digest], bool],
        refuse: Callable[[Digest], None],
    ) -> None:
        self._there: dict[Digest, None] = dict.fromkeys(installed)
        self._asked: dict[Digest, list[Ask]] = {}  # the first of each is under way
        self._transfers: dict[Digest, Transfer] = {}  # as asked for last
        self._perform, self._is_used, self._refuse = perform, is_used, refuse

    def __contains__(self, digest: Digest) -> bool:
        return digest in self._there

    @property
    def there(self) -> tuple[Digest, ...]:
        return tuple(self._there)

    def is_coming(self, digest: Digest) -> bool:
        return Fetch in self._asked.get(digest, [])

    def fetch(self, digest: Digest, transfer: Transfer) -> None:
        self._transfers[digest] = transfer
        self._ask(digest, Fetch)

    def remove(self, digest: Digest) -> None:
        self._ask(digest, RemoveArtifact)

    def performed(self, digest: Digest, *, is_there: bool) -> None:
        """What was under way came to its end: is the artifact there now, whole?"""
        if is_there:
            self._there[digest] = None
        else:
            self._there.pop(digest, None)
        asked = self._asked.get(digest)
        if asked:
            del asked[0]
            self._go_on(digest)

    def _ask(self, digest: Digest, ask: Ask) -> None:
        asked = self._asked.setdefault(digest, [])
        if asked and asked[-1] is ask:
            return  # one answer serves both
        asked.append(ask)
        if len(asked) == 1:
            self._go_on(digest)

    def _go_on(self, digest: Digest) -> None:
        asked = self._asked[digest]
        while asked and asked[0] is RemoveArtifact and self._is_used(digest):
            del asked[0]
            self._refuse(digest)
        if not asked:
            del self._asked[digest]
            self._transfers.pop(digest, None)
        elif asked[0] is RemoveArtifact:
            self._there.pop(digest, None)
            self._perform(RemoveArtifact(digest))
        else:
            self._perform(Fetch(digest, self._transfers.get(digest, Transfer())))
