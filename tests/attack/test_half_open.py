"""A thousand connections that say nothing, or say it slowly, while real workers beat."""

from __future__ import annotations

import contextlib
import itertools
import resource
import select
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

import pytest

from corps.model.trust import Role
from corps.wire.codec import BULK_PREFACE, CONTROL_PREFACE, HEADER, SWARM_PREFACE
from tests.support.cluster import Cluster
from tests.support.compiled import EXIT_3, compile_c
from tests.support.people import HTTPS, Remote, add_person
from tests.support.waiting import until

COUNT = 1_000
CUT_S = 40.0
# a hello of TLS 1.3 up to its middle: a record of 512 bytes, of which the first ones come
HALF_HELLO = bytes.fromhex("1603010200010001fc0303") + bytes(100)
STRANGE = (
    b"",
    CONTROL_PREFACE[:3],
    CONTROL_PREFACE,
    CONTROL_PREFACE + HEADER.pack(1_000) + b"x",
    HALF_HELLO,
    b"GET /v1/status HTTP/1.1\r\nHost: ",
)
ADMITTED = (BULK_PREFACE, SWARM_PREFACE)


@pytest.fixture(autouse=True)
def many_descriptors() -> Iterator[None]:
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (max(before[0], COUNT + 500), before[1]))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, before)


@contextmanager
def crowd(dial: Callable[[], socket.socket], *says: bytes) -> Iterator[list[socket.socket]]:
    """COUNT connections, each of which says one of these and no more."""
    made: list[socket.socket] = []
    try:
        for _, said in zip(range(COUNT), itertools.cycle(says), strict=False):
            sock = dial()
            made.append(sock)
            with contextlib.suppress(ConnectionError):  # turned away at once, which is as good
                sock.sendall(said)
        yield made
    finally:
        for sock in made:
            sock.close()


def are_cut(crowd: list[socket.socket]) -> bool:
    """The other end has closed every one of them."""
    poll = select.poll()
    for sock in crowd:
        poll.register(sock, select.POLLRDHUP)
    return len(poll.poll(0)) == len(crowd)


def harmed(attacked: Cluster, after: int) -> list[str]:
    events = attacked.client.events(after=after)
    return [f"{event.subject}: {event.message}" for event in events if event.kind == "worker-lost"]


def newest_event(attacked: Cluster) -> int:
    return max(event.seq for event in attacked.client.events(after=-1))


def test_a_crowd_of_strangers_costs_no_worker_a_beat(attacked: Cluster) -> None:
    before = newest_event(attacked)
    with crowd(partial(dial, attacked), *STRANGE) as strangers:
        attacked.copy("/bin/true")
        dead = attacked.wait_dead(attacked.launch_one("true", on="w1").id)
        assert dead.death is not None and dead.death.message == "exited 0"
        until(lambda: are_cut(strangers), CUT_S)
    assert harmed(attacked, before) == []


def test_a_silent_crowd_shuts_nobody_out(attacked: Cluster, tmp_path: Path) -> None:
    """There are places for so many strangers, and one more: whoever comes gets one all the same."""
    before = newest_event(attacked)
    program = compile_c(tmp_path, "fresh", EXIT_3)  # nobody has it: each worker dials for it
    with crowd(partial(dial, attacked), b"") as strangers:
        attacked.copy(program)
        dead = attacked.wait_dead(attacked.launch_one("fresh", on="w1").id)
        assert dead.death is not None and dead.death.message == "exited 3"
        until(lambda: are_cut(strangers), CUT_S)
    assert harmed(attacked, before) == []


def test_a_crowd_that_asks_for_nothing_costs_no_worker_a_beat(attacked: Cluster) -> None:
    """Threads are few: who has none is turned away, and beats need none."""
    before = newest_event(attacked)
    attacked.copy("/bin/true")
    with crowd(partial(dial, attacked), *ADMITTED):
        dead = attacked.wait_dead(attacked.launch_one("true", on="w2").id)
        assert dead.death is not None and dead.death.message == "exited 0"
    assert harmed(attacked, before) == []


def test_a_crowd_at_the_https_port_shuts_no_person_out(tmp_path: Path) -> None:
    """Each has been told hello, as anybody is, keeps its connection, and has nine friends."""
    with contextlib.ExitStack() as closing:
        alone = Cluster(tmp_path)
        closing.callback(alone.end)
        alone.start_master(*HTTPS)
        remote, token = Remote(alone), add_person(alone, "ann", Role.VIEWER)
        for number in range(COUNT):
            sock = remote.connect(source=f"127.0.0.{2 + number % 10}")
            closing.callback(sock.close)
            sock.sendall(b"GET /v1/hello HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
            assert sock.recv(1) == b"H"
        for source in ("127.0.0.99", "127.0.0.2"):
            with remote.bearer(token, source) as ann:
                assert ann.ask("GET", "/v1/status")[0] == 200


def dial(attacked: Cluster) -> socket.socket:
    host, _, port = attacked.address.rpartition(":")
    return socket.create_connection((host, int(port)))


def test_a_crowd_on_the_operators_socket_shuts_nobody_out(attacked: Cluster) -> None:
    path = str(attacked.settings.api_socket)

    def dial_unix() -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.settimeout(20)
        sock.connect(path)
        return sock

    before = newest_event(attacked)
    with crowd(dial_unix, b"POST /v1/commands HTTP/1.1\r\nContent-Le"):
        assert attacked.corps("workers", "-o", "name").stdout.split() == ["w1", "w2"]
    assert harmed(attacked, before) == []
