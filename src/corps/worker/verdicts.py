"""Exit statuses that no keeper can tell: the kernel tells them to whoever holds the pidfd.

When a keeper was killed and an app ended before the next keeper was there, nobody reaped it for
us. The worker was handed a pidfd at the start of each app, and keeps it until the death is told:
Linux >= 6.15 answers PIDFD_GET_INFO on it also after the process is reaped.
"""

from __future__ import annotations

import os
import select

import msgspec

from corps.keeper import process
from corps.model.name import AttemptKey
from corps.wire import keeper


class Verdicts:
    """One pidfd for each attempt whose death nobody has told yet, ours to close."""

    def __init__(self, *, is_asked: bool) -> None:
        self._is_asked = is_asked  # False: as on a kernel that does not tell
        self._pidfds: dict[AttemptKey, int] = {}

    def hold(self, key: AttemptKey, pidfd: int) -> bool:
        """Keep a copy of `pidfd`. False: no descriptor was left for it."""
        self.drop(key)
        try:
            self._pidfds[key] = os.dup(pidfd)
        except OSError:
            return False
        return True

    def drop(self, key: AttemptKey) -> None:
        pidfd = self._pidfds.pop(key, None)
        if pidfd is not None:
            os.close(pidfd)

    def close(self) -> None:
        for key in list(self._pidfds):
            self.drop(key)

    def complete(self, message: keeper.FromKeeper) -> keeper.FromKeeper:
        """The message, with the statuses that its keeper did not see and we do."""
        match message:
            case keeper.Ended():
                return msgspec.structs.replace(message, attempt=self._judge(message.attempt))
            case keeper.Listing():
                attempts = tuple(self._judge(kept) for kept in message.attempts)
                return msgspec.structs.replace(message, attempts=attempts)
            case _:
                return message

    def _judge(self, kept: keeper.KeptAttempt) -> keeper.KeptAttempt:
        if kept.is_live:
            return kept
        pidfd = self._pidfds.get(kept.key)
        if pidfd is not None and kept.lost and self._is_asked and _has_ended(pidfd):
            status = process.exit_status(kept.pid, pidfd)
            if status is not None:
                kept = msgspec.structs.replace(kept, status=status, lost=None, executed=True)
        self.drop(kept.key)
        return kept


def _has_ended(pidfd: int) -> bool:
    """A keeper whose journal was damaged calls lost what lives."""
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(0))
