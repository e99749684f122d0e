"""The HTTPS port over a master's life, and what it must not be asked for."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography import x509

from corps.model.trust import RevokeToken, Role, SetUser
from corps.net.address import format_address
from tests.support.cluster import Cluster
from tests.support.people import HTTPS, Remote, add_person, add_token, rule


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[Cluster]:
    made = Cluster(tmp_path)
    try:
        yield made
    finally:
        made.end()


def certificate_of(remote: Remote) -> x509.Certificate:
    with remote.connect() as sock:
        der = sock.getpeercert(binary_form=True)
    assert der is not None
    return x509.load_der_x509_certificate(der)


def test_people_tokens_and_the_certificate_outlive_a_killed_master(alone: Cluster) -> None:
    alone.start_master(*HTTPS)
    remote = Remote(alone)
    token = add_person(alone, "anna", Role.ADMIN)
    revoked = add_token(alone, "anna")
    rule(alone, RevokeToken(id=revoked.id))
    rule(alone, SetUser(name="anna", role=Role.OPERATOR))
    before = certificate_of(remote)
    alone.kill("master")
    alone.start_master("--api", format_address(remote.address))
    assert certificate_of(remote) == before
    with remote.bearer(token) as anna, remote.bearer(revoked) as nobody:
        assert anna.ask("GET", "/v1/whoami")[1]["role"] == "operator"
        assert nobody.ask("GET", "/v1/whoami")[0] == 401


def test_without_being_asked_for_there_is_no_port(alone: Cluster) -> None:
    alone.start_master()
    assert (alone.settings.master_dir / "api-address").read_text() == "\n"
    assert not (alone.settings.master_dir / "trust").exists()
    pid = alone.pid("master")
    inodes = {
        link.readlink().name.removeprefix("socket:[").rstrip("]")
        for link in Path(f"/proc/{pid}/fd").iterdir()
    }
    rows = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = [row[1] for row in rows if row[3] == "0A" and row[9] in inodes]
    assert len(listening) == 1  # where workers dial in
    assert listening[0].startswith("0100007F:")


def test_a_name_of_its_own(alone: Cluster) -> None:
    alone.start_master(*HTTPS, "--host", "boss.example")
    remote = Remote(alone)
    token = add_person(alone, "anna", Role.ADMIN)
    with remote.bearer(token) as anna:
        assert anna.ask("GET", "/v1/status", None, {"Host": "boss.example"})[0] == 200
        status, trust = anna.ask("GET", "/v1/trust")
        assert anna.ask("GET", "/v1/status", None, {"Host": "boss.example.evil"})[0] == 421
    assert status == 200
    assert trust["api_at"] == f"boss.example:{remote.address[1]}"
    assert trust["workers_at"].startswith("boss.example:")
    names = certificate_of(remote).extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert "boss.example" in names.value.get_values_for_type(x509.DNSName)


@pytest.mark.parametrize(
    ("flags", "code", "said"),
    [
        (("--api", "nonsense"), 3, "HOST:PORT"),
        (("--api", "127.0.0.1:70000"), 3, "port to 65535"),
        (("--api", "::1:7078"), 3, "[::1]"),
        (("--api", "127.0.0.1:0", "--host", "no name"), 3, "bad host name 'no name'"),
        (("--api", "127.0.0.1:0", "--host", ""), 3, "bad host name ''"),
    ],
)
def test_a_bad_port_or_name_is_said(
    alone: Cluster, flags: tuple[str, ...], code: int, said: str
) -> None:
    done = alone.corps("master", "--listen", "127.0.0.1:0", *flags, check=False)
    assert done.returncode == code
    assert said in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_port_in_use_is_said(alone: Cluster) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        taken = format_address(other.getsockname())
        done = alone.corps("master", "--listen", "127.0.0.1:0", "--api", taken, check=False)
    assert done.returncode == 5
    assert f"cannot listen on {taken}" in done.stderr
    assert "is another master there?" in done.stderr


def test_an_address_of_another_machine_is_said(alone: Cluster) -> None:
    done = alone.corps("master", "--listen", "192.0.2.1:7077", check=False)
    assert done.returncode == 5
    assert done.stderr.endswith("this machine has no such address: see 'ip addr'\n")
