"""Each limit holds: real programs that would go beyond it; and what cannot hold is refused."""

from __future__ import annotations

import errno
import os
import signal
from collections.abc import Callable
from pathlib import Path

import msgspec
import pytest

from corps.wire import keeper as wire
from tests.integration.keeper.driver import Keeper, status_of
from tests.support import groups
from tests.support.waiting import until

Start = Callable[..., Keeper]
Order = Callable[..., wire.Spawn]
Built = Callable[[str], str]

MIB = 1 << 20
NOBODY = 65_534


def test_no_more_files_than_nofile(keeper: Keeper, order: Order, built: Built) -> None:
    said = order("app.1#1", built("limits"), "files", rlimits={"nofile": 40})
    ended = keeper.link.run(said)
    assert Path(said.stdout).read_text() == f"37 files, errno {errno.EMFILE}\n"
    assert ended.enforced == {"nofile": "rlimit"}


def test_no_more_processes_than_pids(keeper: Keeper, order: Order, built: Built) -> None:
    """The leader counts as one."""
    said = order("app.1#1", built("limits"), "forks", pids=10)
    ended = keeper.link.run(said)
    assert Path(said.stdout).read_text() == f"9 forks, errno {errno.EAGAIN}\n"
    assert ended.enforced["pids"].startswith("cgroup v")
    assert ended.limit_hits["pids"] >= 1


def test_no_more_processes_than_nproc_for_an_ordinary_user(
    keeper: Keeper, order: Order, built: Built, tmp_path: Path
) -> None:
    """It counts all that its user has, so a user that nobody else is."""
    uid = 3_000_000_000
    said = order("app.1#1", built("limits"), "forks", rlimits={"nproc": 10}, cwd="/")
    said = _as_user(said, tmp_path, uid)
    assert keeper.link.run(said).status == 0
    assert Path(said.stdout).read_text() == f"9 forks, errno {errno.EAGAIN}\n"


def test_beyond_memory_the_oom_killer_comes_and_is_named(
    keeper: Keeper, order: Order, built: Built
) -> None:
    said = order("app.1#1", built("limits"), "memory", "200", memory_bytes=32 * MIB)
    ended = keeper.link.run(said)
    assert ended.status == signal.SIGKILL
    assert ended.oom_kills is not None and ended.oom_kills >= 1
    assert ended.signals == ()
    within = order("app.2#1", built("limits"), "memory", "8", memory_bytes=32 * MIB)
    keeper.link.spawn(within)
    until(lambda: Path(within.stdout).read_text() == "all of it\n")
    assert keeper.link.signal("app.2#1", signal.SIGKILL) == 0
    assert keeper.link.ended("app.2#1").oom_kills == 0


def test_a_child_that_the_oom_killer_took_is_counted_too(
    keeper: Keeper, order: Order, built: Built
) -> None:
    script = f"{built('limits')} memory 200; exit 5"
    ended = keeper.link.run(order("app.1#1", "/bin/sh", "-c", script, memory_bytes=32 * MIB))
    assert (ended.status, ended.oom_kills) == (status_of(5), 1)


def test_beyond_cpus_a_tree_is_throttled(keeper: Keeper, order: Order, built: Built) -> None:
    key = "app.1#1"
    spawned = keeper.link.spawn(order(key, built("limits"), "spin", cpus=0.2))
    until(lambda: _throttled(keeper.directory) > 3)
    assert spawned.enforced["cpus"].startswith("cgroup v")
    assert keeper.link.signal(key, signal.SIGKILL) == 0
    assert keeper.link.ended(key).survivors == ()


def test_the_time_of_cpu_ends_in_sigxcpu_and_then_in_sigkill(
    keeper: Keeper, order: Order, built: Built
) -> None:
    deaf = order("app.1#1", built("limits"), "burn", rlimits={"cpu": 1})
    hears = order("app.2#1", built("limits"), "spin", rlimits={"cpu": 1})
    keeper.link.spawn(deaf, hears)
    assert keeper.link.ended("app.2#1").status in (signal.SIGXCPU, signal.SIGXCPU | 0x80)
    assert keeper.link.ended("app.1#1").status == signal.SIGKILL
    assert Path(deaf.stdout).read_text() == "SIGXCPU\n"


