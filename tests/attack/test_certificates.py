"""Wounded hellos, requests and certificates: refused in the one way there is, or as good as new."""

from __future__ import annotations

import ssl
import time
from collections.abc import Iterator
from pathlib import Path
from random import Random

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from corps.errors import Denied
from corps.net.handshake import ServerNames
from corps.trust.authority import Authority
from corps.trust.contexts import Purpose
from corps.trust.names import identity_of
from tests.attack.shapes import FUZZ, mutate
from tests.support.tls import request_of

SEEDS = st.integers(0, 1 << 32)
KEY = ec.generate_private_key(ec.SECP256R1())
REQUEST = request_of(KEY)


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Authority]:
    yield Authority(Path(tmp_path_factory.mktemp("ca")) / "trust", "c1", time.time())


def a_hello(name: str) -> bytes:
    """The first bytes that a client of ours sends."""
    said = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    context.check_hostname = False
    client = context.wrap_bio(ssl.MemoryBIO(), said, server_hostname=name)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    return said.read()


HELLO = a_hello(Purpose.CONTROL)


def test_an_unharmed_hello_is_read() -> None:
    assert ServerNames().of(HELLO) == Purpose.CONTROL


@FUZZ
@given(seed=SEEDS)
def test_a_wounded_hello_has_a_name_or_is_none(seed: int) -> None:
    names = ServerNames()
    try:
        name = names.of(mutate(Random(seed), HELLO))
    except ssl.SSLError:
        name = None
    assert name is None or len(name) <= 255
    assert names.of(HELLO) == Purpose.CONTROL, "the next one is read all the same"


@FUZZ
@given(seed=SEEDS)
def test_a_wounded_request_gets_no_certificate_or_one_for_its_own_key(
    authority: Authority, seed: int
) -> None:
    try:
        issued = authority.issue_worker(mutate(Random(seed), REQUEST), "w1", time.time())
    except Denied:
        return
    form = (Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert issued.public_key().public_bytes(*form) == KEY.public_key().public_bytes(*form)
    identity = identity_of(issued.public_bytes(Encoding.DER))
    assert (identity.cluster, identity.worker) == ("c1", "w1")


@FUZZ
@given(seed=SEEDS)
def test_a_wounded_certificate_names_nobody_or_somebody(authority: Authority, seed: int) -> None:
    """The handshake has verified it before; nothing may fall over it all the same."""
    whole = authority.issue_worker(REQUEST, "w1", time.time()).public_bytes(Encoding.DER)
    try:
        identity = identity_of(mutate(Random(seed), whole))
    except Denied:
        return
    assert identity.cluster and len(identity.key) == 64


def test_a_request_asks_for_nothing_but_its_key(authority: Authority) -> None:
    """Names, rights to sign, uses: what it says of itself is not even looked at."""
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "master")])
    uri = x509.UniformResourceIdentifier("spiffe://corps/c1/master")
    names = [uri, x509.DNSName("*"), *(x509.DNSName(f"{n}.example") for n in range(50))]
    builder = x509.CertificateSigningRequestBuilder().subject_name(name)
    builder = builder.add_extension(x509.BasicConstraints(ca=True, path_length=9), critical=True)
    builder = builder.add_extension(x509.SubjectAlternativeName(names), critical=True)
    request = builder.sign(KEY, hashes.SHA256())
    issued = authority.issue_worker(request.public_bytes(Encoding.DER), "w1", time.time())
    assert not issued.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    found = issued.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert [one.value for one in found] == ["spiffe://corps/c1/worker/w1"]
    assert issued.subject.rfc4514_string() == "CN=w1"
