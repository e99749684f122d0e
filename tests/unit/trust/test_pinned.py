"""The right master: the CA that the token pins, its certificate, its name, its dates."""

from __future__ import annotations

import ssl
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from corps.errors import Denied
from corps.trust.authority import Authority
from corps.trust.names import key_of
from corps.trust.pinned import check_issued, check_master
from tests.unit.trust.test_authority import NOW, request


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority(tmp_path / "trust", "c1", NOW)


def leaf(authority: Authority, now: float = NOW) -> bytes:
    authority.issue_master(["127.0.0.1"], now)
    return ssl.PEM_cert_to_DER_cert((authority.directory / "master.pem").read_text())


def test_the_master_of_a_token_is_known(authority: Authority) -> None:
    assert check_master(leaf(authority), authority.bundle_pem, authority.pin, NOW) == "c1"


def test_a_wrong_clock_is_named(authority: Authority) -> None:
    shown = leaf(authority)
    for now, spelled in ((NOW - 3_600, "2025-12-31T23:00:00Z"), (NOW + 4e7, "2027-04-08")):
        with pytest.raises(Denied, match=f"it is {spelled}.*set the clock"):
            check_master(shown, authority.bundle_pem, authority.pin, now)


def test_a_worker_is_no_master(authority: Authority) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    issued = authority.issue_worker(request(key), "w1", NOW).public_bytes(Encoding.DER)
    with pytest.raises(Denied, match="worker w1, not the master"):
        check_master(issued, authority.bundle_pem, authority.pin, NOW)


@pytest.mark.parametrize(
    "offered", [b"", b"rubbish", b"-----BEGIN CERTIFICATE-----", bytes(1 << 15)]
)
def test_what_is_no_ca_is_refused(authority: Authority, offered: bytes) -> None:
    with pytest.raises(Denied):
        check_master(leaf(authority), offered, authority.pin, NOW)


def test_another_ca_is_refused_although_it_is_of_the_same_name(
    authority: Authority, tmp_path: Path
) -> None:
    other = Authority(tmp_path / "other", "c1", NOW)
    with pytest.raises(Denied, match="E_CA_PIN"):
        check_master(leaf(other), other.bundle_pem, authority.pin, NOW)
    both = other.bundle_pem + authority.bundle_pem
    with pytest.raises(Denied, match="not signed"):
        check_master(leaf(other), both, authority.pin, NOW)


def test_what_the_master_gives_must_be_ours(authority: Authority, tmp_path: Path) -> None:
    key = ec.generate_private_key(ec.SECP256R1())
    issued = authority.issue_worker(request(key), "w1", NOW)
    pem, bundle = issued.public_bytes(Encoding.PEM), authority.bundle_pem
    assert check_issued(pem, bundle, key_of(issued), "c1") == "w1"
    other = Authority(tmp_path / "other", "c1", NOW)
    for wrong in (
        (pem, other.bundle_pem, key_of(issued), "c1"),
        (pem, bundle, "another key", "c1"),
        (pem, bundle, key_of(issued), "c2"),
        (b"rubbish", bundle, key_of(issued), "c1"),
    ):
        with pytest.raises(Denied):
            check_issued(*wrong)
