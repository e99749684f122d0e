"""Trees of real processes: who belongs to them, and what they used, also when they are gone."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from corps.clock import Clock
from corps.worker.census import TICKS_PER_S, Census, Leader, Tree, leader
from corps.worker.layout import Layout
from corps.worker.sampler import Sampler
from corps.worker.usage import Processes
from tests.support import compiled, usage
from tests.support.waiting import until

KEY = "a.1#1"


def leader_of(process: subprocess.Popen[bytes]) -> Leader:
    return leader(process.pid, Path(f"/proc/{process.pid}/stat").read_bytes())


def walk(census: Census, leaders: dict[str, Leader], keeper_pid: int | None = None) -> Tree:
    trees: dict[str, Tree] = {}
    for _ in census.walk(leaders, keeper_pid, trees):
        pass
    return trees[KEY]


@contextmanager
def running(*words: str | Path, cwd: Path | None = None) -> Iterator[subprocess.Popen[bytes]]:
    """A program in a session of its own; it ends with all that is left of its session."""
    process = subprocess.Popen(words, cwd=cwd, start_new_session=True, stdout=subprocess.PIPE)
    try:
        yield process
    finally:
        os.killpg(process.pid, 9)
        process.wait()
        assert process.stdout is not None
        process.stdout.close()


def line(process: subprocess.Popen[bytes]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().decode()


@pytest.fixture(scope="module")
def burner(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return compiled.compile_c(tmp_path_factory.mktemp("c"), "burn", usage.BURN)


@pytest.mark.parametrize("how", ["waited", "ignored"])
def test_cpu_of_a_grandchild_counts_once_while_it_lives_and_when_it_is_gone(
    burner: Path, tmp_path: Path, how: str
) -> None:
    census = Census()
    with running(burner, how, cwd=tmp_path) as process:
        leaders = {KEY: leader_of(process)}
        assert walk(census, leaders).processes >= 1
        burnt_s = float(line(process).split()[1])
        alive = walk(census, leaders)
        assert alive.processes == 3
        used_s = (alive.used.user + alive.used.system) / TICKS_PER_S
        assert burnt_s - 0.05 <= used_s <= burnt_s + 0.3
        (tmp_path / "go").touch()
        until(lambda: walk(census, leaders).processes < 3)
        gone = walk(census, leaders)
        after_s = (gone.used.user + gone.used.system) / TICKS_PER_S
        assert used_s <= after_s <= burnt_s + 0.5


def test_sums_never_decrease_while_children_come_and_go() -> None:
    census = Census()
    script = "while :; do (i=0; while [ $i -lt 3000 ]; do i=$((i+1)); done); done"
    with running("/bin/bash", "-c", script) as process:
        leaders = {KEY: leader_of(process)}
        totals = [walk(census, leaders).used for _ in range(100)]
        until(lambda: walk(census, leaders).used.user > totals[-1].user)
    cpu = [used.user for used in totals]
    assert cpu == sorted(cpu)
    assert [used.system for used in totals] == sorted(used.system for used in totals)
    assert [used.read for used in totals] == sorted(used.read for used in totals)


def test_a_stranger_with_the_same_pid_is_not_the_leader() -> None:
    census = Census()
    with running("/bin/sleep", "1000") as process:
        real = leader_of(process)
        assert walk(census, {KEY: real}).processes == 1
        assert walk(Census(), {KEY: Leader(real.pid, real.start - 1)}).processes == 0


def test_what_is_nobodys_is_not_counted_and_a_session_of_its_own_is_no_way_out() -> None:
    with (
        running("/bin/sleep", "1000"),
        running("/bin/sh", "-c", "setsid sleep 1000 & echo; wait") as process,
    ):
        line(process)
        leaders = {KEY: leader_of(process)}
        census = Census()
        until(lambda: walk(census, leaders).processes == 2)
        assert walk(census, leaders).threads == 2
        child = int(Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text())
        os.kill(child, 9)


def test_a_control_group_tells_of_one_that_lost_its_parent_and_its_environment() -> None:
    group = own_group() / f"corps-test-{os.getpid()}" / KEY
    group.mkdir(parents=True)
    script = f"echo $$ > {group}/cgroup.procs; (env -i setsid sleep 1000 &); exec sleep 1000"
    try:
        with running("/bin/sh", "-c", script) as process:
            until(lambda: len((group / "cgroup.procs").read_text().split()) == 2)
            until(lambda: b"sleep" in Path(f"/proc/{process.pid}/stat").read_bytes())
            assert walk(Census(), {KEY: leader_of(process)}).processes == 2
            shared = {KEY: leader_of(process), "b.1#1": Leader(1, 0)}
            assert walk(Census(), shared).processes == 2
    finally:
        for pid in map(int, (group / "cgroup.procs").read_text().split()):
            os.kill(pid, 9)
        until(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()
        group.parent.rmdir()


def own_group() -> Path:
    """Our directory in cgroup v2."""
    mounts = [line.split() for line in Path("/proc/self/mounts").read_text().splitlines()]
    point = next(Path(words[1]) for words in mounts if words[2] == "cgroup2")
    lines = Path("/proc/self/cgroup").read_text().splitlines()
    path = next(line[3:] for line in lines if line.startswith("0::"))
    return point / path.lstrip("/")


def test_what_another_user_may_not_read_is_unknown_and_the_rest_is_counted() -> None:
    reader, writer = os.pipe()
    with running("/bin/sleep", "1000") as process:
        leaders = {KEY: leader_of(process)}
        pid = os.fork()
        if pid == 0:
            os.setgroups([])
            os.setgid(65_534)
            os.setuid(65_534)
            tree = walk(Census(), leaders)
            words = (tree.processes, tree.threads, tree.rss_bytes > 0, tree.has_io)
            os.write(writer, repr(words).encode())
            os._exit(0)
        os.waitpid(pid, 0)
    os.close(writer)
    with os.fdopen(reader) as pipe:
        assert pipe.read() == "(1, 1, True, False)"


def test_a_sampler_goes_on_after_a_restart_and_counts_do_not_start_again(
    burner: Path, tmp_path: Path
) -> None:
    layout = Layout(tmp_path)
    layout.make(KEY)
    with running(burner, "ignored", cwd=tmp_path) as process:
        before, processes = a_sampler(layout, process)
        line(process)
        sample(before)
        first = before.measured(KEY)
        processes.close()
        (tmp_path / "go").touch()
        children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
        child = int(children.read_text())
        until(lambda: not Path(f"/proc/{child}/task/{child}/children").read_text())
        after, processes = a_sampler(layout, process)
        sample(after)
        second = after.measured(KEY)
        processes.close()
    assert first is not None and second is not None
    assert first.cpu_user_s + first.cpu_system_s > 0.9
    assert second.cpu_user_s >= first.cpu_user_s
    assert (first.samples, second.samples, second.processes) == (1, 2, 2)
    ((_, measured),) = after.ended([KEY])
    assert measured == second
    assert dict(a_sampler(layout, None)[0].ended([KEY]))[KEY].samples == 2
    assert after.ended(["b.1#1"]) == ()


def a_sampler(layout: Layout, process: subprocess.Popen[bytes] | None) -> tuple[Sampler, Processes]:
    processes = Processes()
    if process is not None:
        processes.watch(KEY, process.pid, os.pidfd_open(process.pid))
    return Sampler(layout, processes, Clock(), 5.0), processes


def sample(sampler: Sampler) -> None:
    for _ in sampler.steps(is_kept=True):
        pass
