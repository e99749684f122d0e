"""The whole tree ends with its leader: as root and as an ordinary user, by group and by mark."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

import pytest

from corps.wire import keeper as wire
from tests.integration.keeper.driver import Keeper, status_of
from tests.support import groups, programs
from tests.support.frozen import Frozen
from tests.support.waiting import until

NOBODY = 65_534
WAYS = ["cgroup", "marker", "cgroup of an ordinary user", "marker of an ordinary user"]


class Ground(NamedTuple):
    """A keeper that finds trees in one way, and a directory that its programs may write in."""

    keeper: Keeper
    directory: Path
    restart: Callable[[], Keeper]
    way: str

    def order(self, key: str, *words: str, **fields: object) -> wire.Spawn:
        log = str(self.directory / key.partition("#")[0])
        env = {"CORPS_ATTEMPT": key, "CORPS_TEST": str(self.directory)}
        given: dict[str, object] = {
            "key": key,
            "path": words[0],
            "argv": words,
            "env": env,
            "cwd": str(self.directory),
            "stdout": f"{log}.out",
            "stderr": f"{log}.err",
        }
        return wire.Spawn(**(given | fields))  # type: ignore[arg-type]  # fields of Spawn

    def tree(self, key: str, options: str, depth: int, **fields: object) -> wire.Spawn:
        said = self.order(
            key, self.program("tree"), options, str(self.pid_file(key)), str(depth), **fields
        )
        self.keeper.link.spawn(said)
        until(lambda: Path(said.stdout).exists() and Path(said.stdout).read_text() == "ready\n")
        return said

    def program(self, name: str) -> str:
        return str(programs.build(name, self.directory))

    def pid_file(self, key: str) -> Path:
        return self.directory / f"{key}.pids"

    def pids(self, key: str) -> list[int]:
        return [int(line) for line in self.pid_file(key).read_text().split()]


@pytest.fixture(params=WAYS)
def ground(request: pytest.FixtureRequest) -> Iterator[Ground]:
    yield from make_ground(request.param)


def make_ground(way: str, *options: str) -> Iterator[Ground]:
    directory = Path(tempfile.mkdtemp(prefix="corps-tree-"))
    delegated = Path(groups.places()[""]) / directory.name
    state = directory / "state"
    state.mkdir()
    prefix = _prefix(way, directory, delegated)
    given = (*options, "--no-cgroup") if way == "marker" else options
    keepers: list[Keeper] = []

    def start() -> Keeper:
        keepers.append(Keeper(state, *given, prefix=prefix))
        return keepers[-1]

    try:
        yield Ground(start(), directory, start, way)
        for keeper in keepers:
            if keeper.process.poll() is None:
                keeper.end()
            keeper.link.close()
    finally:
        left = marked(directory)
        for pid in left:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        groups.end(state, is_expected=bool(left))
        groups.remove(delegated)
        shutil.rmtree(directory)
    assert not left, f"processes survive the test: {left}"


def _prefix(way: str, directory: Path, delegated: Path) -> list[str]:
    """An ordinary user's keeper runs in a group that is delegated to it, as systemd would."""
    if "ordinary" not in way:
        return []
    for path in (directory, *directory.rglob("*")):
        os.chown(path, NOBODY, NOBODY)
    words = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    if way.startswith("marker"):
        return words
    delegated.mkdir()
    for path in (delegated, delegated / "cgroup.procs", delegated / "cgroup.subtree_control"):
        os.chown(path, NOBODY, NOBODY)
    return ["sh", "-c", f'echo 0 >{delegated}/cgroup.procs; exec "$@"', "sh", *words]


