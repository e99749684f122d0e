"""The answer to Verify: what is wrong with the trees, and with what runs from them.

One after the other in one thread, so that installs and launches have the others.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable, Iterable

import msgspec

from corps.errors import CorpsError, NotFound
from corps.model.finding import FINDINGS_MAX, Drift, Finding
from corps.model.name import AttemptKey, Digest
from corps.store.soundness import Soundness
from corps.store.trees import Trees
from corps.wire.drift import Checked, Verified, Verify
from corps.worker.bring import drifted

DELETED = " (deleted)"  # proc(5), of a mapped file that has no name any more
MAPS_MAX_BYTES = 8 << 20


class Running(msgspec.Struct, frozen=True):
    """A process and the artifact it was started from."""

    key: AttemptKey
    pid: int
    digest: Digest


class Verification:
    """Of one worker; `running` says what runs there now."""

    def __init__(
        self, soundness: Soundness, trees: Trees, running: Callable[[], Iterable[Running]]
    ) -> None:
        self._soundness, self._trees, self._running = soundness, trees, running
        self._turn = asyncio.Lock()

    async def answer(self, question: Verify, tell: Callable[[Verified], None]) -> None:
        last = len(question.digests) - 1
        for number, digest in enumerate(question.digests):
            async with self._turn:
                running = [one for one in self._running() if one.digest == digest]
                checked = await asyncio.to_thread(self._check, digest, running)
            tell(Verified(ask=question.ask, checks=(checked,), is_last=number == last))
        if last < 0:
            tell(Verified(ask=question.ask, checks=(), is_last=True))

    def _check(self, digest: Digest, running: list[Running]) -> Checked:
        try:
            findings = [*self._find(digest), *_deleted(self._trees.path(digest), running)]
        except (CorpsError, OSError) as error:
            text = error.message if isinstance(error, CorpsError) else str(error)
            return Checked(digest=digest, error=text)
        return Checked(
            digest=digest,
            findings=tuple(findings[:FINDINGS_MAX]),
            more=max(0, len(findings) - FINDINGS_MAX),
        )

    def _find(self, digest: Digest) -> tuple[Finding, ...]:
        if not self._trees.stands(digest):
            raise NotFound("not installed", digest=digest)
        findings = self._soundness.verify(digest)
        if drifted(findings):
            self._soundness.forget(digest)  # mended before it is executed again, or when asked to
        return findings


def _deleted(tree: str, running: Iterable[Running]) -> list[Finding]:
    """Processes that execute, or have mapped, what is not in the tree any more."""
    root = f"{os.path.realpath(tree)}/"
    found: list[Finding] = []
    for one in running:
        paths = [path.removeprefix(root) for path in _gone(one.pid) if path.startswith(root)]
        if paths:
            instance = one.key.rpartition("#")[0]
            text = f"{instance} (pid {one.pid}) is running a deleted binary: stop and launch it"
            found.append(Finding(drift=Drift.DELETED, path=min(paths, key=len), text=text))
    return found


def _gone(pid: int) -> list[str]:
    """The mapped files of a process that have been deleted, or replaced; none when it has ended."""
    try:
        with open(f"/proc/{pid}/maps", "rb") as file:
            lines = file.read(MAPS_MAX_BYTES).decode(errors="surrogateescape").splitlines()
    except OSError:
        return []
    words = [line.split(maxsplit=5) for line in lines if line.endswith(DELETED)]
    return list(dict.fromkeys(word[5].removesuffix(DELETED) for word in words if len(word) == 6))
