"""The CA: what it signs names whom the master means, whatever the request says."""

from __future__ import annotations

import contextlib
import datetime
import ssl
import time
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from corps.errors import Denied, Unavailable
from corps.model.identity import Identity
from corps.model.trust import CaStage
from corps.trust.authority import Authority, key_pem
from corps.trust.contexts import client_context, server_context
from corps.trust.names import identity_of, key_of

NOW = datetime.datetime(2026, 1, 1, tzinfo=datetime.UTC).timestamp()


def request(key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey, *more: x509.GeneralName) -> bytes:
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "anything")])
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    if more:
        builder = builder.add_extension(x509.SubjectAlternativeName(more), critical=False)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=9), critical=True)
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.DER)


def test_only_the_key_of_a_request_is_used(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "trust", "c1", NOW)
    key = ec.generate_private_key(ec.SECP256R1())
    more = [x509.DNSName(f"*.n{n}.example") for n in range(20)]
    certificate = authority.issue_worker(request(key, *more), "w1", NOW)
    assert identity_of(certificate.public_bytes(Encoding.DER)) == Identity(
        cluster="c1",
        worker="w1",
        key=key_of(certificate),
        serial=f"{certificate.serial_number:x}",
        expires_at=NOW + 86_400,
    )
    rights = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value
    assert not rights.ca
    certificate.verify_directly_issued_by(authority.certificate)


@pytest.mark.parametrize(
    "curve", [ec.SECP384R1(), ec.SECP256K1()], ids=lambda curve: str(curve.name)
)
def test_another_curve_is_refused(tmp_path: Path, curve: ec.EllipticCurve) -> None:
    authority = Authority(tmp_path / "trust", "c1", NOW)
    with pytest.raises(Denied, match="P-256"):
        authority.issue_worker(request(ec.generate_private_key(curve)), "w1", NOW)


def test_rsa_a_false_signature_and_rubbish_are_refused(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "trust", "c1", NOW)
    with pytest.raises(Denied, match="P-256"):
        authority.issue_worker(request(rsa.generate_private_key(65537, 1024)), "w1", NOW)
    good = bytearray(request(ec.generate_private_key(ec.SECP256R1())))
    good[-1] ^= 1
    with pytest.raises(Denied, match="sign"):
        authority.issue_worker(bytes(good), "w1", NOW)
    with pytest.raises(Denied, match="cannot be read"):
        authority.issue_worker(b"rubbish", "w1", NOW)
    with pytest.raises(Denied, match="at most"):
        authority.issue_worker(bytes(100_000), "w1", NOW)


def test_the_ca_is_the_same_after_a_restart_and_private(tmp_path: Path) -> None:
    first = Authority(tmp_path / "trust", "c1", NOW)
    again = Authority(tmp_path / "trust", "c1", NOW + 1)
    assert first.bundle_pem == again.bundle_pem
    assert first.pin == again.pin
    other = Authority(tmp_path / "other", "c1", NOW)
    assert first.pin != other.pin, "each CA has a key of its own"
    assert {path.stat().st_mode & 0o777 for path in (tmp_path / "trust").iterdir()} == {0o600}
    (tmp_path / "trust" / "ca.key").write_bytes(b"rubbish")
    with pytest.raises(Unavailable, match="cannot read the CA"):
        Authority(tmp_path / "trust", "c1", NOW)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    Authority(tmp_path / "trust", "c1", NOW)
    (tmp_path / "trust" / "ca.key").chmod(0o644)
    with pytest.raises(Denied, match="chmod 600"):
        Authority(tmp_path / "trust", "c1", NOW)


def test_the_masters_certificate_names_it_and_its_hosts(tmp_path: Path) -> None:
    authority = Authority(tmp_path / "trust", "c1", NOW)
    authority.issue_master(["10.0.0.5", "::1", "boss.example"], NOW)
    pem = (tmp_path / "trust" / "master.pem").read_bytes()
    certificate = x509.load_pem_x509_certificate(pem)
    identity = identity_of(certificate.public_bytes(Encoding.DER))
    assert (identity.cluster, identity.worker) == ("c1", None)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["boss.example"]


def test_nobody_is_who_has_no_certificate_or_another_kind() -> None:
    with pytest.raises(Denied, match="join first"):
        identity_of(None)
    with pytest.raises(Denied, match="names nobody"):
        identity_of(b"rubbish")


