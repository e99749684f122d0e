"""Real programs of the distribution on a worker whose root has none of their libraries."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from tests.support.bare import BareRoot
from tests.support.cluster import Cluster
from tests.support.waiting import until

pytestmark = pytest.mark.root


@pytest.fixture(scope="module")
def bare(tmp_path_factory: pytest.TempPathFactory) -> BareRoot:
    return BareRoot(tmp_path_factory.mktemp("machine") / "root")


@pytest.fixture(scope="module")
def far(bare: BareRoot, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cluster]:
    """A master on this machine and a worker in the bare root."""
    made = Cluster(tmp_path_factory.mktemp("far"))
    try:
        made.start_master()
        made.start_worker("w1", prefix=bare.prefix(made.settings.worker_dir("w1")))
        made.wait_state(w1="ready")
        yield made
    finally:
        made.end()


def test_redis(far: Cluster, bare: BareRoot) -> None:
    assert {"libssl.so.3", "libjemalloc.so.2"} <= bare.lacking("/usr/bin/redis-server")
    port = free_port()
    far.copy("/usr/bin/redis-server", "--name", "redis")
    words = ("--port", str(port), "--bind", "127.0.0.1", "--save", "")
    instance = far.launch_one("redis", *words)
    until(lambda: ask(port, b"PING\r\n") == b"+PONG\r\n")
    assert ask(port, b"SET colour blue\r\n") == b"+OK\r\n"
    (stopped,) = far.client.stop((instance.id,))
    assert stopped.death is not None
    assert (stopped.death.kind, stopped.death.code, stopped.death.cause) == ("exited", 0, "stop")


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
        return port


def ask(port: int, request: bytes) -> bytes:
    """What the server answers; empty as long as there is none."""
    try:
        with socket.create_connection(("127.0.0.1", port), timeout=20) as server:
            server.sendall(request)
            return server.recv(65_536)
    except ConnectionError:
        return b""
