"""No file descriptor is left: who is new is refused and told, who is there stays, all recovers."""

from __future__ import annotations

import contextlib
import resource
import socket
from pathlib import Path

import pytest

from corps.client import Client
from corps.errors import CorpsError
from corps.model.command import Launch
from corps.model.view import InstanceView
from tests.support.cluster import Cluster
from tests.support.waiting import until

MANY = 150
pytestmark = pytest.mark.root


def test_a_master_without_descriptors_keeps_its_workers_and_turns_away_the_rest(
    alone: Cluster,
) -> None:
    alone.copy("/bin/sleep")
    stays = alone.launch_one("sleep", "1000")
    _limit(alone.pid("master"), _descriptors(alone.pid("master")) + 20)
    host, _, port = alone.address.rpartition(":")
    with contextlib.ExitStack() as strangers:
        for _ in range(MANY):
            strangers.enter_context(socket.create_connection((host, int(port)), timeout=20))
        until(lambda: "Too many open files" in alone.log("master"))
        with Client(alone.settings) as client:
            failed = _outcome(client)
        assert failed is None or failed.code in ("unavailable", "timed_out"), failed
        keeper = alone.keeper_pid("w1")
        assert keeper is not None and Path(f"/proc/{stays.pid}").exists()
    alone.client.close()
    until(lambda: _outcome(alone.client) is None)
    alone.wait_state(w1="ready")
    assert alone.get(stays.id).pid == stays.pid
    assert "worker-lost" not in {event.kind for event in alone.client.events()}
    assert alone.log("master").count("Too many open files") <= 2, "one line a minute"
    alone.launch_one("sleep", "1000")


def test_a_keeper_without_descriptors_refuses_launches_and_keeps_the_living(
    alone: Cluster,
) -> None:
    alone.copy("/bin/sleep")
    keeper = alone.keeper_pid("w1")
    assert keeper is not None
    _limit(keeper, 100)
    rows = alone.launch("sleep", "1000", count=MANY)
    refused = [row for row in rows if row.death is not None]
    living = [row for row in rows if row.death is None]
    assert living and refused
    for row in refused:
        assert row.death is not None and row.death.kind == "spawn_failed"
        assert "the keeper has no descriptor left" in row.death.message, row.death.message
    assert {row.state for row in alone.client.instances()} == {"running"}
    alone.client.kill([row.id for row in living])
    alone.launch_one("sleep", "1000")
    assert alone.keeper_pid("w1") == keeper


def test_a_worker_without_descriptors_goes_on_and_watches_all_when_it_can_again(
    alone: Cluster,
) -> None:
    alone.copy("/bin/sleep")
    first = alone.launch_one("sleep", "1000")
    worker = alone.pid("w1")
    soft, _ = resource.prlimit(worker, resource.RLIMIT_NOFILE)
    _limit(worker, _descriptors(worker) + 30)
    rows = alone.launch("sleep", "1000", count=40)
    assert {row.state for row in rows} == {"running"}, "the keeper starts them, not the worker"
    until(lambda: "no descriptor is left" in alone.log("w1"))
    assert any(row.os_state is None for row in alone.client.instances())
    _limit(worker, soft)
    until(lambda: all(row.os_state == "sleeping" for row in alone.client.instances()))
    _check_each_is_itself(alone)
    assert alone.get(first.id).pid == first.pid
    assert alone.returncode("w1") is None
    alone.client.kill(("sleep",))
    assert alone.client.instances() == []


def _check_each_is_itself(alone: Cluster) -> None:
    """A pidfd that went to the wrong attempt would show the wrong process."""
    rows: list[InstanceView] = alone.client.instances()
    (one, *others) = rows
    alone.client.kill((one.id,))
    after = {row.id: row.os_state for row in alone.client.instances()}
    assert after == {row.id: "sleeping" for row in others}


def _outcome(client: Client) -> CorpsError | None:
    try:
        client.launch(Launch(artifact="sleep", args=("1000",)))
    except CorpsError as error:
        return error
    return None


def _limit(pid: int, soft: int) -> None:
    hard = resource.prlimit(pid, resource.RLIMIT_NOFILE)[1]
    resource.prlimit(pid, resource.RLIMIT_NOFILE, (soft, hard))


def _descriptors(pid: int) -> int:
    return max(int(path.name) for path in Path(f"/proc/{pid}/fd").iterdir())
