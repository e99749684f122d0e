"""The end of a tree: what outlives the leader of an attempt is ended before the death is told.

    leader dead --> SIGTERM to the rest --2 s--> SIGKILL to the rest --5 s--> told with survivors
                         (killed: at once)    until nobody is left --> told

The rest is found by its group, else by its kin. Of a leader that SIGKILL does not end is told too.
"""

from __future__ import annotations

import signal
import time
from collections.abc import Callable

from corps.keeper import cgroup
from corps.keeper.kin import Kin, named, opened, send
from corps.keeper.limits import Json
from corps.keeper.process import Child, Fd, ended

TERM_S, GIVE_UP_S, STUCK_S = 2.0, 5.0, 1.0
LOOK_S, LOOK_MAX_S = 0.005, 0.2  # between two looks at a tree: longer from look to look
ROUNDS = 3  # of stopping what still forks, before it is killed
SURVIVORS_MAX, NAME_MAX = 20, 60
ENDED_BY_US = {signal.SIGINT, signal.SIGTERM, signal.SIGKILL}
STRAY = "without a mark: perhaps of this instance"


class Sweep:
    """One tree that is being ended; its leader may still live, after a SIGKILL that has no effect.

    `is_own`: the keeper is the leader's parent, so all that outlives it becomes the keeper's child.
    """

    look_at, pause_s, quiet = 0.0, LOOK_S, 0
    kill_at = give_up_at = float("inf")
    is_leader_dead = is_asked = is_told = False

    def __init__(self, child: Child, kept: Json, is_own: bool) -> None:
        self.child, self.kept, self.is_own = child, kept, is_own
        self.groups: list[str] = kept.get("groups", [])
        self.is_grouped = kept.get("tree") == "cgroup"
        self.is_limited = any("cgroup" in how for how in kept.get("enforced", {}).values())
        self.strays: list[int] = []
        self.facts: Json = {}


