"""Which artifacts can run on which workers, as those said when they were asked (ADR 19).

Soft state: a worker is asked again after it joined anew, and about what it could not run.
"""

from __future__ import annotations

from collections.abc import Iterable

from corps.errors import Unavailable
from corps.model.artifact import Artifact
from corps.model.name import Digest, WorkerName
from corps.model.worker import Worker

VERDICTS_MAX = 200  # of one worker, the last ones
PROBLEMS_MAX = 20
NAMED_MAX = 5


class Fitness:
    """What each worker said of each artifact: nothing yet, that it fits, or why it does not."""

    def __init__(self) -> None:
        self._said: dict[WorkerName, dict[Digest, tuple[str, ...]]] = {}

    def hear(self, worker: WorkerName, digest: Digest, problems: tuple[str, ...]) -> None:
        said = self._said.setdefault(worker, {})
        said.pop(digest, None)
        said[digest] = problems[:PROBLEMS_MAX]
        if len(said) > VERDICTS_MAX:
            del said[next(iter(said))]

    def forget(self, worker: WorkerName) -> None:
        self._said.pop(worker, None)

    def fits(self, worker: WorkerName, digest: Digest) -> bool | None:
        """None: it has not said."""
        problems = self._said.get(worker, {}).get(digest)
        return None if problems is None else not problems

    def problems(self, worker: WorkerName, digest: Digest) -> tuple[str, ...]:
        return self._said.get(worker, {}).get(digest, ())

    def reason(self, worker: WorkerName, digest: Digest) -> str:
        """Why it cannot run there, in one line; empty: nothing is known against it."""
        return "; ".join(self.problems(worker, digest))

    def fit(self, workers: Iterable[Worker], digest: Digest) -> list[Worker]:
        """Those that have said nothing against it."""
        return [worker for worker in workers if not self.problems(worker.name, digest)]

    def able(self, workers: Iterable[Worker], artifact: Artifact) -> list[Worker]:
        """Those that can run it, or were made to have it by an operator who knows better."""
        fit = self.fit(workers := list(workers), artifact.digest)
        return [worker for worker in workers if worker in fit or worker.name in artifact.forced]

    def require(self, workers: list[Worker], artifact: Artifact) -> list[Worker]:
        """Those of `workers` that can run it; raise Unavailable with their reasons if none can."""
        able = self.able(workers, artifact)
        if not able:
            raise self.refusal(workers, artifact.name, artifact.digest)
        return able

    def refusal(self, workers: list[Worker], name: str, digest: Digest) -> Unavailable:
        reasons = [self.reason(worker.name, digest) for worker in workers[:NAMED_MAX]]
        more = f"; and {len(workers) - NAMED_MAX} more" if len(workers) > NAMED_MAX else ""
        return Unavailable(f"no worker can run {name!r}: {'; '.join(reasons)}{more}")
