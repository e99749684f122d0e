"""Limits and whole trees through the whole of corps: what operators ask, see and are told."""

from __future__ import annotations

import json
import os
import pwd
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest

from corps.errors import Failed, Invalid
from corps.model.terms import Limits, Linger, Terms
from corps.worker.keeper_link import KEEPER_OPTIONS
from tests.support import programs
from tests.support.cluster import Cluster, cluster
from tests.support.frozen import Frozen
from tests.support.opened import opened_directory
from tests.support.waiting import until

MIB = 1 << 20
NOBODY = pwd.getpwnam("nobody")


@pytest.fixture(scope="module")
def shared() -> Iterator[Cluster]:
    """Everybody may come to the directory of this cluster, as to one in /var/lib."""
    with opened_directory() as directory, cluster(directory, "w1") as made:
        for name in ("limits", "tree"):
            made.copy(programs.build(name, directory / "programs"))
        yield made


def test_what_is_enforced_and_how_is_in_ps_and_why(shared: Cluster) -> None:
    words = ["--limit", "nofile=99,core=0", "--memory", "64M", "--pids", "20", "--cpus", "0.5"]
    said = shared.corps("launch", "limits", *words, "-o", "json", "--", "spin").stdout
    (row,) = json.loads(said)
    ways = row["enforced"]
    assert set(ways) == {"nofile", "core", "memory", "pids", "cpus"}
    assert (ways["nofile"], ways["core"]) == ("rlimit", "rlimit")
    assert all(ways[name].startswith("cgroup v") for name in ("memory", "pids", "cpus"))
    wide = shared.corps("ps", "-o", "wide", row["id"]).stdout
    assert f"memory={ways['memory']}" in wide
    assert "nofile=rlimit" in wide
    shared.client.kill((row["id"],))
    why = shared.corps("why", row["id"]).stdout
    assert f"memory by {ways['memory']}" in why
    assert "nofile by rlimit" in why


def test_out_of_memory_is_told_as_such(shared: Cluster) -> None:
    terms = Terms(limits=Limits(memory_bytes=32 * MIB))
    instance = shared.launch_one("limits", "memory", "200", terms=terms)
    dead = shared.wait_dead(instance.id)
    assert dead.death is not None
    assert (dead.death.signal, dead.death.cause) == (signal.SIGKILL, "oom")
    assert "out of memory" in dead.death.message
    assert "the OOM killer took 1 process of this instance" in shared.corps("why", dead.id).stdout


def test_used_up_cpu_time_is_told_as_such(shared: Cluster) -> None:
    instance = shared.launch_one(
        "limits", "spin", terms=Terms(limits=Limits(cpu_s=1, core_bytes=0))
    )
    dead = shared.wait_dead(instance.id)
    assert dead.death is not None
    assert (dead.death.signal, dead.death.cause) == (signal.SIGXCPU, "limit")
    assert dead.death.message == "killed by SIGXCPU (it had used the CPU time of its limit cpu)"


def test_it_runs_as_the_user_that_was_asked_for(shared: Cluster) -> None:
    terms = Terms(user="nobody", nice=5, umask=0o077)
    instance = shared.launch_one("limits", "born", terms=terms)
    dead = shared.wait_dead(instance.id)
    assert dead.death is not None and dead.death.message == "exited 0"
    facts = dict(line.split(":") for line in shared.log_of(instance.id).splitlines())
    uid, gid = NOBODY.pw_uid, NOBODY.pw_gid
    assert (facts["uid"], facts["gid"]) == (f"{uid} {uid} {uid}", f"{gid} {gid} {gid}")
    listed = sorted(map(int, facts["groups"].split()))
    assert listed == sorted(os.getgrouplist("nobody", gid))
    assert (facts["nice"], facts["made"], facts["no_new_privs"]) == ("5", "600", "1")
    shared.copy("/usr/bin/env", "--name", "env")
    env = shared.launch_one("env", terms=terms)
    shared.wait_dead(env.id)
    lines = shared.log_of(env.id).splitlines()
    assert {"USER=nobody", "LOGNAME=nobody"} <= set(lines)


def test_a_user_that_its_worker_does_not_know_is_named(shared: Cluster) -> None:
    for user, text in (("no_such_one", "no user 'no_such_one'"), ("nobody:no_such", "no group")):
        done = shared.corps("launch", "limits", "--user", user, "--", "born", check=False)
        assert done.returncode == Failed.exit_code
        assert text in done.stderr


