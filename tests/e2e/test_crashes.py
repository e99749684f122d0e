"""kill -9 of every daemon, also while launching: same pids, exact statuses, nothing twice."""

from __future__ import annotations

import os
import signal
import threading
from collections import Counter
from pathlib import Path

from corps.client import Client
from corps.errors import CorpsError
from corps.model.command import Instances, Launch
from tests.support import compiled
from tests.support.cluster import Cluster
from tests.support.waiting import until


def test_apps_outlive_their_worker_daemon_and_their_end_is_exact(
    alone: Cluster, tmp_path: Path
) -> None:
    alone.copy(compiled.compile_c(tmp_path / "c", "ledger", compiled.LEDGER))
    alone.copy("/bin/sleep")
    stays = alone.launch_one("sleep", "1000")
    ends = alone.launch_one("ledger", str(tmp_path / "ledger"), "600")
    killed = alone.launch_one("sleep", "1000")
    alone.kill("w1")
    assert killed.pid is not None
    os.kill(killed.pid, signal.SIGTERM)
    until(lambda: not _is_there(ends.pid) and not _is_there(killed.pid))
    alone.wait_state(w1="lost")
    assert alone.get(stays.id).state == "unknown"
    alone.start_worker("w1")
    alone.wait_state(w1="ready")
    back = alone.get(stays.id)
    assert (back.state, back.pid, back.os_state) == ("running", stays.pid, "sleeping")
    first, second = alone.wait_dead(ends.id), alone.wait_dead(killed.id)
    assert first.death is not None and second.death is not None
    assert (first.death.kind, first.death.code) == ("exited", 0)
    assert (second.death.signal, second.death.cause) == (signal.SIGTERM, "self")
    assert first.usage.cpu_user_s is not None


def test_a_closed_connection_is_seen_at_once_and_two_beats_are_lost(alone: Cluster) -> None:
    alone.copy("/bin/sleep")
    alone.kill("w1")
    until(lambda: alone.client.workers()[0].state in ("suspect", "lost"))
    done = alone.corps("launch", "sleep", check=False)
    assert done.returncode == 7
    assert "w1" in done.stderr
    alone.wait_state(w1="lost")


def test_a_frozen_worker_is_lost_by_the_beat_and_comes_back_by_hello(alone: Cluster) -> None:
    alone.copy("/bin/sleep")
    instance = alone.launch_one("sleep", "1000")
    alone.signal("w1", signal.SIGSTOP)
    alone.wait_state(w1="lost")
    assert alone.get(instance.id).state == "unknown"
    alone.signal("w1", signal.SIGCONT)
    alone.wait_state(w1="ready")
    until(lambda: alone.get(instance.id).state == "running")
    assert alone.get(instance.id).pid == instance.pid


def test_a_master_that_was_paused_blames_no_worker(alone: Cluster) -> None:
    before = alone.client.events(after=-1)[-1].seq
    alone.signal("master", signal.SIGSTOP)
    # The pause must be longer than two beats: until the worker's own clock says so.
    begin = os.times().elapsed
    until(lambda: os.times().elapsed - begin > 2.5)
    alone.signal("master", signal.SIGCONT)
    alone.wait_state(w1="ready")
    kinds = {event.kind for event in alone.client.events(after=before)}
    assert "worker-lost" not in kinds


def test_a_stop_asked_while_the_worker_was_away_is_carried_out_when_it_is_back(
    alone: Cluster,
) -> None:
    alone.copy("/bin/sleep")
    instance = alone.launch_one("sleep", "1000")
    alone.kill("w1")
    alone.wait_state(w1="lost")
    (view,) = alone.client.stop((instance.id,))
    assert view.state == "unknown"
    alone.start_worker("w1")
    dead = alone.wait_dead(instance.id)
    assert dead.death is not None and dead.death.cause == "stop"


def test_kill_9_of_the_keeper_loses_no_app_and_no_status(alone: Cluster, tmp_path: Path) -> None:
    alone.copy("/bin/sleep")
    alone.copy(compiled.compile_c(tmp_path / "c", "ledger", compiled.LEDGER))
    stays = alone.launch_one("sleep", "1000")
    ends = alone.launch_one("ledger", str(tmp_path / "ledger"), "1500")
    keeper = alone.keeper_pid("w1")
    assert keeper is not None
    os.kill(keeper, signal.SIGKILL)
    until(lambda: alone.keeper_pid("w1") not in (None, keeper))
    later = alone.launch_one("sleep", "1000")
    dead = alone.wait_dead(ends.id)
    assert dead.death is not None
    assert dead.death.kind in ("exited", "vanished"), "exact since Linux 6.15, else said as unknown"
    if dead.death.kind == "exited":
        assert dead.death.code == 0
    (killed,) = alone.client.kill((stays.id,))
    assert killed.pid == stays.pid
    assert killed.death is not None and killed.death.signal == signal.SIGKILL
    assert alone.get(later.id).state == "running"


