"""kill -9 of keepers: who ends meanwhile ends exactly, who lives is adopted, none runs twice."""

from __future__ import annotations

import os
import signal
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from corps.model.view import InstanceView
from tests.support import programs
from tests.support.cluster import Cluster, cluster
from tests.support.pids import stranger
from tests.support.waiting import until

MANY = 200
THOUSAND = 1_000
LOOK_S = 0.3  # between looks at so many
OLD_KERNEL = ("env", "CORPS_KEEPER_OPTIONS=--lost-status")


@pytest.fixture
def old_kernel(tmp_path: Path) -> Iterator[Cluster]:
    """A worker that does as on a kernel that tells nobody the status of a stranger."""
    with cluster(tmp_path) as made:
        made.start_worker("w1", prefix=OLD_KERNEL)
        made.wait_state(w1="ready")
        yield made


def test_what_ends_between_two_keepers_has_its_exact_status(alone: Cluster, tmp_path: Path) -> None:
    ends, killed, stays = _launch(alone, tmp_path, 3)
    _end_without_a_keeper(alone, ((ends, signal.SIGUSR1), (killed, signal.SIGTERM)))
    first, second = alone.wait_dead(ends.id), alone.wait_dead(killed.id)
    assert first.death is not None and second.death is not None
    assert (first.death.kind, first.death.code, first.death.cause) == ("exited", 5, "self")
    assert (second.death.kind, second.death.signal) == ("signaled", signal.SIGTERM)
    assert (first.pid, second.pid) == (ends.pid, killed.pid)
    assert first.usage.cpu_user_s is None, "no wait4 was done by us, and 0 would be a lie"
    assert alone.get(stays.id).pid == stays.pid
    (dead,) = alone.client.stop((stays.id,))
    assert dead.death is not None and (dead.death.code, dead.death.cause) == (7, "stop")


def test_a_pid_given_to_a_stranger_changes_nothing_of_that(alone: Cluster, tmp_path: Path) -> None:
    (ends,) = _launch(alone, tmp_path, 1)
    assert ends.pid is not None
    alone.signal("w1", signal.SIGSTOP)
    _kill_keeper(alone)
    os.kill(ends.pid, signal.SIGUSR1)
    until(lambda: not Path(f"/proc/{ends.pid}").exists())
    with stranger(ends.pid) as other:
        alone.signal("w1", signal.SIGCONT)
        dead = alone.wait_dead(ends.id)
        assert dead.death is not None and dead.death.code == 5
        done = alone.corps("kill", ends.id, check=False)
        assert done.returncode != 0 or "dead" in done.stdout + done.stderr
        assert other.poll() is None, "a stranger was signalled"


def test_an_old_kernel_cannot_tell_and_it_is_said_why(old_kernel: Cluster, tmp_path: Path) -> None:
    between, later, stays = _launch(old_kernel, tmp_path, 3)
    _end_without_a_keeper(old_kernel, ((between, signal.SIGUSR1),))
    first = old_kernel.wait_dead(between.id)
    until(lambda: old_kernel.get(stays.id).state == "running")
    assert later.pid is not None
    os.kill(later.pid, signal.SIGUSR1)
    second = old_kernel.wait_dead(later.id)
    reasons = ("ended while no keeper was there", "keeper lost")
    for dead, reason in zip((first, second), reasons, strict=True):
        assert dead.death is not None
        assert (dead.death.kind, dead.death.code, dead.death.signal) == ("vanished", None, None)
        assert reason in dead.death.message and dead.death.cause == "lost"
        assert "may have run" not in dead.death.message, "it was seen to run"
        assert dead.usage.cpu_user_s is None
    assert old_kernel.get(stays.id).pid == stays.pid


def test_killed_with_its_worker_the_new_ones_find_every_app(alone: Cluster, tmp_path: Path) -> None:
    apps = _launch(alone, tmp_path, MANY)
    alone.signal("w1", signal.SIGSTOP)  # else it makes a new keeper at once
    _kill_keeper(alone)
    alone.kill("w1")
    ended = apps[0]
    assert ended.pid is not None
    os.kill(ended.pid, signal.SIGUSR1)
    until(lambda: not Path(f"/proc/{ended.pid}").exists())
    alone.start_worker("w1")
    alone.wait_state(w1="ready")
    lost = alone.wait_dead(ended.id)
    assert lost.death is not None and lost.death.kind == "vanished", "nobody was there to see it"
    assert "no keeper" in lost.death.message
    _check_all_live(alone, tmp_path, apps[1:])
    _end_all_exactly(alone, apps[1:])


