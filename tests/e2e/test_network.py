"""Three workers on three machines of their own (network namespaces), and a link that is cut."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from corps.net.front import VERSION_ALERT
from corps.wire.codec import BULK_PREFACE, CONTROL_PREFACE, SWARM_PREFACE
from tests.support import compiled
from tests.support.cluster import Cluster
from tests.support.netns import Network, network
from tests.support.waiting import until

pytestmark = pytest.mark.root
MACHINES = ("w1", "w2", "w3")


@pytest.fixture
def lan() -> Iterator[Network]:
    with network(1) as made:
        yield made


@pytest.fixture
def spread(lan: Network, tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        made.enroll(*MACHINES)
        made.start_master(listen=f"{lan.host_address}:0")
        for name in MACHINES:
            made.start_worker(name, prefix=lan.add_machine(name))
        made.wait_state(**dict.fromkeys(MACHINES, "ready"))
        yield made
    finally:
        made.end()


def test_a_cut_link_makes_one_worker_lost_and_mending_brings_its_apps_back(
    spread: Cluster, lan: Network, tmp_path: Path
) -> None:
    spread.copy("/bin/sleep")
    spread.copy(compiled.compile_greeter(tmp_path / "c"))
    instances = spread.launch("sleep", "1000", on="all")
    assert [i.worker for i in instances] == list(MACHINES)
    lan.cut("w2")
    spread.wait_state(w1="ready", w2="lost", w3="ready")
    states = {i.worker: i.state for i in spread.client.instances()}
    assert states == {"w1": "running", "w2": "unknown", "w3": "running"}
    elsewhere = spread.launch("greeter", count=2)
    assert {i.worker for i in elsewhere} == {"w1", "w3"}
    lan.mend("w2")
    spread.wait_state(w2="ready")
    until(lambda: {i.state for i in spread.client.instances(("sleep",))} == {"running"})
    before = {i.id: i.pid for i in instances}
    assert {i.id: i.pid for i in spread.client.instances(("sleep",))} == before
    again = spread.launch_one("greeter", "again", on="w2")
    spread.wait_dead(again.id)
    assert spread.log_of(again.id) == "hello, again\n"


def test_what_ended_behind_a_cut_link_is_told_exactly_afterwards(
    spread: Cluster, lan: Network, tmp_path: Path
) -> None:
    spread.copy(compiled.compile_c(tmp_path / "c", "ledger", compiled.LEDGER))
    instance = spread.launch_one("ledger", str(tmp_path / "ledger"), "1500", on="w3")
    lan.cut("w3")
    spread.wait_state(w3="lost")
    until(lambda: not Path(f"/proc/{instance.pid}").exists())
    lan.mend("w3")
    dead = spread.wait_dead(instance.id)
    assert dead.death is not None and (dead.death.kind, dead.death.code) == ("exited", 0)


def test_beyond_loopback_there_is_tls_and_nothing_else(spread: Cluster, tmp_path: Path) -> None:
    made = Cluster(tmp_path / "other")
    words = ("worker", "--master", spread.address, "--name", "w9")
    done = made.corps(*words, check=False)
    assert done.returncode == 6
    assert "no certificate" in done.stderr
    host, _, port = spread.address.rpartition(":")
    for said in (CONTROL_PREFACE, BULK_PREFACE, SWARM_PREFACE):
        with socket.create_connection((host, int(port)), timeout=20) as sock:
            sock.sendall(said)
            assert sock.recv(100) == VERSION_ALERT


def test_one_pasted_line_makes_a_machine_a_worker(lan: Network, tmp_path: Path) -> None:
    made = Cluster(tmp_path)
    try:
        made.start_master(listen=f"{lan.host_address}:0")
        prefix = lan.add_machine("w7")
        for _ in range(2):  # a revoked one comes again by another token
            made.start_joining("w7", made.corps("token", "create", "--name", "w7").stdout, prefix)
            made.wait_state(w7="ready")
            made.copy("/bin/true")
            dead = made.wait_dead(made.launch_one("true").id)
            assert dead.death is not None and dead.death.code == 0
            made.corps("worker", "revoke", "w7")
            until(lambda: made.returncode("w7") is not None)
            assert made.returncode("w7") == 6
    finally:
        made.end()


def test_a_stranger_on_the_port_harms_nobody(spread: Cluster) -> None:
    host, _, port = spread.address.rpartition(":")
    hostile = (
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        b"SSH-2.0-OpenSSH_9.2\r\n",
        b"",
        b"CORPS\x00C1\xff\xff\xff\xff",
        b"CORPS\x00C1\x00\x00\x00\x00",
        b"CORPS\x00C1\x00\x00\x00\x03\x81\xa4t",
        b"CORPS\x00B1\x00\x00\x00\x01\xc0",
    )
    for data in hostile:
        with socket.create_connection((host, int(port)), timeout=10) as stranger:
            stranger.settimeout(20)
            with contextlib.suppress(ConnectionError):  # cut while we were still talking
                stranger.sendall(data)
                while stranger.recv(4096):
                    pass
    spread.wait_state(w1="ready", w2="ready", w3="ready")
