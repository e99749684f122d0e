"""The master's certificate: made when it is needed, kept while it is good, and made anew."""

from __future__ import annotations

import datetime
import socket
import ssl
from pathlib import Path

import pytest

from corps.errors import Denied
from corps.master.certificates import Certificates, hosts_of
from corps.trust.authority import MASTER_LIFE_S

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC).timestamp()


class Case:
    def __init__(self, directory: Path) -> None:
        self.directory, self.now = directory, NOW

    def made(self, *hosts: str) -> Certificates:
        return Certificates(self.directory, "c1", lambda: self.now, hosts)

    def pem(self) -> bytes:
        return (self.directory / "master.pem").read_bytes()


@pytest.fixture
def case(tmp_path: Path) -> Case:
    return Case(tmp_path / "trust")


def test_nothing_is_made_before_it_is_needed(case: Case) -> None:
    certificates = case.made("10.0.0.5")
    assert not case.directory.exists()
    certificates.authority.pin  # noqa: B018  # the CA alone
    assert {path.name for path in case.directory.iterdir()} == {"ca.key", "ca.pem"}
    certificates.workers_context()
    assert {path.name for path in case.directory.iterdir()} == {
        "ca.key",
        "ca.pem",
        "master.key",
        "master.pem",
    }


def test_a_certificate_is_kept_for_the_first_half_of_its_life(case: Case) -> None:
    case.made("10.0.0.5").workers_context()
    first = case.pem()
    case.now += 0.4 * MASTER_LIFE_S
    certificates = case.made("10.0.0.5")
    context = certificates.workers_context()
    assert case.pem() == first
    assert certificates.workers_context() is context
    case.now += 0.2 * MASTER_LIFE_S  # also of a master that runs on for so long
    assert certificates.workers_context() is not context
    assert case.pem() != first


@pytest.mark.parametrize("lost", ["master.pem", "master.key"])
def test_a_half_written_certificate_is_made_anew(case: Case, lost: str) -> None:
    """The key is written before the certificate: a crash between them leaves two that differ."""
    case.made().people_context()
    kept = case.pem()
    other = Case(case.directory.parent / "other")
    other.made().people_context()
    (case.directory / lost).write_bytes((other.directory / lost).read_bytes())
    case.made().people_context()
    assert case.pem() != kept


def test_other_hosts_get_another_certificate(case: Case) -> None:
    case.made("10.0.0.5").workers_context()
    first = case.pem()
    case.made("10.0.0.6").workers_context()
    assert case.pem() != first


def test_a_key_that_others_can_read_is_not_used(case: Case) -> None:
    case.made().workers_context()
    (case.directory / "master.key").chmod(0o644)
    with pytest.raises(Denied, match="chmod 600"):
        case.made().workers_context()


def test_people_are_not_asked_for_certificates_and_workers_are(case: Case) -> None:
    certificates = case.made()
    assert certificates.people_context().verify_mode is ssl.CERT_NONE
    assert certificates.workers_context().verify_mode is ssl.CERT_OPTIONAL
    for context in (certificates.people_context(), certificates.workers_context()):
        assert context.minimum_version is ssl.TLSVersion.TLSv1_3


def test_what_a_certificate_can_say_of_an_address() -> None:
    assert hosts_of(["10.0.0.5", "boss.example", "fe80::1"]) == [
        "10.0.0.5",
        "boss.example",
        "fe80::1",
    ]
    assert hosts_of(["0.0.0.0", "::"]) == [socket.gethostname()] * 2
    assert hosts_of(["bad name", "b\u00fcro", ""]) == []