def test_a_rotation_goes_through_its_stages_whenever_it_is_killed(tmp_path: Path) -> None:
    directory = tmp_path / "trust"

    def reload() -> Authority:
        return Authority(directory, "c1", NOW)

    old = reload().pin
    reload().prepare(NOW)
    assert (reload().stage, reload().pin, len(reload().pins)) == (CaStage.SPREADING, old, 2)
    new = reload().pins[1]
    (directory / "next.key").rename(directory / "ca.key")  # killed in the middle of promote()
    assert (reload().stage, reload().pins) == (CaStage.REPLACING, (new, old))
    reload().retire()
    assert (reload().stage, reload().pins) == (CaStage.STEADY, (new,))


def test_the_promoted_ca_signs_and_the_old_one_is_trusted_until_it_is_retired(
    tmp_path: Path,
) -> None:
    authority = Authority(tmp_path / "trust", "c1", NOW)
    before = authority.certificate
    authority.prepare(NOW)
    key = ec.generate_private_key(ec.SECP256R1())
    authority.issue_worker(request(key), "w1", NOW).verify_directly_issued_by(before)
    authority.promote()
    after = authority.issue_worker(request(key), "w1", NOW)
    after.verify_directly_issued_by(authority.certificate)
    assert authority.certificate != before
    assert authority.bundle_pem.count(b"BEGIN") == 2
    authority.retire()
    assert before.public_bytes(Encoding.PEM) not in authority.bundle_pem


@pytest.mark.parametrize("rotations", [1, 2])
def test_who_knows_but_a_former_ca_knows_the_master_still(tmp_path: Path, rotations: int) -> None:
    authority = Authority(tmp_path / "trust", "c1", time.time())
    first = authority.bundle_pem.decode()
    for _ in range(rotations):
        authority.prepare(time.time())
        authority.promote()
        authority.retire()
    authority.issue_master(["127.0.0.1"], time.time())
    server = server_context(tmp_path / "trust/master.pem", tmp_path / "trust/master.key", first)
    assert first in authority.former_pem.decode()
    assert first not in authority.bundle_pem.decode()
    assert shake(server, client_context(first)) == {("URI", "spiffe://corps/c1/master")}
    assert shake(server, client_context(authority.bundle_pem.decode()))
    other = Authority(tmp_path / "other", "c1", time.time()).bundle_pem.decode()
    with pytest.raises(ssl.SSLCertVerificationError):
        shake(server, client_context(other))


def test_a_former_ca_lets_no_worker_in(tmp_path: Path) -> None:
    """It is the master's chain that is longer, not the workers'."""
    authority = Authority(tmp_path / "trust", "c1", time.time())
    key = ec.generate_private_key(ec.SECP256R1())
    worker = authority.issue_worker(request(key), "w1", time.time())
    (tmp_path / "cert.pem").write_bytes(worker.public_bytes(Encoding.PEM))
    (tmp_path / "key.pem").write_bytes(key_pem(key))
    authority.prepare(time.time())
    authority.promote()
    authority.issue_master(["127.0.0.1"], time.time())
    files = (tmp_path / "trust/master.pem", tmp_path / "trust/master.key")
    client = client_context(
        authority.bundle_pem.decode(), tmp_path / "cert.pem", tmp_path / "key.pem"
    )
    assert shake(server_context(*files, authority.bundle_pem.decode()), client)
    authority.retire()
    with pytest.raises(ssl.SSLError, match="certificate"):
        shake(server_context(*files, authority.bundle_pem.decode()), client)


def shake(server: ssl.SSLContext, client: ssl.SSLContext) -> set[tuple[str, str]]:
    """A whole handshake in memory; the URIs that the client reads of the server."""
    to_server, to_client = ssl.MemoryBIO(), ssl.MemoryBIO()
    here = client.wrap_bio(to_client, to_server, server_hostname="control.corps")
    there = server.wrap_bio(to_server, to_client, server_side=True)
    ends = [here, there]
    while ends:
        for end in list(ends):
            with contextlib.suppress(ssl.SSLWantReadError):
                end.do_handshake()
                ends.remove(end)
    names = (here.getpeercert() or {}).get("subjectAltName", ())
    return {(str(name[0]), str(name[1])) for name in names if name[0] == "URI"}