def test_nobody_outlives_a_leader_that_exits(ground: Ground) -> None:
    """Daemons five deep, each forked twice into a session of its own: those of one leader only."""
    ground.tree("other.1#1", "sd", 2)
    ground.tree("app.1#1", "sdx", 5)
    ended = ground.keeper.link.ended("app.1#1")
    assert (ended.status, ended.lingering, ended.survivors) == (status_of(7), 5, ())
    assert ended.tree == ground.way.split()[0]
    assert [pid for pid in ground.pids("app.1#1") if is_alive(pid)] == []
    assert all(is_alive(pid) for pid in ground.pids("other.1#1"))
    assert ground.keeper.link.signal("other.1#1", signal.SIGKILL) == 0
    assert ground.keeper.link.ended("other.1#1").status == signal.SIGKILL
    assert [pid for pid in ground.pids("other.1#1") if is_alive(pid)] == []


@pytest.mark.parametrize("options", ["-", "s", "sd", "i", "sdi"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_stop_and_a_kill_are_told_when_nobody_is_left(
    ground: Ground, options: str, number: int
) -> None:
    ground.tree("app.1#1", options, 3)
    assert ground.keeper.link.signal("app.1#1", number) == 0
    ended = ground.keeper.link.ended("app.1#1")
    assert (ended.status, ended.lingering, ended.survivors) == (number, 3, ())
    assert [pid for pid in ground.pids("app.1#1") if is_alive(pid)] == []


def test_what_wiped_its_environment_is_found(ground: Ground) -> None:
    """By its session, or by a parent that was seen with it; a group needs neither."""
    ground.tree("app.1#1", "wx", 3)
    assert ground.keeper.link.ended("app.1#1").lingering == 3
    assert [pid for pid in ground.pids("app.1#1") if is_alive(pid)] == []


def test_what_nothing_tells_of_is_named_and_left_alone(ground: Ground) -> None:
    """No group, no mark, no session, no parent: it may be anybody's, so it is not killed."""
    ground.tree("app.1#1", "sdwx", 1)
    ended = ground.keeper.link.ended("app.1#1")
    (pid,) = ground.pids("app.1#1")
    if ground.way.startswith("cgroup"):
        assert (ended.lingering, ended.survivors, is_alive(pid)) == (1, (), False)
    else:
        assert is_alive(pid)
        assert [one.pid for one in ended.survivors] == [pid]
        assert ended.survivors[0].command == "tree (without a mark: perhaps of this instance)"
        os.kill(pid, signal.SIGKILL)
        until(lambda: not is_alive(pid))


def test_a_descendant_that_does_not_die_is_named(ground: Ground, frozen: Frozen) -> None:
    """A process in the freezer of cgroup v1 sleeps as one in disk sleep does, SIGKILL or not."""
    ground.tree("app.1#1", "-", 2)
    first, second = ground.pids("app.1#1")
    frozen(second)
    assert ground.keeper.link.signal("app.1#1", signal.SIGKILL) == 0
    assert ground.keeper.link.run(ground.order("app.2#1", "/bin/true")).status == 0
    ended = ground.keeper.link.ended("app.1#1")
    assert (ended.status, ended.lingering) == (signal.SIGKILL, 2)
    assert [(one.pid, one.command) for one in ended.survivors] == [(second, "tree (in disk sleep)")]
    assert (is_alive(first), is_alive(second)) == (False, True)
    frozen(None)
    until(lambda: not is_alive(second))


def test_a_leader_that_does_not_die_is_told_of_and_others_are_fine(
    ground: Ground, frozen: Frozen
) -> None:
    said = ground.tree("app.1#1", "-", 1)
    leader = ground.keeper.link.listing()[said.key].pid
    frozen(leader)
    assert ground.keeper.link.signal("app.1#1", signal.SIGKILL) == 0
    assert ground.keeper.link.run(ground.order("app.2#1", "/bin/true")).status == 0
    stuck = ground.keeper.link.wait(wire.Stuck, "app.1#1").attempt
    assert (stuck.is_live, stuck.status) == (True, None)
    assert [(one.pid, one.command) for one in stuck.survivors] == [(leader, "tree (in disk sleep)")]
    (child,) = ground.pids("app.1#1")
    until(lambda: not is_alive(child))
    assert ground.keeper.link.listing()["app.1#1"].survivors == stuck.survivors
    frozen(None)
    ended = ground.keeper.link.ended("app.1#1")
    assert (ended.status, ended.survivors) == (signal.SIGKILL, ())


def test_a_fork_bomb_is_contained_and_ended(ground: Ground) -> None:
    """Of an ordinary user without a group only setrlimit(2) can hold it."""
    limit: dict[str, object] = {"pids": 100}
    if "ordinary" in ground.way:
        limit = {"rlimits": {"nproc": 100 + len(_of_user(NOBODY))}}
    said = ground.order("app.1#1", ground.program("bomb"), **limit)
    ground.keeper.link.spawn(said)
    until(lambda: Path(said.stdout).read_text().startswith("full"))
    assert ground.keeper.link.run(ground.order("app.2#1", "/bin/true")).status == 0
    assert 50 < len(_named("bomb", ground.directory)) <= 250
    assert ground.keeper.link.signal("app.1#1", signal.SIGKILL) == 0
    ended = ground.keeper.link.ended("app.1#1")
    assert (ended.status, ended.survivors) == (signal.SIGKILL, ())
    assert _named("bomb", ground.directory) == []


@pytest.mark.parametrize("ground", ["cgroup of an ordinary user"], indirect=True)
def test_where_a_group_cannot_be_killed_it_is_frozen_and_killed_one_by_one(ground: Ground) -> None:
    """As before Linux 5.14, which has no cgroup.kill: here it is there, and forbidden."""
    ground.tree("app.1#1", "sdi", 5)
    pids = ground.pids("app.1#1")
    group = Path(f"/proc/{pids[0]}/cgroup").read_text().rpartition("0::/")[2].strip()
    place = next(p for p in Path(groups.places()[""]).rglob("*") if str(p).endswith(group))
    os.chown(place / "cgroup.kill", 0, 0)
    assert ground.keeper.link.signal("app.1#1", signal.SIGKILL) == 0
    ended = ground.keeper.link.ended("app.1#1")
    assert (ended.status, ended.lingering, ended.survivors) == (signal.SIGKILL, 5, ())
    assert [pid for pid in pids if is_alive(pid)] == []


def test_a_stopped_tree_is_ended(ground: Ground) -> None:
    said = ground.tree("app.1#1", "k", 3)
    leader = ground.keeper.link.listing()[said.key].pid
    for pid in (*ground.pids("app.1#1"), leader):
        os.kill(pid, signal.SIGSTOP)
        until(partial(_is_stopped, pid))
    assert ground.keeper.link.signal("app.1#1", signal.SIGINT) == 0
    ended = ground.keeper.link.ended("app.1#1")
    assert (ended.status, ended.lingering, ended.survivors) == (status_of(3), 3, ())
    assert [pid for pid in ground.pids("app.1#1") if is_alive(pid)] == []


def test_a_sigkill_ends_the_patience_with_the_rest(ground: Ground) -> None:
    """The worker's grace is over while what ignores SIGTERM is still asked to end."""
    ground.tree("app.1#1", "ik", 2)
    assert ground.keeper.link.signal("app.1#1", signal.SIGINT) == 0
    assert ground.keeper.link.signal("app.1#1", signal.SIGKILL) in (0, 3)
    ended = ground.keeper.link.ended("app.1#1")
    assert ended.survivors == ()
    assert [pid for pid in ground.pids("app.1#1") if is_alive(pid)] == []


def test_what_shall_outlive_its_leader_is_listed_and_left_alone(ground: Ground) -> None:
    ground.tree("app.1#1", "sdx", 2, keeps_children=True)
    ended = ground.keeper.link.ended("app.1#1")
    pids = ground.pids("app.1#1")
    assert (ended.status, ended.lingering) == (status_of(7), 2)
    assert sorted((one.pid, one.command) for one in ended.survivors) == sorted(
        (pid, "tree") for pid in pids
    )
    assert all(is_alive(pid) for pid in pids)
    ground.tree("app.2#1", "sd", 2, keeps_children=True)
    assert ground.keeper.link.signal("app.2#1", signal.SIGKILL) == 0
    assert ground.keeper.link.ended("app.2#1").survivors == (), "a kill spares nobody"
    assert all(is_alive(pid) for pid in pids)
    for pid in pids:
        os.kill(pid, signal.SIGKILL)
    until(lambda: not any(is_alive(pid) for pid in pids))


def test_a_new_keeper_ends_what_the_old_one_had_not(ground: Ground) -> None:
    """Killed between the leader's death and the end of its tree, which ignores SIGTERM."""
    ground.tree("app.1#1", "sdik", 3)
    assert ground.keeper.link.signal("app.1#1", signal.SIGINT) == 0
    leader = ground.keeper.link.listing()["app.1#1"].pid
    until(lambda: not Path(f"/proc/{leader}").exists())
    ground.keeper.kill()
    new = ground.restart()
    listed = new.link.listing()["app.1#1"]
    ended = listed if not listed.is_live else new.link.ended("app.1#1")
    assert (ended.status, ended.survivors, ended.lost) == (status_of(3), (), None)
    assert [pid for pid in ground.pids("app.1#1") if is_alive(pid)] == []


def test_an_adopted_tree_ends_with_its_leader(ground: Ground) -> None:
    ground.tree("app.1#1", "sdi", 3)
    ground.keeper.kill()
    new = ground.restart()
    assert new.link.listing()["app.1#1"].is_live
    assert new.link.signal("app.1#1", signal.SIGINT) == 0
    ended = new.link.ended("app.1#1")
    assert (ended.status, ended.lingering, ended.survivors) == (signal.SIGINT, 3, ())
    assert [pid for pid in ground.pids("app.1#1") if is_alive(pid)] == []


def test_a_tree_whose_leader_died_without_a_keeper_is_ended(ground: Ground) -> None:
    ground.tree("app.1#1", "sd", 3)
    leader = ground.keeper.link.listing()["app.1#1"].pid
    ground.keeper.kill()
    os.kill(leader, signal.SIGKILL)
    until(lambda: not is_alive(leader))
    new = ground.restart()
    listed = new.link.listing()["app.1#1"]
    ended = listed if not listed.is_live else new.link.ended("app.1#1")
    assert ended.executed
    assert [pid for pid in ground.pids("app.1#1") if is_alive(pid)] == []


def test_what_its_orphans_used_is_part_of_what_it_used(ground: Ground) -> None:
    """An orphan that worked for 50 ms, of a leader that did nothing."""
    file = ground.directory / "pid"
    said = ground.order("app.1#1", ground.program("orphan"), str(file))
    ground.keeper.link.send(said)
    ended = ground.keeper.link.ended("app.1#1")
    assert ended.usage is not None
    if file.exists():  # else it was ended before it had done its work
        assert ended.usage.cpu_user_s + ended.usage.cpu_system_s >= 0.04


def _of_user(uid: int) -> list[int]:
    """Threads count as well."""
    found = []
    for task in Path("/proc").glob("[0-9]*/task/*"):
        with contextlib.suppress(FileNotFoundError):
            if task.stat().st_uid == uid:
                found.append(int(task.name))
    return found


def _named(name: str, directory: Path) -> list[int]:
    path = str(directory / name)
    found = []
    for entry in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            if (entry / "cmdline").read_bytes().split(b"\0")[0] == path.encode():
                found.append(int(entry.name))
    return [pid for pid in found if is_alive(pid)]


def _is_stopped(pid: int) -> bool:
    return state(pid) == "T"


def is_alive(pid: int) -> bool:
    return state(pid) not in "ZX"


def state(pid: int) -> str:
    """As in /proc/PID/stat; Z when it is gone."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return "Z"


def marked(directory: Path) -> list[int]:
    """What belongs to a test, by environment or by command line."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            with contextlib.suppress(OSError):
                text = (entry / "environ").read_bytes() + (entry / "cmdline").read_bytes()
                if str(directory).encode() in text and is_alive(int(entry.name)):
                    found.append(int(entry.name))
    return found
