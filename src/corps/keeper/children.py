"""Births, signals and deaths of attempts. What the worker is told is in the journal before.

Own children are reaped after SIGCHLD; those of a keeper that died are watched by their pidfd. A
death is in the journal at once, and told when its tree is over.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import time
from collections.abc import Callable

from corps.keeper import limits, process
from corps.keeper.cgroup import Groups
from corps.keeper.journal import RESERVE_BYTES, Journal, log
from corps.keeper.kin import Kin
from corps.keeper.limits import Json
from corps.keeper.process import FAILED, USED, USING, Child, Launch
from corps.keeper.secrets import Secrets
from corps.keeper.tree import Trees

NOTE_MAX_BYTES, SIGNAL_NOTE_MAX = 8 << 10, 100
FLOOR_SLACK = 1.05  # a maximum resident set up to this is the image before exec, not the program
PRIVATE = {"place", "identity", "executed_at", "groups", "is_swept", "keeps_children"}
TYPE_CHECKING = False  # importing typing would cost half a megabyte
if TYPE_CHECKING:
    from corps.keeper.clearing import Clearing
    from corps.keeper.rules import Rules

TERMS = ("tree", "enforced", "watched")
VERDICT = {"status", "lost", "ended_at", "usage"}  # told when the tree is over as well


class Children:
    """`flying` are between fork and exec. `epoll` is readable when `listen` has something to do.

    `rules` and `clearing` are there where the worker is without rights."""

    rules: Rules | None = None
    clearing: Clearing | None = None

    def __init__(
        self,
        journal: Journal,
        groups: Groups,
        send: Callable[..., None],
        is_new_kernel: bool,
        launch_s: float,
    ) -> None:
        self.flying: dict[str, Child] = {}
        self.epoll = select.epoll()
        self._journal, self._groups, self._send = journal, groups, send
        self._is_new_kernel, self._launch_s = is_new_kernel, launch_s
        self._asked: dict[str, tuple[str, Launch]] = {}
        self._own: dict[int, Child] = {}
        self._heard: dict[int, Child] = {}
        self._has_deaths, self.secrets = False, Secrets(log)
        self._kin = Kin(groups.name, self._own)
        self.trees = Trees(self._kin, self._tree_over, self._tell_stuck)

    def take_over(self, is_copy: bool = False) -> None:
        """Adopt or judge what an earlier keeper left alive. The marks of a copy are out of date."""
        for key, kept in list(self._journal.table.items()):
            child = Child(key, kept["pid"])
            if not kept["is_live"]:
                if not kept.get("is_swept", True):
                    self._sweep_again(child, kept)
                continue
            if self._journal.is_of_this_boot:
                self._find(child, kept, is_copy)
                continue
            # Else its mark may never have reached the disk.
            verdict: Json = {"lost": "machine rebooted", "executed": True}
            if is_copy:  # it may run where it was made
                verdict |= {"lost": "its journal is a copy, made in another boot", "pid": 0}
            self._journal.put(key, is_live=False, **verdict)
        if self.flying:  # their marks may still change, in this file
            return
        if not self._journal.compact() and not self._journal.is_of_this_boot:
            raise OSError("cannot write a journal of this boot")
        self._groups.clean()

    def _find(self, child: Child, kept: Json, is_copy: bool) -> None:
        """One that an earlier keeper of this boot left alive: adopt it, or say how it ended."""
        child.pidfd = process.find(child.pid, child.key, kept["identity"])
        flag = process.revoke(self._journal.file.number, kept["place"])
        is_used = flag in (USED, USING)
        if child.pidfd and (is_used or process.has_begun(child.pid, child.key)):
            if flag == USING:
                self.flying[child.key] = child
            else:
                self._journal.put(child.key, executed=True)
            self._journal.living[child.key] = child
            self._hear(child.pidfd.number, child)
        elif is_used or is_copy:
            lost: Json = {"lost": "ended while no keeper was there", "executed": True}
            self._journal.put(child.key, is_live=False, is_swept=False, **lost)
            self._sweep_again(child, kept)
        else:
            stage = "execve" if flag == FAILED else "never_executed"
            self._journal.put(child.key, is_live=False, failed_stage=stage)

    def spawn(self, message: Json) -> Json | None:
        """Ask for a launch; a known key is answered. Return why it is refused."""
        key, note = message["key"], message["note"]
        process.check_key(key)
        if key in self._journal.table:
            self.tell(key)
        if key in self._journal.table or key in self._asked:
            return None
        try:
            launch, size = process.prepare(message), len(note.encode())
        except ValueError as error:
            return {"reason": str(error)}
        launch.rules = self.rules
        if refused := self._refusal(message, launch, size):
            return refused
        self._asked[key] = note, launch
        return None

    def _refusal(self, message: Json, launch: Launch, size: int) -> Json | None:
        key, note = message["key"], message["note"]
        if self.rules and (reason := self.rules.refusal(message)):
            return {"reason": reason, "stage": "policy"}
        if reason := limits.above(message["rlimits"]) or self._groups.lacks(message):
            return {"reason": reason, "stage": "limits"}
        if not self._groups.base:
            launch.env |= [self._kin.variable(key)]
        if size > NOTE_MAX_BYTES:
            return {"reason": f"a note of {size} bytes: at most {NOTE_MAX_BYTES}"}
        notes = len(note) + sum(len(text) for text, _ in self._asked.values())
        if not self._journal.has_room(12 * notes + (len(self._asked) + 1) * 2 * RESERVE_BYTES):
            return {"reason": "no room in the journal: is the disk full?"}
        if reason := self.secrets.prepare(key, launch):
            return {"reason": reason, "stage": "secrets"}
        return None

    def fork_asked(self) -> None:
        """Fork what was asked for, journal it, and only then let it go on.

        The forks follow each other closely: after each, every page that is touched costs a fault.
        """
        if not self._asked:
            return
        fd, asked, self._asked = self._journal.file.number, self._asked, {}
        made = [self._groups.make(key, launch.message) for key, (_, launch) in asked.items()]
        born = [
            process.start(key, launch, fd, groups)
            for (key, (_, launch)), groups in zip(asked.items(), made, strict=True)
        ]
        for child in born:
            kept: Json = {"pid": child.pid, "note": asked[child.key][0], "is_live": True}
            kept |= {"forked_at": self._journal.now(), "executed": False, "identity": 0}
            kept |= child.terms
            if child.pidfd:
                kept["identity"] = process.identity(child.pid, child.pidfd, self._is_new_kernel)
            self._journal.put(child.key, **kept)
            self._journal.living[child.key] = child
        is_written = self._journal.write(is_batch=True)
        for child in born:
            if not child.pipe:
                self._end(child, failed_stage=child.doom, failed_errno=child.errno)
                self.trees.end(child, self._journal.table[child.key], is_own=True)
                continue
            self._own[child.pid] = self.flying[child.key] = child
            child.deadline = time.monotonic() + self._launch_s
            self._hear(child.pipe.number, child)
            kept = self._journal.table[child.key]
            if is_written and child.pidfd and child.gate:
                with contextlib.suppress(BrokenPipeError):  # killed at its gate
                    os.write(child.gate.number, process.PLACE.pack(kept["place"]))
            else:
                child.doom, kept["place"] = "fork" if is_written else "journal", 0
            child.gate = None  # one that closes unopened ends its child

    def signal(self, message: Json) -> None:
        """Deliver; before exec only SIGKILL: others wait for the program that will have them."""
        key, number = message["key"], message["signal"]
        child = self._journal.living.get(key)
        if child and child.pidfd and process.ended(child.pidfd):
            self.reap()
            self.listen()
        if child and key in self.flying and number != signal.SIGKILL:
            child.waiting += (number,)
        else:
            self._deliver(key, number, message["note"][:SIGNAL_NOTE_MAX])

    def forget(self, message: Json) -> None:
        table = self._journal.table
        keys = [key for key in message["keys"] if isinstance(key, str) and key in table]
        self._journal.forget([key for key in dict.fromkeys(keys) if not table[key]["is_live"]])

    def tell(self, key: str) -> None:
        """Send what is known of an attempt; of one that flies there is nothing to say yet."""
        kept, child = self._journal.table[key], self._journal.living.get(key)
        if not child:
            self._send({"type": "ended", "attempt": self.told(key)})
        elif kept["executed"] and child.pidfd:
            spawned = {name: kept[name] for name in ("pid", "forked_at", *TERMS) if name in kept}
            spawned["executed_at"] = kept.get("executed_at", kept["forked_at"])
            self._send({"type": "spawned", "key": key} | spawned, child.pidfd)

    def told(self, key: str) -> Json:
        child = self._journal.living.get(key)
        has_pidfd = child is not None and child.pidfd is not None
        kept = self._journal.table[key]
        hidden = PRIVATE | VERDICT if child and not kept["is_live"] else PRIVATE
        told = {name: value for name, value in kept.items() if name not in hidden}
        return told | {"key": key, "has_pidfd": has_pidfd, "is_live": child is not None}

    def listen(self) -> None:
        """What pipes and pidfds have to say."""
        for fd, _ in self.epoll.poll(0):
            child = self._heard[fd]
            if child.pipe:
                self._settle(child, is_dead=False)
            else:
                self._lose(child)

    def reap(self) -> None:
        """Bury all who have ended, orphans too: the status is in the journal before wait4."""
        with contextlib.suppress(ChildProcessError):
            while seen := os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG | os.WNOWAIT):
                if self.clearing and self.clearing.ended(seen.si_pid):
                    continue
                is_exit, is_core = seen.si_code == os.CLD_EXITED, seen.si_code == os.CLD_DUMPED
                status = seen.si_status << 8 if is_exit else seen.si_status | is_core << 7
                self._bury(seen.si_pid, self._own.get(seen.si_pid), status)

    def end_late_launches(self, now: float) -> None:
        for child in list(self.flying.values()):
            if child.pid not in self._own and self._adopted_mark(child) == USED:
                self._executes(child)
            if now >= child.deadline and child.pidfd:
                child.doom, child.deadline = "timeout", float("inf")
                self._journal.put(child.key, deadline_s=self._launch_s)
                self._journal.write()  # before: it may be dead, and a new keeper asked why
                signal.pidfd_send_signal(child.pidfd.number, signal.SIGKILL)

    def commit(self) -> None:
        """The end of a batch."""
        if self._has_deaths:
            self._send({"type": "totals", "totals": self._journal.totals})
            if self._journal.has_room(RESERVE_BYTES):
                self._journal.add({"t": "", "totals": self._journal.totals})
        self._has_deaths = False
        self._journal.write(is_batch=True)
        if not self.flying:
            self._journal.compact()

    def _hear(self, fd: int, child: Child) -> None:
        self._heard[fd] = child
        self.epoll.register(fd, select.EPOLLIN)

    def _unhear(self, fd: int) -> None:
        del self._heard[fd]
        self.epoll.unregister(fd)

    def _settle(self, child: Child, is_dead: bool) -> None:
        """The pipe has a failure, or the end that exec or death makes."""
        assert child.pipe
        try:
            child.report = os.read(child.pipe.number, 64)
        except BlockingIOError:  # of a dead child: a sibling has not closed its copy yet
            if not is_dead:
                return
        self._unhear(child.pipe.number)
        child.pipe = None
        place = self._journal.table[child.key]["place"]
        mark = os.pread(self._journal.file.number, process.MARK.size, place)
        flag, floor_kib = process.MARK.unpack(mark)
        child.floor_bytes = floor_kib * 1024
        if not child.report and flag == USED:
            self._executes(child)

    def _executes(self, child: Child) -> None:
        del self.flying[child.key]
        self._journal.put(child.key, executed=True, executed_at=self._journal.now())
        self.tell(child.key)
        if child.doom != "timeout":  # else it dies: its pipe closes a moment before it is dead
            for number in child.waiting:
                self._deliver(child.key, number)
            child.waiting = ()

    def _adopted_mark(self, child: Child) -> int:
        """Of one that was between its mark and its program when its keeper was killed."""
        place = self._journal.table[child.key]["place"]
        return process.revoke(self._journal.file.number, place)

    def _bury(self, pid: int, child: Child | None, status: int) -> None:
        if child and child.pipe:
            self._settle(child, is_dead=True)
        if child and self._journal.table[child.key]["executed"]:
            self._end(child, status=status)
        elif child:
            stage, code = (child.report.decode() or f"{child.doom} 0").split()
            self._end(child, failed_stage=stage, failed_errno=int(code) or None)
        owner = child or self._owner(pid)
        if child:
            self.trees.end(child, self._journal.table[child.key], is_own=True)
        used, totals = os.wait4(pid, 0)[2], self._journal.totals
        self._own.pop(pid, None)
        usage = {"cpu_user_s": round(used.ru_utime, 6), "cpu_system_s": round(used.ru_stime, 6)}
        for name, value in usage.items():
            totals[name] = round(totals[name] + value, 6)
        usage["max_rss_bytes"] = used.ru_maxrss * 1024
        usage["floor_bytes"] = child.floor_bytes if child else 0
        if usage["max_rss_bytes"] > usage["floor_bytes"] * FLOOR_SLACK:
            totals["max_rss_bytes"] = max(totals["max_rss_bytes"], usage["max_rss_bytes"])
        totals["children_dead"] += 1
        self._has_deaths = True
        if owner:
            process.add(owner.usage, usage)
        if child and child.over is not None:
            self._tell_end(child)

    def _owner(self, pid: int) -> Child | None:
        """Whose orphan this was."""
        key = self._kin.reaped(pid) or self._groups.owner(pid)
        return self._journal.living.get(key) if key else None

    def _sweep_again(self, child: Child, kept: Json) -> None:
        """Its leader is dead, and an earlier keeper did not see the end of its tree."""
        if self._journal.is_of_this_boot:
            self._journal.living[child.key] = child
            self.trees.end(child, kept, is_own=False)
        else:
            self._journal.put(child.key, is_swept=True)

    def _tree_over(self, child: Child, facts: Json) -> None:
        child.over = facts
        if child.pid not in self._own:  # else it is reaped first: its usage belongs to its end
            self._tell_end(child)

    def _tell_stuck(self, child: Child, facts: Json) -> None:
        self._journal.put(child.key, **facts)
        self._send({"type": "stuck", "attempt": self.told(child.key)})

    def _tell_end(self, child: Child) -> None:
        """The leader is dead, and reaped if it was ours; its tree too, or what is left is named."""
        assert child.over is not None
        kept = self._journal.table[child.key]
        if kept.get("survivors"):  # told while it was stuck
            child.over.setdefault("survivors", [])
        if child.usage and kept["executed"]:
            child.over["usage"] = child.usage
        self._journal.put(child.key, is_swept=True, **child.over)
        self._journal.living.pop(child.key, None)
        self.secrets.remove(child.key)
        self.tell(child.key)
        for number in child.waiting:
            self._deliver(child.key, number)

    def _lose(self, child: Child) -> None:
        """An adopted one has ended: no child of ours, but the kernel may tell how."""
        assert child.pidfd
        is_reaped = process.ended(child.pidfd) & select.POLLHUP
        status = None
        if self._is_new_kernel:
            status = process.exit_status(child.pid, child.pidfd.number)
        if status is None and self._is_new_kernel and not is_reaped:
            self.epoll.modify(child.pidfd.number, select.EPOLLHUP)
            return
        self._unhear(child.pidfd.number)
        verdict: Json = {"lost": "keeper lost"} if status is None else {"status": status}
        if child.key in self.flying and self._adopted_mark(child) == FAILED:
            verdict = {"failed_stage": "execve"}  # a moment after its keeper was killed
        else:
            verdict["executed"] = True
        self._end(child, **verdict)
        self.trees.end(child, self._journal.table[child.key], is_own=False)

    def _end(self, child: Child, **verdict: object) -> None:
        dead: Json = {"is_live": False, "is_swept": False, "ended_at": self._journal.now()}
        self._journal.put(child.key, **dead | verdict)
        self._journal.write()
        self.flying.pop(child.key, None)

    def _deliver(self, key: str, number: int, note: str = "") -> None:
        child = self._journal.living.get(key)
        failed = 0
        if child and number == signal.SIGKILL:
            self.trees.kill(child, self._journal.table[key], is_own=child.pid in self._own)
        try:
            if not 0 < number < signal.NSIG:
                raise OSError(errno.EINVAL, "no such signal")
            if not child or not child.pidfd or process.ended(child.pidfd):
                raise ProcessLookupError(errno.ESRCH, "it has ended")
            self._journal.note_signal(key, number, note)
            process.deliver(child.pidfd, number)
            self._journal.note_sent(key)
        except OSError as error:
            failed = error.errno or errno.EINVAL
            if child and self._journal.table[key].get("sending"):
                self._journal.put(key, sending=None)
        self._send({"type": "signaled", "key": key, "signal": number, "errno": failed})
