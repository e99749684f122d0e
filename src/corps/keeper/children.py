"""Births, signals and deaths of attempts. What the worker is told is in the journal before.

Own children are reaped after SIGCHLD; those of a keeper that died are watched by their pidfd.
"""

from __future__ import annotations

import contextlib
import errno
import os
import signal
import time
from collections.abc import Callable
from functools import partial

from corps.keeper import kernel, spawn
from corps.keeper.journal import FAILED, RESERVE_BYTES, TOLD, USED, Attempt, Journal, Json
from corps.keeper.kernel import Poll

KEY_MAX, NOTE_MAX_BYTES, SIGNALS_MAX = 200, 64 << 10, 20
ENDING = (signal.SIGHUP, signal.SIGINT, signal.SIGQUIT, signal.SIGTERM)
NEVER = float("inf")

Send = Callable[..., None]


class Children:
    """`flying`: between fork and exec. `send` takes a message and the pidfd that goes with it."""

    def __init__(
        self, journal: Journal, poll: Poll, has_pidfs: bool, launch_s: float, send: Send
    ) -> None:
        self.flying: dict[str, Attempt] = {}
        self._journal, self._poll, self._send = journal, poll, send
        self._has_pidfs, self._launch_s = has_pidfs, launch_s
        self._own: dict[int, Attempt] = {}
        self._asked: dict[str, Attempt] = {}
        self._has_deaths = self._has_strangers = False

    def take_over(self) -> None:
        """Adopt or judge what an earlier keeper left alive."""
        is_same_boot = self._journal.load()
        for attempt in [one for one in self._journal.table.values() if one.is_live]:
            self._journal.living += 1
            if not is_same_boot:  # whether it used its right may not have reached the disk
                self._end(attempt, None, lost="machine rebooted", executed=True)
                continue
            flag = self._journal.revoke(attempt.place)
            pidfd = kernel.find(attempt.pid, attempt.key, attempt.inode, attempt.started)
            if flag == USED and pidfd:
                self._journal.put(attempt, executed=True)
                attempt.pidfd = pidfd
                self._poll.watch(pidfd.number, partial(self._lose, attempt))
            elif flag == USED:
                self._end(attempt, None, lost="ended while no keeper was there", executed=True)
            else:
                stage = "execve" if flag == FAILED else "never_executed"
                self._end(attempt, None, failed_stage=stage)
        if not self._journal.compact() and not is_same_boot:
            raise OSError("cannot write a journal of this boot")

    def spawn(self, message: Json) -> str | None:
        """Fork, unless the key is known: then tell what is known. Return why it is refused."""
        key, note = message.get("key"), message.get("note", "")
        if not isinstance(key, str) or not _is_key(key):
            return f"a key has 1 to {KEY_MAX} printable ASCII characters"
        if key in self._journal.table:
            self.tell(self._journal.table[key])
        if key in self._journal.table or key in self._asked:
            return None
        try:
            launch = spawn.prepare(message)
            if not isinstance(note, str) or len(note.encode()) > NOTE_MAX_BYTES:
                return f"note must be text of at most {NOTE_MAX_BYTES} bytes"
        except ValueError as error:
            return str(error)
        attempt = Attempt(key)
        attempt.note, attempt.launch = note, launch
        asked = [*self._asked.values(), attempt]
        if not self._journal.has_room(sum(6 * len(one.note) + 2 * RESERVE_BYTES for one in asked)):
            return "no room in the journal: is the disk full?"
        self._asked[key] = attempt
        return None

    def fork_all(self) -> None:
        """Fork what was asked for, journal it, and only then let it go on."""
        asked, self._asked = list(self._asked.values()), {}
        if not asked:
            return
        spawn.start(asked, self._journal.file.number)
        forked_at = round(time.time(), 6)
        for attempt in asked:
            del attempt.launch
            born = attempt.fields(["pid", "note"]) | {"forked_at": forked_at}
            born |= {"is_live": attempt.pid > 0, "failed_errno": attempt.failed_errno}
            if attempt.pidfd and self._has_pidfs:
                born["inode"] = os.fstat(attempt.pidfd.number).st_ino
            elif attempt.pidfd:
                born["started"] = kernel.stat(attempt.pid, kernel.STARTED)
            self._journal.put(attempt, **born)
        is_written = self._journal.write()
        self._journal.sync()
        for attempt in asked:
            self._journal.living += 1
            gate, pipe, attempt.gate = attempt.gate, attempt.status_pipe, None
            if not gate or not pipe:
                self._end(attempt, forked_at, failed_stage="fork")
                self.tell(attempt)
                continue
            self._own[attempt.pid] = self.flying[attempt.key] = attempt
            attempt.deadline = time.monotonic() + self._launch_s
            self._poll.watch(pipe.number, partial(self._hear, attempt))
            if is_written and attempt.pidfd:
                with contextlib.suppress(BrokenPipeError):  # killed at its gate
                    os.write(gate.number, spawn.PLACE.pack(attempt.place))
            else:  # a gate that closes unopened ends the child
                attempt.doom, attempt.place = "fork" if is_written else "journal", 0

    def signal(self, message: Json) -> str | None:
        """Deliver now; before exec, SIGKILL now and others when its program can have them."""
        key, number = message.get("key"), message.get("signal")
        if not isinstance(key, str) or type(number) is not int or not 0 < number < signal.NSIG:
            return "signal must be a number from 1 to 64"
        attempt = self._journal.table.get(key)
        if attempt and attempt.pidfd and kernel.has_ended(attempt.pidfd):
            self.reap() if attempt.pid in self._own else self._lose(attempt)
        if attempt and key in self.flying and number != signal.SIGKILL:
            attempt.waiting += (number,)
        else:
            self._deliver(key, attempt, number)
        return None

    def forget(self, message: Json) -> None:
        keys, table = message.get("keys"), self._journal.table
        if isinstance(keys, list):
            known = [key for key in keys if isinstance(key, str) and key in table]
            self._journal.forget([key for key in known if not table[key].is_live])

    def tell(self, attempt: Attempt) -> None:
        """Send what is known of it. Of one that flies there is nothing to say yet."""
        if not attempt.is_live:
            self._send({"type": "ended", "attempt": told(attempt)})
        elif attempt.executed:
            spawned = attempt.fields(["key", "pid", "forked_at"])
            at = attempt.executed_at or attempt.forked_at
            self._send({"type": "spawned", "executed_at": at} | spawned, attempt.pidfd)

    def reap(self) -> None:
        """Bury all who have ended, orphans too: the status is in the journal before wait4."""
        with contextlib.suppress(ChildProcessError):
            options = os.WEXITED | os.WNOHANG | os.WNOWAIT
            while seen := os.waitid(os.P_ALL, 0, options):
                is_exit, is_core = seen.si_code == os.CLD_EXITED, seen.si_code == os.CLD_DUMPED
                status = seen.si_status << 8 if is_exit else seen.si_status | is_core << 7
                self._bury(seen.si_pid, status)

    def next_deadline(self) -> float:
        return min((attempt.deadline for attempt in self.flying.values()), default=NEVER)

    def end_late_launches(self, now: float) -> None:
        for attempt in self.flying.values():
            if now >= attempt.deadline and attempt.pidfd:
                attempt.doom, attempt.deadline = "timeout", NEVER
                signal.pidfd_send_signal(attempt.pidfd.number, signal.SIGKILL)

    def commit(self) -> None:
        """The end of a batch."""
        if self._has_strangers and self._journal.has_room(RESERVE_BYTES):
            self._journal.keep_totals()
        if self._has_deaths:
            self._send({"type": "totals", "totals": self._journal.totals})
        self._has_deaths = self._has_strangers = False
        self._journal.write()
        self._journal.sync()
        if not self.flying:
            self._journal.compact()

    def _hear(self, attempt: Attempt, is_dead: bool = False) -> None:
        """The status pipe has a failure, or the end that exec or death makes."""
        pipe = attempt.status_pipe
        assert pipe
        try:
            attempt.report = os.read(pipe.number, 64)
        except BlockingIOError:  # of a dead child: another has not closed its copy yet
            if not is_dead:
                return
        self._poll.unwatch(pipe.number)
        attempt.status_pipe = None
        if not attempt.report and attempt.place and self._journal.flag(attempt.place) == USED:
            del self.flying[attempt.key]
            self._journal.put(attempt, executed=True, executed_at=round(time.time(), 6))
            self.tell(attempt)
            for number in attempt.waiting:
                self._deliver(attempt.key, attempt, number)
            attempt.waiting = ()

    def _bury(self, pid: int, status: int) -> None:
        attempt = self._own.pop(pid, None)
        if attempt:
            if attempt.status_pipe:
                self._hear(attempt, is_dead=True)
            stage, code = (attempt.report.decode() or f"{attempt.doom} 0").split()
            failed = {"failed_stage": stage, "failed_errno": int(code) or None}
            self._end(attempt, time.time(), **{"status": status} if attempt.executed else failed)
        usage = self._journal.count(os.wait4(pid, 0)[2])
        self._has_deaths = True
        if attempt and attempt.executed:
            self._journal.put(attempt, usage=usage)
        else:
            self._has_strangers = True
        if attempt:
            self.tell(attempt)
            for number in attempt.waiting:
                self._deliver(attempt.key, attempt, number)

    def _lose(self, attempt: Attempt) -> None:
        """An adopted one has ended: no child of ours, but the kernel may tell how."""
        assert attempt.pidfd
        self._poll.unwatch(attempt.pidfd.number)
        status = kernel.exit_status(attempt.pid, attempt.pidfd) if self._has_pidfs else None
        if status is None:
            self._end(attempt, time.time(), lost="keeper lost")
        else:
            self._end(attempt, time.time(), status=status)
        self.tell(attempt)

    def _end(self, attempt: Attempt, at: float | None, **verdict: object) -> None:
        ended_at = at and round(at, 6)
        self._journal.put(attempt, is_live=False, ended_at=ended_at, **verdict)
        self._journal.write()
        self._journal.living -= 1
        self.flying.pop(attempt.key, None)
        attempt.pidfd = None

    def _deliver(self, key: str, attempt: Attempt | None, number: int) -> None:
        answer = {"type": "signaled", "key": key, "signal": number}
        try:
            if not attempt or not attempt.pidfd or kernel.has_ended(attempt.pidfd):
                raise ProcessLookupError(errno.ESRCH, "it has ended")
            signal.pidfd_send_signal(attempt.pidfd.number, number)
        except OSError as error:
            self._send(answer | {"errno": error.errno})
            return
        if number in ENDING:  # a stopped process acts on it only when it runs
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(attempt.pidfd.number, signal.SIGCONT)
        delivered: Json = {"signal": number, "at": round(time.time(), 6)}
        signals = (*attempt.signals, delivered)[-SIGNALS_MAX:]
        if self._journal.has_room(RESERVE_BYTES):
            self._journal.put(attempt, signals=signals)
        attempt.signals = signals
        self._send(answer | {"errno": 0})


def _is_key(text: str) -> bool:
    return 0 < len(text) <= KEY_MAX and text.isascii() and text.isprintable()


def told(attempt: Attempt) -> Json:
    return attempt.fields(TOLD) | {"has_pidfd": attempt.pidfd is not None}