def test_core_0_leaves_no_core(keeper: Keeper, order: Order, built: Built, tmp_path: Path) -> None:
    place = tmp_path / "cores"
    place.mkdir()
    said = order("app.1#1", "/bin/sh", "-c", "kill -SEGV $$", rlimits={"core": 0}, cwd=str(place))
    assert keeper.link.run(said).status == signal.SIGSEGV, "without the flag of a core"
    assert list(place.iterdir()) == []


def test_a_tiny_address_space_ends_the_program_not_the_keeper(
    keeper: Keeper, order: Order, built: Built
) -> None:
    """exec succeeds, and then its loader finds no room (FAULTS: B128)."""
    ended = keeper.link.run(order("app.1#1", built("wait"), rlimits={"as": MIB}))
    assert ended.executed
    assert ended.status in (status_of(127), signal.SIGSEGV, signal.SIGKILL)
    assert keeper.link.run(order("app.2#1", "/bin/true")).status == 0


def test_it_is_born_with_all_that_was_asked_for(
    keeper: Keeper, order: Order, built: Built, tmp_path: Path
) -> None:
    rlimits = {"nofile": 99, "nproc": 50, "core": 0, "as": 1 << 30, "cpu": 77}
    said = order("app.1#1", built("limits"), "born", nice=7, umask=0o027, rlimits=rlimits)
    said = _as_user(said, tmp_path, NOBODY, groups=(NOBODY, 4, 20))
    assert keeper.link.run(said).status == 0, Path(said.stderr).read_text()
    facts = dict(line.split(":") for line in Path(said.stdout).read_text().splitlines())
    assert facts["uid"] == facts["gid"] == f"{NOBODY} {NOBODY} {NOBODY}"
    assert sorted(map(int, facts["groups"].split())) == [4, 20, NOBODY]
    assert (facts["nice"], facts["made"], facts["no_new_privs"]) == ("7", "640", "1")
    assert (facts["nofile"], facts["nproc"], facts["core"]) == ("99 99", "50 50", "0 0")
    assert (facts["as"], facts["cpu"]) == (f"{1 << 30} {1 << 30}", "77 78")
    assert (tmp_path / "open" / "made").stat().st_uid == NOBODY
    assert Path(said.stdout).stat().st_uid == 0, "its log stays the worker's"


def test_what_only_root_may_is_refused_or_fails_in_its_stage(
    start: Start, order: Order, built: Built, tmp_path: Path
) -> None:
    """A keeper of an ordinary user, as far as rights go."""
    drop = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", "--reuid=65534", "--clear-groups"]
    (tmp_path / "state").mkdir()
    for path in (tmp_path, tmp_path / "state", *tmp_path.parents[:2]):
        path.chmod(path.stat().st_mode | 0o055)
    os.chown(tmp_path, NOBODY, -1)
    os.chown(tmp_path / "state", NOBODY, -1)
    keeper = start(limits="ulimit -n 500", prefix=drop)
    refused = _refused(keeper, order("app.1#1", "/bin/true", rlimits={"nofile": 501}))
    assert refused.stage == "limits"
    assert refused.reason == (
        "the limit nofile=501 is above the hard limit of its worker, 500, which only root may raise"
    )
    assert keeper.link.run(order("app.2#1", "/bin/true", rlimits={"nofile": 500})).status == 0
    failures: dict[str, dict[str, object]] = {
        "nice": {"nice": -1},
        "user": {"uid": 1, "gid": 1, "groups": (1,)},
    }
    for number, (stage, fields) in enumerate(failures.items(), 3):
        ended = keeper.link.run(order(f"app.{number}#1", "/bin/true", **fields))
        assert (ended.failed_stage, ended.executed) == (stage, False)
        assert ended.failed_errno in (errno.EPERM, errno.EACCES)


