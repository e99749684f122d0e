"""What the worker saw when it heard of a death: evidence that is gone a second later.

argv as executed, the last lines of output, the machine's state, the OOM killer's doings; and in
words why something did not start.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from signal import SIGKILL

from corps.clock import Clock
from corps.core.events import KeeperSaid
from corps.errors import CorpsError
from corps.model.instance import Evidence, LogLine
from corps.model.name import AttemptKey
from corps.model.secret import Revealed
from corps.store.trees import Trees
from corps.wire import keeper
from corps.worker.command import PATH, command, is_found
from corps.worker.diagnose import Launched, diagnose
from corps.worker.layout import Layout
from corps.worker.machine import Gauge
from corps.worker.oom import OomWatch
from corps.worker.secrets import forms, hidden
from corps.worker.tail import last_lines

ARGV_MAX = 20
ARGV_CHARS_MAX = 1_000
LATELY_S = 15.0  # a death longer ago has nothing to do with what the counters say now


class Witness:
    """Sees each death once, when the keeper first tells of it."""

    def __init__(self, layout: Layout, trees: Trees, clock: Clock) -> None:
        self._layout, self._trees, self._clock = layout, trees, clock
        self._gauge = Gauge(time.monotonic)
        self._oom = OomWatch(clock)
        self._launched: dict[AttemptKey, Launched] = {}
        self._hidden: dict[AttemptKey, tuple[str, ...]] = {}

    def spawns(self, message: keeper.Spawn, secrets: Sequence[Revealed] = ()) -> None:
        """The keeper is asked to start this; no evidence has a secret that it was given."""
        if secrets:
            self._hidden[message.key] = forms(secrets)
        self._launched[message.key] = Launched(
            path=message.path,
            argv=message.argv,
            cwd=message.cwd,
            env=message.env,
            uid=message.uid,
            groups=(*message.groups, *(() if message.gid is None else (message.gid,))),
        )

    def tick(self) -> None:
        self._oom.count()

    def close(self) -> None:
        self._oom.close()

    def now(self, argv: tuple[str, ...] = ()) -> Evidence:
        """Of what came to no process at all."""
        machine = self._gauge.machine()
        return Evidence(seen_at=self._clock(), argv=_bounded(argv), machine=machine)

    def testify(
        self, messages: tuple[keeper.FromKeeper, ...], is_known: Callable[[AttemptKey], bool]
    ) -> KeeperSaid:
        """The keeper's words with what was seen of the deaths among them; `is_known` says which
        of those were heard of before."""
        reasons: list[tuple[AttemptKey, str]] = []
        evidence: list[tuple[AttemptKey, Evidence]] = []
        for message in messages:
            for kept in _dead(message):
                if not is_known(kept.key):
                    launched = self._launched.pop(kept.key, None)
                    if reason := self._reason(kept, launched):
                        reasons.append((kept.key, reason))
                    evidence.append((kept.key, self._see(kept, launched)))
            if isinstance(message, keeper.Refused) and message.key is not None:
                launched = self._launched.pop(message.key, None)
                self._hidden.pop(message.key, None)
                evidence.append((message.key, self.now(launched.argv if launched else ())))
        return KeeperSaid(messages, tuple(reasons), tuple(evidence))

    def _see(self, kept: keeper.KeptAttempt, launched: Launched | None) -> Evidence:
        oom, proves_oom = self._ask_oom(kept)
        known = self._hidden.pop(kept.key, ())
        lines = tuple(
            LogLine(stream=line.stream, text=hidden(line.text, known))
            for line in last_lines(self._layout, kept.key)
        )
        return Evidence(
            seen_at=self._clock(),
            argv=_bounded(launched.argv) if launched else (),
            last_lines=lines,
            machine=self._gauge.machine(),
            oom=oom,
            proves_oom=proves_oom,
        )

    def _ask_oom(self, kept: keeper.KeptAttempt) -> tuple[str | None, bool]:
        """Only where SIGKILL came from somebody else."""
        is_killed = kept.status is not None and kept.status & 0x7F == SIGKILL
        is_ours = any(sent.signal == SIGKILL for sent in kept.signals)
        if not is_killed or is_ours or kept.deadline_s is not None:
            return None, False
        text = self._oom.victim(kept.pid, kept.forked_at)
        if text is not None:
            return text, True
        ended_at = kept.ended_at or 0.0
        return self._oom.suspicion() if self._clock() - ended_at < LATELY_S else None, False

    def _reason(self, kept: keeper.KeptAttempt, launched: Launched | None) -> str | None:
        """None when it did start, or when its files are gone: then nobody can look any more."""
        if kept.failed_stage is None:
            return None
        if launched is None:  # the worker was restarted: what it must have been
            try:
                paths, runner = self._trees.launch_paths(kept.note), self._trees.runner(kept.note)
            except CorpsError:
                return None
            argv = command(paths, runner, (), PATH)
            if not is_found(argv):
                return None  # by a PATH of its own
            launched = Launched(path=argv[0], argv=argv, cwd=self._layout.work(kept.key))
        return diagnose(launched, kept.failed_stage, kept.failed_errno or 0, kept.deadline_s)


def _dead(message: keeper.FromKeeper) -> tuple[keeper.KeptAttempt, ...]:
    if isinstance(message, keeper.Ended):
        return (message.attempt,)
    if isinstance(message, keeper.Listing):
        return tuple(kept for kept in message.attempts if not kept.is_live)
    return ()


def _bounded(argv: tuple[str, ...]) -> tuple[str, ...]:
    """The first words, and how many more there are."""
    kept: list[str] = []
    left = ARGV_CHARS_MAX
    for word in argv[: ARGV_MAX - 1]:
        left -= len(word)
        if left < 0:
            break
        kept.append(word.encode("utf-8", "backslashreplace").decode())
    more = len(argv) - len(kept)
    return (*kept, f"[and {more} more]") if more else tuple(kept)