def test_every_one_of_many_is_adopted_and_ends_exactly(alone: Cluster, tmp_path: Path) -> None:
    apps = _launch(alone, tmp_path, MANY)
    before = _kill_keeper(alone)
    until(lambda: alone.keeper_pid("w1") not in (None, before))
    _check_all_live(alone, tmp_path, apps)
    _end_all_exactly(alone, apps)


@pytest.mark.timeout(400)
def test_a_thousand_that_die_at_once_are_a_thousand_exact_deaths(
    alone: Cluster, tmp_path: Path
) -> None:
    apps = _launch(alone, tmp_path, THOUSAND)
    expected = {}
    keeper = alone.keeper_pid("w1")
    assert keeper is not None
    os.kill(keeper, signal.SIGSTOP)
    for number, app in enumerate(apps):
        assert app.pid is not None
        sent, code = ((signal.SIGUSR1, 5), (signal.SIGINT, 7), (signal.SIGKILL, None))[number % 3]
        os.kill(app.pid, sent)
        expected[app.id] = (code, None if code else sent)
    until(lambda: all(_state(app.pid) == "Z" for app in apps), 120)
    os.kill(keeper, signal.SIGCONT)
    until(lambda: _dead(alone) >= expected.keys(), 120, LOOK_S)
    deaths = {one.id: one.death for one in alone.client.instances(("witness",), with_dead=True)}
    found = {id: (death.code, death.signal) for id, death in deaths.items() if death is not None}
    assert found == expected


def _launch(made: Cluster, tmp_path: Path, count: int) -> tuple[InstanceView, ...]:
    """That many witnesses, each of which has written down that it ran."""
    made.copy(programs.build("witness", tmp_path / "programs"))
    ledger = tmp_path / "ledger"
    apps = made.launch("witness", str(ledger), count=count)
    until(lambda: ledger.exists() and len(ledger.read_text().splitlines()) == count, 120, LOOK_S)
    return apps


def _kill_keeper(made: Cluster) -> int:
    pid = made.keeper_pid("w1")
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    until(lambda: made.keeper_pid("w1") != pid)
    return pid


def _end_without_a_keeper(made: Cluster, ends: Sequence[tuple[InstanceView, int]]) -> None:
    """The worker is stopped, so that it makes no new keeper before all of these are gone."""
    made.signal("w1", signal.SIGSTOP)
    _kill_keeper(made)
    pids = [one.pid for one, _ in ends if one.pid is not None]
    for pid, (_, number) in zip(pids, ends, strict=True):
        os.kill(pid, number)
    until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in pids))
    made.signal("w1", signal.SIGCONT)


def _check_all_live(made: Cluster, tmp_path: Path, apps: tuple[InstanceView, ...]) -> None:
    wanted = {app.id: app.pid for app in apps}
    until(
        lambda: (
            {one.id: one.pid for one in made.client.instances() if one.state == "running"}.items()
            >= wanted.items()
        ),
        60,
    )
    runs = Counter(line.split()[0] for line in (tmp_path / "ledger").read_text().splitlines())
    assert set(runs.values()) == {1}, "adopted, not started again"


def _end_all_exactly(made: Cluster, apps: tuple[InstanceView, ...]) -> None:
    for number, app in enumerate(apps):
        assert app.pid is not None
        os.kill(app.pid, (signal.SIGUSR1, signal.SIGINT)[number % 2])
    wanted = {app.id for app in apps}
    until(lambda: _dead(made) >= wanted, 60, LOOK_S)
    codes = {one.id: one.death for one in made.client.instances(("witness",), with_dead=True)}
    for number, app in enumerate(apps):
        death = codes[app.id]
        assert death is not None and (death.kind, death.code) == ("exited", (5, 7)[number % 2])


def _dead(made: Cluster) -> set[str]:
    found = made.client.instances(("witness",), with_dead=True)
    return {one.id for one in found if one.state == "dead"}


def _state(pid: int | None) -> str:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
