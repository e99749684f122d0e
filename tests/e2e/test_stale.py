"""Another boot, a restored directory, a clone, a master set back: known, said, nobody killed."""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from corps.client import Client
from corps.errors import CorpsError
from corps.model.command import Launch
from corps.model.view import InstanceView
from tests.support import compiled, groups
from tests.support.cluster import BEAT_S, Cluster
from tests.support.machine import another_boot
from tests.support.waiting import until

pytestmark = pytest.mark.root
NEXT_BOOT = "00000000-1111-2222-3333-444444444444"


def test_after_a_reboot_what_ran_is_lost_and_what_was_not_acknowledged_may_have_run(
    alone: Cluster, tmp_path: Path
) -> None:
    alone.copy("/bin/sleep")
    ran = alone.launch_one("sleep", "1000")
    with strays(alone, ran):
        alone.signal("w1", signal.SIGSTOP)  # the next launch reaches nobody who can acknowledge it
        launching = threading.Thread(target=_launch, args=(alone,))
        launching.start()
        until(lambda: len(alone.client.instances(("sleep",))) == 2)
        (sent,) = (i for i in alone.client.instances(("sleep",)) if i.id != ran.id)
        _kill_keeper(alone)
        alone.kill("w1")
        alone.start_worker("w1", prefix=another_boot(tmp_path, NEXT_BOOT))
        lost, held = alone.wait_dead(ran.id), alone.wait_dead(sent.id)
        launching.join(20)
        assert Path(f"/proc/{ran.pid}").exists(), "nothing is killed"
    assert lost.death is not None and held.death is not None
    assert (lost.death.kind, lost.death.cause) == ("vanished", "lost")
    assert "machine rebooted" in lost.death.message
    assert (held.death.kind, held.death.cause) == ("vanished", "lost")
    assert held.death.message.endswith("the machine of w1 was rebooted; it may have run")
    assert "may have run" in alone.corps("why", sent.id).stdout
    assert "the machine was rebooted" in alone.log("w1")
    _check_event(alone, "rebooted", "the machine of w1 was rebooted")