@pytest.mark.parametrize(
    ("words", "text"),
    [
        (("--pids", "0"), "pids is 0: from 1"),
        (("--pids", "-1"), "pids is -1"),
        (("--memory", "0"), "memory_bytes is 0"),
        (("--memory", "-1"), "bad size"),
        (("--memory", "1e9G"), "bad size"),
        (("--memory", "9999999T"), "memory_bytes is"),
        (("--cpus", "0"), "cpus is 0"),
        (("--cpus", "nan"), "cpus is nan"),
        (("--limit", "nofile=-5"), "bad limit"),
        (("--limit", "shoes=5"), "bad limit"),
        (("--nice", "20"), "nice is 20"),
        (("--umask", "999"), "bad umask"),
        (("--user", "a b"), "bad user"),
    ],
)
def test_a_limit_out_of_range_is_refused_at_once(
    shared: Cluster, words: tuple[str, ...], text: str
) -> None:
    done = shared.corps("launch", "limits", *words, "--", "born", check=False)
    assert done.returncode == Invalid.exit_code, done.stderr
    assert text in done.stderr


def test_a_limit_above_what_the_machine_allows_fails_and_says_which(shared: Cluster) -> None:
    most = int(Path("/proc/sys/fs/nr_open").read_text())
    words = ["--limit", f"nofile={most + 1}", "--", "born"]
    done = shared.corps("launch", "limits", *words, check=False)
    assert done.returncode == Failed.exit_code
    assert f"the limit nofile={most + 1} is above fs.nr_open, {most}" in done.stderr


def test_a_stop_returns_when_the_whole_tree_is_gone(shared: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "pids"
    instance = shared.launch_one("tree", "sdi", str(file), "3")
    until(lambda: "ready" in shared.log_of(instance.id))
    (dead,) = shared.client.stop((instance.id,), 10)
    assert dead.death is not None
    assert (dead.death.message, dead.survivors) == (dead.death.message, ())
    assert "SIGINT (stop by" in dead.death.message
    assert not [pid for pid in _pids(file) if Path(f"/proc/{pid}").exists()]
    assert "3 descendants outlived it" in shared.corps("why", dead.id).stdout


def test_what_may_outlive_its_leader_is_listed(shared: Cluster, tmp_path: Path) -> None:
    file = tmp_path / "pids"
    terms = Terms(linger=Linger.KEEP)
    instance = shared.launch_one("tree", "sdx", str(file), "1", terms=terms)
    dead = shared.wait_dead(instance.id)
    (pid,) = _pids(file)
    assert dead.death is not None
    assert dead.death.message == f"exited 7; 1 process left running: {pid} tree"
    os.kill(pid, signal.SIGKILL)
    until(lambda: not Path(f"/proc/{pid}").exists())


def test_a_kill_names_what_does_not_die_and_fails(shared: Cluster, frozen: Frozen) -> None:
    """Until it wakes: then its death is told, as it was."""
    instance, other = shared.launch("limits", "spin", count=2)
    assert instance.pid is not None
    frozen(instance.pid)
    done = shared.corps("kill", instance.id, check=False)
    assert done.returncode == Failed.exit_code
    assert (
        f"{instance.id}: SIGKILL does not end {instance.pid} limits (in disk sleep)" in done.stderr
    )
    assert shared.get(instance.id).state == "stopping"
    assert shared.client.kill((other.id,))[0].state == "dead", "others are fine"
    frozen(None)
    dead = shared.wait_dead(instance.id)
    assert dead.death is not None
    assert (dead.death.signal, dead.death.cause, dead.survivors) == (signal.SIGKILL, "kill", ())


def test_what_no_cgroup_can_hold_is_refused_or_watched(tmp_path: Path) -> None:
    with cluster(tmp_path) as made:
        options = f"{KEEPER_OPTIONS}=--no-cgroup --no-controllers"
        made.start_worker("w1", prefix=["env", options])
        made.wait_state(w1="ready")
        made.copy(programs.build("limits", tmp_path / "programs"))
        words = ["launch", "limits", "--memory", "32M"]
        done = made.corps(*words, "--", "memory", "1", check=False)
        assert done.returncode == Failed.exit_code
        assert "no cgroup here can limit memory: have a cgroup" in done.stderr
        assert "or launch with --watchdog" in done.stderr
        (row,) = json.loads(
            made.corps(*words, "--watchdog", "-o", "json", "--", "memory", "200").stdout
        )
        assert row["enforced"] == {"memory": "watchdog"}
        dead = made.wait_dead(row["id"])
        assert dead.death is not None
        assert (dead.death.signal, dead.death.cause) == (signal.SIGKILL, "limit")
        assert "its worker ended it: memory" in dead.death.message
        pids = Terms(limits=Limits(pids=5, watchdog=True))
        dead = made.wait_dead(made.launch_one("limits", "hold", "9", terms=pids).id)
        assert dead.death is not None
        assert "its worker ended it: pids 10, at most 5 (watchdog)" in dead.death.message


def _pids(file: Path) -> list[int]:
    return [int(line) for line in file.read_text().split()]
