"""What can be reached from outside, and who is cut when."""

from __future__ import annotations

import contextlib
import os
import re
import socket
import stat
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from corps.model.trail import parse_line
from corps.trust.contexts import Purpose
from corps.wire.bulk import Want
from corps.wire.codec import BULK_PREFACE, CONTROL_PREFACE, encode_frame
from tests.support.build import a_hello
from tests.support.callers import call, parse, types
from tests.support.cluster import Cluster
from tests.support.tls import credentials_of
from tests.support.waiting import until

SLOW_BYTES_S = 256 << 10


@pytest.fixture
def joined(tmp_path: Path) -> Iterator[Cluster]:
    """A master on loopback, and a worker `w1` that has joined it by a token."""
    made = Cluster(tmp_path)
    made.enroll("w1")
    try:
        made.start_master()
        made.start_worker("w1")
        made.wait_state(w1="ready")
        yield made
    finally:
        made.end()


def sockets(made: Cluster, kind: str) -> dict[str, str]:
    """Listening ones of its processes, as ss says: where, and whose."""
    lines = subprocess.run(
        ["ss", "-lnpH", kind], capture_output=True, text=True, check=True
    ).stdout.splitlines()
    pids = {str(pid) for pid in made.processes()}
    return {
        line.split()[4 if kind == "--unix" else 3]: line
        for line in lines
        if pids & set(re.findall(r"pid=(\d+)", line))
    }


def test_a_cluster_that_nobody_configured_exposes_nothing(tmp_path: Path) -> None:
    made = Cluster(tmp_path)
    try:
        made.corps("up", "--workers", "2", "--detach")
        made.copy("/bin/sleep")
        made.launch("sleep", "1000", on="all")
        address = (made.settings.master_dir / "address").read_text().strip()
        assert address.startswith("127.0.0.1:")
        assert list(sockets(made, "--tcp")) == [address], "the master's, for workers of loopback"
        assert sockets(made, "--udp") == {}
        unix = sockets(made, "--unix")
        assert {Path(path).name for path in unix} == {"api.sock", "bulk.sock", "keeper.sock"}
        assert [path for path in unix if path.startswith("@")] == [], "abstract: for everybody"
        for path in unix:
            assert is_private(made, path), path
        assert not (made.settings.master_dir / "trust").exists(), "nobody needed TLS"
    finally:
        made.corps("down", check=False)
        made.end()


def is_private(made: Cluster, path: str) -> bool:
    """Only its owner can connect. Bound by way of a descriptor, it may be shown by that."""
    found = [
        one for one in made.directory.rglob(Path(path).name) if stat.S_ISSOCK(one.stat().st_mode)
    ]
    assert found, path
    return all(one.stat().st_mode & 0o077 == 0 or is_closed(one.parent) for one in found)


def is_closed(directory: Path) -> bool:
    return directory.stat().st_mode & 0o077 == 0


def test_a_networked_worker_listens_for_peers_only(joined: Cluster) -> None:
    """On the machine of its master not even for those."""
    assert list(sockets(joined, "--tcp")) == [joined.address]


def test_a_worker_with_a_certificate_is_what_it_was_on_loopback(joined: Cluster) -> None:
    joined.copy("/bin/true")
    assert joined.wait_dead(joined.launch_one("true").id).death is not None
    said = CONTROL_PREFACE + encode_frame(a_hello("w1"))
    (refused,) = call(joined.address, Purpose.CONTROL, None, said)
    assert (refused["type"], refused["code"]) == ("refused", "denied")
    assert "only its certificate" in refused["message"]


