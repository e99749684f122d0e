"""Heartbeats -> ready, suspect, lost.

One lost beat makes a worker suspect (no new work), two make it lost (unusable). Only silence that
the master itself was awake to hear counts.
"""

from __future__ import annotations

from corps.model.name import WorkerName
from corps.model.worker import WorkerState

SUSPECT_SLACK = 0.25  # of a beat: a beat that is merely late is not lost
LOST_SLACK_S = 0.05
PAUSE_S = 0.5  # no step for this long: the master itself was paused


def judge(silence_s: float, beat_s: float) -> WorkerState:
    """What so long a silence makes of a worker."""
    if silence_s > 2 * beat_s + LOST_SLACK_S:
        return WorkerState.LOST
    if silence_s > (1 + SUSPECT_SLACK) * beat_s:
        return WorkerState.SUSPECT
    return WorkerState.READY


class Hearing:
    """When each worker was last heard, oldest first, on a clock that stops while we sleep."""

    def __init__(self, now: float) -> None:
        self._heard_at: dict[WorkerName, float] = {}
        self._now = now
        self._paused_s = 0.0

    @property
    def awake(self) -> float:
        """Seconds on a clock that runs only while we do."""
        return self._now - self._paused_s

    def wake(self, now: float) -> None:
        """Call with every step: a gap between two steps is our own silence, not the workers'."""
        gap = now - self._now
        if gap > PAUSE_S:
            self._paused_s += gap
        self._now = now

    def hear(self, worker: WorkerName) -> None:
        self._heard_at.pop(worker, None)
        self._heard_at[worker] = self.awake

    def forget(self, worker: WorkerName) -> None:
        self._heard_at.pop(worker, None)

    def silence_s(self, worker: WorkerName) -> float | None:
        """None: it is not listened for."""
        heard_at = self._heard_at.get(worker)
        return None if heard_at is None else self.awake - heard_at

    def due_s(self, beat_s: float) -> float | None:
        """In how many seconds the longest silent worker is lost, if it stays silent."""
        heard_at = next(iter(self._heard_at.values()), None)
        return None if heard_at is None else heard_at + 2 * beat_s + LOST_SLACK_S - self.awake

    def silent(self, beat_s: float) -> list[tuple[WorkerName, WorkerState]]:
        """The workers that are not ready any more, longest silent first."""
        verdicts: list[tuple[WorkerName, WorkerState]] = []
        awake = self.awake
        for worker, heard_at in self._heard_at.items():
            state = judge(awake - heard_at, beat_s)
            if state is WorkerState.READY:
                break
            verdicts.append((worker, state))
        return verdicts