def test_kill_9_of_the_worker_while_launching_launches_each_exactly_once(
    alone: Cluster, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    alone.copy(compiled.compile_c(tmp_path / "c", "ledger", compiled.LEDGER))
    count = 200
    answer = _launch_in_background(alone, ledger, count)
    until(lambda: ledger.exists() and len(ledger.read_text().splitlines()) > 20)
    alone.kill("w1")
    alone.start_worker("w1")
    _check_exactly_once(alone, ledger, count, answer)


def test_kill_9_of_the_master_while_launching_launches_each_exactly_once(
    alone: Cluster, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    alone.copy(compiled.compile_c(tmp_path / "c", "ledger", compiled.LEDGER))
    count = 200
    answer = _launch_in_background(alone, ledger, count)
    until(lambda: ledger.exists() and len(ledger.read_text().splitlines()) > 20)
    alone.kill("master")
    alone.start_master()
    _check_exactly_once(alone, ledger, count, answer)


def test_the_same_command_id_gives_the_same_answer_after_a_restart_of_the_master(
    alone: Cluster,
) -> None:
    alone.copy("/bin/sleep")
    command = Launch(artifact="sleep", args=("1000",), count=3)
    first = alone.client.submit(command, Instances, "one-and-the-same")
    alone.kill("master")
    alone.start_master()
    assert alone.client.submit(command, Instances, "one-and-the-same") == first
    until(lambda: len(alone.client.instances()) == 3)
    assert [i.pid for i in alone.client.instances()] == [i.pid for i in first.instances]


def test_a_second_daemon_on_the_same_directory_says_so(alone: Cluster) -> None:
    done = alone.corps("worker", "--master", alone.address, "--name", "w1", check=False)
    assert done.returncode == 5 and "already runs" in done.stderr
    done = alone.corps("master", "--listen", "127.0.0.1:0", check=False)
    assert done.returncode == 5 and "already runs" in done.stderr


def test_a_daemon_may_go_before_the_apps_and_no_app_inherits_that(alone: Cluster) -> None:
    own = os.getpriority(os.PRIO_PROCESS, 0)
    assert os.getpriority(os.PRIO_PROCESS, alone.pid("w1")) <= own
    alone.copy("/usr/bin/nice")
    instance = alone.launch_one("nice")
    alone.wait_dead(instance.id)
    assert alone.log_of(instance.id) == f"{own}\n"


def _launch_in_background(alone: Cluster, ledger: Path, count: int) -> list[object]:
    """Launch `count` from a thread, through a client that outlives the master."""
    answer: list[object] = []

    def launch() -> None:
        command = Launch(artifact="ledger", args=(str(ledger), "1"), count=count)
        with Client(alone.settings) as client:
            try:
                answer.append(client.launch(command))
            except CorpsError as error:
                answer.append(error)

    threading.Thread(target=launch, daemon=True).start()
    return answer


def _check_exactly_once(alone: Cluster, ledger: Path, count: int, answer: list[object]) -> None:
    until(lambda: bool(answer), 60)
    assert not isinstance(answer[0], CorpsError), answer[0]
    until(
        lambda: (
            [i.state for i in alone.client.instances(("ledger",), with_dead=True)]
            == ["dead"] * count
        ),
        60,
    )
    runs = Counter(ledger.read_text().splitlines())
    assert set(runs.values()) == {1}, "one attempt ran twice"
    instances = alone.client.instances(("ledger",), with_dead=True)
    exact = {i.id for i in instances if i.death is not None and i.death.kind == "exited"}
    doubtful = {i.id for i in instances if i.death is not None and i.death.kind == "vanished"}
    assert {key.rpartition("#")[0] for key in runs} >= exact
    assert len(exact) + len(doubtful) == count
    assert not doubtful, "only a keeper's death may leave a doubt"


def _is_there(pid: int | None) -> bool:
    return Path(f"/proc/{pid}").exists()