def test_what_the_kernel_allows_nobody_is_refused(keeper: Keeper, order: Order) -> None:
    most = int(Path("/proc/sys/fs/nr_open").read_text())
    for value in (most + 1, -1):
        refused = _refused(keeper, order("app.1#1", "/bin/true", rlimits={"nofile": value}))
        assert refused.stage == "limits"
        assert f"fs.nr_open, {most}" in refused.reason
    refused = _refused(keeper, order("app.1#1", "/bin/true", rlimits={"shoes": 1}))
    assert refused.reason == "no limit 'shoes' on this system"
    assert keeper.link.listing() == {}


@pytest.mark.parametrize(
    ("limit", "name"), [({"memory_bytes": MIB}, "memory"), ({"pids": 9}, "pids")]
)
def test_without_a_controller_a_limit_is_refused_or_left_to_the_worker(
    start: Start, order: Order, built: Built, limit: dict[str, object], name: str
) -> None:
    keeper = start("--no-controllers")
    refused = _refused(keeper, order("app.1#1", "/bin/true", **limit))
    assert (refused.stage, refused.reason) == (
        "limits",
        f"no cgroup here can limit {name}: have a cgroup with this controller delegated to the "
        "worker, or launch with --watchdog",
    )
    spawned = keeper.link.spawn(order("app.2#1", built("wait"), watched=(name,), **limit))
    assert spawned.enforced == {name: "watchdog"}
    assert spawned.watched == {name: next(iter(limit.values()))}
    refused = _refused(keeper, order("app.3#1", "/bin/true", cpus=0.5, watched=("memory", "pids")))
    assert refused.reason.endswith("have a cgroup with this controller delegated to the worker")


def test_a_value_that_the_kernel_refuses_is_a_failure_and_leaves_no_group(
    keeper: Keeper, order: Order
) -> None:
    ended = keeper.link.run(order("app.1#1", "/bin/true", pids=1 << 60))
    assert (ended.failed_stage, ended.failed_errno) == ("cgroup", errno.EINVAL)
    assert [path.name for path in groups.of(keeper.directory) if "app" in path.name] == []


def test_ten_launches_with_every_limit_leave_no_group(
    keeper: Keeper, order: Order, built: Built
) -> None:
    limits = {"memory_bytes": 64 * MIB, "pids": 20, "cpus": 2.0}
    for number in range(10):
        key = f"app.{number}#1"
        keeper.link.spawn(order(key, built("wait"), **limits))
        assert any(key in path.name for path in groups.of(keeper.directory))
        assert keeper.link.signal(key, signal.SIGTERM) == 0
        assert keeper.link.ended(key).status == signal.SIGTERM
    assert [path.name for path in groups.of(keeper.directory) if "app" in path.name] == []


def _as_user(said: wire.Spawn, tmp_path: Path, uid: int, **fields: object) -> wire.Spawn:
    """In a directory of its own, to which it may go; the program lies there too."""
    place = tmp_path / "open"
    place.mkdir()
    for path in (*tmp_path.parents[:2], tmp_path, place):
        path.chmod(path.stat().st_mode | 0o011)
    program = place / "program"
    program.write_bytes(Path(said.path).read_bytes())
    program.chmod(0o555)
    os.chown(place, uid, uid)
    changes: dict[str, object] = {"uid": uid, "gid": uid, "groups": (uid,), "cwd": str(place)}
    return msgspec.structs.replace(said, path=str(program), **(changes | fields))


def _refused(keeper: Keeper, said: wire.Spawn) -> wire.Refused:
    keeper.link.send(said)
    return keeper.link.wait(wire.Refused, said.key)


def _throttled(directory: Path) -> int:
    """How often the kernel made one of its groups wait for the next period."""
    counts = [0]
    for path in groups.of(directory):
        for line in (
            (path / "cpu.stat").read_text().splitlines() if (path / "cpu.stat").exists() else ()
        ):
            name, _, value = line.partition(" ")
            if name == "nr_throttled":
                counts.append(int(value))
    return max(counts)