def test_a_restored_worker_directory_is_known_and_nothing_runs_twice(
    alone: Cluster, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    alone.copy(compiled.compile_c(tmp_path / "c", "ledger", compiled.LEDGER))
    alone.copy("/bin/sleep")
    before = alone.launch_one("sleep", "1000")
    directory = alone.settings.worker_dir("w1")
    _copy_while_it_runs(directory, tmp_path / "older")
    after = alone.launch_one("ledger", str(ledger), "1000000")
    with strays(alone, after):
        _kill_keeper(alone)
        alone.kill("w1")
        left = groups.of(directory)  # of a keeper that will be no more: nobody removes them
        directory.rename(tmp_path / "newer")
        (tmp_path / "older").rename(directory)
        alone.start_worker("w1")
        lost = alone.wait_dead(after.id)
        alone.wait_state(w1="ready")
        found = alone.get(before.id)
        assert (found.state, found.pid) == ("running", before.pid), "its journal had it"
        assert Path(f"/proc/{after.pid}").exists(), "nothing is killed"
    assert lost.death is not None
    assert (lost.death.kind, lost.death.cause) == ("vanished", "lost")
    assert "was set back" in lost.death.message
    assert ledger.read_text().splitlines() == [f"{after.id}#1"]
    assert "is a copy: this directory was restored or cloned" in alone.log("w1")
    _check_event(alone, "set-back", "was set back")
    assert "was set back" in alone.corps("why", after.id).stdout
    until(lambda: "the master says: w1 has no record" in alone.log("w1"))
    alone.kill("w1")
    alone.start_worker("w1")  # it was noted, once
    alone.wait_state(w1="ready")
    assert alone.log("w1").count("is a copy") == 1
    alone.client.kill((before.id,))
    for group in left:
        groups.remove(group)


def test_a_cloned_worker_gets_no_work_until_one_of_the_two_is_gone(
    alone: Cluster, tmp_path: Path
) -> None:
    alone.copy("/bin/sleep")
    instance = alone.launch_one("sleep", "1000")
    clone = Cluster(tmp_path / "clone")
    clone.directory.mkdir()
    _copy_while_it_runs(alone.settings.worker_dir("w1"), clone.settings.worker_dir("w1"))
    prefix = another_boot(tmp_path, NEXT_BOOT)
    try:
        clone.start_worker("w1", prefix=prefix, master=alone.address)
        until(lambda: "cloned" in (alone.client.workers()[0].reason or ""))
        (worker,) = alone.client.workers()
        assert worker.state == "suspect"
        assert worker.reason is not None
        assert worker.reason.count("127.0.0.1:") == 2, worker.reason
        assert alone.corps("launch", "sleep", check=False).returncode == 7
        assert alone.get(instance.id).state == "running"
        until(lambda: "both claim to be w1" in alone.log("w1"))
        until(lambda: "both claim to be w1" in clone.log("w1"))
        _check_event(alone, "worker-suspect", "both claim to be w1")
        clone.kill("w1")
        alone.wait_state(w1="ready")
        found = alone.get(instance.id)
        assert (found.state, found.pid) == ("running", instance.pid)
        alone.launch_one("sleep", "1000", on="w1")
    finally:
        clone.end()


def test_a_second_worker_with_a_name_that_is_taken_is_told_so(
    alone: Cluster, tmp_path: Path
) -> None:
    other = Cluster(tmp_path / "other")
    other.directory.mkdir()
    try:
        done = other.corps("worker", "--master", alone.address, "--name", "w1", check=False)
        assert done.returncode == 5
        assert "a worker named 'w1' is ready at 127.0.0.1:" in done.stderr
        assert "choose another --name" in done.stderr
    finally:
        other.end()
    alone.wait_state(w1="ready")


def test_a_master_that_was_set_back_is_refused_until_the_operator_accepts_it(
    alone: Cluster, tmp_path: Path
) -> None:
    ledger = tmp_path / "ledger"
    alone.copy(compiled.compile_c(tmp_path / "c", "ledger", compiled.LEDGER))
    master = alone.settings.master_dir
    alone.kill("master")
    shutil.copytree(master, tmp_path / "older", ignore=shutil.ignore_patterns("*.sock"))
    alone.start_master()
    alone.wait_state(w1="ready")
    stays = alone.launch_one("ledger", str(ledger), "1000000")
    ended = alone.launch_one("ledger", str(ledger))
    alone.wait_dead(ended.id)
    with strays(alone, stays):
        alone.kill("master")
        master.rename(tmp_path / "newer")
        (tmp_path / "older").rename(master)
        alone.start_master()
        until(lambda: alone.returncode("w1") is not None)
        assert alone.returncode("w1") == 5
        assert "--accept-rollback" in alone.log("w1")
        _check_event(alone, "master-set-back", "this master was set back to an older copy")
        alone.kill("w1")
        alone.kill("master")
        alone.start_master("--accept-rollback")
        alone.start_worker("w1")
        alone.wait_state(w1="ready")
        _check_event(alone, "master-set-back", "it goes on as epoch")
        until(lambda: any(event.kind == "foreign" for event in alone.client.events()))
        again = alone.launch_one("ledger", str(ledger))
        assert int(again.id.rpartition(".")[2]) > int(stays.id.rpartition(".")[2])
        alone.wait_dead(again.id)
        assert Path(f"/proc/{stays.pid}").exists(), "nothing is killed"


def test_a_worker_file_that_cannot_be_read_stops_the_worker_and_nothing_else(
    alone: Cluster,
) -> None:
    alone.copy("/bin/sleep")
    instance = alone.launch_one("sleep", "1000")
    alone.kill("w1")
    file = alone.settings.worker_dir("w1") / "worker.json"
    good = file.read_bytes()
    with file.open("r+b") as opened:
        opened.write(b"\0\0\0")
    done = alone.corps("worker", "--master", alone.address, "--name", "w1", check=False)
    assert done.returncode == 7
    assert "worker.json" in done.stderr and "nothing was changed" in done.stderr
    with file.open("r+b") as opened:
        opened.write(good)
    alone.start_worker("w1")
    alone.wait_state(w1="ready")
    until(lambda: alone.get(instance.id).state == "running")


def test_a_journal_of_another_make_stops_the_worker_and_kills_nothing(alone: Cluster) -> None:
    alone.copy("/bin/sleep")
    instance = alone.launch_one("sleep", "1000")
    _kill_keeper(alone)
    alone.kill("w1")
    journal = alone.settings.worker_dir("w1") / "journal"
    good = journal.read_bytes()
    journal.write_bytes(b"#" + good[1:].replace(b'"version":', b'"varsion":'))
    done = alone.corps("worker", "--master", alone.address, "--name", "w1", check=False)
    assert done.returncode == 7
    assert "no header that this version can read" in done.stderr
    assert "nothing was changed and nothing ended" in done.stderr
    assert Path(f"/proc/{instance.pid}").exists()
    journal.write_bytes(good)
    alone.start_worker("w1")
    alone.wait_state(w1="ready")
    until(lambda: alone.get(instance.id).state == "running")


def test_one_damaged_record_is_one_doubt(alone: Cluster) -> None:
    alone.copy("/bin/sleep")
    hurt, whole = alone.launch("sleep", "1000", count=2)
    with strays(alone, hurt):
        _kill_keeper(alone)
        alone.kill("w1")
        journal = alone.settings.worker_dir("w1") / "journal"
        data = journal.read_bytes()
        at = data.index(f'"t":"{hurt.id}#1"'.encode())
        journal.write_bytes(data[:at] + data[at:].replace(b'"pid"', b'"pjd"', 1))
        alone.start_worker("w1")
        dead = alone.wait_dead(hurt.id)
        until(lambda: alone.get(whole.id).state == "running")
        assert alone.get(whole.id).pid == whole.pid
        assert Path(f"/proc/{hurt.pid}").exists(), "nothing is killed"
    assert dead.death is not None
    assert (dead.death.kind, dead.death.cause) == ("vanished", "lost")
    assert "its record in the journal is damaged" in dead.death.message
    assert "its record in the journal is damaged" in alone.corps("why", hurt.id).stdout
    assert "damaged" in (alone.settings.worker_dir("w1") / "keeper.log").read_text()


@contextlib.contextmanager
def strays(cluster: Cluster, *instances: InstanceView) -> Iterator[None]:
    """These lose their supervisor in the test, which ends them by itself."""
    pidfds = [os.pidfd_open(instance.pid or 0) for instance in instances]
    try:
        yield
    finally:
        for pidfd in pidfds:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(pidfd, signal.SIGKILL)
            os.close(pidfd)


def _launch(cluster: Cluster) -> None:
    with Client(cluster.settings) as client, contextlib.suppress(CorpsError):
        client.launch(Launch(artifact="sleep", args=("1000",)))


def _kill_keeper(cluster: Cluster) -> None:
    """And its worker can start no other before it is killed too."""
    cluster.signal("w1", signal.SIGSTOP)
    keeper = cluster.keeper_pid("w1")
    assert keeper is not None
    os.kill(keeper, signal.SIGKILL)
    until(lambda: cluster.keeper_pid("w1") is None)


def _copy_while_it_runs(source: Path, target: Path) -> None:
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["cp", "-a", str(source), str(target)], check=True)


def _check_event(cluster: Cluster, kind: str, text: str) -> None:
    until(
        lambda: any(e.kind == kind and text in e.message for e in cluster.client.events()),
        deadline_s=20.0 + BEAT_S,
    )