def test_a_revocation_cuts_worker_and_copy(joined: Cluster, tmp_path: Path) -> None:
    (tmp_path / "large").write_bytes(b"#!/bin/sh\n" + os.urandom(8 << 20))
    (tmp_path / "large").chmod(0o755)
    joined.copy(tmp_path / "large")
    joined.launch_one("large")
    (artifact,) = joined.client.artifacts()
    (file,) = artifact.files
    context = credentials_of(joined.settings, "w1").client_context()
    want = Want(digest=file.digest, artifact=artifact.digest, rate_bytes_s=SLOW_BYTES_S)
    with (
        socket.create_connection(parse(joined.address), 20) as sock,
        context.wrap_socket(sock, server_hostname=Purpose.BULK.value) as tls,
    ):
        tls.sendall(BULK_PREFACE + encode_frame(want))
        assert tls.recv(65_536)
        joined.corps("worker", "revoke", "w1")
        began, received = time.monotonic(), 0
        while data := tls.recv(65_536):
            received += len(data)
        assert received < 4 << 20, f"cut after {time.monotonic() - began:.1f} s"
    until(lambda: joined.returncode("w1") is not None)
    assert joined.returncode("w1") == 6
    assert "was revoked by" in joined.log("w1")
    again = BULK_PREFACE + encode_frame(want)
    (trouble,) = call(joined.address, Purpose.BULK, context, again)
    assert (trouble["type"], trouble["code"]) == ("trouble", "denied")


def test_a_masters_certificate_is_another_ones_business(tmp_path: Path, joined: Cluster) -> None:
    """A worker whose master has another CA than it knows does not go on, and says why."""
    other = Cluster(tmp_path / "other")
    other.directory.mkdir()
    try:
        other.enroll("w1")
        other.start_worker("w1", master=joined.address)
        until(lambda: "E_CA_PIN" in other.log("w1"))
    finally:
        other.end()


def test_strangers_on_loopback_are_cut_and_told_of_once(joined: Cluster) -> None:
    """B003, B004."""
    for said in (b"SSH-2.0-OpenSSH_9.2\r\n", b"GET / HTTP/1.1\r\n\r\n", b"\0" * 20, b""):
        heard = b""
        # it may be cut before we have said it all
        with (
            contextlib.suppress(OSError),
            socket.create_connection(parse(joined.address), 20) as it,
        ):
            it.sendall(said)
            it.shutdown(socket.SHUT_WR)
            heard = it.recv(100)
        assert heard == b""
    until(lambda: "no worker of ours" in joined.log("master"))
    assert joined.log("master").count("is turned away") == 1
    context = credentials_of(joined.settings, "w1").client_context()
    assert call(joined.address, Purpose.CONTROL, context, b"8 bytes!" + bytes(100)) == []
    (trouble,) = call(joined.address, Purpose.BULK, context, b"8 bytes!")
    assert trouble["code"] == "protocol"
    joined.wait_state(w1="ready")


def test_a_hello_of_another_worker_is_told_to_operators(joined: Cluster) -> None:
    context = credentials_of(joined.settings, "w1").client_context()
    said = CONTROL_PREFACE + encode_frame(a_hello("w2"))
    assert types(call(joined.address, Purpose.CONTROL, context, said)) == ["refused"]
    (event,) = [one for one in joined.client.events(after=-1) if one.kind == "identity"]
    assert "says it is 'w2'" in event.message


def test_whoever_is_turned_away_is_in_the_audit_trail(joined: Cluster) -> None:
    context = credentials_of(joined.settings, "w1").client_context()
    said = CONTROL_PREFACE + encode_frame(a_hello("w3"))
    assert types(call(joined.address, Purpose.CONTROL, context, said)) == ["refused"]
    digest = "e" * 64
    said = BULK_PREFACE + encode_frame(Want(digest=digest, artifact=digest))
    (trouble,) = call(joined.address, Purpose.BULK, context, said)
    assert trouble["code"] == "denied"
    with socket.create_connection(parse(joined.address), 20) as sock:
        sock.sendall(b"SSH-2.0-OpenSSH_9.2\r\n")
        with contextlib.suppress(ConnectionResetError):
            assert sock.recv(100) == b""

    def denied() -> set[tuple[str, str, str]]:
        entries = map(parse_line, joined.client.trail().entries)
        deeds = [entry.deed for entry in entries if entry and entry.deed.outcome == "denied"]
        return {(deed.who, deed.act, deed.subject) for deed in deeds}

    wanted = {("w1", "hello", "w3"), ("w1", "fetch", ""), ("?", "connect", "")}
    until(lambda: denied() >= wanted)