class Trees:
    """`over` is called once for each attempt whose leader is dead: nobody is left, or its facts
    say who is. `stuck` is called for a leader that does not die."""

    def __init__(
        self, kin: Kin, over: Callable[[Child, Json], None], stuck: Callable[[Child, Json], None]
    ) -> None:
        self._kin, self._over, self._stuck = kin, over, stuck
        self._sweeps: dict[str, Sweep] = {}
        self._left: list[list[str]] = []  # groups in which somebody was left
        self._left_at = 0.0

    def end(self, child: Child, kept: Json, is_own: bool) -> None:
        """The leader is dead; if it is the keeper's own it is not reaped yet."""
        if child.key not in self._sweeps and self._is_lonely(child, kept, is_own):
            self._over(child, {})
            return
        sweep = self._sweeps.setdefault(child.key, Sweep(child, kept, is_own))
        sweep.is_leader_dead, sweep.look_at = True, 0.0
        sweep.give_up_at = float("inf")
        if sweep.is_grouped:
            if not self._is_gone(sweep):
                self._look(sweep, _held(sweep))
        elif is_own:
            before = set(self._kin.strays())
            is_gone = not self._kin.orphans(child.key)
            sweep.strays += set(self._kin.strays()) - before
            if is_gone:
                self._finish(sweep)

    def _is_lonely(self, child: Child, kept: Json, is_own: bool) -> bool:
        """Nobody is left and nothing to be told, as nearly always: known with one call."""
        if kept.get("tree") == "cgroup":
            return not kept["enforced"] and cgroup.remove(kept["groups"])
        return is_own and "groups" not in kept and self._kin.is_childless()

    def kill(self, child: Child, kept: Json, is_own: bool) -> None:
        """SIGKILL was asked for: the leader has it, the rest dies with the leader or soon after."""
        sweep = self._sweeps.setdefault(child.key, Sweep(child, kept, is_own))
        now = time.monotonic()
        sweep.kill_at = min(sweep.kill_at, now)
        sweep.give_up_at = min(sweep.give_up_at, now + GIVE_UP_S)
        sweep.look_at = 0.0 if sweep.is_leader_dead else now + STUCK_S

    def look(self, now: float) -> None:
        """All looks that are due, with one look at /proc for those that have no group."""
        due = [sweep for sweep in self._sweeps.values() if sweep.look_at <= now]
        ungrouped = {one.child.key: not one.is_own for one in due if not one.is_grouped}
        kin = self._kin.hold(ungrouped) if ungrouped else {}
        for sweep in due:
            self._look(sweep, _held(sweep) if sweep.is_grouped else kin[sweep.child.key])
        if self._left and self._left_at <= now:
            self._left = [groups for groups in self._left if not cgroup.remove(groups)]
            self._left_at = now + STUCK_S

    def wake_at(self) -> float:
        return min((sweep.look_at for sweep in self._sweeps.values()), default=float("inf"))

    def _look(self, sweep: Sweep, held: dict[int, Fd]) -> None:
        now = time.monotonic()
        sweep.quiet = 0 if held else sweep.quiet + 1
        if sweep.is_leader_dead and (self._is_gone(sweep) or self._has_ended(sweep, held)):
            return
        if now >= sweep.kill_at:
            sweep.give_up_at = min(sweep.give_up_at, now + GIVE_UP_S)
            self._strike(sweep, held)
        if now >= sweep.give_up_at and not sweep.is_told:
            survivors = {"survivors": _named([*_leader(sweep), *held])}
            if sweep.is_leader_dead:
                self._finish(sweep, **survivors)
                return
            sweep.is_told = True
            self._stuck(sweep.child, survivors)
        sweep.look_at = min(now + sweep.pause_s, max(now, sweep.kill_at))
        sweep.pause_s = min(2 * sweep.pause_s, LOOK_MAX_S)

    def _has_ended(self, sweep: Sweep, held: dict[int, Fd]) -> bool:
        """Once, when the leader is dead: ask the rest to end. True: it may live on."""
        if sweep.is_asked or not held:
            return False
        sweep.is_asked, sweep.facts["lingering"] = True, len(held)
        sent = {one["signal"] for one in sweep.kept.get("signals", ())}
        if sweep.kept.get("keeps_children") and not sent & ENDED_BY_US:
            self._finish(sweep, survivors=_named(list(held)))
            return True
        now = time.monotonic()
        if signal.SIGKILL in sent:
            sweep.kill_at = now
        elif now < sweep.kill_at:
            send(held, signal.SIGTERM, signal.SIGCONT)
            sweep.kill_at = min(sweep.kill_at, now + TERM_S)
        return False

    def _strike(self, sweep: Sweep, held: dict[int, Fd]) -> None:
        """SIGKILL to all: by the kernel at once, or to all that could be stopped from forking."""
        if sweep.is_grouped and cgroup.kill(sweep.groups[0]):
            return
        for _ in range(0 if sweep.is_grouped else ROUNDS):
            before = held
            send(held, signal.SIGSTOP)
            held = self._kin.hold({sweep.child.key: not sweep.is_own})[sweep.child.key]
            if held.keys() <= before.keys():
                break
        send(held, signal.SIGKILL)

    def _is_gone(self, sweep: Sweep) -> bool:
        """Nobody is left, and that is told."""
        if sweep.is_limited:
            sweep.facts |= cgroup.evidence(sweep.groups)
        if sweep.is_grouped:
            is_gone = cgroup.remove(sweep.groups[:1]) or not cgroup.members(sweep.groups[0])
        elif sweep.is_own:
            is_gone = not self._kin.orphans(sweep.child.key)
        else:
            is_gone = sweep.quiet > 1  # one may have forked and ended under our eyes
        if is_gone:
            self._finish(sweep)
        return is_gone

    def _finish(self, sweep: Sweep, **facts: object) -> None:
        del self._sweeps[sweep.child.key]
        self._kin.forget(sweep.child.key)
        if sweep.groups and not cgroup.remove(sweep.groups):
            self._left.append(sweep.groups)
        told = sweep.facts | facts
        if sweep.strays:
            told["survivors"] = told.get("survivors", []) + _named(sweep.strays, f" ({STRAY})")
        self._over(sweep.child, told)


def _held(sweep: Sweep) -> dict[int, Fd]:
    """Those in its group; asked again with the pidfds open, so that each is who it was."""
    held = opened(cgroup.members(sweep.groups[0]))
    again = cgroup.members(sweep.groups[0]) if held else ()
    return {pid: held[pid] for pid in again if pid in held and not ended(held[pid])}


def _leader(sweep: Sweep) -> list[int]:
    return [] if sweep.is_leader_dead else [sweep.child.pid]


def _named(pids: list[int], note: str = "") -> list[Json]:
    unique = list(dict.fromkeys(pids))[:SURVIVORS_MAX]
    return [{"pid": pid, "command": named(pid)[:NAME_MAX] + note} for pid in unique]
